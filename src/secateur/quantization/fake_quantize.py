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
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from secateur.affine import S8_MAX, SMALLEST_SCALE, U8_MAX, U8_MIN
from secateur.quantization.simulation import fma

__all__ = [
    "Memory",
    "asymmetric_qparams",
    "compute_dtype",
    "fake_quantize",
    "fake_quantize_rows",
    "integer_linear",
    "parts",
    "quantize",
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


def integer_linear(
    x: Tensor,
    input_scale: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    zero_point: Tensor | None = None,
    mask: Tensor | None = None,
    memory: Memory | None = None,
) -> Tensor:
    """Multiplies centred integers by a weight that is quantized per row on the fly.

    Args:
        x: [..., K] centred integers, as `quantize` returns them.
        input_scale: [] float32, what one unit of `x` is worth.
        weight: [N, K] float32; zeros stay zeros.
        bias: [N] float32 or None.
        zero_point: [] float32, the zero point of `x`: rounds as the engine does, which adds it to the bias;
            None for the faster order of training.
        mask: [N, K] float32 of 0 and 1 that multiplies the weight first; None keeps all of it.
        memory: The layer's own, for the quantized weight; None takes fresh memory every time.

    Returns:
        [..., N] in the type of `x`.
    """
    memory = memory or Memory()
    learning = torch.is_grad_enabled()
    result: Tensor = _IntegerLinear.apply(x, input_scale, weight, bias, zero_point, mask, memory, learning)
    return result


class Memory:
    """What a layer's quantized weight lay in, for the next step to take.

    Tensors of a weight's size that are new in every step are given back to the system and faulted in again
    page by page, which costs as much as several passes over them (MiniLM, 384 tokens: 5 % of a step).
    """

    def __init__(self) -> None:
        self._spare: dict[torch.dtype, Tensor] = {}

    def take(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns an empty tensor, which is nobody else's until it is given back."""
        spare = self._spare.pop(dtype, None)
        if spare is not None and (spare.shape, spare.device) == (shape, device):
            return spare
        with torch.inference_mode(False):  # what an evaluation leaves here is what training takes next
            return torch.empty(shape, dtype=dtype, device=device)

    def give(self, tensor: Tensor) -> None:
        """Takes a tensor back that nobody reads any more.

        Where somebody does, on a second backward pass through one graph, autograd finds it overwritten by its
        version and raises.
        """
        self._spare[tensor.dtype] = tensor

    def __getstate__(self) -> dict[str, Any]:
        return {"_spare": {}}  # a copy of the layer has its own


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


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _scaled_product(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Returns scale * (a @ b) in float32."""
    if a.device.type == "cpu" and a.dtype == torch.float32:  # elsewhere a look at the scale would stall
        return torch.addmm(scale, a, b, beta=0, alpha=scale.item())
    return torch.mm(a, b).float().mul_(scale)


class _IntegerLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        input_scale: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        zero_point: Tensor | None,
        mask: Tensor | None,
        memory: Memory,
        learning: bool,
    ) -> Tensor:
        weight = weight.float()
        w = memory.take(weight.shape, torch.float32, weight.device)
        masked = weight if mask is None else torch.mul(weight, mask, out=w)
        scale = row_scales(masked)
        torch.mul(masked, (1.0 / scale).unsqueeze(-1), out=w).round_()
        if x.dtype != torch.float32:
            wide, w = w, memory.take(w.shape, x.dtype, w.device).copy_(w)
            memory.give(wide)
        ctx.memory = memory
        ctx.save_for_backward(x, input_scale, w, scale, mask)
        with _without_autocast(x):
            y = functional.linear(x, w)
        sums = zero_point * w.sum(-1) if zero_point is not None and x.dtype == torch.float32 else None
        if not learning:
            memory.give(w)
        if sums is not None:
            scale = scale * input_scale
            return fma(y.add_(sums), scale, (0.0 if bias is None else bias) - scale * sums)
        unit = (scale * input_scale).to(y.dtype)
        shift = None if bias is None else bias.to(y.dtype)
        for _, part in parts(y):
            part.mul_(unit)
            if shift is not None:
                part.add_(shift)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, input_scale, w, scale, mask = ctx.saved_tensors
        needs_x, _, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        grad = grad.to(x.dtype)
        rows = grad.reshape(-1, grad.shape[-1])
        with _without_autocast(x):
            if needs_weight:
                grad_weight = _scaled_product(rows.t(), x.reshape(-1, x.shape[-1]), input_scale)
                if mask is not None:
                    grad_weight.mul_(mask)
            if needs_x:
                unit = scale.to(w.dtype)
                if rows.shape[0] <= w.shape[1]:  # the smaller of the two carries the scale
                    grad_x = torch.mm(rows * unit, w)
                else:  # nobody reads the integers after this
                    grad_x = torch.mm(rows, w.mul_(unit.unsqueeze(-1)))
                grad_x = grad_x.view(x.shape)
            if needs_bias:
                grad_bias = rows.sum(0, dtype=torch.float32)
        ctx.memory.give(w)
        return grad_x, None, grad_weight, grad_bias, None, None, None, None
