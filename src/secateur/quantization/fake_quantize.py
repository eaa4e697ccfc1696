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
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from secateur.affine import S8_MAX, SMALLEST_SCALE, U8_MAX, U8_MIN
from secateur.quantization.simulation import fma, probabilities

__all__ = [
    "asymmetric_qparams",
    "compute_dtype",
    "fake_quantize",
    "fake_quantize_rows",
    "integer_linear",
    "quantize",
    "row_scales",
    "symmetric_scale",
]


def symmetric_scale(max_abs: Tensor) -> Tensor:
    """Returns `affine.symmetric_scale` of [...] float32."""
    scale = max_abs / S8_MAX
    return torch.where(scale < float(SMALLEST_SCALE), 1.0, scale)


def asymmetric_qparams(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `affine.asymmetric_qparams` of [...] float32; the zero point stays float32."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (high - low) / U8_MAX
    scale = torch.where(scale < float(SMALLEST_SCALE), 1.0, scale)
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
    x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int, dtype: torch.dtype
) -> Tensor:
    """Returns the centred integers of `x`.

    Args:
        x: [...] any floating type, taken as float32.
        scale: [] float32.
        zero_point: [] float32, an integer.
        quant_min: Smallest integer.
        quant_max: Largest integer.
        dtype: Type of the result.

    Returns:
        [...] `clip(rint(x / scale) + zero_point, quant_min, quant_max) - zero_point`. The gradient, in real
        units, is passed where `x` was inside the range and 0 where it was clipped.
    """
    result: Tensor = _Quantize.apply(x, scale, zero_point, quant_min, quant_max, dtype)
    return result


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
    x: Tensor, input_scale: Tensor, weight: Tensor, bias: Tensor | None, zero_point: Tensor | None = None
) -> Tensor:
    """Multiplies centred integers by a weight that is quantized per row on the fly.

    Args:
        x: [..., K] centred integers, as `quantize` returns them.
        input_scale: [] float32, what one unit of `x` is worth.
        weight: [N, K] float32; zeros stay zeros.
        bias: [N] float32 or None.
        zero_point: [] float32, the zero point of `x`: rounds as the engine does, which adds it to the bias;
            None for the faster order of training.

    Returns:
        [..., N] in the type of `x`.
    """
    result: Tensor = _IntegerLinear.apply(x, input_scale, weight, bias, zero_point)
    return result


def _round_rows(weight: Tensor, scale: Tensor) -> Tensor:
    """Returns the integers of [..., K] float32; no clip, because no value exceeds its row's 127 * scale."""
    return torch.mul(weight, (1.0 / scale).unsqueeze(-1)).round_()


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        quant_min: int,
        quant_max: int,
        dtype: torch.dtype,
    ) -> Tensor:
        x = x.float()
        ctx.save_for_backward(x, scale, zero_point)
        ctx.limits = (quant_min, quant_max)
        q = torch.mul(x, 1.0 / scale).round_()
        # clip(rint + zero_point) - zero_point, with the subtraction moved into the limits: exact in float32.
        if q.device.type == "cpu":  # clamp with tensor limits is 6x slower than with numbers on CPU
            zero = zero_point.item()
            q.clamp_(quant_min - zero, quant_max - zero)
        else:
            q.clamp_(quant_min - zero_point, quant_max - zero_point)
        return q.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        quant_min, quant_max = ctx.limits
        low = (quant_min - 0.5 - zero_point) * scale
        high = (quant_max + 0.5 - zero_point) * scale
        if x.device.type == "cpu":
            grad = torch.ops.aten.hardtanh_backward(grad.float(), x, low.item(), high.item())
        else:
            grad = torch.where((x > low) & (x < high), grad, 0.0)
        return grad, None, None, None, None, None


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


