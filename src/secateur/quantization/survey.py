"""What the float model's tensors look like on the calibration texts, before anything is changed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.errors import SecateurError, problem_list
from secateur.modeling.structure import EncoderBlock, find_blocks
from secateur.quantization.calibration import CalibrationTexts, Side

__all__ = ["Surveyed", "survey"]


@dataclass
class Surveyed:
    """One tensor that will be quantized.

    Attributes:
        tensor: Its name, as in a quantizer's messages.
        maxima: [K] float32, the largest magnitude of each channel.
        low: Its smallest value.
        high: Its largest value.
    """

    tensor: str
    maxima: Tensor
    low: float = math.inf
    high: float = -math.inf


def survey(model: nn.Module, texts: CalibrationTexts) -> list[tuple[EncoderBlock, dict[str, Surveyed]]]:
    """Looks at what enters the linear layers and attentions.

    Args:
        model: A live float model in eval mode.
        texts: What it reads.

    Returns:
        For each layer what enters query, key and value together (`attention`), their outputs (`query`, `key`,
        `value`), and what enters `attn_out`, `ffn_in` and `ffn_out`.

    Raises:
        SecateurError: A tensor is NaN or infinite somewhere, or the same everywhere; names each.
    """
    places: list[tuple[nn.Module, Side]] = []
    seen: list[Surveyed] = []
    layers = []
    for block in find_blocks(model):
        attention = f"{block.prefix}.attention"
        tensors: dict[str, tuple[nn.Linear, Side, str]] = {
            "attention": (block.q.linear, "input", f"the input of {attention}"),
            "query": (block.q.linear, "output", f"{attention}.query's output"),
            "key": (block.k.linear, "output", f"{attention}.key's output"),
            "value": (block.v.linear, "output", f"{attention}.value's output"),
            "attn_out": (block.attn_out.linear, "input", f"the input of {block.attn_out.name}"),
            "ffn_in": (block.ffn_in.linear, "input", f"the input of {block.ffn_in.name}"),
            "ffn_out": (block.ffn_out.linear, "input", f"the input of {block.ffn_out.name}"),
        }
        found = {}
        for role, (linear, side, name) in tensors.items():
            width = linear.in_features if side == "input" else linear.out_features
            found[role] = Surveyed(name, torch.zeros(width, device=linear.weight.device))
            places.append((linear, side))
            seen.append(found[role])
        layers.append((block, found))

    def visit(place: int, x: Tensor) -> None:
        one, x = seen[place], x.float()
        one.maxima = torch.maximum(one.maxima, x.abs().amax(0))  # NaN wins
        low, high = x.aminmax()
        one.low, one.high = min(one.low, float(low)), max(one.high, float(high))

    texts.watch(model, places, visit)
    _check(seen)
    return layers


def _check(seen: list[Surveyed]) -> None:
    broken = [one for one in seen if not torch.isfinite(one.maxima).all()]
    if broken:  # what reads it is broken, too: the first one says where to look
        raise SecateurError(
            f"{broken[0].tensor} holds NaN or infinity on the calibration texts: the model has diverged, or "
            "its file is damaged; give another one."
        )
    constant = [f"{one.tensor} is {one.low:g} everywhere" for one in seen if one.low == one.high]
    if constant:
        raise SecateurError(
            problem_list(
                "The calibration texts do not tell what range a tensor needs (check that model and texts are "
                "what you meant)",
                constant,
            )
        )
