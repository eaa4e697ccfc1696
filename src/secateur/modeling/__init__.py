"""Views of live transformers models."""

from secateur.modeling.structure import (
    SUPPORTED_MODEL_TYPES,
    EncoderBlock,
    Projection,
    find_blocks,
    find_projections,
)
from secateur.modeling.student import build_student
from secateur.modeling.surgery import half_depth_layers, keep_layers_, spread_layers

__all__ = [
    "SUPPORTED_MODEL_TYPES",
    "EncoderBlock",
    "Projection",
    "build_student",
    "find_blocks",
    "find_projections",
    "half_depth_layers",
    "keep_layers_",
    "spread_layers",
]