class _IntegerLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        input_scale: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        zero_point: Tensor | None,
    ) -> Tensor:
        weight = weight.float()
        scale = row_scales(weight)
        w = _round_rows(weight, scale).to(x.dtype)
        ctx.save_for_backward(x, input_scale, w, scale)
        with torch.autocast(x.device.type, enabled=False):
            y = functional.linear(x, w)
        if zero_point is not None and x.dtype == torch.float32:
            sums = zero_point * w.sum(-1)
            scale = scale * input_scale
            return fma(y.add_(sums), scale, (0.0 if bias is None else bias) - scale * sums)
        y = y.mul_((scale * input_scale).to(y.dtype))
        return y if bias is None else y.add_(bias.to(y.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, input_scale, w, scale = ctx.saved_tensors
        needs_x, _, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        grad = grad.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            if needs_x:
                grad_x = torch.matmul(grad * scale.to(grad.dtype), w)
            rows = grad.reshape(-1, grad.shape[-1])
            if needs_weight:
                grad_weight = torch.matmul(rows.t(), x.reshape(-1, x.shape[-1])).float().mul_(input_scale)
            if needs_bias:
                grad_bias = rows.sum(0, dtype=torch.float32)
        return grad_x, None, grad_weight, grad_bias, None


def integer_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scales: tuple[Tensor, Tensor, Tensor],
    keep: Tensor | None,
    dropout: float,
    exact: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attends with integer products and probabilities rounded to 255ths of the row's largest.

    Args:
        q: [B, H, S, D] float32 centred integers.
        k: [B, H, T, D] float32 centred integers.
        v: [B, H, T, D] float32 centred integers.
        scales: Three [] float32, the units of `q`, `k` and `v`.
        keep: Bool, broadcasts against [B, H, S, T], True = attend; None attends everywhere.
        dropout: Fraction of probabilities dropped; 0 outside training.
        exact: Computes exponentials by the engine's polynomial; training does not need that.

    Returns:
        output: [B, H, S, D] float32.
        probabilities: [B, H, S, T] float32, for looking at; carries no gradient.
    """
    result: tuple[Tensor, Tensor] = _IntegerAttention.apply(q, k, v, *scales, keep, dropout, exact)
    return result


class _IntegerAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        query_scale: Tensor,
        key_scale: Tensor,
        value_scale: Tensor,
        keep: Tensor | None,
        dropout: float,
        exact: bool,
    ) -> tuple[Tensor, Tensor]:
        root = math.sqrt(q.shape[-1])
        with torch.autocast(q.device.type, enabled=False):
            p = torch.matmul(q, k.transpose(-1, -2))  # (B, H, S, T)
            if keep is not None:
                # Not -inf: a row without any key would become NaN; this way it is spread evenly. Added, not
                # filled: no product changes so small a number, and masked_fill_ is 10x slower on CPU.
                p.add_(torch.where(keep, 0.0, torch.finfo(torch.float32).min))
            p.sub_(p.amax(-1, keepdim=True))
            if exact:
                p = probabilities(p, query_scale, key_scale, q.shape[-1])
            else:
                p.mul_(query_scale * key_scale / root).exp_().mul_(U8_MAX).round_()
            total = p.sum(-1, keepdim=True)
            kept = functional.dropout(torch.ones_like(p), dropout) if dropout > 0.0 else None
            if exact:
                output = torch.matmul(p if kept is None else p * kept, v).mul_(value_scale / total)
                p = p / total
            else:
                p.div_(total)
                output = torch.matmul(p if kept is None else p * kept, v).mul_(value_scale)
        ctx.save_for_backward(q, k, v, query_scale, key_scale, value_scale, p, kept)
        ctx.root = root
        ctx.mark_non_differentiable(p)
        return output, p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, query_scale, key_scale, value_scale, p, kept = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            grad_v = torch.matmul((p if kept is None else p * kept).transpose(-1, -2), grad)
            grad_p = torch.matmul(grad * value_scale, v.transpose(-1, -2))
            if kept is not None:
                grad_p.mul_(kept)
            grad_s = torch.ops.aten._softmax_backward_data(grad_p, p, -1, torch.float32)
            grad_q = torch.matmul(grad_s, k).mul_(key_scale / ctx.root)
            grad_k = torch.matmul(grad_s.transpose(-1, -2), q).mul_(query_scale / ctx.root)
        return grad_q, grad_k, grad_v, None, None, None, None, None, None
