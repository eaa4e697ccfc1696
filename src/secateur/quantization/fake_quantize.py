"""The numeric law in PyTorch: values become integers going forward, gradients pass straight through.

Integers are carried *centred*, as q - zero_point, in a floating type that holds them exactly (float32, or
bfloat16 under autocast: magnitudes reach 255). Products of centred integers are then the engine's int32
products, and a scale is multiplied in once, after the sum. A centred tensor stands for `scale * tensor`; its
gradient is kept in real units, that is, with respect to that product.

Source:
    Straight-through estimator: Bengio et al., "Estimating or Propagating Gradients Through Stochastic
    Neurons" (arXiv 1308.3432), section 4; 0 where the value left its range. Weights never leave it, because
    their scale is taken from their largest value.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from secateur.affine import S8_MAX, SMALLEST_SCALE, U8_MAX, U8_MIN

__all__ = [
    "asymmetric_qparams",
    "compute_dtype",
    "fake_quantize",
    "fake_quantize_rows",
    "parts",
    "quantize",
    "quantize_rows",
    "row_scales",
    "symmetric_scale",
]


# Elements that several passes run over before the next ones: 1 MiB of float32, which caches hold. From main
# memory a pass takes twice as long (Zen 3: 0.09 ms for 2.4 MB that lie in a cache, 2.0 for 25 MB).
_PART = 1 << 18


def symmetric_scale(max_abs: Tensor) -> Tensor:
    """Returns `affine.symmetric_scale` of [...] float32."""
    scale = max_abs / S8_MAX
    return scale.masked_fill_(scale < float(SMALLEST_SCALE), 1.0)


def asymmetric_qparams(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `affine.asymmetric_qparams` of [...] float32; the zero point stays float32."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (high - low) / U8_MAX
    scale = scale.masked_fill_(scale < float(SMALLEST_SCALE), 1.0)
    return scale, (-low / scale).round().clamp(U8_MIN, U8_MAX)


def row_scales(weight: Tensor) -> Tensor:
    """Returns the scale of each row.

    Args:
        weight: [..., K] float32.

    Returns:
        [...] float32.
    """
    # Two plain reductions: max |w| in one call is 15x slower on CPU (vector_norm) or needs a copy (abs).
    return symmetric_scale(torch.maximum(weight.amax(-1), -weight.amin(-1)))


def compute_dtype(device_type: str) -> torch.dtype:
    """Returns the type of integer products: bfloat16 inside bfloat16 autocast, else float32.

    Not float16: sums of products leave its range.
    """
    if torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.bfloat16:
        return torch.bfloat16
    return torch.float32


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    span: tuple[float, float] | None = None,
) -> Tensor:
    """Returns the centred integers of `x`.

    Args:
        x: [...] any floating type, taken as float32.
        scale: [] float32.
        zero_point: [] float32, an integer.
        quant_min: Smallest integer.
        quant_max: Largest integer.
        dtype: Type of the result.
        span: Smallest and largest value of `x` as float32, where they are known: saves a pass over it.

    Returns:
        [...] `clip(rint(x / scale) + zero_point, quant_min, quant_max) - zero_point`, contiguous. The
        gradient, in real units, is passed where `x` was inside the range and 0 where it was clipped.
    """
    # clip(rint + zero_point) - zero_point, with the subtraction moved into the limits: exact in float32.
    if x.device.type != "cpu":
        limits: tuple[Any, Any] = (quant_min - zero_point, quant_max - zero_point)
        return _QuantizeAtOnce.apply(x, 1.0 / scale, *limits, dtype)
    zero = zero_point.item()
    limits = (quant_min - zero, quant_max - zero)
    inverse = 1.0 / scale
    if span is not None:
        # Rounding is monotone: where the ends stay inside, so does what lies between.
        factor = np.float32(inverse.item())
        ends = np.rint(np.float32(span[0]) * factor), np.rint(np.float32(span[1]) * factor)
        if limits[0] <= ends[0] and ends[1] <= limits[1]:
            limits = (-math.inf, math.inf)
    return _Quantize.apply(x, inverse, *limits, dtype)


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """Returns `affine.fake_quantize` of [...] float32, with the gradient of `quantize`."""
    result: Tensor = _Scale.apply(quantize(x, scale, zero_point, quant_min, quant_max, torch.float32), scale)
    return result


def fake_quantize_rows(x: Tensor) -> Tensor:
    """Quantizes and dequantizes every row by its own symmetric scale; the gradient is the identity.

    Args:
        x: [..., K] any floating type.

    Returns:
        [..., K] float32.
    """
    result: Tensor = _FakeQuantizeRows.apply(x)
    return result


def quantize_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns integers of `x` by a symmetric scale of each row, and these scales.

    Args:
        x: [..., K] any floating type, taken as float32.
        dtype: Type of the integers.

    Returns:
        q: [..., K] `clip(rint(x * (1 / scale)), -127, 127)`, contiguous. The gradient, in real units, is
            passed as it is: the largest value of a row is 127, so nothing is clipped.
        scale: [...] float32, `max|x| / 127` of each row, 1 where the row is empty; no gradient.
    """
    result: tuple[Tensor, Tensor] = _QuantizeRows.apply(x, dtype)
    return result


