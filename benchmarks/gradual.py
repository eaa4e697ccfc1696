"""Which method keeps most while it prunes step by step? The same run for all of them, one score each.

    python benchmarks/gradual.py --data ../shared/data/clinc150 --dense models/clinc150/seed42/dense
    python benchmarks/gradual.py --data ../shared/data/clinc150 --dense 'models/clinc150/seed{seed}/dense' \\
        --points block4@0.8 --methods obert,magnitude --seeds 42,43,44
    python benchmarks/gradual.py --data ../shared/data/sst2 --dense models/sst2/seed42/dense --epochs 4 \\
        --methods magnitude,obert

Every run learns from the dense model's logits (hardness 1) for the same number of epochs, prunes in the first
two thirds of them by the method's own schedule, and recovers in the last third. What is finished lies in the
JSON file and is not made again; a run that was killed goes on. The dense model of a seed is
`<dense>` with its number put in for `{seed}`; without that, all seeds start from one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from secateur.bench.kept import kept, row_sums
from secateur.bench.machine import describe_machine
from secateur.bench.plots import Line, line_figure, write_png
from secateur.bench.public_sets import group_of_rows, load_public
from secateur.bench.results import write_results
from secateur.commands.console import hush_libraries
from secateur.data import Splits
from secateur.errors import DataError, SecateurError
from secateur.recipe import Recipe
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines import outputs_of
from secateur.training import compress
from secateur.training.evaluation import predict
from secateur.training.lengths import max_tokens
from secateur.training.loading import load_network, load_tokenizer

# What a method's schedule has of its own; the rest is the same for all.
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"update_every": 0.1, "initial_sparsity": 0.3},
    "lamp": {"update_every": 0.1, "initial_sparsity": 0.3},
    "random": {"update_every": 0.5, "initial_sparsity": 0.3},
    "movement": {"update_every": 0.05, "initial_sparsity": 0.0},
    "soft-movement": {"update_every": 0.05, "initial_sparsity": 0.0},
    "lottery-ticket": {"update_every": 0.75, "schedule": "geometric"},
    "obert": {"update_every": 0.5, "initial_sparsity": 0.3, "num_grads": 256, "damp": "auto"},
}
POINTS = ("block4@0.8", "unstructured@0.9", "block4@0.9", "unstructured@0.95", "unstructured@0.97")
_PRUNING, _START = 2 / 3, 0.2  # part of the run, epoch


def main() -> int:
    """Makes what is missing, writes after every run.

    Returns:
        The exit status.
    """
    arguments = _arguments()
    hush_libraries()
    try:
        run(arguments)
    except SecateurError as error:
        print(f"gradual: {error}", file=sys.stderr)
        return 2
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    splits = load_public(arguments.data, arguments.task)
    print(splits.describe(), flush=True)
    name = Path(arguments.data).name.split(".")[0]
    out = Path(arguments.out or f"benchmarks/results/gradual_{name}.json")
    results = _begun(out, arguments, splits, name)
    for point in arguments.points:
        for method in arguments.methods:
            for seed in arguments.seeds:
                if not any(_is(row, point, method, seed) for row in results["rows"]):
                    results["rows"].append(_made(point, method, seed, splits, arguments, name))
                    write_results(out, results)
    _summarise(results, splits, Path(arguments.work) / "gradual" / name)
    write_results(out, results)
    print(_table(results))
    if arguments.plots:
        print(*write_png(out.parent, {out.stem: _figure(results, name)}))


def recipe_of(method: str, point: str, epochs: float, learning_rate: float) -> Recipe:
    """Returns the run of a method.

    Args:
        method: A key of `METHODS`.
        point: As `block4@0.8`.
        epochs: Length of the run.
        learning_rate: Peak of the learning rate.
    """
    pattern, sparsity = point.split("@")
    own = {"schedule": "cubic", "start_epoch": _START, "end_epoch": round(epochs * _PRUNING, 2)} | METHODS[
        method
    ]
    values = {
        "name": f"gradual-{method}",
        "training": {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": 32,
            "freeze_embeddings": True,
            "dropout": 0.0,
        },
        "stages": [
            {"type": "distillation", "hardness": 1.0, "temperature": 3.0},
            {"type": "pruning", "method": method, "pattern": pattern, "sparsity": float(sparsity), **own},
        ],
    }
    return Recipe.model_validate(values)


def _made(
    point: str, method: str, seed: int, splits: Splits, arguments: argparse.Namespace, name: str
) -> dict[str, Any]:
    work = Path(arguments.work) / "gradual" / name
    dense = Path(arguments.dense.format(seed=seed))
    folder = work / _folder(point, method, seed)
    print(f"{method} {point} seed {seed}", flush=True)
    if not folder.is_dir():
        compress(
            dense,
            splits,
            recipe_of(method, point, arguments.epochs, arguments.learning_rate),
            folder,
            max_length=arguments.max_length,
            cache=work / "teacher",
            seed=seed,
            save_every=arguments.save_every,
            resume=folder.with_name(f"{folder.name}.run").is_dir(),
        )
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    network, tokenizer = load_network(dense, splits.task), load_tokenizer(dense)
    encoded = splits.task.encode(
        tokenizer.backend_tokenizer,
        [*splits.test, *splits.out_of_scope],
        max_tokens(network, tokenizer, splits.task, arguments.max_length),
    )
    sums = work / f"dense-seed{seed}.npy"
    if not sums.is_file():
        found = row_sums(splits.task, splits.test, encoded, predict(network, splits.task, encoded))
        if found is not None:
            np.save(sums, found)
    outputs = outputs_of(Engine.from_pretrained(folder), splits.task, encoded)
    found = row_sums(splits.task, splits.test, encoded, outputs)
    if found is not None:
        np.save(folder / "sums.npy", found)
    metric = splits.task.main_metric
    score = splits.task.score([*splits.test, *splits.out_of_scope], encoded, outputs)
    return {
        "point": point,
        "method": method,
        "seed": seed,
        "sparsity": measured["sparsity"],
        "dense": measured["dense"]["test"][metric],
        "score": score[metric],
        "kept": score[metric] / measured["dense"]["test"][metric],
        "minutes": measured["minutes"],
    }


def _begun(out: Path, arguments: argparse.Namespace, splits: Splits, name: str) -> dict[str, Any]:
    """Returns the results that are there, or none yet.

    Raises:
        DataError: They were made otherwise, so that they cannot stand beside new ones.
    """
    settings = {
        "epochs": arguments.epochs,
        "learning_rate": arguments.learning_rate,
        "max_length": arguments.max_length,
        "methods": METHODS,
        "train_rows": len(splits.train),
    }
    if out.is_file():
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        differ = [key for key, value in settings.items() if found["settings"].get(key) != value]
        if differ:
            raise DataError(f"{out} holds runs with other {', '.join(differ)}: give another --out.")
        return found
    return {
        "question": f"Which method keeps most on {name}, pruning step by step?",
        "command": "python benchmarks/gradual.py " + " ".join(arguments.shown),
        "data": {"name": name, "train": len(splits.train), "test": len(splits.test), "notes": splits.notes},
        "metric": splits.task.main_metric,
        "settings": settings,
        "rows": [],
        "means": [],
        "machine": describe_machine(),
    }


def _is(row: Mapping[str, Any], point: str, method: str, seed: int) -> bool:
    return bool((row["point"], row["method"], row["seed"]) == (point, method, seed))


def _summarise(results: dict[str, Any], splits: Splits, work: Path) -> None:
    """Adds what each method keeps at each point over its seeds, with a bootstrap interval over test rows."""
    groups, means = group_of_rows(splits), []
    for point, method in dict.fromkeys((row["point"], row["method"]) for row in results["rows"]):
        rows = [row for row in results["rows"] if (row["point"], row["method"]) == (point, method)]
        files = [
            (work / f"dense-seed{row['seed']}.npy", work / _folder(point, method, row["seed"]) / "sums.npy")
            for row in rows
        ]
        found: dict[str, Any] = {
            "value": fmean(row["kept"] for row in rows),
            "low": None,
            "high": None,
            "spread": max(row["kept"] for row in rows) - min(row["kept"] for row in rows),
        }
        if all(file.is_file() for pair in files for file in pair):
            found = kept([np.load(one) for one, _ in files], [np.load(other) for _, other in files], groups)
        means.append(
            {
                "point": point,
                "method": method,
                "seeds": [row["seed"] for row in rows],
                "score": fmean(row["score"] for row in rows),
                "kept": found,
                "minutes": fmean(row["minutes"] for row in rows),
            }
        )
    results["means"] = means


def _folder(point: str, method: str, seed: int) -> str:
    return f"{method}-{point.replace(':', '_')}-seed{seed}"


def _table(results: Mapping[str, Any]) -> str:
    lines = [f"| point | method | seeds | {results['metric']} | kept | 95 % interval | minutes |"]
    lines.append("| --- | --- | --: | --: | --: | --: | --: |")
    for mean in sorted(results["means"], key=lambda one: (one["point"], -one["score"])):
        found = mean["kept"]
        bounds = "" if found["low"] is None else f"{found['low']:.1%} to {found['high']:.1%}"
        lines.append(
            f"| {mean['point']} | {mean['method']} | {len(mean['seeds'])} | {mean['score']:.4f} | "
            f"{found['value']:.1%} | {bounds} | {mean['minutes']:.1f} |"
        )
    return "\n".join(lines)


def _figure(results: Mapping[str, Any], name: str) -> Any:
    """Draws score against sparsity, a line for each method and pattern."""
    lines = []
    for pattern in dict.fromkeys(mean["point"].split("@")[0] for mean in results["means"]):
        for method in dict.fromkeys(mean["method"] for mean in results["means"]):
            own = sorted(
                (float(mean["point"].split("@")[1]), mean["score"])
                for mean in results["means"]
                if mean["method"] == method and mean["point"].split("@")[0] == pattern
            )
            if own:
                lines.append(Line(f"{method}, {pattern}", *map(list, zip(*own, strict=True))))
    dense = fmean(row["dense"] for row in results["rows"])
    edges = [float(mean["point"].split("@")[1]) for mean in results["means"]]
    lines.append(Line("dense", [min(edges), max(edges)], [dense, dense], plain=True))
    return line_figure(
        f"Pruning step by step: {name}",
        f"{results['settings']['epochs']:g} epochs each, learning from the dense model's logits; "
        f"{results['machine']['cpu']}",
        lines,
        x_title="zeros in the encoder",
        y_title=results["metric"],
        percent=True,
    )


def _list(given: str) -> list[str]:
    return [part.strip() for part in given.split(",") if part.strip()]


def _methods(given: str) -> list[str]:
    found = _list(given)
    unknown = [one for one in found if one not in METHODS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(METHODS)}")
    return found


def _seeds(given: str) -> list[int]:
    return sorted({int(seed) for seed in given.split(",")})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a file or folder of rows, or a packaged set")
    parser.add_argument("--task", help="what the rows are for; default: found from the data")
    parser.add_argument("--dense", required=True, help="folder of the fine-tuned model; may hold {seed}")
    parser.add_argument("--points", type=_list, default=list(POINTS), help="as block4@0.8,unstructured@0.9")
    parser.add_argument("--methods", type=_methods, default=list(METHODS), help="as magnitude,obert")
    parser.add_argument("--seeds", type=_seeds, default=[42], help="as 42,43,44")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--max-length", type=int, help="most tokens of a text or window")
    parser.add_argument("--threads", type=int, default=0, help="for PyTorch; 0 leaves its default")
    parser.add_argument("--save-every", type=int, default=250, help="steps between two states of a run")
    parser.add_argument("--plots", action="store_true", help="draw score against sparsity as PNG")
    parser.add_argument("--work", default="models", help="folder for models and the teacher's outputs")
    parser.add_argument("--out", help="JSON file; default: benchmarks/results/gradual_<data>.json")
    arguments = parser.parse_args()
    names = ("epochs", "learning_rate", "max_length")
    shown = [f"--data {Path(arguments.data).name}", f"--seeds {','.join(map(str, arguments.seeds))}"]
    shown += [
        f"--{name.replace('_', '-')} {getattr(arguments, name)}" for name in names if getattr(arguments, name)
    ]
    arguments.shown = shown
    return arguments


if __name__ == "__main__":
    sys.exit(main())
