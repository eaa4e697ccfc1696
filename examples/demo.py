"""The whole way on a real model: fine-tune, compress, load without PyTorch, compare. `make demo` runs it.

Writes DEMO/dense (the teacher), DEMO/compressed (the checkpoint), DEMO/onnx (for the ONNX Runtime row, where
that is installed) and DEMO/results.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from secateur.bench.comparison import STANDARD_LENGTHS, compare, latency_columns, standard_cases
from secateur.bench.machine import describe_machine
from secateur.bench.measure import Timing, speedup
from secateur.bench.peers import export_onnx_peers, onnx_peers_missing
from secateur.bench.pretrained import packaged_minilm
from secateur.bench.results import write_results
from secateur.bench.worker import Worker
from secateur.commands.console import hush_libraries, output
from secateur.data import Splits, load_splits
from secateur.errors import DataError, SecateurError
from secateur.runtime.pipelines import pipeline
from secateur.tasks import Encoded
from secateur.tasks.agreement import agreement

if TYPE_CHECKING:
    from secateur.recipe.recipe import Recipe

ROUNDS = 3
CALLS = 2

# Compression gets what is left of the minutes that a demonstration may take; a step costs what 1.35 steps of
# fine-tuning do, and all that comes after as much as 400 (Zen 3, AVX2; a little less on newer ones).
SECONDS = 470.0
STEP_COST, AFTERWARDS_COST = 1.35, 400
LEAST_STEPS = 600


@dataclass(frozen=True)
class Candidate:
    """One row of the table.

    Attributes:
        title: What the table calls it.
        model: `dense` or `compressed`.
        engine: What the JSON file calls the engine.
        backend: A key of `secateur.bench.backends.BACKENDS`.
        folder: What it loads.
        weights: The file whose size counts.
    """

    title: str
    model: str
    engine: str
    backend: str
    folder: Path
    weights: str = "model.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demonstration.

    Args:
        arguments: Instead of the process's own.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description="Compress a real model and compare it with the dense one.")
    parser.add_argument(
        "--model", type=Path, help="a pretrained BERT; default: the packaged all-MiniLM-L6-v2"
    )
    parser.add_argument("--data", default="assistant_intents", help="what `secateur compress --data` takes")
    parser.add_argument("--recipe", default="balanced", help="what `secateur compress --recipe` takes")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write into")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args(arguments)
    try:
        demonstrate(options.model, options.data, options.recipe, options.out, options.seed)
    except SecateurError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def demonstrate(model: Path | None, data: str, recipe: str, out: Path, seed: int) -> None:
    """Fine-tunes, compresses, measures, prints and writes.

    Args:
        model: A pretrained BERT; None for the packaged one.
        data: See `load_splits`.
        recipe: See `secateur.compress`.
        out: Folder to write into.
        seed: Of every random number.

    Raises:
        SecateurError: Something that was given cannot be used.
    """
    started = time.perf_counter()
    hush_libraries()
    from secateur.recipe.recipe import load_recipe
    from secateur.training.trainer import compress, fine_tune

    console = output()
    source = model or packaged_minilm()
    _check_positions(source)
    splits = load_splits(data)
    console.print(splits.describe(), markup=False, highlight=False)
    batch_size = 16
    tuned = fine_tune(
        *(source, splits, out / "dense"),
        epochs=3,
        learning_rate=2e-4,
        batch_size=batch_size,
        min_steps=300,
        seed=seed,
    )
    dense = tuned.folder
    step_seconds = (
        60 * tuned.metrics["minutes"] / (tuned.metrics["epochs"] * -(-len(splits.train) // batch_size))
    )
    steps = affordable_steps(time.perf_counter() - started, step_seconds)
    planned = _within(load_recipe(recipe), steps, console)
    compressed = compress(dense, splits, planned, out / "compressed", seed=seed)
    trained = time.perf_counter()
    console.print(
        f"The model is compressed after {(trained - started) / 60:.1f} minutes; now the comparison."
    )
    candidates = _candidates(dense, compressed.folder, out / "onnx", console)
    rows, timings, logits = _measure(candidates, splits, console)
    results = {
        "rows": rows,
        "machine": describe_machine(),
        "data": data,
        "recipe": recipe,
        "seed": seed,
        "sparsity": compressed.metrics["sparsity"],
        "minutes": {
            "training": round((trained - started) / 60, 2),
            "total": round((time.perf_counter() - started) / 60, 2),
        },
        "engine_against_pytorch": agreement(logits["pytorch-compressed"], logits["secateur"]),
        "speedup": _speedups(timings),
    }
    write_results(out / "results.json", results)
    _print(candidates, rows, results, console)
    console.print(
        f'Try next: secateur predict {compressed.folder} "book me a table for two tonight"',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def affordable_steps(elapsed: float, step_seconds: float) -> int:
    """Says how many steps of compression fit into the time of the demonstration.

    Args:
        elapsed: Seconds since it began.
        step_seconds: Seconds that a step of fine-tuning took.

    Returns:
        At least `LEAST_STEPS`.
    """
    left = SECONDS - elapsed - AFTERWARDS_COST * step_seconds
    return max(LEAST_STEPS, int(left / (STEP_COST * step_seconds)))


def _within(recipe: Recipe, steps: int, console: Console) -> Recipe:
    """Shortens what the recipe does with a few rows to a number of steps, and says so."""
    small = recipe.small_data
    if small is None or small.steps is None or small.steps <= steps:
        return recipe
    console.print(
        f"{steps} of {small.steps} steps of compression fit into {SECONDS / 60:.0f} minutes on this machine; "
        f"`secateur compress` takes all of them.",
        highlight=False,
        soft_wrap=True,
    )
    return recipe.model_copy(update={"small_data": small.model_copy(update={"steps": steps})})


def _check_positions(model: Path) -> None:
    """Asks before minutes of training what the timing needs after them."""
    try:
        config = json.loads((model / "config.json").read_bytes())
        positions = int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # the loader says what is wrong
    if positions < max(STANDARD_LENGTHS):
        raise DataError(
            f"{model} takes at most {positions} tokens, but {max(STANDARD_LENGTHS)} are timed: "
            "give a model with more positions."
        )


def _candidates(dense: Path, compressed: Path, onnx: Path, console: Console) -> list[Candidate]:
    found = [
        Candidate("PyTorch fp32", "dense", "pytorch", "pytorch", dense),
        Candidate("PyTorch bf16", "dense", "pytorch-bf16", "pytorch-bf16", dense),
    ]
    missing = onnx_peers_missing()
    if missing:
        console.print(f"No row for ONNX Runtime: {', '.join(missing)} not installed.")
    else:
        with console.status("Exporting the dense model to ONNX Runtime"):
            export_onnx_peers(dense, onnx)
        title, name = "ONNX Runtime int8", "onnxruntime-int8"
        found.append(Candidate(title, "dense", name, name, onnx, "model-int8.onnx"))
    return [
        *found,
        Candidate("PyTorch (simulated)", "compressed", "pytorch", "pytorch-compressed", compressed),
        Candidate("Secateur", "compressed", "secateur", "secateur", compressed),
    ]


def _measure(
    candidates: Sequence[Candidate], splits: Splits, console: Console
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Timing]], dict[str, NDArray[np.float32]]]:
    """Returns the rows of the results, and timings and logits by backend."""
    encode = pipeline(candidates[-1].folder).encode
    scored = [*splits.test, *splits.out_of_scope]
    input_ids = encode([row.text for row in scored])
    encoded = Encoded(input_ids, None, list(range(len(scored))))
    threads = int(describe_machine()["threads"])
    cases = standard_cases(threads)
    workers: dict[str, Worker] = {}
    logits: dict[str, NDArray[np.float32]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        bar = stack.enter_context(Progress(*columns, console=console))
        task = bar.add_task("Answering the test split", total=len(candidates))
        for candidate in candidates:
            worker = stack.enter_context(Worker(candidate.backend, candidate.folder))
            workers[candidate.backend] = worker
            logits[candidate.backend] = worker.logits(input_ids, threads=threads)
            bar.advance(task)
        task = bar.add_task("Timing", total=(ROUNDS + 1) * len(candidates) * len(cases))
        timings = compare(workers, cases, rounds=ROUNDS, calls=CALLS, on_turn=lambda *_: bar.advance(task))
        facts = {backend: worker.facts() for backend, worker in workers.items()}
    if facts["secateur"]["torch"]:
        raise AssertionError("the engine's process has loaded PyTorch")
    rows = []
    for candidate in candidates:
        backend = candidate.backend
        rows.append(
            {
                "model": candidate.model,
                "engine": candidate.engine,
                **splits.task.score(scored, encoded, list(logits[backend])),
                "size_mb": round((candidate.folder / candidate.weights).stat().st_size / 1e6, 2),
                **latency_columns(timings[backend]),
                "load_seconds": round(workers[backend].load_seconds, 3),
                **facts[backend],
            }
        )
    return rows, timings, logits


def _speedups(timings: dict[str, dict[str, Timing]]) -> dict[str, dict[str, float]]:
    """Returns, by peer and case, how many times faster our engine is."""
    ours = timings["secateur"]
    return {
        peer: {case: round(speedup(timing, ours[case]).ratio, 2) for case, timing in cases.items()}
        for peer, cases in timings.items()
        if peer != "secateur"
    }


def _print(
    candidates: Sequence[Candidate], rows: list[dict[str, Any]], results: dict[str, Any], console: Console
) -> None:
    machine = results["machine"]
    table = Table("model", "accuracy", "MB", box=SIMPLE_HEAD, padding=(0, 1))
    for length in STANDARD_LENGTHS:
        for threads in ("1 thread", f"{machine['threads']} threads"):
            table.add_column(f"ms, {length}\n{threads}")
    table.add_column("texts/s\n128")
    for column in table.columns[1:]:
        column.justify = "right"
    for candidate, row in zip(candidates, rows, strict=True):
        table.add_row(
            f"{row['model']}, {candidate.title}",
            f"{row['accuracy']:.1%}",
            f"{row['size_mb']:.1f}",
            *(
                f"{row['latency_ms'][case]:.2f}\n({row['latency_p95_ms'][case]:.2f})"
                for case in ("s32_t1", "s32_tall", "s128_t1", "s128_tall")
            ),
            f"{row['throughput']['s128_tall']:.0f}",
        )
    console.print(table)
    isa = machine["isas"][0] if machine["isas"] else "unknown"
    console.print(
        f"One text of 32 or 128 tokens at a time: median milliseconds and, in brackets, the 95th percentile. "
        f"{machine['cpu']}, {isa}; {results['minutes']['total']:.1f} minutes in all.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
