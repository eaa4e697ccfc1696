"""Which tensors a checkpoint must hold, and whether it does. Arrays are checked whole, for speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.affine import S8_MIN, SMALLEST_SCALE
from secateur.checkpoint import names
from secateur.checkpoint.bfloat16 import BF16, is_sound_bf16, type_name
from secateur.checkpoint.codec import BLOCK, count_mask_bits, mask_row_bytes
from secateur.checkpoint.column_order import order_problems
from secateur.checkpoint.config import QuantizationConfig
from secateur.checkpoint.parts import (
    ATTENTION_SUFFIXES,
    RANGE_SUFFIXES,
    Int8Parts,
    activations_entry,
    attention_entry,
    expected_linears,
    find_int8_parts,
    stored_names,
    weights_entry,
)
from secateur.checkpoint.shape import ModelShape

__all__ = ["layout_problems", "part_of"]

Tensors = Mapping[str, NDArray[Any]]

_INT8_ONLY = (names.WEIGHT_SCALE, *RANGE_SUFFIXES)


class _Spec(NamedTuple):
    dtype: str
    shape: tuple[int, ...]


class _Form(NamedTuple):
    """How a matrix of one type is stored where it is sparse."""

    dtype: str
    block: int  # weights along K that a mask bit stands for
    unit: str
    tail: tuple[int, ...]  # of the shape of the values
    patterns: tuple[str, ...]  # of the config that allow it


_INT8 = _Form("int8", BLOCK, "blocks", (BLOCK,), ("block4", "unstructured"))
_FLOAT = _Form("float32", 1, "weights", (), ("unstructured",))
_BF16 = _FLOAT._replace(dtype="bfloat16")


def part_of(tensor: str, shape: ModelShape) -> str:
    """Returns the part of a model that a tensor belongs to: `embeddings`, `encoder` or `head`."""
    module = tensor.rpartition(".")[0]
    embeddings = shape.embeddings
    if module in (*embeddings.tables.values(), embeddings.norm, embeddings.projection):
        return "embeddings"
    return "encoder" if module.startswith(f"{shape.prefix}.{shape.layout.layers}.") else "head"


def expected_tensors(shape: ModelShape, num_labels: int, parts: Int8Parts) -> dict[str, _Spec]:
    """Returns dtype and shape of every tensor but the linear weights, which have two forms."""
    hidden = (shape.hidden_size,)
    specs: dict[str, _Spec] = {}

    def add(module: str, suffix: str, dtype: str, size: tuple[int, ...]) -> None:
        specs[names.tensor_name(module, suffix)] = _Spec(dtype, size)

    embeddings, wide = shape.embeddings, shape.embedding_size
    for kind, module in embeddings.tables.items():
        rows = shape.table_rows[kind]
        add(module, names.WEIGHT, "int8" if parts.embeddings else "float32", (rows, wide))
        if parts.embeddings:
            add(module, names.WEIGHT_SCALE, "float32", (rows,))
    for suffix in (names.WEIGHT, names.BIAS):  # the guard: two dimensions where transformers expects one
        add(embeddings.norm, suffix, "float32", (1, wide))
    if embeddings.projection is not None:
        add(embeddings.projection, names.WEIGHT, "float32", (shape.hidden_size, wide))
        add(embeddings.projection, names.BIAS, "float32", hidden)
    for _, module, out_features, _ in expected_linears(shape):
        add(module, names.BIAS, "float32", (out_features,))
        if module in parts.linears:
            add(module, names.WEIGHT_SCALE, "float32", (out_features,))
        if module in parts.linears - parts.dynamic:
            add(module, names.INPUT_SCALE, "float32", (1,))
            add(module, names.INPUT_ZERO_POINT, "uint8", (1,))
    for modules in shape.stored_layers:
        if modules.attention in parts.attention:
            add(modules.attention, names.QUERY_ZERO_POINT, "uint8", (1,))
            for suffix in (names.QUERY_SCALE, names.KEY_SCALE, names.VALUE_SCALE):
                add(modules.attention, suffix, "float32", (1,))
        for norm in (modules.attn_norm, modules.ffn_norm):
            add(norm, names.WEIGHT, "float32", hidden)
            add(norm, names.BIAS, "float32", hidden)
    head, inner = shape.head, shape.head_size
    if head.dense is not None:
        add(head.dense, names.WEIGHT, "float32", (inner, shape.hidden_size))
        add(head.dense, names.BIAS, "float32", (inner,))
    if head.norm is not None:
        add(head.norm, names.WEIGHT, "float32", (inner,))
        add(head.norm, names.BIAS, "float32", (inner,))
    if head.output is not None:
        outputs = num_labels if shape.num_outputs is None else shape.num_outputs
        add(head.output, names.BIAS, "float32", (outputs,))
        if head.decoder is None:
            add(head.output, names.WEIGHT, "float32", (outputs, inner))
    return specs


def layout_problems(
    tensors: Tensors, shape: ModelShape, quantization: QuantizationConfig, num_labels: int
) -> list[str]:
    """Finds everything in which the tensors differ from what the config announces.

    Args:
        tensors: All tensors of the file, by name.
        shape: The sizes in config.json.
        quantization: Its `quantization_config`.
        num_labels: Names of outputs in config.json.

    Returns:
        One clause a problem; empty when the checkpoint is sound.
    """
    problems: list[str] = []
    if shape.needs_version_3 and quantization.format_version < 3:
        problems.append(
            f"quantization_config.format_version is {quantization.format_version}, "
            f"but {shape.architecture} needs 3"
        )
    parts = find_int8_parts(tensors, shape, quantization)
    specs = expected_tensors(shape, num_labels, parts)
    known = set(specs)
    sound = {name for name, spec in specs.items() if _fits(tensors, name, spec, problems)}
    for _, module, out_features, in_features in expected_linears(shape):
        form = _INT8 if module in parts.linears else _BF16 if module in parts.bf16 else _FLOAT
        known |= _check_weight(tensors, module, (out_features, in_features), form, problems)
        sparse = names.tensor_name(module, names.WEIGHT_VALUES) in tensors
        if sparse and quantization.pattern not in form.patterns:
            what = "sparse" if quantization.pattern == "dense" else f"sparse {form.dtype}"
            problems.append(
                f"{module} has a {what} weight, but quantization_config.pattern is {quantization.pattern!r}"
            )
    for name in sorted(sound):
        _check_values(name, tensors[name], problems)
    for modules in shape.stored_layers:
        _check_shared_input(tensors, modules, sound, parts, problems)
        if quantization.format_version >= 2:
            known |= {names.tensor_name(m, names.INPUT_ORDER) for m in modules.linears.values()}
            problems += order_problems(tensors, modules, shape, parts.linears)
    known |= _check_leftovers(tensors, shape, parts, problems)
    _check_announced(shape, quantization, parts, problems)
    problems += [f"tensor {name} is not part of the format" for name in sorted(set(tensors) - known)]
    return problems


def _fits(tensors: Tensors, name: str, spec: _Spec, problems: list[str]) -> bool:
    tensor = tensors.get(name)
    if tensor is None:
        problems.append(f"tensor {name} is missing")
    elif type_name(tensor.dtype) != spec.dtype or tensor.shape != spec.shape:
        problems.append(
            f"tensor {name} must be {spec.dtype} {list(spec.shape)}, "
            f"but is {type_name(tensor.dtype)} {list(tensor.shape)}"
        )
    else:
        return True
    return False


def _check_weight(
    tensors: Tensors, module: str, size: tuple[int, int], form: _Form, problems: list[str]
) -> set[str]:
    """Checks the weight of one linear layer in whichever form it has; returns the names that belong to it."""
    dense = names.tensor_name(module, names.WEIGHT)
    values_name = names.tensor_name(module, names.WEIGHT_VALUES)
    mask_name = names.tensor_name(module, names.WEIGHT_MASK)
    belonging = {dense, values_name, mask_name}
    if values_name not in tensors and mask_name not in tensors:
        if _fits(tensors, dense, _Spec(form.dtype, size), problems):
            _check_values(dense, tensors[dense], problems)
        return belonging
    if dense in tensors:
        problems.append(f"{module} has both a dense and a sparse weight")
        return belonging
    out_features, in_features = size
    if values_name in tensors and type_name(tensors[values_name].dtype) != form.dtype:
        problems.append(
            f"tensor {values_name} must be {form.dtype}, but is {type_name(tensors[values_name].dtype)}"
        )
        return belonging
    if in_features % form.block:
        problems.append(f"{module} has a sparse weight, but its {in_features} inputs are not a multiple of 4")
        return belonging
    row_bytes = mask_row_bytes(in_features, form.block)
    if not _fits(tensors, mask_name, _Spec("uint8", (out_features, row_bytes)), problems):
        return belonging
    mask = tensors[mask_name]
    kept = count_mask_bits(mask)
    padding_from = in_features // form.block % 8
    if padding_from and mask.size and bool((mask[:, -1] >> padding_from).any()):
        problems.append(f"tensor {mask_name} has padding bits that are not 0")
    elif values_name in tensors and tensors[values_name].shape[:1] != (kept,):
        problems.append(f"tensor {mask_name} keeps {kept} {form.unit}, but {values_name} has another number")
    elif _fits(tensors, values_name, _Spec(form.dtype, (kept, *form.tail)), problems):
        _check_values(values_name, tensors[values_name], problems)
    return belonging


def _check_values(name: str, tensor: NDArray[Any], problems: list[str]) -> None:
    if tensor.size == 0:
        return
    if tensor.dtype == np.int8:
        if int(tensor.min()) < S8_MIN:
            problems.append(f"tensor {name} holds -128, which the format does not use")
    elif tensor.dtype == BF16:
        finite, large = is_sound_bf16(tensor)
        if not finite:
            problems.append(f"tensor {name} holds NaN or infinity")
        elif not large:
            problems.append(f"tensor {name} holds a bfloat16 below 2^-50 that is not 0")
    elif tensor.dtype == np.float32:
        if not bool(np.isfinite(tensor).all()):
            problems.append(f"tensor {name} holds NaN or infinity")
        elif name.endswith("_scale") and float(tensor.min()) < SMALLEST_SCALE:
            problems.append(f"tensor {name} holds a scale that is not a positive normal number")


def _check_shared_input(
    tensors: Tensors, layer: names.LayerNames, sound: set[str], parts: Int8Parts, problems: list[str]
) -> None:
    """Those of query, key and value that are int8 read one quantized tensor: they must agree on how."""
    heads = parts.linears & {layer.query, layer.key, layer.value}
    if heads & parts.dynamic and heads - parts.dynamic:
        problems.append(
            f"query, key and value of {layer.attention} read one tensor: all of them that are int8 must have "
            f"an input_scale, or none"
        )
    for suffix in (names.INPUT_SCALE, names.INPUT_ZERO_POINT):
        keys = [names.tensor_name(module, suffix) for module in (layer.query, layer.key, layer.value)]
        if len({tensors[key].tobytes() for key in keys if key in sound}) > 1:
            problems.append(f"query, key and value of {layer.attention} have different values of {suffix}")


def _check_leftovers(tensors: Tensors, shape: ModelShape, parts: Int8Parts, problems: list[str]) -> set[str]:
    """Finds scales that no one would read; returns their names."""
    found: set[str] = set()
    for module in sorted(parts.dynamic):
        for name in stored_names(tensors, module, RANGE_SUFFIXES):
            problems.append(
                f"tensor {name} is a static range, but quantization_config.activations is 's8_dynamic'"
            )
            found.add(name)
    suffixes: dict[str, Iterable[str]] = {}
    for modules in shape.stored_layers:
        suffixes |= dict.fromkeys(modules.linears.values(), _INT8_ONLY)
        suffixes[modules.attention] = ATTENTION_SUFFIXES
    if not parts.embeddings:
        suffixes |= dict.fromkeys(shape.embeddings.tables.values(), (names.WEIGHT_SCALE,))
    for module, wanted in suffixes.items():
        if module not in parts.linears and module not in parts.attention:
            for name in stored_names(tensors, module, wanted):
                kind = "bfloat16" if module in parts.bf16 else "float32"
                problems.append(f"tensor {name} quantizes to int8, but {module} is {kind}")
                found.add(name)
    return found


def _check_announced(
    shape: ModelShape, quantization: QuantizationConfig, parts: Int8Parts, problems: list[str]
) -> None:
    """Compares the config with what is there; attentions and tables that it names have been looked for."""
    total = sum(1 for _ in expected_linears(shape))
    layers = len(shape.stored_layers)
    found = f"{len(parts.linears)} of {total} linear layers are int8"
    if parts.bf16:
        found += f" and {len(parts.bf16)} bfloat16"
        if quantization.format_version < 3:
            problems.append(f"{min(parts.bf16)} is bfloat16, which format version 3 is the first to have")
    for entry, expected, what in (
        ("weights", weights_entry(parts, total), found),
        (
            "attention",
            attention_entry(parts, layers),
            f"{len(parts.attention)} of {layers} attentions are int8",
        ),
    ):
        announced = getattr(quantization, entry)
        if announced != expected:
            problems.append(f"quantization_config.{entry} is {announced!r}, but {what}")
    if quantization.weights == "s8_per_row" == weights_entry(parts, total):
        expected = activations_entry("s8_per_row", parts)
        if quantization.activations != expected:
            problems.append(
                f"quantization_config.activations is {quantization.activations!r}, but "
                f"{len(parts.dynamic)} of {total} linear layers are without an input_scale"
            )
