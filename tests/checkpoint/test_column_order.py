"""The order of columns fills blocks and is always a permutation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.affine import symmetric_scale
from secateur.checkpoint import decode_weight, encode_weight
from secateur.checkpoint.column_order import column_order, layer_orders
from secateur.errors import CheckpointError


def blocks(mask: NDArray[np.bool_], order: NDArray[np.uint16]) -> int:
    return int(mask[:, order].reshape(len(mask), -1, 4).any(axis=2).sum())


@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_is_a_permutation_that_is_never_worse_than_chance(density: float, group: int | None) -> None:
    mask = np.random.default_rng(1).random((96, 64)) < density
    order = column_order(mask, group)
    assert order.dtype == np.uint16
    np.testing.assert_array_equal(np.sort(order), np.arange(64))
    if group is not None:
        np.testing.assert_array_equal(order // group, np.arange(64) // group)
    assert blocks(mask, order) <= blocks(mask, np.arange(64, dtype=np.uint16))
    np.testing.assert_array_equal(order, column_order(mask, group))


def test_finds_columns_that_belong_together() -> None:
    random = np.random.default_rng(2)
    whole = np.repeat(random.random((200, 16)) < 0.1, 4, axis=1)  # blocks of four equal columns
    mixed = random.permutation(64)
    order = column_order(whole[:, mixed])
    assert blocks(whole[:, mixed], order) == int(whole.sum()) // 4


def test_fills_blocks_of_uneven_columns() -> None:
    random = np.random.default_rng(3)
    size = np.abs(random.standard_normal((384, 384))) * np.exp(0.6 * random.standard_normal(384))
    mask = size >= np.quantile(size, 0.9)
    before = blocks(mask, np.arange(384, dtype=np.uint16))
    assert blocks(mask, column_order(mask)) < 0.85 * before


def test_nothing_to_order() -> None:
    assert column_order(np.zeros((3, 0), np.bool_)).shape == (0,)


def uneven(random: np.random.Generator, rows: int, columns: int, density: float = 0.1) -> NDArray[np.bool_]:
    size = np.abs(random.standard_normal((rows, columns))) * np.exp(0.6 * random.standard_normal(columns))
    return np.asarray(size >= np.quantile(size, 1 - density))


def test_a_layer_has_orders_where_they_gain() -> None:
    random = np.random.default_rng(4)
    masks = {role: uneven(random, 64, 64) for role in ("query", "key", "value", "attn_out")}
    masks["ffn_in"] = np.repeat(random.random((128, 16)) < 0.2, 4, axis=1)  # whole blocks: nothing to gain
    masks["ffn_out"] = random.random((64, 128)) < 0.9  # stored dense
    orders = layer_orders(masks, head_dim=32)
    assert set(orders) == {"query", "key", "value", "attn_out"}
    assert orders["query"] is orders["key"] is orders["value"]
    np.testing.assert_array_equal(orders["attn_out"] // 32, np.arange(64) // 32)
    assert blocks(masks["attn_out"], orders["attn_out"]) < 0.97 * blocks(
        masks["attn_out"], np.arange(64, dtype=np.uint16)
    )


def test_one_dense_reader_keeps_query_key_and_value_in_their_own_order() -> None:
    random = np.random.default_rng(5)
    masks = {"query": uneven(random, 64, 64), "key": uneven(random, 64, 64, 0.95)}
    assert layer_orders(masks, head_dim=32) == {}


def test_encode_and_decode_undo_each_other() -> None:
    random = np.random.default_rng(6)
    mask = uneven(random, 48, 64)
    weight = random.standard_normal((48, 64)).astype(np.float32) * mask
    scale = symmetric_scale(np.abs(weight).max(axis=1))
    order = column_order(mask)
    plain, ordered = encode_weight(weight, mask, scale), encode_weight(weight, mask, scale, order)
    assert set(ordered) == {"weight_values", "weight_mask", "input_order"}
    assert len(ordered["weight_values"]) < len(plain["weight_values"])
    decoded, kept = decode_weight(ordered, 64)
    np.testing.assert_array_equal(decoded, decode_weight(plain, 64)[0])
    assert kept is not None
    assert bool(kept[mask].all())
    ordered["input_order"] = ordered["input_order"] * 0
    with pytest.raises(CheckpointError, match="each of them once"):
        decode_weight(ordered, 64)
