"""How well one list of numbers follows another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["pearson", "ranks", "spearman"]


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Returns the linear correlation of two lists of n numbers, -1 to 1; 0 where one of them is constant."""
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    one, two = one - one.mean(), two - two.mean()
    size = float(np.sqrt((one * one).sum()) * np.sqrt((two * two).sum()))
    return float(np.clip((one * two).sum() / size, -1.0, 1.0)) if size > 0.0 else 0.0


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Returns the correlation of two lists' ranks: 1 where both have the same order."""
    return pearson(ranks(first), ranks(second))


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Returns the place of each of n numbers in their order, from 1; equal numbers share their mean place."""
    given = np.asarray(values, np.float64)
    _, inverse, counts = np.unique(given, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse.ravel()], np.float64)
