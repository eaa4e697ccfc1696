"""Weights to the arrays of a checkpoint and back, as pure functions.

A dense matrix is one array. A sparse int8 one keeps its non-empty 1x4 blocks in row-major order beside a bit
mask, a sparse float32 or bfloat16 one its kept weights. Both directions are exact:
`decode_weight(encode_weight(w))`, dequantized, is the fake-quantized `w`, and
`decode_float_weight(encode_float_weight(w))` is `w`, rounded where it is stored as bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.affine import S8_MAX, S8_MIN, quantize
from secateur.checkpoint.bfloat16 import BF16, from_bf16, to_bf16, type_name
from secateur.checkpoint.names import INPUT_ORDER, WEIGHT, WEIGHT_MASK, WEIGHT_VALUES
from secateur.errors import CheckpointError

__all__ = [
    "BLOCK",
    "count_mask_bits",
    "decode_float_weight",
    "decode_weight",
    "encode_float_weight",
    "encode_weight",
    "is_order",
    "is_stored_sparse",
    "mask_row_bytes",
    "pack_mask",
    "unpack_mask",
]

BLOCK = 4  # weights along K that live and die together in an int8 matrix

_BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def mask_row_bytes(in_features: int, block: int = BLOCK) -> int:
    """Returns the bytes of one row of a packed mask: one bit per block, rows padded to whole bytes."""
    return (in_features // block + 7) // 8


def pack_mask(blocks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Packs a mask into bits, least significant first.

    Args:
        blocks: [N, J] bool, True = keep, one per block (J = K / 4) or one per weight (J = K).

    Returns:
        [N, ceil(J / 8)] uint8; padding bits are 0.
    """
    return np.ascontiguousarray(np.packbits(blocks, axis=1, bitorder="little"))


def unpack_mask(packed: NDArray[np.uint8], num_blocks: int) -> NDArray[np.bool_]:
    """Undoes `pack_mask`.

    Args:
        packed: [N, ceil(num_blocks / 8)] uint8.
        num_blocks: Bits per row.

    Returns:
        [N, num_blocks] bool, True = keep.
    """
    return np.unpackbits(packed, axis=1, count=num_blocks, bitorder="little").astype(bool)


def count_mask_bits(packed: NDArray[np.uint8]) -> int:
    """Returns how many bits of a packed mask are set."""
    return int(_BITS_SET[packed].sum(dtype=np.int64))


