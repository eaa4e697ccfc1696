"""`secateur benchmark --sweep`: the engine over lengths, batches, sparsities, threads and layers."""

from __future__ import annotations

import contextlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from secateur.bench.backends import case_input_ids
from secateur.bench.machine import describe_machine
from secateur.bench.measure import Turn, take_turn
from secateur.bench.results import write_results
from secateur.bench.sweep import AXES, Point, Sweep, design
from secateur.bench.synthetic import SHAPES, write_synthetic
from secateur.bench.work import call_work, measure_roof, weight_passes
from secateur.bench.worker import Case
from secateur.checkpoint import read_checkpoint
from secateur.commands.console import note, print_table
from secateur.errors import DataError, UnsupportedError
from secateur.runtime.threads import usable_threads

__all__ = ["AxisOptions", "SweepModel", "SweepRequest", "run_sweep"]

LENGTHS = (8, 16, 32, 64, 128, 256, 384, 512)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97)
LAYERS = (12, 6, 3)
_CALLS = 2  # least number of timed calls in a turn
_ENGINES = 12  # kept ready; the points of one axis at a time need no more


@dataclass(frozen=True)
class SweepModel:
    """What is swept: a checkpoint, or random weights.

    Attributes:
        folder: The checkpoint; None for random weights.
        synthetic: A key of `SHAPES`; None for a checkpoint.
        pattern: Of random weights: one of `PATTERNS`.
        quantized: Whether random weights are int8.
        sparsity: Of random weights, in the base case.
        layers: Of random weights, in the base case; None for as many as the model has.
    """

    folder: Path | None
    synthetic: str | None
    pattern: str
    quantized: bool
    sparsity: float
    layers: int | None


@dataclass(frozen=True)
class AxisOptions:
    """The axes as the command line gives them: numbers with commas between, or None for the default.

    Attributes:
        lengths: Of `seq_len`.
        batch_sizes: Of `batch_size`.
        sparsities: Of `sparsity`.
        threads: Of `threads`.
        layers: Of `layers`.
    """

    lengths: str | None
    batch_sizes: str | None
    sparsities: str | None
    threads: str | None
    layers: str | None


@dataclass(frozen=True)
class SweepRequest:
    """How to sweep.

    Attributes:
        seq_len: Of the base case.
        batch_size: Of the base case.
        threads: Of the base case; None for one.
        isa: An instruction set to force; None for the best.
        seconds: Least time of timed calls at a point, over all rounds.
        rounds: Turns of each point.
        grid: Every combination, not one axis at a time.
        time_limit: No turn begins after so many seconds; None for no limit.
    """

    seq_len: int
    batch_size: int
    threads: int | None
    isa: str | None
    seconds: float
    rounds: int
    grid: bool
    time_limit: float | None


