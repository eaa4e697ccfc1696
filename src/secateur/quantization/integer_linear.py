"""A linear layer in integers: the engine's int8 product with its gradient, for training and evaluation.

Source:
    As `secateur.quantization.fake_quantize`, which says what centred integers and real units are.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from secateur.quantization.fake_quantize import parts, row_scales
from secateur.quantization.simulation import fma

__all__ = ["Memory", "integer_linear"]


def integer_linear(
    x: Tensor,
    input_scale: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    zero_point: Tensor | None = None,
    mask: Tensor | None = None,
    memory: Memory | None = None,
    exact: bool = False,
) -> Tensor:
    """Multiplies centred integers by a weight that is quantized per row on the fly.

    Args:
        x: [..., K] centred integers, as `quantize` or `quantize_rows` returns them.
        input_scale: [] float32, what one unit of `x` is worth, or [...] float32 where each row has its own.
        weight: [N, K] float32; zeros stay zeros.
        bias: [N] float32 or None.
        zero_point: [] float32, the zero point of `x`: with one scale for all rows, rounds as the engine does,
            which adds it to the bias; None for the faster order of training.
        mask: [N, K] float32 of 0 and 1 that multiplies the weight first; None keeps all of it.
        memory: The layer's own, for the quantized weight; None takes fresh memory every time.
        exact: With a scale a row, rounds as the engine does; False for the faster order of training.

    Returns:
        [..., N] in the type of `x`.
    """
    memory = memory or Memory()
    learning = torch.is_grad_enabled()
    result: Tensor = _IntegerLinear.apply(
        x, input_scale, weight, bias, zero_point, mask, memory, learning, exact
    )
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
        exact: bool,
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
        with torch.autocast(x.device.type, enabled=False):
            y = functional.linear(x, w)
        sums = zero_point * w.sum(-1) if zero_point is not None and x.dtype == torch.float32 else None
        if not learning:
            memory.give(w)
        if sums is not None:
            scale = scale * input_scale
            return fma(y.add_(sums), scale, (0.0 if bias is None else bias) - scale * sums)
        if input_scale.dim():
            return _scale_rows_(y, scale, input_scale, bias, exact and y.dtype == torch.float32)
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
        with torch.autocast(x.device.type, enabled=False):
            if needs_x:
                unit = scale.to(w.dtype)
                if rows.shape[0] <= w.shape[1]:  # the smaller of the two carries the scale
                    grad_x = torch.mm(rows * unit, w)
                else:
                    grad_x = torch.mm(rows, w * unit.unsqueeze(-1))
                grad_x = grad_x.view(x.shape)
            if needs_weight:
                by_row = input_scale.dim() > 0
                left = rows * input_scale.reshape(-1, 1).to(rows.dtype) if by_row else rows
                grad_weight = torch.mm(left.t(), x.reshape(-1, x.shape[-1])).float()
                if mask is not None:
                    grad_weight.mul_(mask)
                if not by_row:
                    grad_weight.mul_(input_scale)
            if needs_bias:
                grad_bias = rows.sum(0, dtype=torch.float32)
        ctx.memory.give(w)
        return grad_x, None, grad_weight, grad_bias, None, None, None, None, None


def _scale_rows_(y: Tensor, scale: Tensor, rows: Tensor, bias: Tensor | None, exact: bool) -> Tensor:
    """Turns sums into real units, in place: `y * (rows * scale) + bias`.

    Args:
        y: [..., N] sums.
        scale: [N] float32, of the weight.
        rows: [...] float32, of the input.
        bias: [N] float32 or None.
        exact: Rounds the scales' product, then once, as the engine does.
    """
    unit = scale if exact else scale.to(y.dtype)
    shift = bias if bias is None or exact else bias.to(y.dtype)
    for _, part, own in parts(y.view(-1, y.shape[-1]), rows.view(-1, 1).to(unit.dtype)):
        if exact:
            part.copy_(fma(part, own * unit, torch.zeros_like(unit) if shift is None else shift))
            continue
        part.mul_(own).mul_(unit)
        if shift is not None:
            part.add_(shift)
    return y
