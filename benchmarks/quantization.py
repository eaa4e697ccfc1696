"""What does int8 cost, and what gets it back? Post-training, training, and pruning with both, on a data set.

    python benchmarks/quantization.py --data ../shared/data/clinc150 --seeds 42,43,44
    python benchmarks/quantization.py --data ../shared/data/sst2 --groups post-training
    python benchmarks/quantization.py --data ../shared/data/squad --max-length 256

Rows: the dense model; it quantized after training from 256 of its training texts, static and dynamic, each
observer alone, with GPTQ rounding, with attention in float, and what `auto` leaves in float; trained with
int8 simulated, static, dynamic and with least-error ranges; pruned to 80 % in blocks of four and trained so,
without a teacher and with two shares of one (hardness 0, 0.5, 1). Compressed rows are scored in the engine.

The dense model is taken from `--work`, where benchmarks/accuracy.py leaves its own, or fine-tuned there.
Every row of every seed is kept as soon as it is made, so the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.bench.accuracy_rows import markdown, merged, scored_by_seed
from secateur.bench.checkpoint_costs import latencies, part_sizes
from secateur.bench.kept import kept, row_sums, score_of_sums
from secateur.bench.machine import describe_machine
from secateur.bench.pretrained import packaged_minilm
from secateur.bench.public_sets import group_of_rows, load_public
from secateur.bench.results import write_results, write_text
from secateur.commands.console import hush_libraries
from secateur.data import Splits
from secateur.errors import DataError, SecateurError
from secateur.export import export_checkpoint
from secateur.quantization import PostTraining, quantize_post_training_
from secateur.recipe import Recipe, load_recipe
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines import outputs_of
from secateur.training import compress, fine_tune
from secateur.training.collation import training_features
from secateur.training.encoding import Padder, pad_token_of
from secateur.training.evaluation import predict
from secateur.training.lengths import max_tokens
from secateur.training.loading import load_network, load_tokenizer
from secateur.training.run_folder import RunFolder, fingerprint

CALIBRATION_ROWS = 256
_BATCH = 32
_PLAIN: dict[str, Any] = {"smoothing": None, "bias_correction": False}
_SETTINGS = ("model", "recipe", "epochs", "qat_epochs", "learning_rate", "batch_size", "max_length")
_SHOWN = ("data", "task", "groups", "seeds", *_SETTINGS, "train_rows", "test_rows")

POST_TRAINING: dict[str, PostTraining] = {
    "post-training, static": PostTraining(),
    "post-training, dynamic": PostTraining(activations="dynamic"),
    "post-training, GPTQ": PostTraining(rounding="gptq"),
    "post-training, float attention": PostTraining(attention="float"),
    "post-training, auto": PostTraining(max_loss_increase=0.005),
    "post-training, minmax alone": PostTraining(observer="minmax", **_PLAIN),
    "post-training, percentile alone": PostTraining(observer="percentile", **_PLAIN),
    "post-training, least error alone": PostTraining(observer="mse", **_PLAIN),
    "post-training, best alone": PostTraining(observer="best", **_PLAIN),
}
QAT: dict[str, dict[str, Any]] = {
    "QAT, static": {},
    "QAT, dynamic": {"activations": "dynamic"},
    "QAT, least-error ranges": {"observer": "mse"},
}
PRUNED: dict[str, float] = {f"80 % block4 + QAT, hardness {share:g}": share for share in (0.0, 0.5, 1.0)}
GROUPS = {"post-training": tuple(POST_TRAINING), "qat": tuple(QAT), "pruned": tuple(PRUNED)}


def main() -> int:
    """Makes what is missing, scores and writes.

    Returns:
        The exit status.
    """
    arguments = _arguments()
    hush_libraries()
    try:
        run(arguments)
    except SecateurError as error:
        print(f"quantization: {error}", file=sys.stderr)
        return 2
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    splits = load_public(arguments.data, arguments.task, arguments.train_rows, arguments.test_rows)
    print(splits.describe(), flush=True)
    name = Path(arguments.data).name.split(".")[0]
    work = Path(arguments.work) / name
    _require_same(work / "quantization.json", arguments, splits)
    seeds = {seed: _Seed(seed, work / f"seed{seed}", splits, arguments) for seed in arguments.seeds}
    names = ["dense", *(row for group in GROUPS if group in arguments.groups for row in GROUPS[group])]
    rows = []
    for row in names:
        scores = {seed: made.scored(row) for seed, made in seeds.items()}
        rows.append(scored_by_seed(row, "pytorch" if row == "dense" else "secateur", scores))
        value = rows[-1][splits.task.main_metric]
        print(f"{row}: {value:.4f}, {rows[-1]['minutes']:.1f} minutes", flush=True)
    _add_kept(rows, seeds, splits)
    _add_costs(rows, next(iter(seeds.values())))
    results = {
        "question": f"What does int8 cost on {name}, and what gets it back?",
        "command": _command(arguments),
        "data": {
            "name": name,
            "task": splits.task.name,
            "train": len(splits.train),
            "test": len(splits.test),
            "notes": splits.notes,
        },
        "metric": splits.task.main_metric,
        "seeds": arguments.seeds,
        "calibration_rows": CALIBRATION_ROWS,
        "rows": rows,
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
    }
    out = Path(arguments.out or f"benchmarks/results/quantization_{name}.json")
    write_results(out, results)
    table = markdown(results)
    write_text(out.with_suffix(".md"), table)
    print(f"{table}\n{out}")


def qat_recipe(base: Recipe, epochs: float, settings: Mapping[str, Any]) -> Recipe:
    """Returns training with int8 simulated from an eighth of the run on, learnt from the dense model.

    Args:
        base: Its `training` is taken over, but for length and learning rate, and its distillation.
        epochs: Length.
        settings: Further keys of the quantization stage.
    """
    values = base.model_dump(mode="json", exclude_none=True)
    values["training"] |= {"epochs": epochs, "min_steps": 0, "learning_rate": 1e-4}
    values["stages"] = [stage for stage in values["stages"] if stage["type"] == "distillation"]
    values["stages"].append(
        {"type": "quantization", "start_epoch": epochs / 8, "freeze_epoch": epochs * 0.8, **settings}
    )
    values.pop("small_data", None)
    return Recipe.from_values(values | {"name": "qat", "description": "int8 without pruning"})


def taught_recipe(base: Recipe, hardness: float) -> Recipe:
    """Returns a recipe with another share of the teacher, everything else alike.

    Altered rows and hidden states of small data go: they need a teacher, and all rows shall differ in one
    thing.
    """
    values = base.model_dump(mode="json", exclude_none=True)
    stages = [stage for stage in values["stages"] if stage["type"] != "distillation"]
    taught = [stage for stage in values["stages"] if stage["type"] == "distillation"]
    for stage in taught if hardness else ():
        stages.insert(0, {**stage, "hardness": hardness, "augmentation": 0.0, "hidden": 0.0})
    small = values.get("small_data") or {}
    small = {key: value for key, value in small.items() if key not in ("hidden", "augmentation")}
    values |= {"stages": stages, "small_data": small or None, "name": f"{base.name}-{hardness:g}"}
    return Recipe.from_values({key: value for key, value in values.items() if value is not None})


def calibration_batches(
    network: Any, tokenizer: Any, splits: Splits, max_length: int | None
) -> list[dict[str, torch.Tensor]]:
    """Returns training rows at even distances, with their labels, in batches of one length or nearly so."""
    task = splits.task
    count = min(CALIBRATION_ROWS, len(splits.train))
    rows = [splits.train[place * len(splits.train) // count] for place in range(count)]
    longest = max_tokens(network, tokenizer, task, max_length)
    features = training_features(tokenizer, task, rows, longest, network)
    pad, order = Padder(pad_token_of(network)), features.by_length()
    parts = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    return [pad([features[number] for number in part]) for part in parts]


class _Seed:
    """The models of one seed, made once, and their scores."""

    def __init__(self, seed: int, folder: Path, splits: Splits, arguments: argparse.Namespace) -> None:
        self.seed = seed
        self.folder = folder
        self.dense = folder / "dense"
        self._splits = splits
        self._arguments = arguments
        self._recipe = load_recipe(arguments.recipe)
        self._encoded: Any = None

    def scored(self, row: str) -> dict[str, Any]:
        """Returns the test score of a row with `minutes` and `sparsity`; makes and runs it once."""
        notes = self._notes(row)
        if not notes.is_file():
            self._tune()
            started = time.monotonic()
            facts = {} if row == "dense" else self._make(row)
            facts = {"minutes": round((time.monotonic() - started) / 60, 2), **facts}
            write_results(notes, {**self._score(row), "sparsity": 0.0, **facts})
        found: dict[str, Any] = json.loads(notes.read_text(encoding="utf-8"))
        return found

    def sums(self, row: str) -> Any:
        """Returns what the score of a row adds up to, test row by test row; None where nothing is known."""
        file = self._notes(row).with_suffix(".npy")
        return np.load(file) if file.is_file() else None

    def checkpoint(self, row: str) -> Path:
        """Returns the folder of a row's checkpoint."""
        return self.folder / "quantization" / _file_name(row)

    def _notes(self, row: str) -> Path:
        return self.folder / "quantization" / f"{_file_name(row)}.json"

    def _tune(self) -> None:
        """Fine-tunes the dense model, unless it lies there; an interrupted run goes on."""
        given, notes = self._arguments, self.folder / "dense.json"
        if notes.is_file():
            return
        resume = self.dense.with_name("dense.run").is_dir()
        tuning = RunFolder(self.dense, {"seed": self.seed}, resume=resume, save_every=given.save_every)
        tuned = fine_tune(
            given.model or packaged_minilm(),
            self._splits,
            self.dense,
            epochs=given.epochs,
            learning_rate=given.learning_rate,
            batch_size=given.batch_size,
            max_length=given.max_length,
            seed=self.seed,
            run=tuning,
        )
        write_results(notes, tuned.metrics)
        tuning.discard()

    def _make(self, row: str) -> dict[str, Any]:
        """Makes a row's checkpoint; returns what there is to note beside its score."""
        folder, given = self.checkpoint(row), self._arguments
        if row in POST_TRAINING:
            shutil.rmtree(folder, ignore_errors=True)  # no run to resume
            return self._post_training(POST_TRAINING[row], folder)
        recipe = (
            qat_recipe(self._recipe, given.qat_epochs, QAT[row])
            if row in QAT
            else taught_recipe(self._recipe, PRUNED[row])
        )
        if not folder.is_dir():
            compress(
                self.dense,
                self._splits,
                recipe,
                folder,
                max_length=given.max_length,
                seed=self.seed,
                save_every=given.save_every,
                resume=folder.with_name(f"{folder.name}.run").is_dir(),
            )
        measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return {"minutes": measured["minutes"], "sparsity": measured["sparsity"]}

    def _post_training(self, settings: PostTraining, folder: Path) -> dict[str, Any]:
        network, tokenizer = load_network(self.dense, self._splits.task), load_tokenizer(self.dense)
        batches = calibration_batches(network, tokenizer, self._splits, self._arguments.max_length)
        report = quantize_post_training_(network, batches, settings)
        metrics = {"post_training": report.facts}
        export_checkpoint(network, tokenizer, folder, None, metrics, weights=report.weights)
        auto = report.facts.get("auto")
        return {
            "settings": asdict(settings),
            "outliers": [one["text"] for one in report.facts["outliers"]],
            **({} if auto is None else {"left_in_float": auto["left_in_float"]}),
        }

    def _score(self, row: str) -> dict[str, Any]:
        task, splits = self._splits.task, self._splits
        rows = [*splits.test, *splits.out_of_scope]
        network, tokenizer = load_network(self.dense, task), load_tokenizer(self.dense)
        if self._encoded is None:
            longest = max_tokens(network, tokenizer, task, self._arguments.max_length)
            self._encoded = task.encode(tokenizer.backend_tokenizer, rows, longest)
        if row == "dense":
            outputs = predict(network, task, self._encoded)
            if not self.checkpoint(row).is_dir():  # for its size and speed in the engine
                export_checkpoint(network, tokenizer, self.checkpoint(row))
        else:
            outputs = outputs_of(Engine.from_pretrained(self.checkpoint(row)), task, self._encoded)
        sums = row_sums(task, splits.test, self._encoded, outputs)
        if sums is not None:
            np.save(self._notes(row).with_suffix(".npy"), sums)
        return dict(task.score(rows, self._encoded, outputs))


