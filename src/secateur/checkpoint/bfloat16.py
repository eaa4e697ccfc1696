"""bfloat16, which numpy lacks: `BF16` is a type of its own, whose 16 bits numpy takes for no number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BF16", "from_bf16", "is_sound_bf16", "to_bf16", "type_name"]

BF16 = np.dtype([("bf16", "<u2")])

# A smaller weight is 0: instructions differ in what they do with sums below the normal range.
LEAST = np.float32(2.0**-50)


def type_name(dtype: np.dtype[Any]) -> str:
    """Returns the name of a type, for messages."""
    return "bfloat16" if dtype == BF16 else str(dtype.name)


def to_bf16(values: NDArray[np.float32], least: np.float32 = LEAST) -> NDArray[Any]:
    """Rounds to bfloat16, half to even.

    Args:
        values: float32 of any shape.
        least: What is smaller becomes 0.

    Returns:
        BF16 of the same shape. NaN stays NaN, and what is past the largest bfloat16 becomes infinite.
    """
    bits = np.where(np.abs(values) < least, np.float32(0), values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    rounded = np.where(np.isnan(values), np.uint32(0x7FC0), rounded)
    return np.ascontiguousarray(rounded.astype(np.uint16)).view(BF16)


def from_bf16(stored: NDArray[Any]) -> NDArray[np.float32]:
    """Returns BF16 as float32, exactly."""
    return (np.ascontiguousarray(stored).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def is_sound_bf16(stored: NDArray[Any]) -> tuple[bool, bool]:
    """Says whether all values are finite, and whether each is 0 or at least 2^-50.

    Args:
        stored: BF16 of any shape.
    """
    size = np.ascontiguousarray(stored).view(np.uint16) & 0x7FFF
    least = int(np.asarray(LEAST).view(np.uint32)) >> 16
    return not bool((size >= 0x7F80).any()), not bool(((size > 0) & (size < least)).any())
