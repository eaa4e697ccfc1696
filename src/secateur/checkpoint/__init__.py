"""The contract between training and running: names, config, encoding, reading and writing. Free of torch."""

from secateur.checkpoint.codec import decode_weight, encode_weight, pack_mask, unpack_mask
from secateur.checkpoint.config import FORMAT_VERSION, QUANT_METHOD, ModelShape, QuantizationConfig
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

__all__ = [
    "FORMAT_VERSION",
    "QUANT_METHOD",
    "Checkpoint",
    "CheckpointIdentity",
    "EmbeddingNames",
    "HeadNames",
    "LayerNames",
    "ModelShape",
    "QuantizationConfig",
    "check_target",
    "decode_weight",
    "embedding_names",
    "encode_weight",
    "head_names",
    "identify_checkpoint",
    "linear_names",
    "pack_mask",
    "read_checkpoint",
    "tensor_name",
    "unpack_mask",
    "write_checkpoint",
]