def run_sweep(
    model: SweepModel, axes: AxisOptions, request: SweepRequest, json_file: Path | None, page: Path | None
) -> None:
    """Measures, prints, and draws if asked.

    Args:
        model: What to sweep.
        axes: Over what.
        request: How.
        json_file: Extended after each turn and continued by the same command; `-` for standard output at the
            end; None for nowhere.
        page: Where to write the plots as one HTML page, or None.

    Raises:
        SecateurError: The model, an axis or a file cannot be used.
    """
    if (model.folder is None) == (model.synthetic is None):
        raise DataError(f"Give either the folder of a checkpoint or --synthetic NAME ({', '.join(SHAPES)}).")
    if page is not None:
        from secateur.bench.plots import require_plotly

        require_plotly()
    base, points, max_length = _design(model, axes, request)
    too_long = max(point.seq_len for point in points)
    if too_long > max_length:
        raise DataError(
            f"A length is {too_long}, but the model has {max_length} positions: give smaller ones."
        )
    stdout = json_file is not None and str(json_file) == "-"
    saved = None if stdout else json_file
    with _Bench(model, request) as bench:
        isa = bench.engine(base).isa
        machine = describe_machine()
        about = {
            "model": str(model.folder) if model.folder is not None else model.synthetic,
            "pattern": None if model.folder is not None else model.pattern,
            "quantized": model.quantized if model.folder is None else _has_int8(model.folder),
            "isa": isa,
            "cpu": machine["cpu"],
            "secateur": machine["versions"]["secateur"],
        }
        sweep = Sweep.resume(saved, about)
        more = {"rounds": request.rounds, "machine": machine, "roof": measure_roof(isa)}
        if sweep.rows(points):
            note(f"{saved} has {len(sweep.rows(points))} of {len(points)} points already.")
        with _progress(sweep.missing(points, request.rounds)) as advance:

            def on_turn(point: Point) -> None:
                if saved is not None:
                    sweep.save(saved, base, **more)
                advance(point)

            done = sweep.run(
                points,
                bench.take,
                rounds=request.rounds,
                time_limit=request.time_limit,
                on_turn=on_turn,
            )
    results = sweep.results(base, **more)
    if stdout:
        write_results(Path("-"), results)
    else:
        _print(sweep.rows(points), base, about, machine)
    if not done:
        complete = sum(sweep.taken(point) >= request.rounds for point in points)
        hint = "the same command goes on from there" if saved is not None else "with --json it could go on"
        note(f"The time limit is reached: {complete} of {len(points)} points have all their rounds; {hint}.")
    if page is not None:
        from secateur.bench.plots import write_page
        from secateur.bench.sweep_plots import sweep_figures

        write_page(page, f"Secateur: {about['model']}", sweep_figures(results))


def _design(model: SweepModel, axes: AxisOptions, request: SweepRequest) -> tuple[Point, list[Point], int]:
    """Returns the base case, the points and the longest sequence that the model takes."""
    every = usable_threads()[0]
    chosen: dict[str, tuple[Any, ...]] = {
        "batch_size": _integers(axes.batch_sizes, "--batch-sizes", 4096) or BATCH_SIZES,
        "threads": _integers(axes.threads, "--thread-counts", 1024) or tuple(sorted({1, every})),
    }
    lengths = _integers(axes.lengths, "--lengths", 1 << 20)
    sparsities = _fractions(axes.sparsities, "--sparsities")
    layers = _integers(axes.layers, "--layer-counts", 100)
    if model.folder is not None:
        if sparsities or layers:
            raise DataError(
                "A checkpoint has its sparsity and its layers: leave out --sparsities and --layer-counts, "
                "or sweep random weights with --synthetic NAME."
            )
        max_length = read_checkpoint(model.folder).shape.max_positions
        sparsity, depth = None, None
    else:
        assert model.synthetic is not None
        if model.synthetic not in SHAPES:
            raise UnsupportedError(
                f"There is no synthetic model {model.synthetic!r}; known are {', '.join(SHAPES)}."
            )
        shape = SHAPES[model.synthetic]
        max_length = shape.max_positions
        depth = model.layers or shape.num_layers
        chosen["layers"] = layers or tuple(count for count in LAYERS if count <= shape.num_layers)
        if model.pattern == "dense":
            if sparsities:
                raise DataError("Dense weights have no zeros: leave out --sparsities or --pattern dense.")
            sparsity = 0.0
        else:
            sparsity = model.sparsity
            chosen["sparsity"] = sparsities or SPARSITIES
    chosen["seq_len"] = lengths or tuple(length for length in LENGTHS if length <= max_length)
    base = Point(request.seq_len, request.batch_size, sparsity, request.threads or 1, depth)
    in_order = {name: chosen[name] for name in AXES if name in chosen}
    return base, design(base, in_order, grid=request.grid), max_length


def _has_int8(folder: Path) -> bool:
    return read_checkpoint(folder).quantization.weights != "f32"


