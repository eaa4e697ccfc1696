"""Schedules give the values of their formulas, and hold them between updates."""

from __future__ import annotations

import pytest

from secateur.errors import RecipeError
from secateur.schedule import (
    cubic_sparsity,
    cycled_learning_rate,
    is_update_step,
    linear_sparsity,
    run_learning_rate,
    scheduled_sparsity,
)

BOUNDS = {"start_step": 10, "end_step": 50, "update_every": 10}


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(-1.0, 0.2), (0.0, 0.2), (0.25, 0.8 - 0.6 * 0.75**3), (0.5, 0.725), (1.0, 0.8), (2.0, 0.8)],
)
def test_cubic_values(progress: float, expected: float) -> None:
    assert cubic_sparsity(progress, 0.2, 0.8) == pytest.approx(expected, abs=1e-12)


def test_linear_values() -> None:
    assert [linear_sparsity(p, 0.0, 0.8) for p in (0.0, 0.25, 1.0, 3.0)] == pytest.approx(
        [0.0, 0.2, 0.8, 0.8]
    )


def test_a_value_holds_until_the_next_update() -> None:
    values = [scheduled_sparsity("cubic", step, **BOUNDS, initial=0.2, final=0.8) for step in range(61)]
    assert values[:10] == [0.0] * 10
    assert values[10:20] == pytest.approx([0.2] * 10)
    assert values[20] == values[29] == pytest.approx(cubic_sparsity(0.25, 0.2, 0.8))
    assert values[50:] == [0.8] * 11
    assert values == sorted(values)


def test_updates_happen_where_the_value_changes_and_at_the_end() -> None:
    assert [step for step in range(70) if is_update_step(step, **BOUNDS)] == [10, 20, 30, 40, 50]
    uneven = {"start_step": 0, "end_step": 25, "update_every": 10}
    assert [step for step in range(40) if is_update_step(step, **uneven)] == [0, 10, 20, 25]


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(
        RecipeError, match="'cubik' is not known; allowed: constant, cubic, geometric, linear"
    ):
        scheduled_sparsity("cubik", 0, **BOUNDS, initial=0.0, final=0.5)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant_with_warmup"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 20), (5, 20), (20, 20), (1, 1)])
def test_the_runs_learning_rate_is_that_of_transformers(name: str, warmup: int, total: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = transformers.get_scheduler(name, optimizer, warmup, total)
    for step in range(total + 1):
        ours = run_learning_rate(name, step, warmup_steps=warmup, total_steps=total)
        assert ours == pytest.approx(scheduler.lr_lambdas[0](step), abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("linear", 0.55, 0.1), ("cosine", 0.55, 0.1), ("constant", 1.0, 1.0)]
)
def test_one_cycle_falls_by_its_curve(schedule: str, middle: float, end: float) -> None:
    bounds = {"start_step": 10, "end_step": 30, "final": 0.1}
    assert cycled_learning_rate(schedule, 10, **bounds) == 1.0
    assert cycled_learning_rate(schedule, 20, **bounds) == pytest.approx(middle)
    assert cycled_learning_rate(schedule, 30, **bounds) == pytest.approx(end)
    assert cycled_learning_rate(schedule, 99, **bounds) == pytest.approx(end)


def test_cycles_are_rewound_to_a_part_of_the_peak_before() -> None:
    bounds = {"start_step": 0, "end_step": 30, "cycles": 3, "peak": 2.0, "rewind": 0.5}
    assert [cycled_learning_rate("linear", step, **bounds) for step in (0, 10, 20)] == [2.0, 1.0, 0.5]
    # A length that the cycles do not divide: every step still belongs to exactly one of them.
    values = [cycled_learning_rate("linear", step, start_step=0, end_step=10, cycles=3) for step in range(10)]
    assert values == pytest.approx([1.0, 0.7, 0.4, 0.1, 0.8, 0.5, 0.2, 0.9, 0.6, 0.3])


def test_a_cycle_rises_from_where_the_one_before_ended() -> None:
    bounds = {"start_step": 0, "end_step": 40, "cycles": 2, "warmup": 0.5, "final": 0.4, "rewind": 0.5}
    values = [cycled_learning_rate("linear", step, **bounds) for step in (0, 5, 10, 20, 25, 30, 40)]
    assert values == pytest.approx([0.0, 0.5, 1.0, 0.4, 0.45, 0.5, 0.2])


def test_unknown_learning_rate_schedules_are_refused() -> None:
    with pytest.raises(RecipeError, match="allowed: linear, cosine, constant_with_warmup"):
        run_learning_rate("cosinus", 5, warmup_steps=0, total_steps=10)
    with pytest.raises(RecipeError, match="allowed: linear, cosine, constant"):
        cycled_learning_rate("cosinus", 5, start_step=0, end_step=10)
