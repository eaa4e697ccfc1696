"""Every way in which an order of columns can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import DENSE, LAYER, QUERY, Tensors, rewrite
from tiny_checkpoint import QUANTIZATION, edit_config, tiny_config, write_tiny_checkpoint

from secateur.checkpoint import read_checkpoint
from secateur.errors import CheckpointError

ATTENTION = f"{LAYER}.attention.self"
ATTN_OUT = f"{LAYER}.attention.output.dense"
REVERSED = np.arange(32, dtype=np.uint16)[::-1].copy()
WITHIN_HEADS = REVERSED.reshape(4, 8)[::-1].reshape(-1).copy()


def give(order: Any, *modules: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({f"{module}.input_order": order for module in modules})


def write(folder: Path, change: Callable[[Tensors], Any], **quantization: Any) -> Path:
    write_tiny_checkpoint(folder)
    rewrite(folder, change)
    edit_config(folder, quantization_config={**QUANTIZATION["int8"], "format_version": 2, **quantization})
    return folder


def test_sound_orders(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        give(REVERSED, *(f"{ATTENTION}.{role}" for role in ("query", "key", "value")))(tensors)
        give(WITHIN_HEADS, ATTN_OUT)(tensors)

    checkpoint = read_checkpoint(write(tmp_path / "model", change))
    np.testing.assert_array_equal(checkpoint.tensors[f"{QUERY}.input_order"], REVERSED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (give(REVERSED, QUERY), "query, key and value of .* have different orders of columns"),
        (give(REVERSED, ATTN_OUT), f"{ATTN_OUT}.input_order moves columns out of their attention head"),
        (give(REVERSED * 0, ATTN_OUT), "must name each column once, in uint16"),
        (give(REVERSED.astype(np.float32), ATTN_OUT), "must name each column once, in uint16"),
        (give(REVERSED.reshape(4, 8), ATTN_OUT), "must name each column once, in uint16"),
        (give(REVERSED + np.uint16(1), ATTN_OUT), "must name each column once, in uint16"),
        (give(REVERSED[:16].copy() - np.uint16(16), ATTN_OUT), "must name each column once, in uint16"),
        (give(REVERSED, "classifier"), "tensor classifier.input_order is not part of the format"),
        (
            lambda tensors: [
                tensors.update({f"{DENSE}.weight": np.zeros((32, 64), np.int8)}),
                tensors.pop(f"{DENSE}.weight_values"),
                tensors.pop(f"{DENSE}.weight_mask"),
                give(np.arange(64, dtype=np.uint16), DENSE)(tensors),
            ],
            f"{DENSE} has no sparse int8 weight",
        ),
    ],
)
def test_broken_orders(tmp_path: Path, change: Callable[[Tensors], Any], message: str) -> None:
    folder = write(tmp_path / "model", change)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


def test_version_1_has_no_orders(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", give(WITHIN_HEADS, ATTN_OUT), format_version=1)
    with pytest.raises(CheckpointError, match="input_order is not part of the format"):
        read_checkpoint(folder)


def test_a_float_matrix_has_no_order(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", numbers="float32")
    rewrite(folder, give(WITHIN_HEADS, ATTN_OUT), numbers="float32")
    edit_config(folder, quantization_config=tiny_config("float32")["quantization_config"])
    with pytest.raises(CheckpointError, match=f"{ATTN_OUT} has no sparse int8 weight"):
        read_checkpoint(folder)
