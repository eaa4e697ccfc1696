"""A checkpoint as the semantic steps from which the engine builds its plan; kernels are chosen there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from secateur.checkpoint import Checkpoint, embedding_names, head_names, linear_names
from secateur.checkpoint import names as keys
from secateur.checkpoint.layout import expected_linears
from secateur.checkpoint.names import LayerNames, tensor_name

__all__ = ["lower"]

Step = dict[str, Any]
Tensors = Mapping[str, NDArray[Any]]


def lower(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describes a checkpoint to the engine.

    Args:
        checkpoint: A checked checkpoint.

    Returns:
        `hidden_size`, `num_heads`, `max_tokens`, `norm_eps` and `steps`: embed; for each layer query, key,
        value, attention, attn_out, add_norm, ffn_in, ffn_out, add_norm; head. Arrays are the checkpoint's.
        A linear step has `weight` (int8 or float32 [N, K]), or `values` and `mask` (int8 [B, 4] with a bit a
        block, or float32 [B] with a bit a weight), and `bias`. What is float32 lacks the entries that
        quantize: `scale`, `input_scale` and `input_zero_point` of a linear step, `query_scale`,
        `query_zero_point`, `key_scale` and `value_scale` of an attention step, `<kind>_scale` of a table.
    """
    shape, tensors = checkpoint.shape, checkpoint.tensors
    steps = [_embed(tensors, shape.prefix)]
    sizes = {module: (rows, columns) for _, module, rows, columns in expected_linears(shape)}
    for layer in range(shape.num_layers):
        names = linear_names(layer, shape.prefix)
        linears = {
            role: _linear(tensors, role, module, sizes[module]) for role, module in names.linears.items()
        }
        linears["ffn_in"]["activation"] = shape.activation
        steps += [
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
    steps.append(_head(tensors, shape.prefix))
    return {
        "hidden_size": shape.hidden_size,
        "num_heads": shape.num_heads,
        "max_tokens": shape.max_positions,
        "norm_eps": shape.norm_eps,
        "steps": steps,
    }


def _embed(tensors: Tensors, prefix: str) -> Step:
    names = embedding_names(prefix)
    step: Step = {"op": "embed"}
    for kind, module in names.tables.items():
        step[kind] = tensors[tensor_name(module, keys.WEIGHT)]
        scale = tensors.get(tensor_name(module, keys.WEIGHT_SCALE))
        if scale is not None:
            step[f"{kind}_scale"] = scale
    step["gamma"] = tensors[tensor_name(names.norm, keys.WEIGHT)].reshape(-1)
    step["beta"] = tensors[tensor_name(names.norm, keys.BIAS)].reshape(-1)
    return step


def _linear(tensors: Tensors, role: str, module: str, size: tuple[int, int]) -> Step:
    step: Step = {"op": "linear", "name": module, "role": role, "n": size[0], "k": size[1]}
    dense = tensors.get(tensor_name(module, keys.WEIGHT))
    if dense is not None:
        step |= {"weight": dense}
    else:
        values = tensors[tensor_name(module, keys.WEIGHT_VALUES)]
        step |= {"values": values, "mask": tensors[tensor_name(module, keys.WEIGHT_MASK)]}
        order = tensors.get(tensor_name(module, keys.INPUT_ORDER))
        if order is not None:
            step["order"] = order
    step["bias"] = tensors[tensor_name(module, keys.BIAS)]
    scale = tensors.get(tensor_name(module, keys.WEIGHT_SCALE))
    if scale is None:
        return step
    return step | {
        "scale": scale,
        "input_scale": _number(tensors, module, keys.INPUT_SCALE),
        "input_zero_point": int(_number(tensors, module, keys.INPUT_ZERO_POINT)),
    }


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


def _head(tensors: Tensors, prefix: str) -> Step:
    names = head_names(prefix)
    return {
        "op": "head",
        "rows": "first",
        "dense_weight": tensors[tensor_name(names.pooler, keys.WEIGHT)],
        "dense_bias": tensors[tensor_name(names.pooler, keys.BIAS)],
        "dense_activation": "tanh",
        "weight": tensors[tensor_name(names.classifier, keys.WEIGHT)],
        "bias": tensors[tensor_name(names.classifier, keys.BIAS)],
    }


def _number(tensors: Tensors, module: str, suffix: str) -> float:
    return float(tensors[tensor_name(module, suffix)][0])
