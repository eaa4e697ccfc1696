"""Views of live transformers models."""

from secateur.modeling.structure import (
    SUPPORTED_MODEL_TYPES,
    EncoderBlock,
    Projection,
    find_blocks,
    find_projections,
)
from secateur.modeling.surgery import half_depth_layers, keep_layers_

__all__ = [
    "SUPPORTED_MODEL_TYPES",
    "EncoderBlock",
    "Projection",
    "find_blocks",
    "find_projections",
    "half_depth_layers",
    "keep_layers_",
]
