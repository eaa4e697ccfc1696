"""`secateur benchmark --engine`: other engines beside ours, each in its own process, taking turns."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from secateur.bench.comparison import compare
from secateur.bench.cost import checked_price, cost_per_million
from secateur.bench.engines import ENGINES, OURS, check_dense, choose_engines
from secateur.bench.forms import build_forms
from secateur.bench.machine import describe_machine
from secateur.bench.measure import Timing, speedup
from secateur.bench.worker import Case, Worker, WorkerError
from secateur.checkpoint import read_checkpoint
from secateur.commands.benchmark import Request, Synthetic, model_folder
from secateur.commands.console import hush_libraries, note, print_table, show_json
from secateur.errors import DataError, UnsupportedError
from secateur.runtime.threads import usable_threads

__all__ = ["run_comparison"]

ROUNDS = 10


def run_comparison(
    model: Path | None,
    synthetic: Synthetic | None,
    dense: Path | None,
    engines: str,
    forms: Path | None,
    request: Request,
    json_file: Path | None,
) -> None:
    """Measures engines in turns and prints.

    Args:
        model: A checkpoint's folder, or None.
        synthetic: Random weights instead, or None.
        dense: The dense model, for the engines that run it; with random weights it is made.
        engines: Names with commas between them, or "all".
        forms: Where to keep the models that other engines run, or find them; None for a temporary folder.
        request: What to measure; its seconds are of each engine.
        json_file: Where to write the figures as JSON.

    Raises:
        SecateurError: A model is missing or cannot be used, or an engine is not installed.
    """
    checked_price(request.core_hour_price)
    if request.profile:
        raise DataError("--profile shows the steps of our engine only: give it without --engine.")
    with model_folder(model, synthetic) as folder:
        positions = read_checkpoint(folder).shape.max_positions
        if request.seq_len > positions:
            raise DataError(
                f"--seq-len is {request.seq_len}, but the model has {positions} positions: "
                "give a smaller one."
            )
        if dense is not None:
            check_dense(dense, request.seq_len)
        chosen, missing = choose_engines(engines)
        tolerant = engines.strip() == "all"
        if dense is None and synthetic is None and any(ENGINES[name].dense for name in chosen):
            if not tolerant:
                first = next(name for name in chosen if ENGINES[name].dense)
                raise DataError(f"{first} runs the dense model: give its folder with --dense.")
            reason = "runs the dense model: give its folder with --dense"
            missing |= {name: f"{name} {reason}" for name in chosen if ENGINES[name].dense}
            chosen = [name for name in chosen if name not in missing]
        results = _measure(folder, dense, chosen, missing, tolerant, forms, request)
    results["model"] = str(model) if model is not None else vars(synthetic)
    results["dense"] = str(dense) if dense is not None else None
    if not show_json(json_file, results):
        _print(results)


def _measure(
    folder: Path,
    dense: Path | None,
    chosen: list[str],
    missing: dict[str, str],
    tolerant: bool,
    kept: Path | None,
    request: Request,
) -> dict[str, Any]:
    """Measures; a `tolerant` one adds engines that do not start to `missing` and goes on without them."""
    hush_libraries()
    case = Case(request.seq_len, request.batch_size, request.threads or usable_threads()[0])
    variables = {"SECATEUR_ISA": request.isa} if request.isa else {}
    with tempfile.TemporaryDirectory(prefix="secateur-") as work, ExitStack() as stack:
        bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        task = bar.add_task("Making models", total=None)
        forms = build_forms(chosen, folder, dense, request.seq_len, kept or Path(work))
        try:
            workers = {}
            for name in chosen:
                try:
                    workers[name] = stack.enter_context(_start(name, forms[name], case, variables))
                except WorkerError as error:
                    if not tolerant or name == OURS:
                        raise
                    missing[name] = str(error).rstrip(".")
            bar.update(task, description="Timing", total=(ROUNDS + 1) * len(workers), completed=0)
            timings = compare(
                workers,
                {"case": case},
                rounds=ROUNDS,
                seconds=request.seconds / ROUNDS,
                on_turn=lambda *_: bar.advance(task),
            )
            facts = {name: worker.facts() for name, worker in workers.items()}
        except WorkerError as error:
            raise UnsupportedError(f"{str(error).rstrip('.')}: leave that engine out of --engine.") from error
        loading = {name: worker.load_seconds for name, worker in workers.items()}
    found = {name: columns["case"] for name, columns in timings.items()}
    base = OURS if OURS in found else next(iter(found))
    return {
        "rows": [
            _row(name, timing, facts[name], loading[name], case, request) for name, timing in found.items()
        ],
        "base": base,
        "speedup": {name: _speedup(timing, found[base]) for name, timing in found.items() if name != base},
        "missing": missing,
        "request": {**vars(case), "rounds": ROUNDS, "seconds": request.seconds, "isa": request.isa},
        "machine": describe_machine(),
    }


def _start(name: str, form: Path, case: Case, variables: Mapping[str, str]) -> Worker:
    """Starts an engine's process and has it make ready for the case."""
    python = ENGINES[name].python()
    worker = Worker(name, form, threads=case.threads, python=python, variables=variables)
    worker.turn(case, calls=1)
    return worker


