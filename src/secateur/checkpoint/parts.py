"""What of a checkpoint is int8, bfloat16 or float32, and which config says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint import names
from secateur.checkpoint.bfloat16 import BF16, type_name
from secateur.checkpoint.config import QuantizationConfig
from secateur.checkpoint.shape import ModelShape

__all__ = [
    "ATTENTION_SUFFIXES",
    "RANGE_SUFFIXES",
    "Int8Parts",
    "activations_entry",
    "attention_entry",
    "expected_linears",
    "find_int8_parts",
    "quantization_of",
    "stored_names",
    "weights_entry",
]

Tensors = Mapping[str, NDArray[Any]]

RANGE_SUFFIXES = (names.INPUT_SCALE, names.INPUT_ZERO_POINT)
ATTENTION_SUFFIXES = (names.QUERY_SCALE, names.QUERY_ZERO_POINT, names.KEY_SCALE, names.VALUE_SCALE)


def expected_linears(shape: ModelShape) -> Iterable[tuple[str, str, int, int]]:
    """Yields `(role, module, out_features, in_features)` of every linear layer that is stored, in order."""
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    sizes = {"ffn_in": (intermediate, hidden), "ffn_out": (hidden, intermediate)}
    for layer in shape.stored_layers:
        for role, module in layer.linears.items():
            yield role, module, *sizes.get(role, (hidden, hidden))


@dataclass(frozen=True)
class Int8Parts:
    """What of a checkpoint is int8, and which linear layers bfloat16; the rest is float32.

    Attributes:
        linears: Modules of the encoder's linear layers.
        attention: Modules of the attentions.
        embeddings: The tables.
        bf16: Modules of the linear layers that are bfloat16.
        dynamic: Those of `linears` whose input takes its scale token by token.
    """

    linears: frozenset[str]
    attention: frozenset[str]
    embeddings: bool
    bf16: frozenset[str] = frozenset()
    dynamic: frozenset[str] = frozenset()


def find_int8_parts(
    tensors: Tensors, shape: ModelShape, quantization: QuantizationConfig | None = None
) -> Int8Parts:
    """Finds what is int8, bfloat16 and float32.

    Args:
        tensors: All tensors of the file, by name.
        shape: The sizes in config.json.
        quantization: What config.json announces. It says what a linear layer without a weight should have
            been, and decides on attentions, tables and, where it says that they are all alike, on inputs.
            None for a config that is still to be made.
    """
    announced = quantization or QuantizationConfig(
        format_version=4, weights="mixed", activations="mixed", attention="mixed"
    )

    def type_of(module: str) -> str:
        for suffix in (names.WEIGHT_VALUES, names.WEIGHT):
            stored = tensors.get(names.tensor_name(module, suffix))
            if stored is not None and stored.dtype in (np.int8, np.float32, BF16):
                return type_name(stored.dtype)
        if announced.weights == "mixed":
            return "int8" if names.tensor_name(module, names.WEIGHT_SCALE) in tensors else "float32"
        return {"s8_per_row": "int8", "bf16": "bfloat16"}.get(announced.weights, "float32")

    attention = [layer.attention for layer in shape.stored_layers]
    if announced.attention != "int8":
        mixed = announced.attention == "mixed"
        attention = [
            module for module in attention if mixed and stored_names(tensors, module, ATTENTION_SUFFIXES)
        ]
    word = shape.embeddings.word
    types = {module: type_of(module) for _, module, _, _ in expected_linears(shape)}
    linears = frozenset(module for module, kind in types.items() if kind == "int8")
    dynamic: frozenset[str] = frozenset()
    if announced.activations == "s8_dynamic":
        dynamic = linears
    elif announced.activations != "u8_static" and announced.format_version >= 4:
        dynamic = frozenset(module for module in linears if not stored_names(tensors, module, RANGE_SUFFIXES))
    return Int8Parts(
        linears,
        frozenset(attention),
        type_of(word) == "int8" if quantization is None else quantization.embeddings == "s8_per_row",
        frozenset(module for module, kind in types.items() if kind == "bfloat16"),
        dynamic,
    )


def quantization_of(tensors: Tensors, shape: ModelShape, sparsity: float) -> QuantizationConfig:
    """Returns the `quantization_config` that tensors need, of the lowest format version that has it.

    Args:
        tensors: All tensors of a new checkpoint, by name.
        shape: The sizes in config.json.
        sparsity: Fraction of zeros over the pruned matrices.
    """
    parts = find_int8_parts(tensors, shape)
    modules = {module for _, module, _, _ in expected_linears(shape)}
    sparse = {module for module in modules if names.tensor_name(module, names.WEIGHT_VALUES) in tensors}
    weights = weights_entry(parts, len(modules))
    attention = attention_entry(parts, len(shape.stored_layers))
    all_int8 = weights == "s8_per_row" and attention == "int8" and parts.embeddings
    ordered = any(names.tensor_name(module, names.INPUT_ORDER) in tensors for module in modules)
    if parts.dynamic:
        version = 4
    elif shape.needs_version_3 or parts.bf16:
        version = 3
    else:
        version = 1 if all_int8 and not ordered else 2
    return QuantizationConfig.model_validate(
        {
            "format_version": version,
            "pattern": "unstructured" if sparse - parts.linears else "block4" if sparse else "dense",
            "sparsity": sparsity,
            "weights": weights,
            "activations": activations_entry(weights, parts),
            "embeddings": "s8_per_row" if parts.embeddings else "f32",
            "attention": attention,
        }
    )


def weights_entry(parts: Int8Parts, total: int) -> str:
    """Returns what `weights` must say of `total` linear layers."""
    if parts.bf16:
        return "bf16" if len(parts.bf16) == total else "mixed"
    return _entry(len(parts.linears), total, "s8_per_row")


def activations_entry(weights: str, parts: Int8Parts) -> str:
    """Returns what `activations` must say beside `weights`."""
    if weights != "s8_per_row":
        return weights
    return "u8_static" if not parts.dynamic else "mixed" if parts.linears - parts.dynamic else "s8_dynamic"


def attention_entry(parts: Int8Parts, layers: int) -> str:
    """Returns what `attention` must say of that many stored layers."""
    return _entry(len(parts.attention), layers, "int8")


def _entry(int8: int, total: int, all_int8: str) -> str:
    return all_int8 if int8 == total else "mixed" if int8 else "f32"


def stored_names(tensors: Tensors, module: str, suffixes: Iterable[str]) -> list[str]:
    """Returns those names of a module's tensors that the file holds."""
    wanted = (names.tensor_name(module, suffix) for suffix in suffixes)
    return [name for name in wanted if name in tensors]
