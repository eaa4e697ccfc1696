"""The engine's float32 arithmetic, operation by operation, for models in eval mode.

Integers alone do not make PyTorch and the engine agree. Where two float values differ in their last bit, some
are rounded to different integers, each of those moves thousands of values in the next layer by about the
step's size, and after a few layers the difference is as large as the quantization error itself (MiniLM on
clinc150: a GELU that is off by 1e-6 moves the logits by 0.7 % of their standard deviation, by 3e-5 or more by
2.6 %). So what lies between the integers is computed as the engine computes it, in the same order, and fused
multiply-adds are rounded once. Training has no use for this and runs PyTorch's own functions.

The formulas and coefficients are those of `engine/kernels`: `epilogue`, `attention`, `layer_norm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation, NewGELUActivation

__all__ = [
    "GELUS",
    "SimulatedActivation",
    "SimulatedNorm",
    "fma",
    "gelu",
    "layer_norm",
    "probabilities",
    "simulate_activations_",
]


def _float32(*values: float) -> tuple[float, ...]:
    return tuple(float(np.float32(value)) for value in values)


_GELU_CLAMP = 4.0
_GELU = {
    "gelu": _float32(
        *(-0.498960525, 0.38980031, 0.0264797211, -0.100382261, 0.0184321124),
        *(0.0102993259, -0.00509896781, 0.00084931514, -5.11845501e-05),
    ),
    "gelu_new": _float32(
        *(-0.498959988, 0.389501721, 0.0283835679, -0.10510999, 0.0232843384),
        *(0.00783452764, -0.00443541445, 0.00075813086, -4.61315321e-05),
    ),
}
GELUS = tuple(_GELU)
_EXP2_X255 = _float32(254.999817, 176.746063, 61.2631035, 14.2590551, 2.44036317)
_EXP_FLOOR = -24.0
_LOG2_E = float(np.float32(1.44269504))


# Elements converted to float64 at a time: what fits the second cache runs three times as fast.
_CHUNK = 1 << 16


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Returns a * b + c, rounded once: the product is exact in float64.

    The sum is rounded to float64 before float32, which differs from one rounding once in about 2^29 times.

    Args:
        a: [..., N] float32.
        b: [N] float32, or [..., N] as `a`.
        c: [N] float32.
    """
    result = torch.empty_like(a, memory_format=torch.contiguous_format)
    rows, results = a.reshape(-1, a.shape[-1]), result.view(-1, a.shape[-1])
    factors = b.reshape(-1, b.shape[-1]).expand_as(rows)
    c = c.double()
    step = max(1, _CHUNK // a.shape[-1])
    for row, factor, out in zip(rows.split(step), factors.split(step), results.split(step), strict=True):
        out.copy_(torch.addcmul(c, row.double(), (b if b.dim() == 1 else factor).double()))
    return result


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Returns c[0] + x * (c[1] + x * ...) by fused steps."""
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    for part, out in zip(x.reshape(-1).split(_CHUNK), result.view(-1).split(_CHUNK), strict=True):
        wide = part.double()
        step = torch.full_like(wide, coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            out.copy_(step.mul_(wide).add_(coefficient))
            step.copy_(out)
    return result


def gelu(x: Tensor, kind: str) -> Tensor:
    """Returns the engine's GELU, which is within 1.4e-4 of the true one.

    Args:
        x: [...] float32.
        kind: `gelu` or `gelu_new`.
    """
    a = x.abs().clamp_(max=_GELU_CLAMP)
    return _horner(a, _GELU[kind]).mul_(a).add_(x.clamp(min=0.0))


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Returns the engine's layer norm, whose sums run over the channels one after another.

    Args:
        x: [..., C] float32.
        gamma: [C] float32.
        beta: [C] float32.
        eps: Added to the variance.
    """
    columns = x.reshape(-1, x.shape[-1]).t().contiguous()  # (C, M)
    per_channel = float(np.float32(1) / np.float32(columns.shape[0]))
    total = torch.zeros_like(columns[0])
    for column in columns.unbind(0):
        total += column
    centred = columns - total * per_channel
    squares = torch.zeros_like(total)
    wide = torch.zeros_like(total, dtype=torch.float64)
    for square in centred.double().square_().unbind(0):
        squares.copy_(wide.add_(square))  # fma(d, d, squares)
        wide.copy_(squares)
    variance = squares * per_channel + float(np.float32(eps))
    # By way of float64: the float32 root that PyTorch takes from MKL is off by a bit in one of six values.
    rstd = 1.0 / variance.double().sqrt_().float()
    return fma(centred.mul_(rstd).t(), gamma, beta).view(x.shape)


def probabilities(scores: Tensor, query_scale: Tensor, key_scale: Tensor, head_dim: int) -> Tensor:
    """Returns the engine's rounded probabilities.

    Args:
        scores: [..., T] float32, integers minus the largest of their row; overwritten.
        query_scale: [] float32.
        key_scale: [] float32.
        head_dim: Features of a head.

    Returns:
        [..., T] float32, integers 0 to 255.
    """
    root = float(np.float32(math.sqrt(head_dim)))
    y = scores.mul_(query_scale * key_scale / root * _LOG2_E).clamp_(min=_EXP_FLOOR)
    whole = y.round()
    power = (whole.int() + 127).bitwise_left_shift_(23).view(torch.float32)  # 2 ** whole, exactly
    return _horner(y.sub_(whole), _EXP2_X255).mul_(power).round_()


class _Replace(torch.autograd.Function):  # type: ignore[misc]
    """Gives one tensor's values and the other one's gradient."""

    @staticmethod
    def forward(ctx: Any, plain: Tensor, exact: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _replaced(plain: Tensor, exact: Tensor) -> Tensor:
    result: Tensor = _Replace.apply(plain, exact)
    return result


class SimulatedNorm:
    """Takes the place of `nn.LayerNorm.forward`: the engine's arithmetic in eval mode, PyTorch's in training.

    Args:
        norm: The layer norm.
        gate: A quantizer of the same model, which says whether simulation is switched on.
    """

    def __init__(self, norm: nn.LayerNorm, gate: Any) -> None:
        self.norm = norm
        self.gate = gate

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.norm
        exact = self.gate.enabled and not norm.training and x.dtype == torch.float32
        if exact and not _needs_grad(x, norm.weight, norm.bias):
            return layer_norm(x, norm.weight, norm.bias, norm.eps)
        plain: Tensor = functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        if not exact:
            return plain
        return _replaced(plain, layer_norm(x.detach(), norm.weight.detach(), norm.bias.detach(), norm.eps))


class SimulatedActivation:
    """Takes the place of an activation's forward: the engine's arithmetic in eval mode, its own in training.

    Args:
        activation: The module.
        kind: `gelu` or `gelu_new`.
        gate: A quantizer of the same model, which says whether simulation is switched on.
    """

    def __init__(self, activation: nn.Module, kind: str, gate: Any) -> None:
        self.activation = activation
        self.kind = kind
        self.gate = gate

    def __call__(self, x: Tensor) -> Tensor:
        exact = self.gate.enabled and not self.activation.training and x.dtype == torch.float32
        if exact and not _needs_grad(x):
            return gelu(x, self.kind)
        plain: Tensor = type(self.activation).forward(self.activation, x)
        return _replaced(plain, gelu(x.detach(), self.kind)) if exact else plain


def simulate_activations_(model: nn.Module, gate: Any) -> None:
    """Lets every GELU of a model, wherever its family keeps it, follow the engine in eval mode.

    Args:
        model: A live transformers model.
        gate: A quantizer of the same model, which says whether simulation is switched on.
    """
    for module in model.modules():
        if isinstance(module, NewGELUActivation):
            module.forward = SimulatedActivation(module, "gelu_new", gate)
        elif isinstance(module, GELUActivation):
            module.forward = SimulatedActivation(module, "gelu", gate)


def _needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
