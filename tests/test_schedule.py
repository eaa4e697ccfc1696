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
    with pytest.raises(RecipeError, match="'cubik' is not known; allowed: cubic, linear"):
        scheduled_sparsity("cubik", 0, **BOUNDS, initial=0.0, final=0.5)
