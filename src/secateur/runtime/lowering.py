"""A checkpoint as the semantic steps from which the engine builds its plan; kernels are chosen there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint import BF16, Checkpoint, ModelShape
from secateur.checkpoint import names as keys
from secateur.checkpoint.names import LayerNames, tensor_name
from secateur.checkpoint.parts import expected_linears

__all__ = ["lower"]

Step = dict[str, Any]
Tensors = Mapping[str, NDArray[Any]]


def lower(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describes a checkpoint to the engine.

    Args:
        checkpoint: A checked checkpoint.

    Returns:
        `hidden_size`, `num_heads`, `max_tokens`, `norm_eps` and `steps`: embed; for each layer that runs
        query, key, value, attention, attn_out, add_norm, ffn_in, ffn_out, add_norm; head. Arrays are the
        checkpoint's, and layers that are shared are the same objects each time.
        A linear step has `weight` (int8, float32 or, as uint16, bfloat16 [N, K]), or `values` and `mask`
        (int8 [B, 4] with a bit a block, or float32 or bfloat16 [B] with a bit a weight), and `bias`. What is
        not int8 lacks the entries that quantize: `scale` of a linear step, with `input_scale` and
        `input_zero_point`, or `dynamic` (True) where the input takes its scale token by token; `query_scale`,
        `query_zero_point`, `key_scale` and `value_scale` of an attention step; `<kind>_scale` of a table.
        The embed step has a table for each kind that the family knows and, where the layers are wider than
        the tables, `projection_weight` [H, E] and `projection_bias` [H], which follow the norm.
        The head step has `rows` (`first`, `every`, `mean`, `max`), `normalize`, and of these what the model
        has, in this order: `dense_weight`, `dense_bias`, `dense_activation`, `gamma`, `beta`, `weight`
        (float32, or int8 with `weight_scale`), `bias`.
    """
    shape, tensors = checkpoint.shape, checkpoint.tensors
    sizes = {module: (rows, columns) for _, module, rows, columns in expected_linears(shape)}
    stored = {names: _layer(tensors, names, shape, sizes) for names in shape.stored_layers}
    layers = [step for names in shape.layers for step in stored[names]]
    return {
        "hidden_size": shape.hidden_size,
        "num_heads": shape.num_heads,
        "max_tokens": shape.max_positions,
        "norm_eps": shape.norm_eps,
        "steps": [_embed(tensors, shape), *layers, _head(tensors, shape)],
    }


def _embed(tensors: Tensors, shape: ModelShape) -> Step:
    names = shape.embeddings
    step: Step = {"op": "embed"}
    for kind, module in names.tables.items():
        first = shape.first_position if kind == "position" else 0
        step[kind] = tensors[tensor_name(module, keys.WEIGHT)][first:]
        scale = tensors.get(tensor_name(module, keys.WEIGHT_SCALE))
        if scale is not None:
            step[f"{kind}_scale"] = scale[first:]
    step["gamma"] = tensors[tensor_name(names.norm, keys.WEIGHT)].reshape(-1)
    step["beta"] = tensors[tensor_name(names.norm, keys.BIAS)].reshape(-1)
    if names.projection is not None:
        step["projection_weight"] = tensors[tensor_name(names.projection, keys.WEIGHT)]
        step["projection_bias"] = tensors[tensor_name(names.projection, keys.BIAS)]
    return step


def _layer(
    tensors: Tensors, names: LayerNames, shape: ModelShape, sizes: Mapping[str, tuple[int, int]]
) -> list[Step]:
    linears = {role: _linear(tensors, role, module, sizes[module]) for role, module in names.linears.items()}
    linears["ffn_in"]["activation"] = shape.activation
    return [
        linears["query"],
        linears["key"],
        linears["value"],
        _attention(tensors, names, shape.num_heads, shape.head_dim),
        linears["attn_out"],
        _add_norm(tensors, names.attn_norm),
        linears["ffn_in"],
        linears["ffn_out"],
        _add_norm(tensors, names.ffn_norm),
    ]


