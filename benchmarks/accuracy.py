"""How much accuracy does compression cost? Fine-tunes, halves, compresses and scores a model on a data set.

    python benchmarks/accuracy.py --data ../shared/data/clinc150 --seeds 42,43,44
    python benchmarks/accuracy.py --data ../shared/data/wnut17 --task token-classification
    python benchmarks/accuracy.py --data ../shared/data/qnli_dev
    python benchmarks/accuracy.py --data ../shared/data/squad --max-length 256

Rows: the dense model; every second layer of it, taught by it with the same training; the compressed one in
PyTorch (fake quantization on) and in the engine; simple baselines where the task has any. Each with minutes,
achieved sparsity, sizes of embeddings and encoder, engine latency of one text of 32 and 128 tokens on one
thread, and what part of the dense score it keeps, with a paired bootstrap interval over the test rows.
`qnli_dev` and `squad` are made from what lies there: see secateur.bench.public_sets.

What is finished lies under `--work` and is not made again: the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.baselines import baselines_of, measure
from secateur.baselines.half_depth import half_depth
from secateur.bench.accuracy_rows import markdown, merged, scored_by_seed
from secateur.bench.checkpoint_costs import latencies, part_sizes
from secateur.bench.kept import kept, row_sums, score_of_sums
from secateur.bench.machine import describe_machine
from secateur.bench.pretrained import packaged_minilm
from secateur.bench.public_sets import group_of_rows, load_public
from secateur.bench.results import write_results, write_text
from secateur.commands.console import hush_libraries
from secateur.data import Splits
from secateur.errors import DataError, SecateurError, UnsupportedError
from secateur.export import export_checkpoint
from secateur.recipe import load_recipe
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines import outputs_of
from secateur.training import compress, fine_tune
from secateur.training.evaluation import predict
from secateur.training.lengths import max_tokens
from secateur.training.loading import load_network, load_tokenizer
from secateur.training.run_folder import RunFolder, fingerprint

_REPORTED = (
    *("data", "task", "model", "recipe", "seeds", "epochs", "learning_rate", "batch_size", "max_length"),
    *("train_rows", "test_rows"),
)
_ENGINE, _PYTORCH, _SIMPLE = "secateur", "pytorch", "scikit-learn"


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
        print(f"accuracy: {error}", file=sys.stderr)
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
    _require_same(work, arguments, splits)
    seeds = {seed: _Seed(seed, work / f"seed{seed}", splits, arguments) for seed in arguments.seeds}
    for made in seeds.values():
        made.make()
    rows = [
        scored_by_seed(model, engine, {seed: made.scored(model, engine) for seed, made in seeds.items()})
        for model, engine in (
            *(
                ("dense", _PYTORCH),
                ("half-depth", _ENGINE),
                ("compressed", _PYTORCH),
                ("compressed", _ENGINE),
            ),
        )
    ]
    rows += _simple_rows(splits, work, arguments.seeds[0])
    _add_kept(rows, seeds, work, splits)
    _add_costs(rows, next(iter(seeds.values())))
    metric = splits.task.main_metric
    by_name = {(row["model"], row["engine"]): row for row in rows}
    results = {
        "question": f"What does compression cost on {name}?",
        "command": _command(arguments),
        "data": {
            "name": name,
            "task": splits.task.name,
            "train": len(splits.train),
            "validation": len(splits.validation),
            "test": len(splits.test),
            "labels": len(splits.labels),
            "columns": dict(splits.columns),
            "notes": splits.notes,
        },
        "metric": metric,
        "seeds": arguments.seeds,
        "recipe": load_recipe(seeds[arguments.seeds[0]].compressed / "recipe.yaml").model_dump(mode="json"),
        "rows": rows,
        "kept": by_name["compressed", _ENGINE]["kept"],
        "sparsity": by_name["compressed", _ENGINE]["sparsity"],
        "checkpoint_sha256": {seed: made.sha256() for seed, made in seeds.items()},
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
    }
    out = Path(arguments.out or f"benchmarks/results/accuracy_{name}.json")
    write_results(out, results)
    table = markdown(results)
    write_text(out.with_suffix(".md"), table)
    print(f"{table}\n{out}")


class _Seed:
    """The models of one seed, made once, and their scores."""

    def __init__(self, seed: int, folder: Path, splits: Splits, arguments: argparse.Namespace) -> None:
        self.seed = seed
        self.folder = folder
        self.dense, self.dense_engine = folder / "dense", folder / "dense-engine"
        self.half, self.compressed = folder / "half-depth", folder / "compressed"
        self._splits = splits
        self._arguments = arguments

    def make(self) -> None:
        """Trains what is not there yet; what was being trained goes on."""
        given, splits, seed = self._arguments, self._splits, self.seed
        notes = self.folder / "dense.json"
        if not notes.is_file():
            resume = self.dense.with_name("dense.run").is_dir()
            tuning = RunFolder(self.dense, {"seed": seed}, resume=resume, save_every=given.save_every)
            tuned = fine_tune(
                given.model or packaged_minilm(),
                splits,
                self.dense,
                epochs=given.epochs,
                min_steps=given.min_steps,
                learning_rate=given.learning_rate,
                batch_size=given.batch_size,
                max_length=given.max_length,
                seed=seed,
                run=tuning,
            )
            write_results(notes, tuned.metrics)
            tuning.discard()
        if not self.dense_engine.is_dir():
            network = load_network(self.dense, splits.task)
            export_checkpoint(network, load_tokenizer(self.dense), self.dense_engine)
        notes = self.folder / "half-depth.json"
        if not notes.is_file():
            for unfinished in (self.half, self.half.with_name("half-depth.run")):
                shutil.rmtree(unfinished, ignore_errors=True)
            options: dict[str, Any] = {"recipe": given.recipe, "max_length": given.max_length, "seed": seed}
            write_results(notes, half_depth(self.dense, splits, self.half, **options))
        if not self.compressed.is_dir():
            compress(
                self.dense,
                splits,
                given.recipe,
                self.compressed,
                max_length=given.max_length,
                seed=seed,
                save_every=given.save_every,
                resume=self.compressed.with_name("compressed.run").is_dir(),
            )

    def scored(self, model: str, engine: str) -> dict[str, Any]:
        """Returns the test score of a model with `minutes` and `sparsity`; runs it once."""
        notes = self.folder / f"{model}-{engine}.json"
        if not notes.is_file():
            found = self._score(model, engine)
            write_results(notes, found)
        result: dict[str, Any] = json.loads(notes.read_text(encoding="utf-8"))
        return result

    def sums(self, model: str, engine: str) -> Any:
        """Returns what the score of a model adds up to, row by row; None where nothing is known."""
        file = self.folder / f"{model}-{engine}.npy"
        return np.load(file) if file.is_file() else None

    def sha256(self) -> str:
        """Returns the hash of the compressed model's weights."""
        return hashlib.sha256((self.compressed / "model.safetensors").read_bytes()).hexdigest()

    def _score(self, model: str, engine: str) -> dict[str, Any]:
        folder = {"dense": self.dense, "half-depth": self.half, "compressed": self.compressed}[model]
        notes = folder / "metrics.json" if model == "compressed" else self.folder / f"{model}.json"
        measured = json.loads(notes.read_text(encoding="utf-8"))
        facts = {"minutes": measured["minutes"], "sparsity": measured.get("sparsity", 0.0)}
        if (model, engine) == ("compressed", _PYTORCH):
            return {**measured["compressed"]["test"], **facts}
        task = self._splits.task
        rows = [*self._splits.test, *self._splits.out_of_scope]
        network = load_network(self.dense, task)
        tokenizer = load_tokenizer(self.dense)
        longest = max_tokens(network, tokenizer, task, self._arguments.max_length)
        encoded = task.encode(tokenizer.backend_tokenizer, rows, longest)
        if engine == _PYTORCH:
            outputs = predict(network, task, encoded)
        else:
            outputs = outputs_of(Engine.from_pretrained(folder), task, encoded)
        sums = row_sums(task, self._splits.test, encoded, outputs)
        if sums is not None:
            np.save(self.folder / f"{model}-{engine}.npy", sums)
        return {**task.score(rows, encoded, outputs), **facts}


