"""Where zeros begin to pay, on ratios that can be worked out by hand."""

from __future__ import annotations

import pytest

from secateur.bench.break_even import pays_from


def test_the_point_is_interpolated_on_a_logarithmic_scale() -> None:
    assert pays_from({0.5: 0.5, 0.7: 2.0}) == {"sparsity": 0.6, "how": "interpolated"}
    assert pays_from({0.9: 4.0, 0.8: 2**-0.5, 0.5: 0.1}) == {"sparsity": 0.82, "how": "interpolated"}


def test_equal_counts_as_paying() -> None:
    assert pays_from({0.5: 0.9, 0.6: 1.0, 0.7: 1.2}) == {"sparsity": 0.6, "how": "interpolated"}


def test_it_must_pay_from_there_on() -> None:
    assert pays_from({0.5: 1.1, 0.6: 0.5, 0.8: 2.0, 0.9: 3.0})["sparsity"] == 0.7


def test_always_and_never() -> None:
    assert pays_from({0.5: 1.5, 0.9: 3.0}) == {"sparsity": 0.5, "how": "at the first measured"}
    assert pays_from({0.5: 0.2, 0.99: 0.9}) == {"sparsity": None, "how": "never"}


@pytest.mark.parametrize("speedups", [{}, {0.5: 0.0}, {0.5: float("nan")}])
def test_what_is_no_ratio_is_refused(speedups: dict[float, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        pays_from(speedups)