def _linear(tensors: Tensors, role: str, module: str, size: tuple[int, int]) -> Step:
    step: Step = {"op": "linear", "name": module, "role": role, "n": size[0], "k": size[1]}
    dense = tensors.get(tensor_name(module, keys.WEIGHT))
    if dense is not None:
        step |= {"weight": _bits(dense)}
    else:
        values = tensors[tensor_name(module, keys.WEIGHT_VALUES)]
        step |= {"values": _bits(values), "mask": tensors[tensor_name(module, keys.WEIGHT_MASK)]}
        order = tensors.get(tensor_name(module, keys.INPUT_ORDER))
        if order is not None:
            step["order"] = order
    step["bias"] = tensors[tensor_name(module, keys.BIAS)]
    scale = tensors.get(tensor_name(module, keys.WEIGHT_SCALE))
    if scale is None:
        return step
    if tensor_name(module, keys.INPUT_SCALE) not in tensors:
        return step | {"scale": scale, "dynamic": True}
    return step | {
        "scale": scale,
        "input_scale": _number(tensors, module, keys.INPUT_SCALE),
        "input_zero_point": int(_number(tensors, module, keys.INPUT_ZERO_POINT)),
    }


def _bits(weight: NDArray[Any]) -> NDArray[Any]:
    """Returns bfloat16 as the uint16 that the engine takes for it, and other types as they are."""
    return weight.view(np.uint16) if weight.dtype == BF16 else weight


def _attention(tensors: Tensors, names: LayerNames, num_heads: int, head_dim: int) -> Step:
    step: Step = {
        "op": "attention",
        "name": names.attention,
        "num_heads": num_heads,
        "head_dim": head_dim,
    }
    if tensor_name(names.attention, keys.QUERY_SCALE) not in tensors:
        return step
    return step | {
        "query_scale": _number(tensors, names.attention, keys.QUERY_SCALE),
        "query_zero_point": int(_number(tensors, names.attention, keys.QUERY_ZERO_POINT)),
        "key_scale": _number(tensors, names.attention, keys.KEY_SCALE),
        "value_scale": _number(tensors, names.attention, keys.VALUE_SCALE),
    }


def _add_norm(tensors: Tensors, module: str) -> Step:
    return {
        "op": "add_norm",
        "name": module,
        "gamma": tensors[tensor_name(module, keys.WEIGHT)],
        "beta": tensors[tensor_name(module, keys.BIAS)],
    }


def _head(tensors: Tensors, shape: ModelShape) -> Step:
    head = shape.head
    step: Step = {"op": "head", "rows": _rows(shape), "normalize": shape.normalize}
    if head.dense is not None:
        step["dense_weight"] = tensors[tensor_name(head.dense, keys.WEIGHT)]
        step["dense_bias"] = tensors[tensor_name(head.dense, keys.BIAS)]
        step["dense_activation"] = shape.activation if head.activation == "hidden" else head.activation
    if head.norm is not None:
        step["gamma"] = tensors[tensor_name(head.norm, keys.WEIGHT)]
        step["beta"] = tensors[tensor_name(head.norm, keys.BIAS)]
    if head.output is not None:
        owner = head.output if head.decoder is None else shape.embeddings.word
        step["weight"] = tensors[tensor_name(owner, keys.WEIGHT)]
        scale = tensors.get(tensor_name(owner, keys.WEIGHT_SCALE))
        if scale is not None:
            step["weight_scale"] = scale
        step["bias"] = tensors[tensor_name(head.output, keys.BIAS)]
    return step


def _rows(shape: ModelShape) -> str:
    """Returns which rows of the last layer the head reads, or how it makes one of them."""
    if shape.pooling is not None:
        return "first" if shape.pooling == "cls" else shape.pooling
    return "first" if shape.head.head == "sequence" else "every"


def _number(tensors: Tensors, module: str, suffix: str) -> float:
    return float(tensors[tensor_name(module, suffix)][0])
