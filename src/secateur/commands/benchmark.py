"""`secateur benchmark`: latency and throughput of the engine on a checkpoint or on random weights."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from secateur.bench.backends import case_input_ids
from secateur.bench.cost import checked_price, cost_per_million
from secateur.bench.machine import describe_machine, resident_memory_mb
from secateur.bench.measure import Timing, measure
from secateur.bench.profile import measure_peak, profile
from secateur.bench.synthetic import SHAPES, write_synthetic
from secateur.bench.worker import Case
from secateur.commands.console import print_table, show_json
from secateur.commands.profile import print_profile
from secateur.errors import DataError

__all__ = ["Request", "Synthetic", "model_folder", "run"]


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        seq_len: Tokens in each sequence.
        batch_size: Sequences in a call.
        threads: Threads; None for all that the process may use.
        isa: An instruction set to force; None for the best.
        seconds: Least time spent in timed calls.
        profile: Whether to time the steps, too.
        max_tokens: Most tokens that go through the layers at a time; None for the engine's choice.
        core_hour_price: What an hour of one core costs; None for no cost.
    """

    seq_len: int
    batch_size: int
    threads: int | None
    isa: str | None
    seconds: float
    profile: bool
    max_tokens: int | None = None
    core_hour_price: float | None = None


@dataclass(frozen=True)
class Synthetic:
    """A model with random weights.

    Attributes:
        name: A key of `SHAPES`.
        pattern: One of `PATTERNS`.
        sparsity: Fraction of zeros.
        quantized: Whether it is int8 throughout, else float32 throughout.
        layers: Another number of layers than the model has, or None.
        bf16: Whether its matrices are bfloat16; it is then not quantized.
    """

    name: str
    pattern: str
    sparsity: float
    quantized: bool
    layers: int | None
    bf16: bool = False


def run(model: Path | None, synthetic: Synthetic | None, request: Request, json_file: Path | None) -> None:
    """Measures and prints.

    Args:
        model: A checkpoint's folder, or None.
        synthetic: Random weights instead, or None.
        request: What to measure.
        json_file: Where to write the figures as JSON.

    Raises:
        SecateurError: Neither or both models are given, or the one given cannot be used.
    """
    checked_price(request.core_hour_price)
    with model_folder(model, synthetic) as folder:
        results = benchmark(folder, request)
    results["model"] = str(model) if model is not None else vars(synthetic)
    if not show_json(json_file, results):
        _print(results)


def benchmark(folder: Path, request: Request) -> dict[str, Any]:
    """Measures one checkpoint.

    Args:
        folder: The checkpoint.
        request: What to measure.

    Returns:
        `latency_ms` (`median`, `p95`, `mean`, `count`), `throughput` (texts a second), `load_seconds`,
        `memory_mb` (resident), `size_mb`, `engine`, `request`, `machine`; with a price also
        `cost_per_million`, with `profile` also `profile`.

    Raises:
        SecateurError: The checkpoint cannot be used, or its positions do not reach `seq_len`.
    """
    from secateur.runtime.engine import Engine

    start = time.perf_counter()
    engine = Engine.from_pretrained(
        folder, num_threads=request.threads, isa=request.isa, max_tokens=request.max_tokens
    )
    load_seconds = time.perf_counter() - start
    if request.seq_len > engine.max_length:
        raise DataError(
            f"--seq-len is {request.seq_len}, but the model has {engine.max_length} positions: "
            "give a smaller one."
        )
    case = Case(request.seq_len, request.batch_size, engine.num_threads)
    call = partial(engine, case_input_ids(case, engine.vocab_size).astype(np.int32))
    timing: Timing = measure(call, items=request.batch_size, seconds=request.seconds)
    results: dict[str, Any] = {
        "latency_ms": timing.latency(),
        "throughput": round(timing.throughput, 2),
        "cpu_fraction": round(timing.cpu_fraction, 3),
        "load_seconds": round(load_seconds, 4),
        "memory_mb": resident_memory_mb(),
        "size_mb": round((folder / "model.safetensors").stat().st_size / 1e6, 3),
        "engine": {"isa": engine.isa, "threads": engine.num_threads},
        "request": {"seq_len": request.seq_len, "batch_size": request.batch_size},
        "machine": describe_machine(),
    }
    if request.core_hour_price is not None:
        results["cost_per_million"] = cost_per_million(
            timing.throughput, engine.num_threads, request.core_hour_price
        )
    if request.profile:
        engine.profile()
        measure(call, seconds=request.seconds / 2, calls=5)
        results["profile"] = profile(engine.inspect(), measure_peak(engine.isa), engine.num_threads)
    return results


@contextlib.contextmanager
def model_folder(model: Path | None, synthetic: Synthetic | None) -> Iterator[Path]:
    """Gives the folder of the model to measure; one with random weights is written and taken away again.

    Args:
        model: A checkpoint's folder, or None.
        synthetic: Random weights instead, or None.

    Yields:
        The folder.

    Raises:
        SecateurError: Neither or both models are given, or the random one is not possible.
    """
    if (model is None) == (synthetic is None):
        raise DataError(f"Give either the folder of a checkpoint or --synthetic NAME ({', '.join(SHAPES)}).")
    if model is not None:
        yield model
        return
    assert synthetic is not None
    with tempfile.TemporaryDirectory(prefix="secateur-") as temporary:
        yield write_synthetic(
            Path(temporary) / "model",
            synthetic.name,
            pattern=synthetic.pattern,
            sparsity=synthetic.sparsity,
            num_layers=synthetic.layers,
            quantized=synthetic.quantized,
            bf16=synthetic.bf16,
        )


def _print(results: dict[str, Any]) -> None:
    latency, engine, request = results["latency_ms"], results["engine"], results["request"]
    rows = [
        ("latency, median", f"{latency['median']:.3f} ms"),
        ("latency, 95 %", f"{latency['p95']:.3f} ms"),
        ("calls timed", str(latency["count"])),
        ("throughput", f"{results['throughput']:.1f} texts/s"),
        ("ready after", f"{results['load_seconds']:.3f} s"),
        ("resident memory", f"{results['memory_mb']} MB"),
        ("weight file", f"{results['size_mb']:.1f} MB"),
    ]
    if "cost_per_million" in results:
        rows.append(("cost", f"{results['cost_per_million']:.4g} per million texts"))
    title = (
        f"batch {request['batch_size']}, length {request['seq_len']}, {engine['threads']} "
        f"thread{'s' if engine['threads'] > 1 else ''}, {engine['isa']}, {results['machine']['cpu']}"
    )
    print_table(title, ("what", "measured"), rows, numbers=1)
    if "profile" in results:
        print_profile(results["profile"], latency["median"])
