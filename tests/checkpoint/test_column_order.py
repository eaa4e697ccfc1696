"""The order of columns fills blocks and is always a permutation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.checkpoint.column_order import column_order


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
