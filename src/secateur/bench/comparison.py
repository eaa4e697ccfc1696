"""Candidates beside each other: every one in its own process, taking turns case by case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from secateur.bench.measure import Timing, interleave
from secateur.bench.worker import Case, Worker

__all__ = ["STANDARD_LENGTHS", "compare", "latency_columns", "standard_cases"]

STANDARD_LENGTHS = (32, 128)


def standard_cases(threads: int) -> dict[str, Case]:
    """Lists the cases that every table of ours shows: one text, short and long, one thread and all.

    Args:
        threads: What "all" means.

    Returns:
        `s32_t1`, `s128_t1`, `s32_tall`, `s128_tall`.
    """
    counts = {"t1": 1, "tall": threads}
    return {
        f"s{length}_{name}": Case(length, 1, count)
        for name, count in counts.items()
        for length in STANDARD_LENGTHS
    }


def compare(
    workers: Mapping[str, Worker],
    cases: Mapping[str, Case],
    *,
    rounds: int,
    calls: int = 3,
    seconds: float = 0.0,
    on_turn: Callable[[str, str], None] | None = None,
) -> dict[str, dict[str, Timing]]:
    """Times every candidate in every case; within a case the candidates take turns.

    Args:
        workers: The candidates by name.
        cases: The cases by name.
        rounds: Turns of each candidate in each case.
        calls: Least number of timed calls in a turn.
        seconds: Least time of timed calls in a turn.
        on_turn: Called with case and candidate after each turn, for a progress bar; there are
            `(rounds + 1) * len(workers) * len(cases)` of them.

    Returns:
        Candidate to case to timing.
    """
    found: dict[str, dict[str, Timing]] = {name: {} for name in workers}
    for case_name, case in cases.items():
        turns = {
            name: partial(worker.turn, case, calls=calls, seconds=seconds) for name, worker in workers.items()
        }
        told = partial(on_turn, case_name) if on_turn is not None else None
        for name, timing in interleave(turns, rounds=rounds, items=case.batch_size, on_turn=told).items():
            found[name][case_name] = timing
    return found


def latency_columns(timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Makes the part of a results row that says how fast a candidate is.

    Args:
        timings: Case to timing.

    Returns:
        `latency_ms`, `latency_p95_ms` and `throughput` (texts a second), each by case.
    """
    return {
        "latency_ms": {case: round(timing.median, 3) for case, timing in timings.items()},
        "latency_p95_ms": {case: round(timing.p95, 3) for case, timing in timings.items()},
        "throughput": {case: round(timing.throughput, 1) for case, timing in timings.items()},
    }
