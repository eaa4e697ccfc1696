"""Timings, turns and ratios, on made-up and on real clocks."""

from __future__ import annotations

import pytest

from secateur.bench.measure import Timing, Turn, interleave, measure, speedup, take_turn


def timing(*turns: tuple[float, ...], items: int = 1) -> Timing:
    return Timing(tuple(Turn(turn, sum(turn) / 1e3) for turn in turns), items)


def test_median_p95_and_throughput_come_from_all_turns() -> None:
    taken = timing(tuple(float(i) for i in range(1, 51)), tuple(float(i) for i in range(51, 101)), items=2)
    assert taken.median == 50.5
    assert taken.p95 == 95
    assert taken.mean == 50.5
    assert taken.throughput == pytest.approx(2 / 0.0505)
    assert taken.cpu_fraction == pytest.approx(1.0)
    assert taken.latency() == {"median": 50.5, "p95": 95.0, "mean": 50.5, "count": 100}


def test_p95_of_one_sample_is_that_sample() -> None:
    assert timing((3.0,)).p95 == 3.0


def test_a_timing_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Timing(())


def test_turn_makes_the_calls_it_is_asked_for() -> None:
    calls: list[int] = []
    turn = take_turn(lambda: calls.append(1), calls=4, warm_up=2)
    assert len(calls) == 6
    assert len(turn.samples_ms) == 4
    assert all(sample > 0 for sample in turn.samples_ms)


def test_turn_goes_on_until_the_time_is_spent() -> None:
    turn = take_turn(lambda: sum(range(1000)), calls=1, seconds=0.02)
    assert sum(turn.samples_ms) >= 20
    assert len(turn.samples_ms) > 1


def test_measure_warms_up_and_counts() -> None:
    calls: list[int] = []
    taken = measure(lambda: calls.append(1), items=3, seconds=0, calls=7, warm_up_seconds=0, warm_up_calls=5)
    assert len(taken.samples_ms) == 7
    assert len(calls) == 12
    assert taken.items == 3


def test_candidates_take_turns_and_the_first_round_is_dropped() -> None:
    order: list[str] = []
    told: list[str] = []

    def candidate(name: str, milliseconds: float) -> Turn:
        order.append(name)
        return Turn((milliseconds * len(order),))

    taken = interleave(
        {"a": lambda: candidate("a", 1.0), "b": lambda: candidate("b", 2.0)}, rounds=2, on_turn=told.append
    )
    assert order == told == ["a", "b"] * 3
    assert taken["a"].samples_ms == (3.0, 5.0)
    assert taken["b"].samples_ms == (8.0, 12.0)


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        interleave({}, rounds=0)


def test_speedup_is_the_ratio_of_medians_with_the_spread_of_the_rounds() -> None:
    found = speedup(timing((10.0, 12.0, 14.0), (20.0,)), timing((4.0, 6.0, 8.0), (5.0,)))
    assert found.ratio == pytest.approx(13 / 5.5)
    assert (found.low, found.high) == (2.0, 4.0)


def test_timings_of_different_runs_have_no_speedup() -> None:
    with pytest.raises(ValueError, match="1 and 2 turns"):
        speedup(timing((1.0,)), timing((1.0,), (1.0,)))
