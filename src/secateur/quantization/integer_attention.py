"""Attention in integers, its gradients passing straight through the rounding."""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from secateur.affine import U8_MAX
from secateur.quantization.simulation import probabilities

__all__ = ["integer_attention"]

# Scores of a part of the batch, 1 MiB of float32: a dozen passes run over them, best in a cache.
_PART = 1 << 18
# exp(-20) * 255 rounds to 0 like all below it; exp of numbers that underflow is 5x slower (x86).
_LOWEST = -20.0


def integer_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scales: tuple[Tensor, Tensor, Tensor],
    keep: Tensor | None,
    dropout: float,
    exact: bool = False,
    look: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Attends with integer products and probabilities rounded to 255ths of the row's largest.

    Args:
        q: [B, H, S, D] float32 centred integers.
        k: [B, H, T, D] float32 centred integers.
        v: [B, H, T, D] float32 centred integers.
        scales: Three [] float32, the units of `q`, `k` and `v`.
        keep: Bool, broadcasts against [B, H, S, T], True = attend; None attends everywhere.
        dropout: Fraction of probabilities dropped; 0 outside training.
        exact: Computes exponentials by the engine's polynomial; training does not need that.
        look: Whether the probabilities are wanted.

    Returns:
        output: [B, H, S, D] float32; its transpose to [B, S, H, D] is contiguous.
        probabilities: [B, H, S, T] float32, for looking at; carries no gradient. None unless `look`.
    """
    result: tuple[Tensor, Tensor | None] = _IntegerAttention.apply(
        q, k, v, *scales, keep, dropout, exact, look
    )
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
        look: bool,
    ) -> tuple[Tensor, Tensor | None]:
        batch, heads, queries, width = q.shape
        root = math.sqrt(width)
        unit = query_scale * key_scale / root
        if q.device.type == "cpu":
            unit = unit.item()
        added = None
        if keep is not None:
            # Not -inf: a row without any key would become NaN; this way it is spread evenly. Added, not
            # filled: no product changes so small a number, and masked_fill_ is 10x slower on CPU.
            added = torch.where(keep, 0.0, torch.finfo(torch.float32).min)
            added = added.expand(batch, *added.shape[1:])
        output = torch.empty((batch, queries, heads, width), device=q.device).transpose(1, 2)
        shown, kept_parts = [], []
        ctx.integers = []  # probabilities: exact in a byte, a quarter of the memory
        ctx.totals = []
        with torch.autocast(q.device.type, enabled=False):
            for part in _batch_parts(q, k):
                p = torch.matmul(q[part], k[part].transpose(-1, -2))  # (b, H, S, T)
                if added is not None:
                    p.add_(added[part])
                p.sub_(p.amax(-1, keepdim=True))
                if exact:
                    p = probabilities(p, query_scale, key_scale, width)
                else:
                    p.mul_(unit).clamp_(min=_LOWEST).exp_().mul_(U8_MAX).round_()
                total = p.sum(-1, keepdim=True)
                if any(ctx.needs_input_grad):
                    ctx.integers.append(p.to(torch.uint8))
                    ctx.totals.append(total)
                if look:
                    shown.append(p / total)
                if dropout > 0.0:
                    kept = functional.dropout(torch.ones_like(p), dropout)
                    kept_parts.append(kept)
                    p.mul_(kept)
                torch.mul(torch.matmul(p, v[part]), value_scale / total, out=output[part])
        ctx.save_for_backward(q, k, v, query_scale, key_scale, value_scale, output.detach())
        ctx.kept = kept_parts
        ctx.root = root
        if not look:
            return output, None
        probabilities_seen = shown[0] if len(shown) == 1 else torch.cat(shown)
        ctx.mark_non_differentiable(probabilities_seen)
        return output, probabilities_seen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, query_scale, key_scale, value_scale, output = ctx.saved_tensors
        grads = [
            torch.empty((x.shape[0], x.shape[2], x.shape[1], x.shape[3]), device=x.device).transpose(1, 2)
            for x in (q, k, v)
        ]
        grad_q, grad_k, grad_v = grads
        key_unit, query_unit = key_scale / ctx.root, query_scale / ctx.root
        with torch.autocast(q.device.type, enabled=False):
            for index, part in enumerate(_batch_parts(q, k)):
                p = ctx.integers[index].float()
                kept = ctx.kept[index] if ctx.kept else None
                # Divided by the row's total here, so that p stays integers.
                g = (grad[part] / ctx.totals[index]).contiguous()  # (b, H, S, D)
                dropped = p if kept is None else p * kept
                grad_v[part] = torch.matmul(dropped.transpose(-1, -2), g)
                # The sum over the keys of p * grad_p is that over the features of output * grad.
                delta = (g * output[part]).sum(-1, keepdim=True)
                grad_p = torch.matmul(g.mul_(value_scale), v[part].transpose(-1, -2))
                if kept is not None:
                    grad_p.mul_(kept)
                grad_s = grad_p.sub_(delta).mul_(p)
                torch.mul(torch.matmul(grad_s, k[part]), key_unit, out=grad_q[part])
                torch.mul(torch.matmul(grad_s.transpose(-1, -2), q[part]), query_unit, out=grad_k[part])
        return grad_q, grad_k, grad_v, None, None, None, None, None, None, None


def _batch_parts(q: Tensor, k: Tensor) -> list[slice]:
    """Cuts a batch into parts whose scores are few enough."""
    batch, heads, queries, _ = q.shape
    scores = heads * queries * k.shape[2]
    step = batch if q.device.type != "cpu" else max(1, _PART // scores)
    return [slice(start, start + step) for start in range(0, batch, step)]
