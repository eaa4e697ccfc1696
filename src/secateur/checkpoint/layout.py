"""Which tensors a checkpoint must hold, and whether it does. Arrays are checked whole, for speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.affine import S8_MIN, SMALLEST_SCALE
from secateur.checkpoint import names
from secateur.checkpoint.codec import BLOCK, count_mask_bits, mask_row_bytes
from secateur.checkpoint.config import ModelShape, QuantizationConfig

__all__ = ["expected_linears", "expected_tensors", "layout_problems"]

Tensors = Mapping[str, NDArray[Any]]


class _Spec(NamedTuple):
    dtype: str
    shape: tuple[int, ...]


def expected_linears(shape: ModelShape) -> Iterable[tuple[str, str, int, int]]:
    """Yields `(role, module, out_features, in_features)` of every quantized linear, in running order."""
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    sizes = {"ffn_in": (intermediate, hidden), "ffn_out": (hidden, intermediate)}
    for layer in range(shape.num_layers):
        for role, module in names.linear_names(layer, shape.prefix).linears.items():
            yield role, module, *sizes.get(role, (hidden, hidden))


def expected_tensors(shape: ModelShape, num_labels: int) -> dict[str, _Spec]:
    """Returns dtype and shape of every tensor but the linear weights, which have two forms."""
    hidden = (shape.hidden_size,)
    specs: dict[str, _Spec] = {}

    def add(module: str, suffix: str, dtype: str, size: tuple[int, ...]) -> None:
        specs[names.tensor_name(module, suffix)] = _Spec(dtype, size)

    embeddings = names.embedding_names(shape.prefix)
    rows = {"word": shape.vocab_size, "position": shape.max_positions, "token_type": shape.num_token_types}
    for kind, module in embeddings.tables.items():
        add(module, names.WEIGHT, "int8", (rows[kind], shape.hidden_size))
        add(module, names.WEIGHT_SCALE, "float32", (rows[kind],))
    for suffix in (names.WEIGHT, names.BIAS):  # the guard: two dimensions where transformers expects one
        add(embeddings.norm, suffix, "float32", (1, shape.hidden_size))
    for _, module, out_features, _ in expected_linears(shape):
        add(module, names.WEIGHT_SCALE, "float32", (out_features,))
        add(module, names.BIAS, "float32", (out_features,))
        add(module, names.INPUT_SCALE, "float32", (1,))
        add(module, names.INPUT_ZERO_POINT, "uint8", (1,))
    for layer in range(shape.num_layers):
        modules = names.linear_names(layer, shape.prefix)
        for suffix in (names.QUERY_SCALE, names.KEY_SCALE, names.VALUE_SCALE):
            add(modules.attention, suffix, "float32", (1,))
        add(modules.attention, names.QUERY_ZERO_POINT, "uint8", (1,))
        for norm in (modules.attn_norm, modules.ffn_norm):
            add(norm, names.WEIGHT, "float32", hidden)
            add(norm, names.BIAS, "float32", hidden)
    head = names.head_names(shape.prefix)
    add(head.pooler, names.WEIGHT, "float32", hidden * 2)
    add(head.pooler, names.BIAS, "float32", hidden)
    add(head.classifier, names.WEIGHT, "float32", (num_labels, shape.hidden_size))
    add(head.classifier, names.BIAS, "float32", (num_labels,))
    return specs


def layout_problems(
    tensors: Tensors, shape: ModelShape, quantization: QuantizationConfig, num_labels: int
) -> list[str]:
    """Finds everything in which the tensors differ from what the config announces.

    Args:
        tensors: All tensors of the file, by name.
        shape: The sizes in config.json.
        quantization: Its `quantization_config`.
        num_labels: Classes in config.json.

    Returns:
        One clause a problem; empty when the checkpoint is sound.
    """
    problems: list[str] = []
    specs = expected_tensors(shape, num_labels)
    known = set(specs)
    sound = {name for name, spec in specs.items() if _fits(tensors, name, spec, problems)}
    for _, module, out_features, in_features in expected_linears(shape):
        known |= _check_weight(tensors, module, out_features, in_features, problems)
        if quantization.pattern == "dense" and names.tensor_name(module, names.WEIGHT_VALUES) in tensors:
            problems.append(f"{module} has a sparse weight, but quantization_config.pattern is 'dense'")
    for name in sorted(sound):
        _check_values(name, tensors[name], problems)
    for layer in range(shape.num_layers):
        _check_shared_input(tensors, names.linear_names(layer, shape.prefix), sound, problems)
    problems += [f"tensor {name} is not part of the format" for name in sorted(set(tensors) - known)]
    return problems


def _fits(tensors: Tensors, name: str, spec: _Spec, problems: list[str]) -> bool:
    tensor = tensors.get(name)
    if tensor is None:
        problems.append(f"tensor {name} is missing")
    elif tensor.dtype.name != spec.dtype or tensor.shape != spec.shape:
        problems.append(
            f"tensor {name} must be {spec.dtype} {list(spec.shape)}, "
            f"but is {tensor.dtype.name} {list(tensor.shape)}"
        )
    else:
        return True
    return False


def _check_weight(
    tensors: Tensors, module: str, out_features: int, in_features: int, problems: list[str]
) -> set[str]:
    """Checks the weight of one linear layer in whichever form it has; returns the names that belong to it."""
    dense = names.tensor_name(module, names.WEIGHT)
    values_name = names.tensor_name(module, names.WEIGHT_VALUES)
    mask_name = names.tensor_name(module, names.WEIGHT_MASK)
    belonging = {dense, values_name, mask_name}
    if values_name not in tensors and mask_name not in tensors:
        if _fits(tensors, dense, _Spec("int8", (out_features, in_features)), problems):
            _check_values(dense, tensors[dense], problems)
        return belonging
    if dense in tensors:
        problems.append(f"{module} has both a dense and a sparse weight")
        return belonging
    if in_features % BLOCK:
        problems.append(f"{module} has a sparse weight, but its {in_features} inputs are not a multiple of 4")
        return belonging
    if not _fits(tensors, mask_name, _Spec("uint8", (out_features, mask_row_bytes(in_features))), problems):
        return belonging
    mask = tensors[mask_name]
    kept = count_mask_bits(mask)
    padding_from = in_features // BLOCK % 8
    if padding_from and mask.size and bool((mask[:, -1] >> padding_from).any()):
        problems.append(f"tensor {mask_name} has padding bits that are not 0")
    elif values_name in tensors and tensors[values_name].shape[:1] != (kept,):
        problems.append(f"tensor {mask_name} keeps {kept} blocks, but {values_name} has another number")
    elif _fits(tensors, values_name, _Spec("int8", (kept, BLOCK)), problems):
        _check_values(values_name, tensors[values_name], problems)
    return belonging


def _check_values(name: str, tensor: NDArray[Any], problems: list[str]) -> None:
    if tensor.size == 0:
        return
    if tensor.dtype == np.int8:
        if int(tensor.min()) < S8_MIN:
            problems.append(f"tensor {name} holds -128, which the format does not use")
    elif tensor.dtype == np.float32:
        if not bool(np.isfinite(tensor).all()):
            problems.append(f"tensor {name} holds NaN or infinity")
        elif name.endswith("_scale") and float(tensor.min()) < SMALLEST_SCALE:
            problems.append(f"tensor {name} holds a scale that is not a positive normal number")


def _check_shared_input(
    tensors: Tensors, layer: names.LayerNames, sound: set[str], problems: list[str]
) -> None:
    """Query, key and value read the same quantized tensor, so they must agree on how it is quantized."""
    for suffix in (names.INPUT_SCALE, names.INPUT_ZERO_POINT):
        keys = [names.tensor_name(module, suffix) for module in (layer.query, layer.key, layer.value)]
        if sound.issuperset(keys) and len({tensors[key].tobytes() for key in keys}) > 1:
            problems.append(f"query, key and value of {layer.attention} have different values of {suffix}")
