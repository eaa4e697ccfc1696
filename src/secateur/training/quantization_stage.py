"""The quantization stage of a recipe on a live model."""

from __future__ import annotations

import dataclasses

from torch import nn

from secateur.modeling.structure import find_blocks
from secateur.quantization import QuantizedParts, QuantScheme, attach_quantizers_
from secateur.recipe.stages import QuantizationStage

__all__ = ["attach_stage_"]


def attach_stage_(model: nn.Module, stage: QuantizationStage) -> None:
    """Attaches the quantizers that a stage asks for, switched off until it starts.

    Args:
        model: A live model of a supported family.
        stage: The stage.

    Raises:
        UnsupportedError: See `attach_quantizers_`.
    """
    scheme = QuantScheme(
        activations="u8_static" if stage.activations == "static" else "s8_dynamic",
        averaging=stage.averaging,
        observer=stage.observer,
        percentile=stage.percentile,
    )
    parts = QuantizedParts.everything(find_blocks(model))
    if stage.attention == "float":
        parts = dataclasses.replace(parts, attention=())
    attach_quantizers_(model, scheme, enabled=False, parts=parts)
