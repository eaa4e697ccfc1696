from __future__ import annotations

import numpy as np
import pytest

from secateur.affine import dequantize, fake_quantize, symmetric_scale
from secateur.checkpoint.codec import (
    count_mask_bits,
    decode_weight,
    encode_weight,
    mask_row_bytes,
    pack_mask,
    unpack_mask,
)
from secateur.errors import CheckpointError


def _weight(rows: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    weight = np.random.default_rng(seed).normal(0, 0.1, (rows, columns)).astype(np.float32)
    return weight, symmetric_scale(np.abs(weight).max(axis=1))


def _blocks(rows: int, columns: int, density: float) -> np.ndarray:
    return np.repeat(np.random.default_rng(1).random((rows, columns // 4)) < density, 4, axis=1)


@pytest.mark.parametrize("columns", [4, 28, 32, 36, 96])
@pytest.mark.parametrize("density", [0.0, 0.2, 0.6, 1.0])
def test_decoding_gives_the_fake_quantized_weight_exactly(columns: int, density: float) -> None:
    weight, scale = _weight(7, columns)
    mask = _blocks(7, columns, density)
    decoded, decoded_mask = decode_weight(encode_weight(weight, mask, scale), columns)
    expected = np.where(mask, fake_quantize(weight, scale[:, None], 0, -127, 127), 0)
    np.testing.assert_array_equal(dequantize(decoded, scale[:, None]), expected)
    if decoded_mask is not None:
        np.testing.assert_array_equal(decoded_mask, mask)


def test_a_dense_weight_is_one_int8_array() -> None:
    weight, scale = _weight(5, 12)
    tensors = encode_weight(weight, None, scale)
    assert list(tensors) == ["weight"]
    decoded, mask = decode_weight(tensors, 12)
    assert mask is None
    np.testing.assert_array_equal(
        dequantize(decoded, scale[:, None]), fake_quantize(weight, scale[:, None], 0, -127, 127)
    )


def test_sparse_is_chosen_only_where_it_is_smaller() -> None:
    weight, scale = _weight(16, 64)
    assert "weight_values" in encode_weight(weight, _blocks(16, 64, 0.9), scale)
    assert "weight" in encode_weight(weight, np.ones((16, 64), bool), scale)
    assert "weight" in encode_weight(weight[:, :62], np.zeros((16, 62), bool), scale)


def test_an_unstructured_mask_is_stored_as_its_non_empty_blocks() -> None:
    weight, scale = _weight(2, 16)
    mask = np.zeros((2, 16), bool)
    mask[0, 5] = mask[1, 15] = True
    tensors = encode_weight(weight, mask, scale)
    assert tensors["weight_values"].shape == (2, 4)
    assert np.count_nonzero(tensors["weight_values"]) == 2
    decoded, blocks = decode_weight(tensors, 16)
    assert blocks is not None
    np.testing.assert_array_equal(np.argwhere(blocks)[:, 1], [4, 5, 6, 7, 12, 13, 14, 15])
    np.testing.assert_array_equal(decoded != 0, mask)


def test_a_kept_block_of_zeros_is_kept() -> None:
    weight = np.zeros((1, 64), np.float32)
    weight[0, 0] = 1.0
    mask = np.zeros((1, 64), bool)
    mask[0, :8] = True
    tensors = encode_weight(weight, mask, np.float32([1 / 127]))
    assert tensors["weight_values"].tolist() == [[127, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("num_blocks", [1, 7, 8, 9, 24])
def test_masks_survive_packing(num_blocks: int) -> None:
    blocks = np.random.default_rng(2).random((5, num_blocks)) < 0.4
    packed = pack_mask(blocks)
    assert packed.shape == (5, mask_row_bytes(4 * num_blocks))
    assert count_mask_bits(packed) == blocks.sum()
    np.testing.assert_array_equal(unpack_mask(packed, num_blocks), blocks)


def test_the_bytes_on_disk_do_not_change() -> None:
    """Format version 1, spelled out: bits least significant first, blocks in row-major order."""
    weight = (np.arange(2 * 40, dtype=np.float32).reshape(2, 40) - 40) / 10
    mask = np.zeros((2, 40), bool)
    mask[0, 0:4] = mask[0, 32:40] = mask[1, 4:8] = True
    tensors = encode_weight(weight, mask, np.float32([0.05, 0.04]))
    assert tensors["weight_mask"].dtype == np.uint8
    assert tensors["weight_mask"].tolist() == [[0b00000001, 0b00000011], [0b00000010, 0]]
    assert tensors["weight_values"].dtype == np.int8
    assert tensors["weight_values"].tolist() == [
        [-80, -78, -76, -74],
        [-16, -14, -12, -10],
        [-8, -6, -4, -2],
        [10, 12, 15, 18],
    ]


def test_contradictions_are_refused() -> None:
    weight, scale = _weight(4, 32)
    tensors = encode_weight(weight, _blocks(4, 32, 0.3), scale)
    with pytest.raises(CheckpointError, match="mask keeps"):
        decode_weight({**tensors, "weight_values": tensors["weight_values"][1:]}, 32)
    with pytest.raises(CheckpointError, match="bytes a row"):
        decode_weight(tensors, 96)
    with pytest.raises(CheckpointError, match="either"):
        decode_weight({"weight_mask": tensors["weight_mask"]}, 32)
    with pytest.raises(CheckpointError, match=r"must be \[N, 16\]"):
        decode_weight(encode_weight(weight, None, scale), 16)