def _simple_rows(splits: Splits, work: Path, seed: int) -> list[dict[str, Any]]:
    """Returns a row for every simple baseline of the task, strongest last; made once."""
    notes = work / "simple.json"
    if not notes.is_file():
        try:
            baselines = baselines_of(splits.task, seed)
        except UnsupportedError:
            baselines = []
        rows = []
        for baseline in baselines:
            found = measure(baseline, splits)
            sums = row_sums(splits.task, splits.test, *baseline.outputs(splits.test))
            if sums is not None:
                np.save(work / f"{baseline.name}.npy", sums)
            score = {**found["test"], "minutes": found["minutes"], "sparsity": None}
            costs = {"size_mb": found["size_mb"], "latency_ms": {"a text": found["latency_ms"]}}
            rows.append({**scored_by_seed(baseline.name, _SIMPLE, {seed: score}), **costs})
        write_results(notes, {"rows": rows})
    result: list[dict[str, Any]] = json.loads(notes.read_text(encoding="utf-8"))["rows"]
    return result


def _add_kept(rows: list[dict[str, Any]], seeds: Mapping[int, _Seed], work: Path, splits: Splits) -> None:
    """Adds to every row what part of the dense score it keeps, with an interval where there is one."""
    groups = group_of_rows(splits)
    dense = [made.sums("dense", _PYTORCH) for made in seeds.values()]
    for row in rows:
        model, engine = row["model"], row["engine"]
        if engine == _SIMPLE:
            file = work / f"{model}.npy"
            found = [np.load(file) if file.is_file() else None] * len(dense)
        else:
            found = [made.sums(model, engine) for made in seeds.values()]
        known: list[Any] = [*dense, *found]
        if all(sums is not None for sums in known) and all(score_of_sums(one.sum(0)) > 0 for one in known):
            row["kept"] = kept(known[: len(dense)], known[len(dense) :], groups)
        else:
            row["kept"] = merged(row, rows[0], splits.task.main_metric)


