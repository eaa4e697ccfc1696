"""Histograms and the ranges made of them, against plain numpy on the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secateur import affine
from secateur.quantization.ranges import (
    BINS,
    count_values,
    least_error_ends,
    percentile_ends,
    reach_of,
    squared_errors,
    widened,
)

TENSORS = {
    "normal": np.random.default_rng(0).normal(0.3, 1.0, 20_000),
    "heavy": np.random.default_rng(1).standard_t(2, 20_000),
    "positive": np.random.default_rng(2).exponential(2.0, 20_000),
    "negative": -np.random.default_rng(3).exponential(0.1, 20_000) - 0.5,
    "tiny": np.random.default_rng(4).normal(0.0, 1e-20, 20_000),
}


def values_of(name: str) -> NDArray[np.float32]:
    return TENSORS[name].astype(np.float32)


def histogram(values: NDArray[np.float32]) -> tuple[torch.Tensor, float, tuple[float, float]]:
    reach = reach_of(float(np.abs(values).max()))
    return count_values(torch.from_numpy(values), reach), reach, (float(values.min()), float(values.max()))


@pytest.mark.parametrize(
    ("value", "reach"), [(1.0, 2.0), (0.999, 1.0), (0.5, 1.0), (3.0, 4.0), (0.0, 2.0**-100)]
)
def test_the_reach_is_the_next_power_of_two(value: float, reach: float) -> None:
    assert reach_of(value) == reach


@pytest.mark.parametrize("name", TENSORS)
def test_counts_are_those_of_numpy(name: str) -> None:
    values = values_of(name)
    counts, reach, _ = histogram(values)
    expected, _ = np.histogram(values.astype(np.float64), BINS, (-reach, reach))
    assert np.array_equal(counts.numpy(), expected)


@pytest.mark.parametrize("name", TENSORS)
def test_counts_do_not_depend_on_how_values_came(name: str) -> None:
    values = values_of(name)
    expected, reach, _ = histogram(values)
    for order in (np.sort(values), np.sort(values)[::-1], values):
        counts, so_far = torch.zeros(BINS, dtype=torch.int64), reach_of(0.0)
        for part in np.array_split(np.ascontiguousarray(order), 7):
            wanted = max(so_far, reach_of(float(np.abs(part).max())))
            counts, so_far = widened(counts, so_far, wanted), wanted
            counts = counts + count_values(torch.from_numpy(part), so_far)
        assert so_far == reach
        assert torch.equal(counts, expected)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("name", TENSORS)
def test_percentiles_are_those_of_the_sorted_values(name: str, percentile: float) -> None:
    values = values_of(name)
    counts, reach, ends = histogram(values)
    width = 2 * reach / BINS
    ordered = np.sort(values.astype(np.float64))
    most = int(len(values) * (1.0 - percentile / 100.0))
    low, high = percentile_ends(counts, reach, ends, percentile, symmetric=False)
    expected_low, expected_high = min(ordered[most], 0.0), max(ordered[-1 - most], 0.0)
    assert expected_low - width <= low <= expected_low
    assert expected_high <= high <= expected_high + width
    assert (ordered > high).sum() <= most
    assert (ordered < low).sum() <= most
    largest = np.sort(np.abs(ordered))[-1 - most]
    low, high = percentile_ends(counts, reach, ends, percentile, symmetric=True)
    assert -low == high
    assert largest <= high <= largest + width


def plain_error(values: NDArray[np.float32], low: float, high: float, symmetric: bool) -> float:
    if symmetric:
        scale = affine.symmetric_scale(max(-low, high))
        rounded = affine.fake_quantize(values, scale, 0, -127, 127)
    else:
        scale, zero_point = affine.asymmetric_qparams(low, high)
        rounded = affine.fake_quantize(values, scale, zero_point, 0, 255)
    return float(np.square(values.astype(np.float64) - rounded).sum())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", TENSORS)
def test_least_error_ends_err_as_little_as_brute_force(name: str, symmetric: bool) -> None:
    values = values_of(name)
    counts, reach, ends = histogram(values)
    found = plain_error(values, *least_error_ends(counts, reach, ends, symmetric), symmetric)
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    parts = np.linspace(1.0, 0.025, 40)
    pairs = (
        [(part, part) for part in parts] if symmetric else [(a, b) for a in parts[::3] for b in parts[::3]]
    )
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    errors = [plain_error(values, low * a, high * b, symmetric) for a, b in pairs]
    # The histogram knows a value to a bin's width only, and the search goes along the axes.
    assert found <= 1.03 * min(errors)
    assert found <= plain_error(values, low, high, symmetric) * 1.001


def test_a_lone_outlier_is_clipped() -> None:
    values = np.append(np.random.default_rng(5).normal(0.0, 1.0, 400_000), 8.0).astype(np.float32)
    counts, reach, ends = histogram(values)
    low, high = least_error_ends(counts, reach, ends, symmetric=False)
    assert high < 0.8 * ends[1]
    assert plain_error(values, low, high, False) < 0.8 * plain_error(values, *ends, False)


def test_errors_of_many_ranges_are_those_of_each() -> None:
    values = values_of("normal")[:500].astype(np.float64)
    lows, highs = np.array([-1.0, -3.0]), np.array([2.0, 0.5])
    for symmetric in (False, True):
        together = squared_errors(values, lows, highs, symmetric).sum(1)
        alone = [
            plain_error(values.astype(np.float32), low, high, symmetric)
            for low, high in zip(lows, highs, strict=True)
        ]
        np.testing.assert_allclose(together, alone, rtol=1e-6)
