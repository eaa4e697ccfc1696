"""Wall-clock timing of calls, one alone or several in turns so that their ratios are fair.

Turns matter on shared and thermally limited machines: A B C A B C ... puts a slow minute on every candidate,
where A A A B B B C C C puts it on one of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

__all__ = ["Speedup", "Timing", "Turn", "interleave", "measure", "speedup", "take_turn"]


@dataclass(frozen=True)
class Turn:
    """What one candidate did between two others.

    Attributes:
        samples_ms: Wall-clock time of each call in milliseconds, at least one.
        cpu_seconds: CPU time of the whole process over the timed calls.
    """

    samples_ms: tuple[float, ...]
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Timing:
    """All turns of one candidate.

    Attributes:
        turns: At least one, in the order taken.
        items: Sequences that one call answers; throughput counts these.
    """

    turns: tuple[Turn, ...]
    items: int = 1
    samples_ms: tuple[float, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        samples = tuple(sample for turn in self.turns for sample in turn.samples_ms)
        if not samples:
            raise ValueError("a timing needs at least one sample")
        object.__setattr__(self, "samples_ms", samples)

    @property
    def median(self) -> float:
        """Median latency of one call in milliseconds."""
        return median(self.samples_ms)

    @property
    def p95(self) -> float:
        """The latency in milliseconds that 95 % of the calls do not exceed (nearest rank)."""
        ordered = sorted(self.samples_ms)
        return ordered[math.ceil(0.95 * len(ordered)) - 1]

    @property
    def mean(self) -> float:
        """Mean latency of one call in milliseconds."""
        return fmean(self.samples_ms)

    @property
    def throughput(self) -> float:
        """Sequences a second over the whole timed time."""
        return self.items / (self.mean / 1e3)

    @property
    def cpu_fraction(self) -> float:
        """CPU time over wall time: well under the number of threads means that others had the CPU."""
        return sum(turn.cpu_seconds for turn in self.turns) / (sum(self.samples_ms) / 1e3)

    def latency(self) -> dict[str, float | int]:
        """The figures of this timing for a JSON file, in milliseconds.

        Returns:
            `median`, `p95`, `mean` and `count`.
        """
        return {
            "median": round(self.median, 4),
            "p95": round(self.p95, 4),
            "mean": round(self.mean, 4),
            "count": len(self.samples_ms),
        }


@dataclass(frozen=True)
class Speedup:
    """How many times faster one candidate is than a base.

    Attributes:
        ratio: Ratio of the medians over all samples.
        low: Smallest ratio of one round's medians.
        high: Largest ratio of one round's medians.
    """

    ratio: float
    low: float
    high: float


def take_turn(
    call: Callable[[], object],
    *,
    calls: int = 5,
    seconds: float = 0.0,
    warm_up: int = 1,
    warm_up_seconds: float = 0.0,
) -> Turn:
    """Calls a few times without timing, then times each call.

    Args:
        call: What to time; its result is dropped.
        calls: Least number of timed calls.
        seconds: Least time spent in timed calls.
        warm_up: Least number of calls before the first timed one: another candidate has had the caches.
        warm_up_seconds: Least time of these calls: another candidate's threads may spin on for a while.

    Returns:
        The samples, `calls` or more.
    """
    warm_up_end = time.perf_counter() + warm_up_seconds
    while warm_up > 0 or time.perf_counter() < warm_up_end:
        call()
        warm_up -= 1
    samples: list[float] = []
    spent = 0.0
    cpu_start = time.process_time()
    while len(samples) < max(calls, 1) or spent < seconds:
        start = time.perf_counter()
        call()
        elapsed = time.perf_counter() - start
        samples.append(elapsed * 1e3)
        spent += elapsed
    return Turn(tuple(samples), time.process_time() - cpu_start)


def measure(
    call: Callable[[], object],
    *,
    items: int = 1,
    seconds: float = 2.0,
    calls: int = 20,
    warm_up_seconds: float = 0.5,
    warm_up_calls: int = 3,
) -> Timing:
    """Times one call alone.

    Args:
        call: What to time.
        items: Sequences that one call answers.
        seconds: Least time spent in timed calls.
        calls: Least number of timed calls.
        warm_up_seconds: Least time of calls before timing.
        warm_up_calls: Least number of calls before timing.

    Returns:
        One turn of samples.
    """
    take_turn(call, calls=warm_up_calls, seconds=warm_up_seconds, warm_up=0)
    return Timing((take_turn(call, calls=calls, seconds=seconds, warm_up=0),), items)


def interleave(
    candidates: Mapping[str, Callable[[], Turn]],
    *,
    rounds: int,
    items: int = 1,
    on_turn: Callable[[str], None] | None = None,
) -> dict[str, Timing]:
    """Lets candidates take turns: every round times each of them once, in the given order.

    Args:
        candidates: Name to a function that takes one turn, for example `partial(take_turn, call)`.
        rounds: Turns of each candidate; one more is taken first and dropped, as warm-up.
        items: Sequences that one call answers.
        on_turn: Called with the candidate's name after each turn, for a progress bar.

    Returns:
        Name to timing, with `rounds` turns each.

    Raises:
        ValueError: `rounds` is under 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, and must be at least 1")
    turns: dict[str, list[Turn]] = {name: [] for name in candidates}
    for round_index in range(rounds + 1):
        for name, take in candidates.items():
            turn = take()
            if round_index:
                turns[name].append(turn)
            if on_turn is not None:
                on_turn(name)
    return {name: Timing(tuple(taken), items) for name, taken in turns.items()}


def speedup(base: Timing, other: Timing) -> Speedup:
    """Compares two timings of one interleaved run.

    Args:
        base: The slower one, usually.
        other: A timing with as many turns as `base`.

    Returns:
        The ratio base / other: 2.0 means that `other` takes half the time.

    Raises:
        ValueError: The timings have different numbers of turns, so they are not of one run.
    """
    if len(base.turns) != len(other.turns):
        raise ValueError(f"{len(base.turns)} and {len(other.turns)} turns are not of one interleaved run")
    rounds = [
        median(a.samples_ms) / median(b.samples_ms) for a, b in zip(base.turns, other.turns, strict=True)
    ]
    return Speedup(base.median / other.median, min(rounds), max(rounds))