def parts(first: Tensor, *others: Tensor) -> Iterator[Any]:
    """Cuts tensors of one shape alike: yields where a part starts in the first dimension, and the parts."""
    tensors = (first, *others)
    size = first.numel()
    if size <= _PART or first.shape[0] == 1 or first.device.type != "cpu":
        yield (0, *tensors)
        return
    step = max(1, _PART * first.shape[0] // size)
    for start in range(0, first.shape[0], step):
        yield (start, *(tensor[start : start + step] for tensor in tensors))


def _round_rows(weight: Tensor, scale: Tensor) -> Tensor:
    """Returns the integers of [..., K] float32; no clip, because no value exceeds its row's 127 * scale."""
    return torch.mul(weight, (1.0 / scale).unsqueeze(-1)).round_()


def _clip_(x: Tensor, low: float, high: float) -> Tensor:
    """Clips a contiguous tensor and returns the flat places where that changed it.

    Few values leave a range: only rows that hold one are looked at closely, which costs two reductions
    instead of five passes (Zen 3, 384 x 1536: 0.2 ms instead of 0.8).
    """
    rows = x.view(-1, x.shape[-1] if x.dim() else 1)
    wild = (rows.amax(-1) > high).logical_or_(rows.amin(-1) < low).nonzero().flatten()
    if not wild.numel():
        return wild
    raw = rows[wild]
    kept = raw.clamp(low, high)
    row, column = kept.ne(raw).nonzero().unbind(-1)
    rows[wild] = kept
    return wild[row] * rows.shape[1] + column


class _Quantize(torch.autograd.Function):
    """Works through `x` in parts that stay in the cache, and keeps for the gradient only what was clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inverse: Tensor, low: float, high: float, dtype: torch.dtype) -> Tensor:
        q = torch.empty(x.shape, dtype=dtype, device=x.device)
        clipped = []
        for start, part, out in parts(x, q):
            step = out if dtype == torch.float32 else torch.empty(part.shape, device=x.device)
            torch.mul(part.float(), inverse, out=step).round_()
            if low != -math.inf:
                places = _clip_(step, low, high)
                if ctx.needs_input_grad[0] and places.numel():
                    clipped.append(places + start * (x.numel() // x.shape[0] if x.dim() else 1))
            if step is not out:
                out.copy_(step)
        ctx.clipped = clipped
        return q

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.clipped:
            grad = grad.clone(memory_format=torch.contiguous_format)
            for places in ctx.clipped:
                grad.view(-1)[places] = 0.0
        return grad, None, None, None, None


class _QuantizeAtOnce(torch.autograd.Function):
    """For devices that a look at a value would stall."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, inverse: Tensor, low: Tensor, high: Tensor, dtype: torch.dtype
    ) -> Tensor:
        rounded = torch.mul(x.float(), inverse).round_()
        q = rounded.clamp(low, high)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(q == rounded)
        return q.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None, None, None


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, scale: Tensor) -> Tensor:
        return q * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None


class _FakeQuantizeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.float()
        scale = row_scales(x)
        return _round_rows(x, scale).mul_(scale.unsqueeze(-1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _QuantizeRows(torch.autograd.Function):
    """Works through `x` in parts that stay in the cache, and keeps nothing for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        rows = x.reshape(-1, x.shape[-1])
        q = torch.empty(rows.shape, dtype=dtype, device=x.device)
        scale = torch.empty(rows.shape[0], dtype=torch.float32, device=x.device)
        for start, part, out in parts(rows, q):
            part = part.float()
            own = scale[start : start + len(part)].copy_(row_scales(part))
            step = torch.mul(part, (1.0 / own).unsqueeze(-1)).round_()
            # A product can miss 127 by a few last bits only, which rounding takes back: nothing to clip.
            out.copy_(step)
        scale = scale.view(x.shape[:-1])
        ctx.mark_non_differentiable(scale)
        return q.view(x.shape), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
        return grad, None
