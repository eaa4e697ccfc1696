"""Views of live transformers models."""

from secateur.modeling.structure import (
    SUPPORTED_MODEL_TYPES,
    EncoderBlock,
    Projection,
    find_blocks,
    find_projections,
)

__all__ = ["SUPPORTED_MODEL_TYPES", "EncoderBlock", "Projection", "find_blocks", "find_projections"]