def is_stored_sparse(mask: NDArray[np.bool_]) -> bool:
    """Says whether blocks take fewer bytes than a dense int8 matrix.

    Args:
        mask: [N, K] bool, True = keep; K a multiple of 4.
    """
    rows, in_features = mask.shape
    blocks = int(mask.reshape(rows, in_features // BLOCK, BLOCK).any(axis=2).sum())
    return bool(BLOCK * blocks + rows * mask_row_bytes(in_features) < mask.size)


def is_order(order: NDArray[Any], in_features: int) -> bool:
    """Says whether an array is an order of that many columns: [K] uint16, each of them once."""
    if order.dtype != np.uint16 or order.shape != (in_features,):
        return False
    return bool(np.array_equal(np.sort(order), np.arange(in_features)))


def encode_weight(
    weight: NDArray[np.float32],
    mask: NDArray[np.bool_] | None,
    scale: NDArray[np.float32],
    order: NDArray[np.uint16] | None = None,
) -> dict[str, NDArray[Any]]:
    """Encodes the weight of one linear layer as int8.

    Args:
        weight: [N, K] float32.
        mask: [N, K] bool, True = keep, or None for a matrix that was not pruned. A block is stored when any
            of its four weights is kept, even if all of them round to 0.
        scale: [N] float32, one per output row.
        order: [K] uint16, the order of the columns from which blocks are cut; None for their own.

    Returns:
        `{"weight": [N, K] int8}`, or `{"weight_values": [B, 4] int8, "weight_mask": [N, ceil(K/32)] uint8}`
        and the `input_order` where a mask is given, K is a multiple of 4 and the sparse form is the smaller
        one.
    """
    rows, in_features = weight.shape
    q = quantize(weight, scale[:, None], 0, S8_MIN, S8_MAX).astype(np.int8)
    if mask is None:
        return {WEIGHT: q}
    q[~mask] = 0
    if in_features % BLOCK:
        return {WEIGHT: q}
    placed = (q, mask) if order is None else (q[:, order], mask[:, order])
    if not is_stored_sparse(placed[1]):
        return {WEIGHT: q}
    blocks = np.asarray(placed[1].reshape(rows, in_features // BLOCK, BLOCK).any(axis=2))
    values = np.ascontiguousarray(placed[0].reshape(rows, in_features // BLOCK, BLOCK)[blocks])
    encoded: dict[str, NDArray[Any]] = {WEIGHT_VALUES: values, WEIGHT_MASK: pack_mask(blocks)}
    return encoded if order is None else {**encoded, INPUT_ORDER: order}


def encode_float_weight(
    weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, bf16: bool = False
) -> dict[str, NDArray[Any]]:
    """Encodes the weight of one linear layer that stays float32 or becomes bfloat16.

    Args:
        weight: [N, K] float32.
        mask: [N, K] bool, True = keep, or None for a matrix that was not pruned. A kept weight is stored even
            if it is 0.
        bf16: Whether to round to bfloat16.

    Returns:
        `{"weight": [N, K]}`, or `{"weight_values": [B], "weight_mask": [N, ceil(K/8)] uint8}` where a mask is
        given and the sparse form is the smaller one; weights and values float32 or `BF16`.
    """
    stored: NDArray[Any] = weight if mask is None else np.where(mask, weight, np.float32(0))
    stored = to_bf16(stored) if bf16 else stored
    if mask is None:
        return {WEIGHT: stored}
    rows, in_features = weight.shape
    sparse_bytes = stored.itemsize * int(mask.sum()) + rows * mask_row_bytes(in_features, 1)
    if sparse_bytes >= stored.nbytes:
        return {WEIGHT: stored}
    return {WEIGHT_VALUES: stored[mask], WEIGHT_MASK: pack_mask(mask)}


def decode_weight(
    tensors: Mapping[str, NDArray[Any]], in_features: int
) -> tuple[NDArray[np.int8], NDArray[np.bool_] | None]:
    """Decodes the weight of one linear layer that is int8.

    Args:
        tensors: What `encode_weight` returned; other suffixes are ignored.
        in_features: K; the mask alone does not say it, because its rows are padded.

    Returns:
        weight: [N, K] int8, zeros where pruned.
        mask: [N, K] bool, True = keep, in whole blocks; None for a matrix stored dense.

    Raises:
        CheckpointError: If the arrays contradict each other.
    """
    stored, blocks = _decode(tensors, in_features, np.dtype(np.int8), BLOCK)
    if blocks is None:
        return stored, None
    mask = np.repeat(blocks, BLOCK, axis=1)
    order = tensors.get(INPUT_ORDER)
    if order is None:
        return stored, mask
    if not is_order(order, in_features):
        raise CheckpointError(f"The order of {in_features} columns must name each of them once, in uint16.")
    place = np.argsort(order)
    return stored[:, place], mask[:, place]


def decode_float_weight(
    tensors: Mapping[str, NDArray[Any]], in_features: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Decodes the weight of one linear layer that is float32 or bfloat16.

    Args:
        tensors: What `encode_float_weight` returned; other suffixes are ignored.
        in_features: K; the mask alone does not say it, because its rows are padded.

    Returns:
        weight: [N, K] float32, zeros where pruned.
        mask: [N, K] bool, True = keep; None for a matrix stored dense.

    Raises:
        CheckpointError: If the arrays contradict each other.
    """
    stored = tensors.get(WEIGHT, tensors.get(WEIGHT_VALUES))
    if stored is None or stored.dtype != BF16:
        return _decode(tensors, in_features, np.dtype(np.float32), 1)
    weight, mask = _decode(tensors, in_features, BF16, 1)
    return from_bf16(weight), mask


def _decode(
    tensors: Mapping[str, NDArray[Any]], in_features: int, dtype: np.dtype[Any], block: int
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Returns the weight [N, K] and the mask [N, K / block], None where dense."""
    stored = tensors.get(WEIGHT, tensors.get(WEIGHT_VALUES))
    if stored is not None and stored.dtype != dtype:
        raise CheckpointError(
            f"The weight must be {type_name(dtype)}, but this one is {type_name(stored.dtype)}."
        )
    if WEIGHT in tensors:
        dense = tensors[WEIGHT]
        if dense.ndim != 2 or dense.shape[1] != in_features:
            raise CheckpointError(
                f"A dense weight must be [N, {in_features}], but this one is {list(dense.shape)}."
            )
        return dense, None
    if WEIGHT_VALUES not in tensors or WEIGHT_MASK not in tensors:
        raise CheckpointError("A weight needs either 'weight' or 'weight_values' with 'weight_mask'.")
    values, packed = tensors[WEIGHT_VALUES], tensors[WEIGHT_MASK].astype(np.uint8, copy=False)
    expected = mask_row_bytes(in_features, block)
    if in_features % block or packed.ndim != 2 or packed.shape[1] != expected:
        raise CheckpointError(
            f"A mask for {in_features} input features must have {expected} bytes a row, "
            f"but this one is {list(packed.shape)}."
        )
    blocks = unpack_mask(packed, in_features // block)
    kept = int(blocks.sum())
    if values.shape != ((kept,) if block == 1 else (kept, block)):
        what = "weights" if block == 1 else "blocks"
        raise CheckpointError(f"The mask keeps {kept} {what}, but the values are {list(values.shape)}.")
    filled = np.zeros((*blocks.shape, block), dtype)
    filled[blocks] = values.reshape(kept, block)
    return filled.reshape(-1, in_features), blocks