def _row(
    name: str, timing: Timing, facts: Mapping[str, Any], load_seconds: float, case: Case, request: Request
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "engine": name,
        "runs": ENGINES[name].form,
        "latency_ms": timing.latency(),
        "throughput": round(timing.throughput, 2),
        "cpu_fraction": round(timing.cpu_fraction, 3),
        "ready_seconds": round(load_seconds + facts["prepare_seconds"], 3),
        "peak_memory_mb": facts["peak_memory_mb"],
        "details": facts["details"],
        "versions": {
            module: version
            for module, version in facts["versions"].items()
            if module in ENGINES[name].modules
        },
    }
    if request.core_hour_price is not None:
        row["cost_per_million"] = cost_per_million(timing.throughput, case.threads, request.core_hour_price)
    return row


def _speedup(other: Timing, base: Timing) -> dict[str, float]:
    found = speedup(other, base)
    return {"ratio": round(found.ratio, 3), "low": round(found.low, 3), "high": round(found.high, 3)}


def _print(results: Mapping[str, Any]) -> None:
    base, priced = results["base"], "cost_per_million" in results["rows"][0]
    rows = []
    for row in results["rows"]:
        ratio = results["speedup"].get(row["engine"])
        rows.append(
            (
                row["engine"],
                row["runs"],
                f"{row['latency_ms']['median']:.3f}",
                f"{row['latency_ms']['p95']:.3f}",
                f"{row['throughput']:.1f}",
                f"{row['ready_seconds']:.2f}",
                "" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f}",
                *([f"{row['cost_per_million']:.4g}"] if priced else []),
                f"{ratio['ratio']:.2f} x ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "",
            )
        )
    columns = (
        *("engine", "runs", "median ms", "95 % ms", "texts/s", "ready s", "peak MB"),
        *(["per million"] if priced else []),
        f"{base} is faster by",
    )
    case = results["request"]
    title = (
        f"batch {case['batch_size']}, length {case['seq_len']}, {case['threads']} "
        f"thread{'s' if case['threads'] > 1 else ''}, {results['machine']['cpu']}; {case['rounds']} rounds, "
        "the range is that of the rounds' ratios"
    )
    print_table(title, columns, rows, numbers=len(columns) - 2)
    if case["threads"] == 1 and min(row["cpu_fraction"] for row in results["rows"]) < 0.95:
        note(
            "Another process took part of the CPU meanwhile: see cpu_fraction with --json, and measure again."
        )
    for reason in results["missing"].values():
        note(f"Left out: {reason}.")
