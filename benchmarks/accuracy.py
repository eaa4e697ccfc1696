"""How much accuracy does compression cost? Fine-tunes, compresses and scores one model on one data set.

    python benchmarks/accuracy.py --data ../shared/data/clinc150 --recipe balanced

Rows: the dense model in PyTorch, the compressed one in PyTorch (fake quantization on), the compressed one in
the engine. The result is a JSON file with the command, the data, the seed and the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from secateur.bench.machine import describe_machine
from secateur.bench.pretrained import packaged_minilm
from secateur.bench.results import write_results
from secateur.data import Splits, load_splits
from secateur.recipe import load_recipe
from secateur.tasks import Encoded
from secateur.training import compress, fine_tune

_REPORTED = ("data", "model", "recipe", "seed", "epochs", "learning_rate", "batch_size", "train_rows")


def main() -> None:
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    splits = load_splits(arguments.data)
    if arguments.train_rows:
        splits = dataclasses.replace(splits, train=splits.train[: arguments.train_rows])
    name = Path(arguments.data).name
    work = Path(arguments.work) / name
    print(splits.describe(), flush=True)

    dense, compressed = work / "dense", work / "compressed"
    measured = work / "dense.json"
    if not (arguments.reuse and measured.is_file()):
        metrics = fine_tune(
            arguments.model or packaged_minilm(),
            splits,
            dense,
            epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
        ).metrics
        settings = {name: getattr(arguments, name) for name in ("learning_rate", "batch_size")}
        write_results(measured, {**settings, **metrics})
    if not (arguments.reuse and compressed.is_dir()):
        compress(dense, splits, arguments.recipe, compressed, seed=arguments.seed)
    done = json.loads((compressed / "metrics.json").read_text(encoding="utf-8"))
    results = {
        "question": f"What does compression cost on {name}?",
        "command": _command(arguments),
        "data": {
            "name": name,
            "train": len(splits.train),
            "test": len(splits.test),
            "labels": len(splits.labels),
            "columns": list(splits.columns.values()),
        },
        "seed": arguments.seed,
        "recipe": load_recipe(compressed / "recipe.yaml").model_dump(mode="json"),
        "rows": _rows(splits, done, dense, compressed),
        "kept": done["compressed"]["test"]["accuracy"] / done["dense"]["test"]["accuracy"],
        "sparsity": done["sparsity"],
        "fine_tuning": json.loads(measured.read_text(encoding="utf-8")),
        "compression_minutes": done["minutes"],
        "checkpoint_sha256": hashlib.sha256((compressed / "model.safetensors").read_bytes()).hexdigest(),
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
    }
    out = Path(arguments.out or f"benchmarks/results/accuracy_{name}.json")
    write_results(out, results)
    for row in results["rows"]:
        print(f"{row['model']:>10} {row['engine']:<9} accuracy {row['accuracy']:.4f}")
    print(f"{out}")


def _rows(splits: Splits, done: dict[str, Any], dense: Path, compressed: Path) -> list[dict[str, Any]]:
    before, after = done["dense"]["test"], done["compressed"]["test"]
    rows = [
        {"model": "dense", "engine": "pytorch", **before, "size_mb": _size(dense)},
        {"model": "compressed", "engine": "pytorch", **after, "size_mb": _size(compressed)},
    ]
    try:
        from secateur.runtime.pipelines import pipeline

        run = pipeline(compressed)
    except ImportError as error:
        print(f"no engine row: {error}", file=sys.stderr)
        return rows
    scored = [*splits.test, *splits.out_of_scope]
    encoded = Encoded([], None, list(range(len(scored))))  # one a row: all that scoring logits needs
    scores = run.task.score(scored, encoded, list(run.logits([row.text for row in scored])))
    rows.append({"model": "compressed", "engine": "secateur", **scores, "size_mb": _size(compressed)})
    return rows


def _command(arguments: argparse.Namespace) -> str:
    """Returns the command that makes these figures anew, without the places of this machine."""
    words = ["python", "benchmarks/accuracy.py"]
    for name in _REPORTED:
        if (value := getattr(arguments, name)) is not None:
            shown = os.path.relpath(value) if name in ("data", "model") and Path(value).exists() else value
            words += [f"--{name.replace('_', '-')}", str(shown)]
    return shlex.join(words)


def _size(folder: Path) -> float:
    return round((folder / "model.safetensors").stat().st_size / 1e6, 2)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What does compression cost?")
    parser.add_argument(
        "--data", required=True, help="a file or folder of rows, or the name of a packaged set"
    )
    parser.add_argument("--model", help="folder of a pretrained encoder; default: all-MiniLM-L6-v2")
    parser.add_argument("--recipe", default="balanced", help="name or path")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--epochs", type=float, default=5, help="of fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=1.5e-4, help="of fine-tuning")
    parser.add_argument("--batch-size", type=int, default=64, help="of fine-tuning")
    parser.add_argument("--train-rows", type=int, default=0, help="use only the first rows; 0 uses all")
    parser.add_argument("--threads", type=int, default=0, help="for PyTorch; 0 leaves its default")
    parser.add_argument("--work", default="models", help="folder for the dense and compressed models")
    parser.add_argument(
        "--reuse", action="store_true", help="score models that are in the work folder already"
    )
    parser.add_argument("--out", help="JSON file; default: benchmarks/results/accuracy_<data>.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
