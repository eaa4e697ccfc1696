"""How does the engine scale over threads? Measured on as many as there are, modelled for more.

    make build/kernels/.built
    python benchmarks/threads.py                  (--redraw draws the plot of the JSON file again)

The model (secateur/bench/scaling.py) knows each step's time on one thread, how its work is divided, what a
barrier and a call cost between two threads here, and how fast memory is read. Its two ends bound the memory
of a larger machine: bandwidth grows with the threads, or stays what all threads here reach together. No
modelled figure is a measurement; the JSON file says of each which it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.progress import Progress

from secateur.bench.machine import describe_machine
from secateur.bench.measure import Timing, interleave, speedup, take_turn
from secateur.bench.plots import Line, line_figure, write_png
from secateur.bench.results import write_results
from secateur.bench.scaling import Machine, Step, call_ms, step_costs
from secateur.bench.synthetic import SHAPES, write_synthetic
from secateur.bench.worker import Case, Worker
from secateur.commands.console import print_table
from secateur.errors import DataError, SecateurError
from secateur.runtime.engine import Engine

ROOT = Path(__file__).parents[1]
CASES = {"b1_s32": (1, 32), "b1_s128": (1, 128), "b1_s384": (1, 384), "b16_s128": (16, 128)}
MODELLED = (4, 8, 16, 32, 64)


def main() -> int:
    """Measures, models, prints, writes and draws.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bert-base", choices=list(SHAPES))
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.2, help="of timed calls in a turn")
    parser.add_argument("--tool", type=Path, default=ROOT / "build/kernels/secateur_thread_bench")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/threads.json")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    try:
        if options.redraw:
            results = json.loads(options.out.read_text(encoding="utf-8"))
        else:
            results = measure(options)
            results["command"] = f"python benchmarks/threads.py --model {options.model}"
            write_results(options.out, results)
            show(results)
        print(*write_png(options.out.parent, {options.out.stem: figure(results)}))
    except SecateurError as error:
        print(f"threads: {error}", file=sys.stderr)
        return 2
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Takes every figure of the JSON file.

    Args:
        options: The command line's.

    Returns:
        What goes into the JSON file.
    """
    machine = describe_machine()
    counts = [count for count in (1, 2, *MODELLED) if count <= machine["threads"]]
    sharing = sharing_costs(options.tool, machine["threads"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_synthetic(
            Path(temporary) / "model", options.model, sparsity=options.sparsity, num_layers=options.layers
        )
        timings = scaling(folder, counts, options.rounds, options.seconds)
        profiles = {name: profile(folder, *case) for name, case in CASES.items()}
        heads = SHAPES[options.model].num_heads
    return {
        "model": {"name": options.model, "sparsity": options.sparsity, "layers": options.layers},
        "sharing": {"kind": "measured", "values": sharing},
        "assumptions": [
            "a barrier and the start of a call take time in proportion to the threads",
            "a step takes as long as the thread with most units, and no less than reading its weights",
            "low: every thread reads memory as fast as one here; high: all together as fast as all here",
        ],
        "cases": {
            name: case_rows(name, timings[name], profiles[name], heads, sharing, machine["threads"])
            for name in CASES
        },
        "rounds": options.rounds,
        "machine": machine,
    }


def sharing_costs(tool: Path, threads: int) -> list[dict[str, float]]:
    """Runs the native micro-benchmark of threads.

    Args:
        tool: `secateur_thread_bench`.
        threads: Most threads.

    Returns:
        Row a number of threads: `threads`, `barrier_ns`, `call_awake_ns`, `call_asleep_ns`, `read_gbs`.

    Raises:
        DataError: It is not built, or there is one processor only.
    """
    if not tool.is_file():
        raise DataError(f"{tool} is not built: run `make build/kernels/.built`, or give --tool.")
    if threads < 2:
        raise DataError("This process may use one processor only: a barrier cannot be measured on it.")
    done = subprocess.run([str(tool), str(threads)], capture_output=True, text=True, check=True)
    rows: list[dict[str, float]] = json.loads(done.stdout)
    return rows


def scaling(folder: Path, counts: list[int], rounds: int, seconds: float) -> dict[str, dict[int, Timing]]:
    """Times every case on every number of threads; these take turns.

    Args:
        folder: The checkpoint.
        counts: Numbers of threads.
        rounds: Turns of each.
        seconds: Least time of timed calls in a turn.

    Returns:
        Case to threads to timing.
    """
    found: dict[str, dict[int, Timing]] = {}
    with Worker("secateur", folder) as worker, Progress() as bar:
        task = bar.add_task("Timing", total=(rounds + 1) * len(counts) * len(CASES))
        for name, (batch_size, seq_len) in CASES.items():
            turns = {
                str(count): partial(worker.turn, Case(seq_len, batch_size, count), calls=3, seconds=seconds)
                for count in counts
            }
            timings = interleave(turns, rounds=rounds, items=batch_size, on_turn=lambda _: bar.advance(task))
            found[name] = {int(count): timing for count, timing in timings.items()}
    return found


def profile(
    folder: Path, batch_size: int, seq_len: int, rounds: int = 15
) -> tuple[list[list[dict[str, Any]]], float]:
    """Profiles a case on one thread.

    Args:
        folder: The checkpoint.
        batch_size: Sequences in a call.
        seq_len: Tokens in each.
        rounds: How often; the model takes medians.

    Returns:
        `Engine.inspect` of each round, and the median of what a call spends outside the steps, in ms.
    """
    engine = Engine.from_pretrained(folder, num_threads=1)
    ids = np.full((batch_size, seq_len), 2000, np.int32)
    found, outside = [], []
    for _ in range(rounds):
        engine.profile()
        turn = take_turn(lambda: engine(ids), calls=1, warm_up=0)
        found.append(engine.inspect())
        outside.append(turn.samples_ms[0] - sum(row["ms"] for row in found[-1]))
    return found, median(outside)


def case_rows(
    name: str,
    timings: dict[int, Timing],
    profiled: tuple[list[list[dict[str, Any]]], float],
    heads: int,
    sharing: list[dict[str, float]],
    threads: int,
) -> dict[str, Any]:
    """Makes the rows of one case, measured and modelled.

    Args:
        name: The case.
        timings: Threads to timing.
        profiled: What `profile` gave.
        heads: Attention heads of a layer.
        sharing: What `sharing_costs` gave.
        threads: How many there are here.

    Returns:
        `batch_size`, `seq_len`, `rows` and `model_error` at the largest measured number of threads.
    """
    batch_size, seq_len = CASES[name]
    steps = step_costs(profiled[0], batch_size=batch_size, seq_len=seq_len, num_heads=heads)
    two = sharing[1]
    machines = {
        "low": Machine(two["barrier_ns"], two["call_awake_ns"], sharing[0]["read_gbs"]),
        "high": Machine(
            two["barrier_ns"], two["call_awake_ns"], sharing[0]["read_gbs"], most_gbs=sharing[-1]["read_gbs"]
        ),
    }
    # What is not in the steps (the call from Python, the choice of groups) is the caller's alone.
    alone = max(0.0, profiled[1])
    last, error = max(timings), 0.0
    rows = []
    for count in sorted({*timings, *MODELLED}):
        # A ratio of the model to itself, so that it does not matter if the machine was slower at the profile.
        gains = {
            end: modelled(steps, machine, 1, name, alone) / modelled(steps, machine, count, name, alone)
            for end, machine in machines.items()
        }
        measured = timings.get(count)
        if count == last:
            error = timings[1].median / gains["low"] / timings[last].median - 1
        gain = speedup(timings[1], measured) if measured is not None else None
        rows.append(
            {
                "threads": count,
                "kind": "modelled" if measured is None else "measured",
                "measured_ms": None if measured is None else round(measured.median, 4),
                "measured_speedup": None
                if gain is None
                else {"ratio": round(gain.ratio, 3), "low": round(gain.low, 3), "high": round(gain.high, 3)},
                "modelled_ms": {end: round(timings[1].median / ratio, 4) for end, ratio in gains.items()},
                "modelled_speedup": {end: round(ratio, 3) for end, ratio in gains.items()},
            }
        )
    return {
        "batch_size": batch_size,
        "seq_len": seq_len,
        "rows": rows,
        "model_error": {
            "threads": last,
            "relative": round(error, 4),
            "kind": "modelled over measured, minus 1",
        },
    }


def modelled(steps: list[Step], machine: Machine, threads: int, case: str, alone: float) -> float:
    """Runs the model on a case.

    Args:
        steps: Of the case.
        machine: Where.
        threads: How many.
        case: A key of `CASES`.
        alone: Milliseconds outside the steps.

    Returns:
        Milliseconds of a call.
    """
    batch_size, seq_len = CASES[case]
    return call_ms(steps, machine, threads=threads, batch_size=batch_size, seq_len=seq_len, alone_ms=alone)


def figure(results: dict[str, Any]) -> Any:
    """Draws the speed-up over threads: measured solid, modelled dashed.

    Args:
        results: What `measure` gave.

    Returns:
        A Plotly figure.
    """
    counts = sorted({row["threads"] for case in results["cases"].values() for row in case["rows"]})
    lines = []
    for case in results["cases"].values():
        title = f"batch {case['batch_size']}, {case['seq_len']} tokens"
        measured = [row for row in case["rows"] if row["kind"] == "measured"]
        beyond = [measured[-1], *(row for row in case["rows"] if row["kind"] == "modelled")]
        speeds = [row["measured_speedup"]["ratio"] for row in measured]
        lines.append(Line(title, [row["threads"] for row in measured], speeds))
        lines.append(
            Line(
                f"{title}, modelled",
                [row["threads"] for row in beyond],
                [speeds[-1], *(row["modelled_speedup"]["low"] for row in beyond[1:])],
                modelled=True,
                same_colour=True,
            )
        )
    lines.append(Line("ideal", counts, [float(count) for count in counts], plain=True))
    model, machine = results["model"], results["machine"]
    return line_figure(
        "Speed-up over threads: measured, then modelled",
        f"{model['name']}, {model['sparsity']:.0%} block4 int8; measured on {machine['cpu']}, "
        f"{machine['isas'][0]}, {machine['threads']} cores; memory bandwidth taken to grow with the threads",
        lines,
        x_title="threads",
        y_title="times as fast as one thread",
        x_ticks=counts,
        log_x=True,
        log_y=True,
    )


def show(results: dict[str, Any]) -> None:
    """Prints a table.

    Args:
        results: What `measure` gave.
    """
    rows = []
    for case in results["cases"].values():
        for row in case["rows"]:
            gain, modelled = row["measured_speedup"], row["modelled_speedup"]
            rows.append(
                (
                    f"batch {case['batch_size']}, {case['seq_len']} tokens",
                    str(row["threads"]),
                    row["kind"],
                    "" if row["measured_ms"] is None else f"{row['measured_ms']:.2f}",
                    "" if gain is None else f"{gain['ratio']:.2f} ({gain['low']:.2f} .. {gain['high']:.2f})",
                    f"{row['modelled_ms']['low']:.2f} .. {row['modelled_ms']['high']:.2f}",
                    f"{modelled['high']:.2f} .. {modelled['low']:.2f}",
                )
            )
    columns = ("case", "threads", "kind", "ms measured", "speed-up", "ms modelled", "speed-up modelled")
    print_table(f"{results['model']['name']}, {results['machine']['cpu']}", columns, rows, numbers=4)
    for case in results["cases"].values():
        error = case["model_error"]
        side = "slow" if error["relative"] > 0 else "fast"
        print(
            f"batch {case['batch_size']}, {case['seq_len']} tokens: "
            f"on {error['threads']} threads the model is {abs(error['relative']):.0%} too {side}."
        )
    for row in results["sharing"]["values"]:
        print(
            f"{row['threads']:.0f} threads: barrier {row['barrier_ns']:.0f} ns, "
            f"call {row['call_awake_ns']:.0f} ns awake, {row['call_asleep_ns'] / 1e3:.0f} us asleep, "
            f"memory {row['read_gbs']:.1f} GB/s."
        )


if __name__ == "__main__":
    sys.exit(main())
