"""From which sparsity on do zeros pay? Sparse engines from 50 to 99 % beside dense ones, float32 and int8.

    python benchmarks/break_even.py               (--redraw draws the plots of the JSON file again)

Random weights in the shape of a model: one text, one thread. At each sparsity all candidates take turns, each
in its own process, so that every ratio is of one interleaved run. Few layers would flatter our engine, which
leaves out of the last one what the answer does not depend on. Engines that are not installed are left out,
and it is said why; `make peers` installs OpenVINO and DeepSparse.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from secateur.bench.break_even import F32, Models, analyse, candidates
from secateur.bench.machine import describe_machine
from secateur.bench.measure import Timing, interleave
from secateur.bench.plots import Line, line_figure, write_png
from secateur.bench.results import write_results
from secateur.bench.synthetic import SHAPES
from secateur.bench.worker import Case, Worker, WorkerError
from secateur.commands.console import hush_libraries, print_table
from secateur.errors import SecateurError

RESULTS = Path(__file__).parent / "results"
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99)
WITHOUT_VNNI = "avx2"  # forced beside the best set, where that has int8 dot products


def main() -> int:
    """Measures, prints, writes and draws.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bert-base", choices=list(SHAPES))
    parser.add_argument("--layers", type=int, help="default: as many as the model has")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES, help="above 0, under 1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="of timed calls in a turn")
    parser.add_argument("--out", type=Path, default=RESULTS / "break_even.json")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    hush_libraries()
    try:
        if options.redraw:
            results = json.loads(options.out.read_text(encoding="utf-8"))
        else:
            results = measure(options)
            write_results(options.out, results)
            show(results)
        stem = options.out.stem
        drawn = {name.replace("break_even", stem): figure for name, figure in figures(results).items()}
        print(*write_png(options.out.parent, drawn))
    except SecateurError as error:
        print(f"break_even: {error}", file=sys.stderr)
        return 2
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times all candidates at each sparsity.

    Args:
        options: The command line's.

    Returns:
        What goes into the JSON file.
    """
    machine = describe_machine()
    layers = options.layers or SHAPES[options.model].num_layers
    best = machine["isas"][0]
    isas = [best, *([WITHOUT_VNNI] if "vnni" in best else [])]
    case = Case(options.seq_len, 1, 1)
    skipped: dict[str, str] = {}
    timings: dict[float, dict[str, Timing]] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as dense_stack, Progress() as bar:
        models = Models(Path(temporary), options.model, layers, options.seq_len)
        chosen = candidates(models, isas)
        task = bar.add_task("Starting", total=len(options.sparsities))

        def start(stack: ExitStack, sparse: bool, sparsity: float) -> dict[str, Worker]:
            started = {}
            for candidate in chosen:
                if candidate.sparse != sparse or candidate.name in skipped:
                    continue
                bar.update(task, description=f"{sparsity:.0%}: {candidate.name}")
                try:
                    worker = stack.enter_context(candidate.start(sparsity))
                    worker.turn(case, calls=1)
                    started[candidate.name] = worker
                except (SecateurError, WorkerError) as error:
                    skipped[candidate.name] = str(error)
            return started

        dense = start(dense_stack, False, options.sparsities[0])
        for sparsity in options.sparsities:
            with ExitStack() as stack:
                workers = {**dense, **start(stack, True, sparsity)}
                bar.update(task, description=f"{sparsity:.0%}: timing")
                turns = {
                    name: partial(worker.turn, case, calls=2, seconds=options.seconds)
                    for name, worker in workers.items()
                }
                timings[sparsity] = interleave(turns, rounds=options.rounds)
            models.forget(sparsity)
            bar.advance(task)
    about = {
        "model": {"name": options.model, "layers": layers, "weights": "random"},
        "request": {"seq_len": case.seq_len, "batch_size": 1, "threads": 1},
        "rounds": options.rounds,
        "seconds_a_turn": options.seconds,
        "skipped": skipped,
        "machine": machine,
        "command": f"python benchmarks/break_even.py --model {options.model} --layers {layers}",
    }
    return {**about, **analyse(timings, [one for one in chosen if one.name not in skipped])}


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """Draws speed over sparsity, and int8 over float32 where both were timed.

    Args:
        results: What `measure` gave.

    Returns:
        Name to figure.
    """
    found = results["candidates"]
    peers = {
        name: one
        for name, one in found.items()
        if not one["sparse"] and one["precision"] == F32 and one["isa"] is None
    }
    base = min(peers or found, key=lambda name: min(found[name]["latency_ms"].values()))
    lines = []
    for name, one in sorted(found.items(), key=lambda item: not item[1]["sparse"]):
        shared = [key for key in one["latency_ms"] if key in found[base]["latency_ms"]]
        speeds = [found[base]["latency_ms"][key] / one["latency_ms"][key] for key in shared]
        lines.append(Line(name, [float(key) for key in shared], speeds, dotted=not one["sparse"]))
    model, machine = results["model"], results["machine"]
    layers = f"{model['layers']} layer{'s' if model['layers'] > 1 else ''}"
    where = f"{model['name']}, {layers}, {results['request']['seq_len']} tokens, one thread; "
    where += f"{machine['cpu']}, {machine['isas'][0]}"
    axis: dict[str, Any] = {"x_title": "zeros in the encoder's matrices", "percent": True}
    axis["x_ticks"] = sorted({x for line in lines for x in line.x})
    drawn = {
        "break_even": line_figure(
            "Speed over sparsity",
            f"{where}; 1 is {base}",
            lines,
            y_title=f"times as fast as {base.partition(',')[0]}",
            log_y=True,
            **axis,
        )
    }
    gains = [
        Line(name, [float(key) for key in one], [ratio["ratio"] for ratio in one.values()])
        for name, one in results["int8_over_f32"].items()
        if one
    ]
    if gains:
        drawn["break_even_int8"] = line_figure(
            "int8 over float32, our engine", where, gains, y_title="times as fast in int8", **axis
        )
    return drawn


def show(results: dict[str, Any]) -> None:
    """Prints the latencies and the points from which zeros pay.

    Args:
        results: What `measure` gave.
    """
    found = results["candidates"]
    keys = sorted({key for one in found.values() for key in one["latency_ms"]}, key=float)
    rows = [
        (name, *(f"{one['latency_ms'][key]:.2f}" if key in one["latency_ms"] else "" for key in keys))
        for name, one in found.items()
    ]
    print_table("Median ms", ("engine", *(f"{float(key):.0%}" for key in keys)), rows, numbers=len(keys))
    points = [
        (name, other, "never" if point["sparsity"] is None else f"{point['sparsity']:.1%}", point["how"])
        for name, others in results["pays_from"].items()
        for other, point in others.items()
    ]
    print_table("Zeros pay from", ("sparse", "dense", "zeros", "how"), points, numbers=2)
    for name, reason in results["skipped"].items():
        print(f"Left out: {name}: {reason.rstrip('.')}.")


if __name__ == "__main__":
    sys.exit(main())
