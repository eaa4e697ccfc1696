"""Logits of starts and ends to the best spans of tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Span", "best_spans"]


class Span(NamedTuple):
    """A span of tokens, both ends included, and the sum of its two logits."""

    start: int
    end: int
    score: float


def best_spans(
    starts: NDArray[np.floating[Any]], ends: NDArray[np.floating[Any]], count: int, max_tokens: int
) -> list[Span]:
    """Returns the spans with the largest sum of logits.

    Args:
        starts: [n] logits of starts; a span with -inf is none.
        ends: [n] logits of ends.
        count: Most spans.
        max_tokens: Most tokens of a span.

    Returns:
        Best first; of equal sums the earlier start, then the earlier end.
    """
    size = len(starts)
    if not size:
        return []
    # [n, w]: the span that begins at token i and has j + 1 tokens
    width = min(max_tokens, size)
    padded = np.concatenate([np.asarray(ends, np.float64), np.full(width - 1, -np.inf)])
    sums = np.asarray(starts, np.float64)[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)
    flat = sums.ravel()
    if count < len(flat):
        # everything at least as good as the last one taken, so that ties keep their order
        least = np.partition(flat, len(flat) - count)[len(flat) - count]
        places = np.flatnonzero(flat >= least)
    else:
        places = np.arange(len(flat))
    places = places[np.argsort(-flat[places], kind="stable")][:count]
    found = []
    for place in places.tolist():
        start, more = divmod(place, width)
        if flat[place] > -np.inf:
            found.append(Span(start, start + more, float(flat[place])))
    return found