def _add_kept(rows: list[dict[str, Any]], seeds: Mapping[int, _Seed], splits: Splits) -> None:
    """Adds to every row what part of the dense score it keeps, with an interval where there is one."""
    groups = group_of_rows(splits)
    dense = [made.sums("dense") for made in seeds.values()]
    for row in rows:
        found = [made.sums(row["model"]) for made in seeds.values()]
        known: list[Any] = [*dense, *found]
        if all(sums is not None for sums in known) and all(score_of_sums(one.sum(0)) > 0 for one in known):
            row["kept"] = kept(dense, found, groups)
        else:
            row["kept"] = merged(row, rows[0], splits.task.main_metric)


def _add_costs(rows: list[dict[str, Any]], made: _Seed) -> None:
    """Adds sizes and latencies of the first seed's models: they depend on no seed but for noise."""
    folders = {row["model"]: made.checkpoint(row["model"]) for row in rows}
    timed = latencies(folders)
    for row in rows:
        sizes = part_sizes(folders[row["model"]])
        row |= {"size_mb": sizes["file"], "size_parts_mb": sizes, "latency_ms": timed[row["model"]]}


def _require_same(notes: Path, arguments: argparse.Namespace, splits: Splits) -> None:
    """Refuses to mix what was trained on other rows or in another way."""
    request = {name: getattr(arguments, name) for name in _SETTINGS} | {"rows": fingerprint(splits.train)}
    if notes.is_file():
        before = json.loads(notes.read_text(encoding="utf-8"))
        differ = [name for name, value in request.items() if before.get(name) != value]
        if differ:
            raise DataError(
                f"{notes.parent} holds models made with other {', '.join(differ)}: delete it, or give "
                "another --work."
            )
    write_results(notes, request)


