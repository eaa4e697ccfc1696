"""Every tensor name of a checkpoint, built from the prefix of the model family. No other file spells one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BIAS",
    "INPUT_ORDER",
    "INPUT_SCALE",
    "INPUT_ZERO_POINT",
    "KEY_SCALE",
    "PREFIXES",
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

# model_type in config.json -> the name under which the encoder hangs in the model
PREFIXES = {"bert": "bert"}

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
    """The modules that turn ids into the first hidden states."""

    word: str
    position: str
    token_type: str
    norm: str

    @property
    def tables(self) -> dict[str, str]:
        """The int8 tables, kind to module."""
        return {"word": self.word, "position": self.position, "token_type": self.token_type}


@dataclass(frozen=True)
class HeadNames:
    """The modules that turn the first token's hidden state into logits."""

    pooler: str
    classifier: str


def linear_names(layer: int, prefix: str = "bert") -> LayerNames:
    """Returns the module names of encoder layer `layer`, counted from 0."""
    root = f"{prefix}.encoder.layer.{layer}"
    return LayerNames(
        query=f"{root}.attention.self.query",
        key=f"{root}.attention.self.key",
        value=f"{root}.attention.self.value",
        attn_out=f"{root}.attention.output.dense",
        ffn_in=f"{root}.intermediate.dense",
        ffn_out=f"{root}.output.dense",
        attention=f"{root}.attention",
        attn_norm=f"{root}.attention.output.LayerNorm",
        ffn_norm=f"{root}.output.LayerNorm",
    )


def embedding_names(prefix: str = "bert") -> EmbeddingNames:
    """Returns the module names of the embeddings."""
    root = f"{prefix}.embeddings"
    return EmbeddingNames(
        word=f"{root}.word_embeddings",
        position=f"{root}.position_embeddings",
        token_type=f"{root}.token_type_embeddings",
        norm=f"{root}.LayerNorm",
    )


def head_names(prefix: str = "bert") -> HeadNames:
    """Returns the module names of pooler and classifier."""
    return HeadNames(pooler=f"{prefix}.pooler.dense", classifier="classifier")
