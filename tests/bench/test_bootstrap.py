"""The interval of a figure that two models share their rows for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.bench.bootstrap import paired_bootstrap
from secateur.errors import DataError


def kept(
    first: NDArray[np.bool_], second: NDArray[np.bool_], **options: object
) -> tuple[float, float, float]:
    return paired_bootstrap(
        lambda indices: second[indices].sum() / max(first[indices].sum(), 1), len(first), **options
    )


def test_the_interval_has_the_width_that_theory_gives() -> None:
    right = np.random.default_rng(1).random(4000) < 0.8
    found = paired_bootstrap(lambda indices: float(right[indices].mean()), len(right), draws=3000)
    error = np.sqrt(right.mean() * (1 - right.mean()) / len(right))
    assert found.value == right.mean()
    assert found.low == pytest.approx(right.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(right.mean() + 1.96 * error, abs=0.15 * error)


def test_pairs_are_surer_than_two_models_apart() -> None:
    random = np.random.default_rng(2)
    first = random.random(2000) < 0.9
    worse = first & (random.random(2000) < 0.99)
    value, low, high = kept(first, worse)
    assert low < value < high < 1.0
    _, low_apart, high_apart = kept(first, np.roll(worse, 1000))
    assert high - low < 0.5 * (high_apart - low_apart)


def test_a_model_beside_itself_is_certain() -> None:
    first = np.random.default_rng(3).random(500) < 0.7
    assert kept(first, first) == (1.0, 1.0, 1.0)


def test_rows_of_a_group_stay_together() -> None:
    random = np.random.default_rng(4)
    by_group = random.random(100) < 0.5
    right = np.repeat(by_group, 20)
    groups = [f"paragraph {row // 20}" for row in range(2000)]

    def score(indices: NDArray[np.intp]) -> float:
        return float(right[indices].mean())

    alone = paired_bootstrap(score, 2000, draws=500)
    together = paired_bootstrap(score, 2000, groups=groups, draws=500)
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_a_seed_repeats_its_draws() -> None:
    first = np.random.default_rng(5).random(300) < 0.8
    second = np.random.default_rng(6).random(300) < 0.7
    assert kept(first, second, seed=1) == kept(first, second, seed=1)
    assert kept(first, second, seed=1) != kept(first, second, seed=2)


def test_what_gives_no_figure_is_refused() -> None:
    with pytest.raises(DataError, match="no row"):
        paired_bootstrap(lambda indices: 1.0, 0)
    with pytest.raises(DataError, match="2 groups were given for 3 rows"):
        paired_bootstrap(lambda indices: 1.0, 3, groups=["a", "b"])
    with pytest.raises(DataError, match="Only 0 of 50 draws"):
        paired_bootstrap(lambda indices: float("nan"), 3, draws=50)