def _file_name(row: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in row).split())


def _command(arguments: argparse.Namespace) -> str:
    """Returns the command that makes these figures anew."""
    words = ["python", "benchmarks/quantization.py"]
    for name in _SHOWN:
        value = getattr(arguments, name)
        if value not in (None, 0):
            shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{name.replace('_', '-')}", shown]
    return shlex.join(words)


def _listed(of: Callable[[str], Any], given: str) -> list[Any]:
    return sorted({of(one) for one in given.split(",")})


def _group(name: str) -> str:
    if name not in GROUPS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(GROUPS)}")
    return name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a file or folder of rows, or a packaged set")
    parser.add_argument("--task", help="what the rows are for; default: found from the data")
    parser.add_argument("--model", help="folder of a pretrained encoder; default: all-MiniLM-L6-v2")
    parser.add_argument(
        "--groups", type=partial(_listed, _group), default=list(GROUPS), help=f"of {', '.join(GROUPS)}"
    )
    parser.add_argument("--recipe", default="balanced", help="name or path; of the pruned rows")
    parser.add_argument("--seeds", type=partial(_listed, int), default=[42], help="as 42,43,44")
    parser.add_argument("--epochs", type=float, default=5, help="of fine-tuning")
    parser.add_argument("--qat-epochs", type=float, default=4, help="of training with int8, unpruned")
    parser.add_argument("--learning-rate", type=float, default=1.5e-4, help="of fine-tuning")
    parser.add_argument("--batch-size", type=int, default=64, help="of fine-tuning")
    parser.add_argument("--max-length", type=int, help="most tokens of a text or window")
    parser.add_argument("--train-rows", type=int, default=0, help="learn from so many rows only; 0: all")
    parser.add_argument("--test-rows", type=int, default=0, help="score so many rows only; 0: all")
    parser.add_argument("--threads", type=int, default=0, help="for PyTorch; 0 leaves its default")
    parser.add_argument("--save-every", type=int, default=500, help="steps between two states of a run")
    parser.add_argument("--work", default="models", help="folder for models and scores; they are kept")
    parser.add_argument("--out", help="JSON file; default: benchmarks/results/quantization_<data>.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
