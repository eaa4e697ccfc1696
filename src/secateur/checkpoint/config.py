"""What `config.json` must say: the model's shape and how it is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from secateur.affine import SMALLEST_SCALE
from secateur.checkpoint.names import PREFIXES
from secateur.errors import CheckpointError, UnsupportedError, problem_list

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "FORMAT_VERSIONS",
    "QUANT_METHOD",
    "ModelShape",
    "QuantizationConfig",
    "parse_labels",
    "parse_quantization",
    "parse_shape",
]

QUANT_METHOD = "secateur"
FORMAT_VERSIONS = (1, 2)
ACTIVATIONS = ("gelu", "gelu_new", "relu")
ACTIVATIONS_OF = {"s8_per_row": "u8_static", "f32": "f32", "mixed": "mixed"}  # of `weights`
ARCHITECTURES = ("BertForSequenceClassification",)

# Far above any model that exists; keeps a forged config from asking for billions of names.
_MAX_LAYERS = 1000
_MAX_LABELS = 1_000_000

_MIN_EPS = float(SMALLEST_SCALE)  # a smaller one is 0 to float32, and lets a norm divide by 0


class QuantizationConfig(BaseModel):
    """`quantization_config` of a checkpoint.

    Attributes:
        quant_method: Always "secateur".
        format_version: 1 where everything is int8, else 2; a higher one belongs to a newer Secateur.
        pattern: How the pruned matrices are stored; each matrix still says for itself.
        sparsity: Fraction of zeros over the pruned matrices, for information.
        weights: Linear weights: all int8 symmetric per output row, all float32, or some of each.
        activations: Inputs of linear layers: uint8 with a zero point, static per tensor, where the weight
            is int8, else float32; so it follows from `weights`.
        embeddings: Embedding tables: int8 symmetric per row, or float32.
        attention: Query uint8, key and value int8, probabilities uint8; or float32; or this layer by layer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)

    quant_method: Literal["secateur"] = "secateur"
    format_version: Literal[1, 2] = 1
    pattern: Literal["block4", "unstructured", "dense"] = "dense"
    sparsity: float = Field(default=0.0, ge=0.0, le=1.0)
    weights: Literal["s8_per_row", "f32", "mixed"] = "s8_per_row"
    activations: Literal["u8_static", "f32", "mixed"] = "u8_static"
    embeddings: Literal["s8_per_row", "f32"] = "s8_per_row"
    attention: Literal["int8", "f32", "mixed"] = "int8"

    @field_validator("activations")
    @classmethod
    def _of_the_weights(cls, value: str, info: ValidationInfo) -> str:
        weights = info.data.get("weights")
        if weights is not None and value != ACTIVATIONS_OF[weights]:
            raise ValueError(f"must be {ACTIVATIONS_OF[weights]!r} where weights are {weights!r}")
        return value

    @property
    def numbers(self) -> Literal["int8", "float32", "mixed"]:
        """What the encoder and the embeddings are made of, in one word."""
        kinds = {self.weights, self.embeddings, self.attention}
        if kinds == {"f32"}:
            return "float32"
        return "int8" if kinds == {"s8_per_row", "int8"} else "mixed"


class _VersionOne(QuantizationConfig):
    """What version 1 allows: everything int8."""

    format_version: Literal[1] = 1
    pattern: Literal["block4", "dense"] = "dense"
    weights: Literal["s8_per_row"] = "s8_per_row"
    activations: Literal["u8_static"] = "u8_static"
    embeddings: Literal["s8_per_row"] = "s8_per_row"
    attention: Literal["int8"] = "int8"


@dataclass(frozen=True)
class ModelShape:
    """The sizes and the few switches of `config.json` that decide what the tensors must be."""

    prefix: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    max_positions: int
    num_token_types: int
    activation: str
    norm_eps: float

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_heads


def parse_quantization(config: Mapping[str, Any], subject: str) -> QuantizationConfig:
    """Reads and checks `quantization_config`.

    Args:
        config: The parsed config.json.
        subject: The folder's name, for messages.

    Raises:
        CheckpointError: If it is missing, of another method or version, or has wrong or unknown keys.
    """
    entry = config.get("quantization_config")
    if entry is None:
        raise CheckpointError(
            f"{subject} holds an ordinary Hugging Face model, not a Secateur checkpoint: "
            f"compress it first with `secateur compress --model {subject} --data DATA --out FOLDER`."
        )
    if not isinstance(entry, dict) or entry.get("quant_method") != QUANT_METHOD:
        method = entry.get("quant_method") if isinstance(entry, dict) else entry
        raise CheckpointError(
            f"{subject} is quantized by {method!r}, which Secateur does not read: start from the "
            f"unquantized model and compress it with `secateur compress`."
        )
    version = entry.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version not in FORMAT_VERSIONS:
        raise CheckpointError(
            f"{subject} has format version {_short(version)}, and this Secateur reads versions "
            f"{' and '.join(map(str, FORMAT_VERSIONS))}: "
            f"install the version of Secateur that wrote it, or compress the model again."
        )
    try:
        return (_VersionOne if version == 1 else QuantizationConfig).model_validate(entry)
    except ValidationError as error:
        problems = [
            f"quantization_config.{'.'.join(map(str, item['loc']))}: "
            f"{item['msg'].lower().removeprefix('value error, ')}, but it is {_short(item['input'])}"
            for item in error.errors()
        ]
        raise CheckpointError(problem_list(subject, problems)) from None


