"""What `quantization_config` in `config.json` must say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from secateur.errors import CheckpointError, problem_list

__all__ = [
    "FORMAT_VERSIONS",
    "QUANT_METHOD",
    "QuantizationConfig",
    "parse_quantization",
]

QUANT_METHOD = "secateur"
FORMAT_VERSIONS = (1, 2, 3, 4)

# Of `weights`: what `activations` may be, from version 4 on; below it only the first of them.
_ACTIVATIONS_OF = {
    "s8_per_row": ("u8_static", "s8_dynamic", "mixed"),
    "f32": ("f32",),
    "bf16": ("bf16",),
    "mixed": ("mixed",),
}


class QuantizationConfig(BaseModel):
    """`quantization_config` of a checkpoint.

    Attributes:
        quant_method: Always "secateur".
        format_version: 4 where inputs are quantized dynamically; else 3 where the model is another one than
            a BERT that classifies sequences, or has bfloat16 weights; else 1 where everything is int8, else
            2. A higher one belongs to a newer Secateur.
        pattern: How the pruned matrices are stored; each matrix still says for itself.
        sparsity: Fraction of zeros over the pruned matrices, for information.
        weights: Linear weights: all int8 symmetric per output row, all float32, all bfloat16, or not all the
            same.
        activations: Inputs of linear layers. Where the weight is int8: uint8 with a zero point, static per
            tensor, or from version 4 on int8 symmetric, dynamic per token; else of the weight's type. So it
            follows from `weights`, but for int8 from version 4 on.
        embeddings: Embedding tables: int8 symmetric per row, or float32.
        attention: Query uint8, key and value int8, probabilities uint8; or float32; or this layer by layer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)

    quant_method: Literal["secateur"] = "secateur"
    format_version: Literal[1, 2, 3, 4] = 1
    pattern: Literal["block4", "unstructured", "dense"] = "dense"
    sparsity: float = Field(default=0.0, ge=0.0, le=1.0)
    weights: Literal["s8_per_row", "f32", "bf16", "mixed"] = "s8_per_row"
    activations: Literal["u8_static", "s8_dynamic", "f32", "bf16", "mixed"] = "u8_static"
    embeddings: Literal["s8_per_row", "f32"] = "s8_per_row"
    attention: Literal["int8", "f32", "mixed"] = "int8"

    @field_validator("activations")
    @classmethod
    def _of_the_weights(cls, value: str, info: ValidationInfo) -> str:
        weights = info.data.get("weights")
        if weights is None:
            return value
        allowed = _ACTIVATIONS_OF[weights]
        if info.data.get("format_version") != 4:
            allowed = allowed[:1]
        if value not in allowed:
            raise ValueError(f"must be {' or '.join(map(repr, allowed))} where weights are {weights!r}")
        return value

    @property
    def numbers(self) -> Literal["int8", "float32", "bfloat16", "mixed"]:
        """What the encoder and the embeddings are made of, in one word; bfloat16 stands beside float32."""
        kinds = {self.weights, self.embeddings, self.attention}
        if kinds == {"f32"}:
            return "float32"
        if kinds == {"bf16", "f32"} and self.weights == "bf16":
            return "bfloat16"
        return "int8" if kinds == {"s8_per_row", "int8"} else "mixed"


class _VersionThree(QuantizationConfig):
    """What version 3 allows: nothing dynamic."""

    format_version: Literal[3] = 3
    activations: Literal["u8_static", "f32", "bf16", "mixed"] = "u8_static"


class _VersionTwo(QuantizationConfig):
    """What version 2 allows: no bfloat16."""

    format_version: Literal[2] = 2
    weights: Literal["s8_per_row", "f32", "mixed"] = "s8_per_row"
    activations: Literal["u8_static", "f32", "mixed"] = "u8_static"


class _VersionOne(QuantizationConfig):
    """What version 1 allows: everything int8."""

    format_version: Literal[1] = 1
    pattern: Literal["block4", "dense"] = "dense"
    weights: Literal["s8_per_row"] = "s8_per_row"
    activations: Literal["u8_static"] = "u8_static"
    embeddings: Literal["s8_per_row"] = "s8_per_row"
    attention: Literal["int8"] = "int8"


_OF_VERSION: dict[int, type[QuantizationConfig]] = {
    1: _VersionOne,
    2: _VersionTwo,
    3: _VersionThree,
    4: QuantizationConfig,
}


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
            f"{FORMAT_VERSIONS[0]} to {FORMAT_VERSIONS[-1]}: "
            f"install the version of Secateur that wrote it, or compress the model again."
        )
    try:
        return _OF_VERSION[version].model_validate(entry)
    except ValidationError as error:
        problems = [
            f"quantization_config.{'.'.join(map(str, item['loc']))}: "
            f"{item['msg'].lower().removeprefix('value error, ')}, but it is {_short(item['input'])}"
            for item in error.errors()
        ]
        raise CheckpointError(problem_list(subject, problems)) from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