def _add_costs(rows: list[dict[str, Any]], made: _Seed) -> None:
    """Adds sizes and latencies of the first seed's models: they depend on no seed but for noise."""
    folders = {"dense": made.dense_engine, "half-depth": made.half, "compressed": made.compressed}
    timed = latencies(folders)
    for row in rows:
        if row["engine"] != _SIMPLE:
            sizes = part_sizes(folders[row["model"]])
            row |= {"size_mb": sizes["file"], "size_parts_mb": sizes, "latency_ms": timed[row["model"]]}


def _require_same(work: Path, arguments: argparse.Namespace, splits: Splits) -> None:
    """Refuses to mix what was trained on other rows or in another way."""
    notes = work / "request.json"
    names = [name for name in _REPORTED if name not in ("data", "seeds")]
    request = {name: getattr(arguments, name) for name in names} | {"rows": fingerprint(splits.train)}
    if notes.is_file():
        before = json.loads(notes.read_text(encoding="utf-8"))
        differ = [name for name, value in request.items() if before.get(name) != value]
        if differ:
            raise DataError(
                f"{work} holds models made with other {', '.join(differ)}: delete it, or give another --work."
            )
    write_results(notes, request)


def _command(arguments: argparse.Namespace) -> str:
    """Returns the command that makes these figures anew, without the places of this machine."""
    words = ["python", "benchmarks/accuracy.py"]
    for name in _REPORTED:
        value = getattr(arguments, name)
        if value not in (None, 0):
            if name in ("data", "model") or (name == "recipe" and Path(value).is_file()):
                value = os.path.relpath(value)
            shown = ",".join(map(str, value)) if name == "seeds" else str(value)
            words += [f"--{name.replace('_', '-')}", shown]
    return shlex.join(words)


def _seeds(given: str) -> list[int]:
    return sorted({int(seed) for seed in given.split(",")})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a file or folder of rows, or a packaged set")
    parser.add_argument("--task", help="what the rows are for; default: found from the data")
    parser.add_argument("--model", help="folder of a pretrained encoder; default: all-MiniLM-L6-v2")
    parser.add_argument("--recipe", default="balanced", help="name or path")
    parser.add_argument("--seeds", type=_seeds, default=[42], help="as 42,43,44")
    parser.add_argument("--epochs", type=float, default=5, help="of fine-tuning")
    parser.add_argument("--min-steps", type=int, help="of fine-tuning; default: its own")
    parser.add_argument("--learning-rate", type=float, default=1.5e-4, help="of fine-tuning")
    parser.add_argument("--batch-size", type=int, default=64, help="of fine-tuning")
    parser.add_argument("--max-length", type=int, help="most tokens of a text or window")
    parser.add_argument("--train-rows", type=int, default=0, help="learn from so many rows only; 0: all")
    parser.add_argument("--test-rows", type=int, default=0, help="score so many rows only; 0: all")
    parser.add_argument("--threads", type=int, default=0, help="for PyTorch; 0 leaves its default")
    parser.add_argument("--save-every", type=int, default=500, help="steps between two states of a run")
    parser.add_argument("--work", default="models", help="folder for models and scores; they are kept")
    parser.add_argument("--out", help="JSON file; default: benchmarks/results/accuracy_<data>.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