class _Bench:
    """Makes models and engines when a point first needs them; a context manager."""

    def __init__(self, model: SweepModel, request: SweepRequest) -> None:
        self._model = model
        self._isa = request.isa
        self._seconds = request.seconds / max(request.rounds, 1)
        self._temporary = tempfile.TemporaryDirectory(prefix="secateur-")
        self._engines: OrderedDict[tuple[float | None, int | None, int], Any] = OrderedDict()

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._engines.clear()
        self._temporary.cleanup()

    def engine(self, point: Point) -> Any:
        """The engine of a point; the ones that were not used for longest are let go."""
        from secateur.runtime.engine import Engine

        key = (point.sparsity, point.layers, point.threads)
        if key not in self._engines:
            while len(self._engines) >= _ENGINES:
                self._engines.popitem(last=False)
            folder = self._folder(point)
            self._engines[key] = Engine.from_pretrained(folder, num_threads=point.threads, isa=self._isa)
        self._engines.move_to_end(key)
        return self._engines[key]

    def take(self, point: Point) -> tuple[Turn, Mapping[str, float]]:
        """Measures one turn; the work is counted in calls before it."""
        engine = self.engine(point)
        case = Case(point.seq_len, point.batch_size, point.threads)
        call: Callable[[], object] = partial(engine, case_input_ids(case, engine.vocab_size).astype(np.int32))
        engine.profile()
        call()
        passes = weight_passes(point.seq_len, point.batch_size, point.threads)
        work = call_work(engine.inspect(), passes)
        engine.profile(False)
        return take_turn(call, calls=_CALLS, seconds=self._seconds), work

    def _folder(self, point: Point) -> Path:
        if self._model.folder is not None:
            return self._model.folder
        assert self._model.synthetic is not None
        assert point.sparsity is not None
        folder = Path(self._temporary.name) / f"{point.sparsity}-{point.layers}"
        if folder.exists():
            return folder
        pattern = self._model.pattern if point.sparsity else "dense"
        return write_synthetic(
            folder,
            self._model.synthetic,
            pattern=pattern,
            sparsity=point.sparsity,
            num_layers=point.layers,
            quantized=self._model.quantized,
        )


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[Point], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Sweeping", total=total)

        def advance(point: Point) -> None:
            bar.update(task, advance=1, description=f"length {point.seq_len}, batch {point.batch_size}")

        yield advance


def _integers(text: str | None, option: str, most: int) -> tuple[int, ...]:
    found = []
    for part in (text or "").split(",") if text is not None else ():
        if not part.strip().isdecimal() or not 1 <= int(part) <= most:
            raise DataError(
                f"{option} has {part.strip()!r}: give whole numbers from 1 to {most}, as in 8,32."
            )
        found.append(int(part))
    return tuple(found)


def _fractions(text: str | None, option: str) -> tuple[float, ...]:
    found = []
    for part in (text or "").split(",") if text is not None else ():
        try:
            value = float(part)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1:
            raise DataError(
                f"{option} has {part.strip()!r}: give fractions of zeros from 0 to under 1, as in 0.8,0.9."
            )
        found.append(value)
    return tuple(found)


def _print(
    rows: list[dict[str, Any]], base: Point, about: Mapping[str, Any], machine: Mapping[str, Any]
) -> None:
    cells = [
        (
            str(row["seq_len"]),
            str(row["batch_size"]),
            "" if row["sparsity"] is None else f"{row['sparsity']:.0%}",
            str(row["threads"]),
            "" if row["layers"] is None else str(row["layers"]),
            str(len(row["turns"])),
            f"{row['latency_ms']['median']:.3f}",
            f"{row['latency_ms']['low']:.3f} .. {row['latency_ms']['high']:.3f}",
            f"{row['throughput']:.1f}",
        )
        for row in rows
    ]
    columns = ("length", "batch", "zeros", "threads", "layers", "rounds", "ms", "ms, by round", "texts/s")
    print_table(f"{about['model']}, {about['isa']}, {machine['cpu']}", columns, cells, numbers=9)
