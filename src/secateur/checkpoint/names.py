"""Every tensor name of a checkpoint, built from the names of the model family. No other file spells one."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.checkpoint.families import FAMILIES, HeadNames

__all__ = [
    "BIAS",
    "INPUT_ORDER",
    "INPUT_SCALE",
    "INPUT_ZERO_POINT",
    "KEY_SCALE",
    "QUERY_SCALE",
    "QUERY_ZERO_POINT",
    "VALUE_SCALE",
    "WEIGHT",
    "WEIGHT_MASK",
    "WEIGHT_SCALE",
    "WEIGHT_SUFFIXES",
    "WEIGHT_VALUES",
    "EmbeddingNames",
    "HeadNames",
    "LayerNames",
    "embedding_names",
    "head_names",
    "linear_names",
    "tensor_name",
]

WEIGHT = "weight"
WEIGHT_VALUES = "weight_values"
WEIGHT_MASK = "weight_mask"
WEIGHT_SCALE = "weight_scale"
BIAS = "bias"
INPUT_ORDER = "input_order"
INPUT_SCALE = "input_scale"
INPUT_ZERO_POINT = "input_zero_point"
QUERY_SCALE = "query_scale"
QUERY_ZERO_POINT = "query_zero_point"
KEY_SCALE = "key_scale"
VALUE_SCALE = "value_scale"

# What the weight of one linear layer may consist of.
WEIGHT_SUFFIXES = (WEIGHT, WEIGHT_VALUES, WEIGHT_MASK, INPUT_ORDER)


def tensor_name(module: str, suffix: str) -> str:
    """Returns the name of one tensor of a module, for example `classifier.bias`."""
    return f"{module}.{suffix}"


@dataclass(frozen=True)
class LayerNames:
    """The modules of one encoder layer; `attention` carries the scales of query, key and value."""

    query: str
    key: str
    value: str
    attn_out: str
    ffn_in: str
    ffn_out: str
    attention: str
    attn_norm: str
    ffn_norm: str

    @property
    def linears(self) -> dict[str, str]:
        """The six pruned and quantized matrices, role to module, in the order they run."""
        roles = ("query", "key", "value", "attn_out", "ffn_in", "ffn_out")
        return {role: getattr(self, role) for role in roles}


@dataclass(frozen=True)
class EmbeddingNames:
    """The modules that turn ids into the first hidden states; some families lack some."""

    word: str
    position: str
    token_type: str | None
    norm: str
    projection: str | None

    @property
    def tables(self) -> dict[str, str]:
        """The tables, kind to module."""
        found = {"word": self.word, "position": self.position, "token_type": self.token_type}
        return {kind: module for kind, module in found.items() if module is not None}


def linear_names(layer: int, family: str = "bert", layers_per_group: int = 1) -> LayerNames:
    """Returns the module names of one encoder layer.

    Args:
        layer: The stored layer, counted from 0; a family with shared layers runs it more than once.
        family: The `model_type`.
        layers_per_group: Layers in one element of the list of layers, in families that have groups of them.
    """
    layout = FAMILIES[family]
    if layout.inner_layers is None:
        root = f"{layout.prefix}.{layout.layers}.{layer}"
    else:
        group, inner = divmod(layer, layers_per_group)
        root = f"{layout.prefix}.{layout.layers}.{group}.{layout.inner_layers}.{inner}"
    return LayerNames(
        **{role: f"{root}.{name}" for role, name in {**layout.linears, **layout.norms}.items()},
        attention=f"{root}.{layout.attention}",
    )


def embedding_names(family: str = "bert") -> EmbeddingNames:
    """Returns the module names of the embeddings.

    Args:
        family: The `model_type`.
    """
    layout = FAMILIES[family]
    tables = {kind: f"{layout.prefix}.{name}" for kind, name in layout.tables.items()}
    return EmbeddingNames(
        word=tables["word"],
        position=tables["position"],
        token_type=tables.get("token_type"),
        norm=f"{layout.prefix}.{layout.embedding_norm}",
        projection=None if layout.projection is None else f"{layout.prefix}.{layout.projection}",
    )


def head_names(family: str = "bert", end: str = "ForSequenceClassification") -> HeadNames:
    """Returns the module names of a task head.

    Args:
        family: The `model_type`.
        end: Of the class's name, as `ForMaskedLM`.
    """
    return FAMILIES[family].heads[end]
