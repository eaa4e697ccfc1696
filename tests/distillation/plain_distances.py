"""Distances written out over single numbers."""

from __future__ import annotations

import math

from torch import Tensor


def squared(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)


def angle(a: list[float], b: list[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b))


def by_hand_attention(q: Tensor, k: Tensor, heads: int, length: int, soft: bool) -> list[list[list[float]]]:
    """One row's maps, [heads][length][length], from queries and keys [S, N]."""
    size = q.shape[1] // heads
    maps = []
    for head in range(heads):
        queries, keys = (one[:length, head * size : (head + 1) * size].tolist() for one in (q, k))
        rows = [
            [sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(size) for b in keys] for a in queries
        ]
        if soft:
            rows = [[math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in rows]
        maps.append(rows)
    return maps
