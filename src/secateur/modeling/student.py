"""Makes a smaller model of a model: fewer layers, fewer heads, narrower."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.checkpoint.families import FAMILIES
from secateur.errors import UnsupportedError
from secateur.modeling.structure import EncoderBlock, Projection, find_blocks, find_module
from secateur.modeling.surgery import half_depth_layers, keep_layers_, num_passes, spread_layers

__all__ = ["build_student", "layers_to_keep"]

_CHANNELS = 4  # the engine's kernels take that many of a head at once


def layers_to_keep(model: nn.Module, layers: int | str | Sequence[int] | None) -> list[int] | None:
    """Returns the numbers of the layers that a student keeps; None keeps all.

    Args:
        model: A live model of a supported family.
        layers: How many, spread from the first to the last; `half`; their numbers; or None.

    Raises:
        UnsupportedError: The model has not so many.
    """
    if layers is None:
        return None
    if layers == "half":
        return half_depth_layers(num_passes(model))
    if isinstance(layers, int):
        return spread_layers(num_passes(model), layers)
    return [int(layer) for layer in layers]


def build_student(
    model: Any,
    *,
    layers: int | str | Sequence[int] | None = None,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    heads: int | None = None,
    weights: Literal["teacher", "random"] = "teacher",
) -> Any:
    """Makes a smaller model with the same head; the model itself stays as it is.

    Args:
        model: A live model of a supported family, without masks or quantizers.
        layers: See `layers_to_keep`.
        hidden_size: Width of the hidden states; None keeps it.
        intermediate_size: Neurons of each feed-forward part; None keeps them.
        heads: Attention heads of a layer; None keeps them.
        weights: `teacher` cuts them out of the model's: the hidden channels that the layers read most, the
            neurons, heads and channels of heads with the largest weights; `random` draws all of them from
            PyTorch's random numbers, as transformers start a model.

    Returns:
        The student in evaluation mode, with a config of its own.

    Raises:
        UnsupportedError: The sizes do not fit each other, or what should be cut out is not there.
        StructureError: The numbers of the layers do not fit the model.

    Source:
        Sanh et al., "DistilBERT" (2019), section 3, for the layers. Jiao et al., "TinyBERT" (2020), start
        narrower students at random and teach them on plain text; cutting is ours, a start for fewer texts.
    """
    student = copy.deepcopy(model)
    if not any(parameter.requires_grad for parameter in student.parameters()):
        student.requires_grad_(True)  # the model is a teacher already, which nothing shall train
    kept = layers_to_keep(model, layers)
    if kept is not None:
        keep_layers_(student, kept)
    config = _narrowed(student, hidden_size, intermediate_size, heads)
    same = config.to_dict() == student.config.to_dict()
    if same and weights == "teacher":
        return student.eval()
    fresh = type(student)(config)
    if weights == "teacher":
        _check_smaller(_Sizes.of(find_blocks(student)[0]), _Sizes.of(find_blocks(fresh)[0]))
        fresh.load_state_dict(_cut(student, fresh))
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            fresh.get_parameter(name).requires_grad_(False)
    return fresh.to(next(student.parameters()).device).eval()


@dataclass(frozen=True)
class _Sizes:
    """Sizes of one layer."""

    hidden: int
    intermediate: int
    heads: int
    head_dim: int

    @classmethod
    def of(cls, block: EncoderBlock) -> _Sizes:
        return cls(block.hidden_size, block.intermediate_size, block.num_heads, block.head_dim)


def _narrowed(model: Any, hidden_size: int | None, intermediate_size: int | None, heads: int | None) -> Any:
    """Returns the config of the student."""
    config = copy.deepcopy(model.config)
    family = FAMILIES[config.model_type]
    now = _Sizes.of(find_blocks(model)[0])
    width, count = hidden_size or now.hidden, heads or now.heads
    if (hidden_size, heads) != (None, None) and width % (_CHANNELS * count):
        near = max(1, round(width / (_CHANNELS * count))) * _CHANNELS * count
        raise UnsupportedError(
            f"A student of width {width} with {count} heads cannot be made, because a head has a multiple of "
            f"{_CHANNELS} channels: give hidden_size {near}, or other heads."
        )
    if width != now.hidden and getattr(config, "embedding_size", None) == now.hidden:
        config.embedding_size = width
    sizes = {
        "hidden_size": width,
        "intermediate_size": intermediate_size or now.intermediate,
        "num_attention_heads": count,
    }
    for name, size in sizes.items():
        setattr(config, family.key(name), size)
    return config


def _check_smaller(whole: _Sizes, part: _Sizes) -> None:
    names = {"hidden": "hidden_size", "intermediate": "intermediate_size", "heads": "heads"}
    for name, word in {**names, "head_dim": "the channels of a head"}.items():
        has, wants = getattr(whole, name), getattr(part, name)
        if wants > has:
            raise UnsupportedError(
                f"The student's {word} would be {wants}, more than the {has} of the model, from which "
                "nothing can be cut then: make it smaller, or give weights: random."
            )


def _cut(whole: nn.Module, part: nn.Module) -> dict[str, Tensor]:
    """Returns the weights of the student, cut out of the model's."""
    old, new = whole.state_dict(), part.state_dict()
    channels = _top(_read_strength(whole), find_blocks(part)[0].hidden_size)
    rules: dict[str, tuple[Tensor, Tensor, float]] = {}  # module: rows, columns, factor
    for block, small in zip(find_blocks(whole), find_blocks(part), strict=True):
        rules |= _block_rules(block, small, channels)
    result = {}
    for name, target in new.items():
        source = old[name]
        owner, _, kind = name.rpartition(".")
        if owner in rules and kind in ("weight", "bias"):
            rows, columns, factor = rules[owner]
            source = source[rows][:, columns] if source.dim() == 2 else source[rows]
            source = source * factor
        else:
            for axis, (size, wanted) in enumerate(zip(source.shape, target.shape, strict=True)):
                if size != wanted:
                    source = source.index_select(axis, channels)
        result[name] = source.clone()
    return result


