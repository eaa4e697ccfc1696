"""How fast is a compressed MiniLM beside what people run today? One text at a time, in one interleaved run.

    python benchmarks/minilm_latency.py --checkpoint FOLDER --dense FOLDER

Without folders it takes random weights in MiniLM's shape at 80 % block4, and the packaged all-MiniLM-L6-v2
with a random head: latency does not depend on what a model has learnt. Each candidate has its own process.
Not timed: tokenizing, and loading but for the figures that say so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import Progress

from secateur.bench.comparison import compare, latency_columns, standard_cases
from secateur.bench.machine import describe_machine
from secateur.bench.measure import Timing, speedup
from secateur.bench.peers import export_onnx_peers
from secateur.bench.pretrained import packaged_minilm
from secateur.bench.results import write_results
from secateur.bench.synthetic import write_synthetic
from secateur.bench.worker import Case, Worker
from secateur.commands.console import hush_libraries, print_table
from secateur.errors import SecateurError

PEERS = ("pytorch", "pytorch-bf16", "onnxruntime", "onnxruntime-int8")
OURS = "secateur"
LOADS = 5


def main() -> int:
    """Measures, prints and writes.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, help="a compressed MiniLM; default: random weights")
    parser.add_argument("--dense", type=Path, help="the dense model; default: the packaged all-MiniLM-L6-v2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.2, help="of timed calls in a turn")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/minilm_latency.json"))
    options = parser.parse_args()
    hush_libraries()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            checkpoint = options.checkpoint or write_synthetic(work / "compressed", "minilm-l6")
            dense = options.dense or _dense_with_head(work / "dense")
            results = measure(checkpoint, dense, work / "onnx", options.rounds, options.seconds)
    except SecateurError as error:
        print(f"minilm_latency: {error}", file=sys.stderr)
        return 2
    results["weights"] = {
        "compressed": "trained" if options.checkpoint else "random, 80 % block4",
        "dense": "trained" if options.dense else "pretrained, random head",
    }
    results["command"] = " ".join(["python", "benchmarks/minilm_latency.py", *_without_paths(sys.argv[1:])])
    write_results(options.out, results)
    _print(results)
    return 0


def measure(checkpoint: Path, dense: Path, onnx: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Times all candidates in turns, then loading and memory of a process that only runs the engine.

    Args:
        checkpoint: The compressed model.
        dense: The dense model.
        onnx: Folder to export to.
        rounds: Turns of each candidate in each case.
        seconds: Least time of timed calls in a turn.

    Returns:
        What goes into the JSON file.
    """
    machine = describe_machine()
    cases = standard_cases(int(machine["threads"]))
    export_onnx_peers(dense, onnx)
    folders = {OURS: checkpoint, "pytorch": dense, "pytorch-bf16": dense}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(name, folders.get(name, onnx))) for name in (*PEERS, OURS)
        }
        bar = stack.enter_context(Progress())
        task = bar.add_task("Timing", total=(rounds + 1) * len(workers) * len(cases))
        timings = compare(
            workers, cases, rounds=rounds, seconds=seconds, on_turn=lambda *_: bar.advance(task)
        )
        memory = {name: worker.facts()["peak_memory_mb"] for name, worker in workers.items()}
    return {
        "rows": [
            {
                "engine": name,
                **latency_columns(columns),
                "cpu_fraction": {case: round(timing.cpu_fraction, 3) for case, timing in columns.items()},
                "peak_memory_mb": memory[name],
            }
            for name, columns in timings.items()
        ],
        "speedup": {peer: _speedups(timings[peer], timings[OURS]) for peer in PEERS},
        "size_mb": {
            "dense": round((dense / "model.safetensors").stat().st_size / 1e6, 2),
            "compressed": round((checkpoint / "model.safetensors").stat().st_size / 1e6, 2),
        },
        "engine_alone": _engine_alone(checkpoint),
        "rounds": rounds,
        "seconds_a_turn": seconds,
        "machine": machine,
    }


def _speedups(base: dict[str, Timing], ours: dict[str, Timing]) -> dict[str, dict[str, float]]:
    found = {case: speedup(timing, ours[case]) for case, timing in base.items()}
    return {
        case: {"ratio": round(one.ratio, 2), "low": round(one.low, 2), "high": round(one.high, 2)}
        for case, one in found.items()
    }


def _engine_alone(checkpoint: Path) -> dict[str, Any]:
    """Loads the checkpoint in fresh processes; the files are in the page cache after the first."""
    loads, peaks = [], []
    for _ in range(LOADS + 1):
        with Worker(OURS, checkpoint) as worker:
            worker.turn(Case(128))
            loads.append(worker.load_seconds)
            facts = worker.facts()
            peaks.append(facts["peak_memory_mb"])
            assert not facts["torch"]
    return {"load_seconds": round(median(loads[1:]), 4), "peak_memory_mb": max(peaks)}


def _dense_with_head(folder: Path) -> Path:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(packaged_minilm()).save_pretrained(folder)
    return folder


def _without_paths(arguments: list[str]) -> list[str]:
    """Keeps folders of this machine out of a committed file."""
    return [Path(argument).name if "/" in argument else argument for argument in arguments]


def _print(results: dict[str, Any]) -> None:
    cases = list(results["rows"][0]["latency_ms"])
    rows = [
        (
            row["engine"],
            *(f"{row['latency_ms'][case]:.2f}" for case in cases),
            *(
                f"{results['speedup'][row['engine']][case]['ratio']:.1f} x" if row["engine"] in PEERS else ""
                for case in cases
            ),
        )
        for row in results["rows"]
    ]
    headings = ("engine", *(f"ms {case}" for case in cases), *(f"ours {case}" for case in cases))
    print_table(f"MiniLM, one text, {results['machine']['cpu']}", headings, rows, numbers=2 * len(cases))
    alone = results["engine_alone"]
    print(
        f"Engine alone: ready after {alone['load_seconds']:.3f} s, at most {alone['peak_memory_mb']} MB; "
        f"weights {results['size_mb']['compressed']} of {results['size_mb']['dense']} MB."
    )


if __name__ == "__main__":
    sys.exit(main())
