"""Candidates are timed case by case, each as often as the others."""

from __future__ import annotations

from typing import cast

from secateur.bench.comparison import compare, latency_columns, standard_cases
from secateur.bench.measure import Turn
from secateur.bench.worker import Case, Worker


class FakeWorker:
    def __init__(self, milliseconds: float) -> None:
        self.milliseconds = milliseconds
        self.asked: list[Case] = []

    def turn(self, case: Case, *, calls: int, seconds: float) -> Turn:
        self.asked.append(case)
        return Turn((self.milliseconds * case.seq_len,) * calls)


def test_standard_cases_are_short_and_long_on_one_thread_and_all() -> None:
    assert standard_cases(4) == {
        "s32_t1": Case(32, 1, 1),
        "s128_t1": Case(128, 1, 1),
        "s32_tall": Case(32, 1, 4),
        "s128_tall": Case(128, 1, 4),
    }


def test_every_candidate_is_timed_in_every_case() -> None:
    workers = {"fast": FakeWorker(0.1), "slow": FakeWorker(1.0)}
    told: list[tuple[str, str]] = []
    found = compare(
        cast("dict[str, Worker]", workers),
        standard_cases(2),
        rounds=2,
        calls=3,
        on_turn=lambda case, name: told.append((case, name)),
    )
    assert len(told) == 3 * 2 * 4
    assert told[:2] == [("s32_t1", "fast"), ("s32_t1", "slow")]
    assert len(found["fast"]["s128_t1"].samples_ms) == 6
    columns = latency_columns(found["slow"])
    assert columns["latency_ms"] == {"s32_t1": 32.0, "s128_t1": 128.0, "s32_tall": 32.0, "s128_tall": 128.0}
    assert columns["throughput"]["s32_t1"] == 31.2
    assert set(columns["latency_p95_ms"]) == set(columns["latency_ms"])