def _block_rules(
    block: EncoderBlock, small: EncoderBlock, channels: Tensor
) -> Mapping[str, tuple[Tensor, Tensor, float]]:
    """Returns for each linear layer of a block the rows and columns to keep, and a factor."""
    heads, size = small.num_heads, small.head_dim
    q, k, v, out = (
        _by_head(projection, block, transposed)
        for projection, transposed in (
            (block.q, False),
            (block.k, False),
            (block.v, False),
            (block.attn_out, True),
        )
    )  # (heads, head_dim) squared norms
    chosen = _top((q * k).sum(-1) * (v * out).sum(-1), heads)
    matching = _channels_of_heads(q * k, chosen, size)
    carrying = _channels_of_heads(v * out, chosen, size)
    neurons = _top(
        _squares(block.ffn_in.linear.weight, 1) * _squares(block.ffn_out.linear.weight, 0),
        small.intermediate_size,
    )
    matched = math.sqrt(size / block.head_dim)  # scores keep their scale
    return {
        block.q.name: (matching, channels, matched),
        block.k.name: (matching, channels, 1.0),
        block.v.name: (carrying, channels, 1.0),
        block.attn_out.name: (channels, carrying, 1.0),
        block.ffn_in.name: (neurons, channels, 1.0),
        block.ffn_out.name: (channels, neurons, 1.0),
    }


def _by_head(projection: Projection, block: EncoderBlock, transposed: bool) -> Tensor:
    return _squares(projection.linear.weight, 0 if transposed else 1).unflatten(0, (block.num_heads, -1))


def _channels_of_heads(strength: Tensor, heads: Tensor, size: int) -> Tensor:
    """Returns the numbers of the strongest channels of some heads, head by head."""
    width = strength.shape[1]
    return torch.cat([_top(strength[head], size) + int(head) * width for head in heads])


def _read_strength(model: nn.Module) -> Tensor:
    """Returns [H]: how strongly the layers read each hidden channel."""
    blocks = find_blocks(model)
    name = FAMILIES[model.config.model_type].embedding_norm
    prefix = FAMILIES[model.config.model_type].prefix
    first = find_module(model, f"{prefix}.{name}")
    total = torch.zeros(blocks[0].hidden_size, device=blocks[0].ffn_norm.weight.device)
    before = first if getattr(first, "weight", total).shape == total.shape else None
    for block in blocks:
        scale = 1.0 if before is None else before.weight.detach().square()
        for projection in (block.q, block.k, block.v):
            total = total + scale * _squares(projection.linear.weight, 0)
        total = total + block.attn_norm.weight.detach().square() * _squares(block.ffn_in.linear.weight, 0)
        before = block.ffn_norm
    return total


def _squares(weight: Tensor, axis: int) -> Tensor:
    return weight.detach().square().sum(axis)


def _top(strength: Tensor, count: int) -> Tensor:
    """Returns the places of the largest values, ascending; of equal ones the first."""
    order = torch.argsort(strength, descending=True, stable=True)
    return order[:count].sort().values
