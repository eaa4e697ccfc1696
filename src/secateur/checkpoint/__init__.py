"""The contract between training and running: names, config, encoding, reading and writing. Free of torch."""

from secateur.checkpoint.bfloat16 import BF16
from secateur.checkpoint.codec import (
    decode_float_weight,
    decode_weight,
    encode_float_weight,
    encode_weight,
    pack_mask,
    unpack_mask,
)
from secateur.checkpoint.config import FORMAT_VERSIONS, QUANT_METHOD, QuantizationConfig
from secateur.checkpoint.families import FAMILIES, Family
from secateur.checkpoint.folder import (
    Checkpoint,
    CheckpointIdentity,
    check_target,
    identify_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from secateur.checkpoint.names import (
    EmbeddingNames,
    HeadNames,
    LayerNames,
    embedding_names,
    head_names,
    linear_names,
    tensor_name,
)
from secateur.checkpoint.parts import Int8Parts, find_int8_parts, quantization_of
from secateur.checkpoint.shape import ModelShape

__all__ = [
    "BF16",
    "FAMILIES",
    "FORMAT_VERSIONS",
    "QUANT_METHOD",
    "Checkpoint",
    "CheckpointIdentity",
    "EmbeddingNames",
    "Family",
    "HeadNames",
    "Int8Parts",
    "LayerNames",
    "ModelShape",
    "QuantizationConfig",
    "check_target",
    "decode_float_weight",
    "decode_weight",
    "embedding_names",
    "encode_float_weight",
    "encode_weight",
    "find_int8_parts",
    "head_names",
    "identify_checkpoint",
    "linear_names",
    "pack_mask",
    "quantization_of",
    "read_checkpoint",
    "tensor_name",
    "unpack_mask",
    "write_checkpoint",
]
