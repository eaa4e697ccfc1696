"""The numeric law: real = scale * (q - zero_point), rounded half to even, every step in float32.

Fake quantization in PyTorch, the checkpoint and the C++ engine all obey these few functions bit for bit.
Nothing here knows a tensor's role; which tensor is quantized how stands in `docs/format.md`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "S8_MAX",
    "S8_MIN",
    "SMALLEST_SCALE",
    "U8_MAX",
    "U8_MIN",
    "asymmetric_qparams",
    "dequantize",
    "fake_quantize",
    "quantize",
    "symmetric_scale",
]

S8_MIN, S8_MAX = -127, 127  # symmetric: -128 is never used, so that negating a weight cannot overflow
U8_MIN, U8_MAX = 0, 255

# The smallest normal float32. Below it 1/scale overflows, so such a range counts as empty.
SMALLEST_SCALE = np.finfo(np.float32).tiny

Float32Array = NDArray[np.float32]


def symmetric_scale(max_abs: ArrayLike) -> Float32Array:
    """Returns the scale with which [-max_abs, max_abs] fills -127..127.

    Args:
        max_abs: [...] largest absolute value of each row or tensor, not negative.

    Returns:
        [...] float32, `max_abs / 127`; 1.0 where the range is empty.
    """
    scale = np.asarray(max_abs, np.float32) / np.float32(S8_MAX)
    return np.asarray(np.where(scale < SMALLEST_SCALE, np.float32(1), scale), np.float32)


def asymmetric_qparams(low: ArrayLike, high: ArrayLike) -> tuple[Float32Array, NDArray[np.uint8]]:
    """Returns scale and zero point with which [low, high], extended to hold 0, fills 0..255.

    Args:
        low: [...] smallest value of each tensor.
        high: [...] largest value of each tensor, shaped like `low`.

    Returns:
        scale: [...] float32, 1.0 where the range is empty.
        zero_point: [...] uint8, the integer that stands for 0.0.
    """
    bottom = np.minimum(np.asarray(low, np.float32), np.float32(0))
    top = np.maximum(np.asarray(high, np.float32), np.float32(0))
    width = (top - bottom) / np.float32(U8_MAX)
    scale = np.asarray(np.where(width < SMALLEST_SCALE, np.float32(1), width), np.float32)
    zero_point = np.clip(np.rint(-bottom / scale), U8_MIN, U8_MAX)
    return scale, np.asarray(zero_point, np.uint8)


def quantize(
    x: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, quant_min: int, quant_max: int
) -> NDArray[np.int32]:
    """Returns `clip(rint(x * (1 / scale)) + zero_point, quant_min, quant_max)`.

    The reciprocal is rounded to float32 first, because the engine multiplies by it.

    Args:
        x: [...] finite values, taken as float32.
        scale: Positive, broadcasts against `x`.
        zero_point: Integers, broadcast against `x`.
        quant_min: Smallest integer.
        quant_max: Largest integer.

    Returns:
        [...] int32.
    """
    inverse = np.float32(1) / np.asarray(scale, np.float32)
    with np.errstate(over="ignore"):  # an infinite product saturates like every other large one
        rounded = np.rint(np.asarray(x, np.float32) * inverse)
    shifted = rounded + np.asarray(zero_point, np.float32)
    return np.asarray(np.clip(shifted, quant_min, quant_max), np.int32)


def dequantize(q: ArrayLike, scale: ArrayLike, zero_point: ArrayLike = 0) -> Float32Array:
    """Returns `scale * (q - zero_point)`.

    Args:
        q: [...] integers.
        scale: Broadcasts against `q`.
        zero_point: Integers, broadcast against `q`.

    Returns:
        [...] float32.
    """
    centred = np.asarray(q, np.int32) - np.asarray(zero_point, np.int32)
    return np.asarray(np.asarray(scale, np.float32) * centred.astype(np.float32), np.float32)


def fake_quantize(
    x: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, quant_min: int, quant_max: int
) -> Float32Array:
    """Returns `x` as the engine sees it: quantized and dequantized.

    Args:
        x: [...] finite values.
        scale: Positive, broadcasts against `x`.
        zero_point: Integers, broadcast against `x`.
        quant_min: Smallest integer.
        quant_max: Largest integer.

    Returns:
        [...] float32.
    """
    return dequantize(quantize(x, scale, zero_point, quant_min, quant_max), scale, zero_point)
