"""Logits to probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["sigmoid", "softmax"]


def softmax(logits: ArrayLike) -> NDArray[np.float32]:
    """Returns probabilities of which one is true.

    Args:
        logits: [..., L].

    Returns:
        [..., L] float32; the last axis sums to 1.
    """
    shifted = np.asarray(logits, np.float32)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    raised = np.exp(shifted)
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), np.float32)


def sigmoid(logits: ArrayLike) -> NDArray[np.float32]:
    """Returns probabilities each of which stands alone.

    Args:
        logits: [...].

    Returns:
        [...] float32.
    """
    given = np.asarray(logits, np.float32)
    small = np.exp(-np.abs(given))  # never overflows
    return np.asarray(np.where(given >= 0, 1, small) / (1 + small), np.float32)