def parse_shape(config: Mapping[str, Any], subject: str) -> ModelShape:
    """Reads and checks the sizes of the model.

    Args:
        config: The parsed config.json.
        subject: The folder's name, for messages.

    Raises:
        UnsupportedError: If the model family or one of its switches is not supported.
        CheckpointError: If a size is missing or impossible.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in PREFIXES:
        raise UnsupportedError(
            f"{subject} holds a model of type {family!r}; supported: {', '.join(sorted(PREFIXES))}."
        )
    _check_switches(config, subject)
    problems: list[str] = []

    def size(key: str, high: int = 2**31 - 1) -> int:
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= high:
            problems.append(f"config.json: {key} must be an integer from 1 to {high}, but is {_short(value)}")
            return 1
        return value

    eps = config.get("layer_norm_eps", 1e-12)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not _MIN_EPS <= eps < 1:
        problems.append(
            f"config.json: layer_norm_eps must lie between {_MIN_EPS:.2g} and 1, but is {_short(eps)}"
        )
        eps = 1e-12
    shape = ModelShape(
        prefix=PREFIXES[family],
        hidden_size=size("hidden_size"),
        intermediate_size=size("intermediate_size"),
        num_layers=size("num_hidden_layers", _MAX_LAYERS),
        num_heads=size("num_attention_heads"),
        vocab_size=size("vocab_size"),
        max_positions=size("max_position_embeddings"),
        num_token_types=size("type_vocab_size"),
        activation=str(config.get("hidden_act", "gelu")),
        norm_eps=float(eps),
    )
    if not problems and shape.hidden_size % shape.num_heads:
        problems.append(
            f"config.json: hidden_size {shape.hidden_size} is not a multiple of "
            f"num_attention_heads {shape.num_heads}"
        )
    if problems:
        raise CheckpointError(problem_list(subject, problems))
    return shape


def parse_labels(config: Mapping[str, Any], subject: str) -> list[str]:
    """Reads the names of the classes, in the order of the logits.

    transformers leaves `id2label` out where it is the default, two classes named LABEL_0 and LABEL_1.

    Args:
        config: The parsed config.json.
        subject: The folder's name, for messages.

    Raises:
        CheckpointError: If the names are not distinct strings numbered 0, 1, 2, ...
    """
    entry = config.get("id2label")
    if entry is None:
        return ["LABEL_0", "LABEL_1"]
    labels: list[str] = []
    if isinstance(entry, dict) and 1 <= len(entry) <= _MAX_LABELS:
        by_id = {str(key): value for key, value in entry.items()}
        labels = [by_id[str(i)] for i in range(len(by_id)) if isinstance(by_id.get(str(i)), str)]
    if not labels or not isinstance(entry, dict) or len(set(labels)) != len(entry):
        raise CheckpointError(
            f"{subject}: id2label in config.json must give the numbers 0, 1, 2, ... distinct names, "
            f"but is {_short(entry)}."
        )
    return labels


def _check_switches(config: Mapping[str, Any], subject: str) -> None:
    """Refuses what would silently change the numbers."""
    architectures = config.get("architectures")
    if isinstance(architectures, list) and not set(map(str, architectures)) & set(ARCHITECTURES):
        raise UnsupportedError(
            f"{subject} holds {', '.join(map(str, architectures)) or 'no architecture'}; "
            f"supported: {', '.join(ARCHITECTURES)}."
        )
    if config.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise UnsupportedError(
            f"{subject} uses the activation {_short(config['hidden_act'])}; "
            f"supported: {', '.join(ACTIVATIONS)}."
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedError(
            f"{subject} has position embeddings of type {_short(config['position_embedding_type'])}; "
            f"supported: absolute."
        )
    for switch in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        if config.get(switch):
            raise UnsupportedError(f"{subject} sets {switch}; Secateur runs encoders only.")
    if config.get("pruned_heads"):
        raise UnsupportedError(f"{subject} has pruned heads, which this version cannot run.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
