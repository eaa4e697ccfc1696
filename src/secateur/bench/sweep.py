"""A sweep over what may vary: which points to measure, in what order, and a file that survives a stop.

The points take turns, round after round, so that a slow minute of the machine falls on all of them.
After each turn the file is written again; the same command later goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

from secateur.bench.measure import Timing, Turn
from secateur.bench.results import write_results
from secateur.errors import DataError

__all__ = ["AXES", "Point", "Sweep", "design"]

FORMAT = 1


@dataclass(frozen=True)
class Point:
    """One combination of what a sweep varies.

    Attributes:
        seq_len: Tokens in each sequence.
        batch_size: Sequences in a call.
        sparsity: Fraction of zeros of random weights; None for a checkpoint, which has its own.
        threads: Threads of the engine.
        layers: Encoder layers of random weights; None for a checkpoint.
    """

    seq_len: int
    batch_size: int
    sparsity: float | None
    threads: int
    layers: int | None


AXES = tuple(field.name for field in fields(Point))


def design(base: Point, axes: Mapping[str, Sequence[Any]], *, grid: bool = False) -> list[Point]:
    """Lists the points of a sweep.

    Args:
        base: The case that every axis starts from; always a point itself.
        axes: Axis, one of `AXES`, to the values it takes.
        grid: Every combination of the values, not one axis at a time.

    Returns:
        The points without repetition; the base comes first.
    """
    if grid:
        values = [axes.get(name, (getattr(base, name),)) for name in AXES]
        points = [Point(*combination) for combination in product(*values)]
    else:
        points = [replace(base, **{name: value}) for name, values in axes.items() for value in values]
    return list(dict.fromkeys([base, *points]))


class Sweep:
    """What has been measured so far, point by point.

    Args:
        about: What the figures belong to; a file of something else is not continued.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = dict(about)
        self._turns: dict[Point, list[dict[str, float]]] = {}
        self._work: dict[Point, dict[str, float]] = {}

    @classmethod
    def resume(cls, path: Path | None, about: Mapping[str, Any]) -> Sweep:
        """Reads the file of an earlier run, if there is one.

        Args:
            path: The file; None or a missing one starts anew.
            about: What this run measures.

        Raises:
            DataError: The file is not of a sweep, or of a sweep of something else.
        """
        sweep = cls(about)
        if path is None or not path.exists():
            return sweep
        again = "give another file, or delete this one"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError
            earlier = found["about"]
            for row in found["points"]:
                point = Point(**{name: row[name] for name in AXES})
                sweep._turns[point] = [_checked_turn(turn) for turn in row["turns"]]
                if row["work"] is not None:
                    sweep._work[point] = dict(row["work"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path} is not the file of a sweep: {again}.") from None
        wanted = json.loads(json.dumps(sweep.about))
        for key in wanted.keys() | earlier.keys():
            if earlier.get(key) != wanted.get(key):
                before, now = earlier.get(key), wanted.get(key)
                raise DataError(f"{path} is of a sweep with another {key} ({before}, now {now}): {again}.")
        return sweep

    def taken(self, point: Point) -> int:
        """How many turns a point has had."""
        return len(self._turns.get(point, ()))

    def missing(self, points: Sequence[Point], rounds: int) -> int:
        """How many turns are still to come."""
        return sum(max(0, rounds - self.taken(point)) for point in points)

    def pending(self, points: Sequence[Point], rounds: int) -> Iterator[Point]:
        """Gives the point whose turn is next, until each has had `rounds`; call `add` after each.

        Args:
            points: In the order of a round.
            rounds: Turns of each point.
        """
        for round_index in range(rounds):
            for point in points:
                if self.taken(point) <= round_index:
                    yield point

    def add(self, point: Point, turn: Turn, work: Mapping[str, float] | None) -> None:
        """Notes a turn.

        Args:
            point: Whose turn it was.
            turn: Its samples.
            work: What one call does, for the roofline: `gmac` executed and `weight_mb` read; None if unknown.
        """
        timing = Timing((turn,))
        self._turns.setdefault(point, []).append(
            {
                "median_ms": round(timing.median, 4),
                "p95_ms": round(timing.p95, 4),
                "calls": len(turn.samples_ms),
                "cpu_fraction": round(timing.cpu_fraction, 3),
            }
        )
        if work is not None:
            self._work[point] = dict(work)

    def run(
        self,
        points: Sequence[Point],
        take: Callable[[Point], tuple[Turn, Mapping[str, float] | None]],
        *,
        rounds: int,
        time_limit: float | None = None,
        on_turn: Callable[[Point], None] | None = None,
    ) -> bool:
        """Takes the turns that are missing.

        Args:
            points: In the order of a round.
            take: Measures one turn of a point; also gives the work of one call.
            rounds: Turns of each point.
            time_limit: No turn begins after so many seconds; None for no limit.
            on_turn: Called after each turn: to save, and for a progress bar.

        Returns:
            Whether every point has had its turns.
        """
        start = time.monotonic()
        for point in self.pending(points, rounds):
            if time_limit is not None and time.monotonic() - start >= time_limit:
                return False
            self.add(point, *take(point))
            if on_turn is not None:
                on_turn(point)
        return True

    def rows(self, points: Sequence[Point] | None = None) -> list[dict[str, Any]]:
        """The figures of points that have had a turn.

        Args:
            points: Which, in this order; None for all.

        Returns:
            The fields of `Point`, `latency_ms` (`median` of the rounds' medians, `low` and `high` of them),
            `throughput` (texts a second), `cpu_fraction`, `work` and `turns`; a row a point.
        """
        chosen = self._turns if points is None else [point for point in points if point in self._turns]
        return [self._row(point) for point in chosen]

    def _row(self, point: Point) -> dict[str, Any]:
        turns = self._turns[point]
        medians = [turn["median_ms"] for turn in turns]
        middle = median(medians)
        return {
            **asdict(point),
            "latency_ms": {"median": round(middle, 4), "low": min(medians), "high": max(medians)},
            "throughput": round(point.batch_size / middle * 1e3, 2),
            "cpu_fraction": round(fmean(turn["cpu_fraction"] for turn in turns), 3),
            "work": self._work.get(point),
            "turns": turns,
        }

    def results(self, base: Point, **more: Any) -> dict[str, Any]:
        """What goes into the file.

        Args:
            base: The case that the axes start from.
            **more: Other things to keep beside the figures.
        """
        return {
            "format": FORMAT,
            "about": self.about,
            "base": asdict(base),
            **more,
            "points": self.rows(),
        }

    def save(self, path: Path, base: Point, **more: Any) -> None:
        """Writes the file beside its place, then renames it; see `results` for the arguments.

        Raises:
            DataError: It cannot be written.
        """
        write_results(path, self.results(base, **more))


def _checked_turn(turn: Mapping[str, Any]) -> dict[str, float]:
    checked = {name: turn[name] for name in ("median_ms", "p95_ms", "calls", "cpu_fraction")}
    if not all(isinstance(value, (int, float)) and value >= 0 for value in checked.values()):
        raise ValueError
    if not checked["median_ms"]:
        raise ValueError
    return checked
