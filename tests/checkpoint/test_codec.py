from __future__ import annotations

import numpy as np
import pytest

from secateur.affine import dequantize, fake_quantize, symmetric_scale
from secateur.checkpoint.codec import (
    count_mask_bits,
    decode_float_weight,
    decode_weight,
    encode_float_weight,
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


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 30, 96])
@pytest.mark.parametrize("density", [0.0, 0.2, 0.6, 1.0])
def test_decoding_a_float_weight_gives_it_back(columns: int, density: float) -> None:
    weight, _ = _weight(7, columns)
    mask = np.random.default_rng(1).random(weight.shape) < density
    tensors = encode_float_weight(weight, mask)
    decoded, decoded_mask = decode_float_weight(tensors, columns)
    np.testing.assert_array_equal(decoded, np.where(mask, weight, 0))
    assert decoded.dtype == np.float32
    if decoded_mask is None:
        assert 4 * mask.sum() + 7 * -(-columns // 8) >= weight.nbytes
    else:
        np.testing.assert_array_equal(decoded_mask, mask)
        assert sum(tensor.nbytes for tensor in tensors.values()) < weight.nbytes


def test_a_kept_float_zero_is_kept_and_its_sign_with_it() -> None:
    weight = np.float32([[0.0, -0.0, 3.0, 0.0]])
    tensors = encode_float_weight(weight, np.array([[True, True, False, False]]))
    assert tensors["weight_values"].tobytes() == np.float32([0.0, -0.0]).tobytes()
    _, mask = decode_float_weight(tensors, 4)
    assert mask is not None
    assert mask.tolist() == [[True, True, False, False]]


def test_the_bytes_of_version_2_do_not_change() -> None:
    """Float32, spelled out: a bit a weight, least significant first, kept weights in row-major order."""
    weight = (np.arange(2 * 10, dtype=np.float32).reshape(2, 10) - 10) / 4
    mask = np.zeros((2, 10), bool)
    mask[0, 0] = mask[0, 8] = mask[0, 9] = mask[1, 3] = True
    tensors = encode_float_weight(weight, mask)
    assert list(tensors) == ["weight_values", "weight_mask"]
    assert tensors["weight_mask"].dtype == np.uint8
    assert tensors["weight_mask"].tolist() == [[0b00000001, 0b00000011], [0b00001000, 0]]
    values = tensors["weight_values"]
    assert values.shape == (4,)
    assert values.tobytes().hex(" ", 4) == "000020c0 000000bf 000080be 0000403f"
    dense = encode_float_weight(weight, None)
    assert list(dense) == ["weight"]
    assert dense["weight"][0].tobytes()[:8].hex(" ", 4) == "000020c0 000010c0"


def test_the_bytes_of_an_order_do_not_change() -> None:
    """Two rows of 24 columns: row 0 keeps columns 1, 9 and 17, row 1 columns 2 and 10; see docs/format.md."""
    mask = np.zeros((2, 24), np.bool_)
    mask[0, [1, 9, 17]] = mask[1, [2, 10]] = True
    weight = np.where(mask, np.arange(1, 49, dtype=np.float32).reshape(2, 24), 0).astype(np.float32)
    order = np.array([1, 9, 17, 0, 2, 10, 3, 4, *range(5, 9), *range(11, 17), *range(18, 24)], np.uint16)
    tensors = encode_weight(weight, mask, np.ones(2, np.float32), order)
    assert tensors["weight_mask"].tobytes().hex(" ") == "01 02"
    assert tensors["weight_values"].tobytes().hex(" ", 4) == "020a1200 1b230000"
    assert tensors["input_order"].tobytes()[:12].hex(" ", 2) == "0100 0900 1100 0000 0200 0a00"
    np.testing.assert_array_equal(decode_weight(tensors, 24)[0], weight.astype(np.int8))


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
    with pytest.raises(CheckpointError, match="must be float32, but this one is int8"):
        decode_float_weight(tensors, 32)
    pruned = encode_float_weight(weight, _blocks(4, 32, 0.3))
    with pytest.raises(CheckpointError, match="must be int8, but this one is float32"):
        decode_weight(pruned, 32)
    with pytest.raises(CheckpointError, match=r"mask keeps .* weights"):
        decode_float_weight({**pruned, "weight_values": pruned["weight_values"][1:]}, 32)
    with pytest.raises(CheckpointError, match="bytes a row"):
        decode_float_weight(pruned, 41)
