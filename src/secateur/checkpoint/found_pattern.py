"""Which pattern the zeros of stored matrices have: what was pruned, told from the weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_pattern"]

_GROUPS = (2, 4, 8, 16)  # M of N:M
_ROWS = (1, 2, 4, 8, 16, 32, 64)
_COLUMNS = (1, 2, 4, 8, 16, 32, 64)
_FILLED = 0.9  # a kept weight may have been rounded to 0: 1 to 3 % of them in int8


def find_pattern(weights: Sequence[NDArray[Any]]) -> str:
    """Returns the pattern that sparse matrices were pruned by, as a recipe spells it.

    Args:
        weights: One [N_i, K_i] per matrix, of any type.

    Returns:
        `dense`; `N:M` where no group of M neighbours in a row has more than N weights, and most have as many;
        the largest blocks that are nearly full or empty (`block4`, `block:RxC`); otherwise `unstructured`.
    """
    kept = [weight != 0 for weight in weights]
    total = sum(mask.size for mask in kept)
    count = sum(int(np.count_nonzero(mask)) for mask in kept)
    if not kept or count >= _FILLED * total:
        return "dense"
    for group in _GROUPS:
        if all(mask.shape[1] % group == 0 for mask in kept):
            most = max(int(mask.reshape(len(mask), -1, group).sum(-1).max()) for mask in kept)
            if 0 < most < group and count >= _FILLED * most / group * total:
                return f"{most}:{group}"
    largest, name = 1, "unstructured"
    for rows in _ROWS:
        for columns in _COLUMNS:
            if rows * columns <= largest:
                continue
            filled = _filled_blocks(weights, rows, columns)
            if filled is not None and filled[0] < filled[1] and count >= _FILLED * filled[0] * rows * columns:
                largest = rows * columns
                name = "block4" if (rows, columns) == (1, 4) else f"block:{rows}x{columns}"
    return name


def _filled_blocks(weights: Sequence[NDArray[Any]], rows: int, columns: int) -> tuple[int, int] | None:
    """Counts the blocks that have a weight other than 0, and all; None where a matrix does not divide."""
    filled = total = 0
    for weight in weights:
        if weight.shape[0] % rows or weight.shape[1] % columns:
            return None
        blocks = (weight != 0).reshape(weight.shape[0] // rows, rows, -1, columns).any((1, 3))
        filled += int(np.count_nonzero(blocks))
        total += blocks.size
    return filled, total
