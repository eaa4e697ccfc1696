"""How sure is "x % kept"? A paired bootstrap over the rows that two models answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateur.errors import DataError

__all__ = ["Interval", "paired_bootstrap"]


class Interval(NamedTuple):
    """A figure with its bounds."""

    value: float
    low: float
    high: float


def paired_bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    rows: int,
    *,
    groups: Sequence[object] | None = None,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Estimates how far a statistic of two models would vary with other test rows.

    The same drawn rows go to both models: what is hard for both of them does not widen the interval. The
    bounds are percentiles of the draws.

    Args:
        statistic: Takes row numbers, with repeats, and returns the figure of these rows, as the score of one
            model divided by that of the other. A draw for which it is not finite does not count.
        rows: Number of rows.
        groups: [rows] which rows belong together, as questions about one paragraph; whole groups are drawn.
            None draws rows.
        draws: How many times rows are drawn.
        confidence: Part of the draws that lies within the bounds.
        seed: Of the draws.

    Returns:
        The figure of all rows in their order, and its bounds.

    Raises:
        DataError: There is no row, `groups` has another length, or fewer than half of the draws are finite.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16; Koehn,
        Statistical Significance Tests for Machine Translation Evaluation (2004), for pairs.
    """
    if rows < 1:
        raise DataError("There is no row to draw from: give data with a test split.")
    if groups is not None and len(groups) != rows:
        raise DataError(f"{len(groups)} groups were given for {rows} rows: give one a row.")
    members = _members(rows, groups)
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        chosen = random.integers(0, len(members), len(members))
        indices = chosen if groups is None else np.concatenate([members[group] for group in chosen])
        drawn.append(statistic(indices))
    finite = np.asarray(drawn, np.float64)
    finite = finite[np.isfinite(finite)]
    if len(finite) * 2 < draws:
        raise DataError(
            f"Only {len(finite)} of {draws} draws from {rows} rows give a figure: score more rows."
        )
    low, high = _percentiles(finite, confidence)
    return Interval(float(statistic(np.arange(rows))), low, high)


def _members(rows: int, groups: Sequence[object] | None) -> list[NDArray[np.intp]]:
    if groups is None:
        return list(np.arange(rows, dtype=np.intp)[:, None])
    found: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        found.setdefault(group, []).append(row)
    return [np.asarray(numbers, np.intp) for numbers in found.values()]


def _percentiles(values: ArrayLike, confidence: float) -> tuple[float, float]:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.asarray(values, np.float64), [tail, 1.0 - tail])
    return float(low), float(high)
