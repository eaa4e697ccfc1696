"""Synthetic checkpoints: sound, of the asked shape and sparsity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secateur.bench import synthetic
from secateur.bench.synthetic import SyntheticShape, write_synthetic
from secateur.checkpoint import FAMILIES, linear_names, read_checkpoint, tensor_name, unpack_mask
from secateur.errors import UnsupportedError
from secateur.runtime.engine import Engine


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(synthetic.SHAPES, "tiny", SyntheticShape(2, 64, 4, vocab_size=100, max_positions=32))


# An order of the columns leaves 2 % (within heads of 16) to 20 % fewer blocks than the 59 % of their own.
@pytest.mark.parametrize(("pattern", "low", "high"), [("block4", 0.17, 0.23), ("unstructured", 0.42, 0.585)])
def test_a_sparse_checkpoint_keeps_the_blocks_it_should(
    tmp_path: Path, pattern: str, low: float, high: float
) -> None:
    checkpoint = read_checkpoint(write_synthetic(tmp_path / "model", "tiny", pattern=pattern, sparsity=0.8))
    assert checkpoint.quantization.sparsity == 0.8
    for module in linear_names(1, "bert").linears.values():
        rows = checkpoint.tensors[tensor_name(module, "weight_mask")]
        inputs = 256 if module.endswith("layer.1.output.dense") else 64
        assert low < unpack_mask(rows, inputs // 4).mean() < high


@pytest.mark.parametrize(("pattern", "stored"), [("block4", 4), ("unstructured", 1)])
def test_a_float_checkpoint_keeps_the_weights_it_should(tmp_path: Path, pattern: str, stored: int) -> None:
    folder = write_synthetic(tmp_path / "model", "tiny", pattern=pattern, sparsity=0.8, quantized=False)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.quantization.numbers == "float32"
    assert checkpoint.quantization.pattern == "unstructured"
    assert checkpoint.quantization.sparsity == 0.8
    for module in linear_names(1, "bert").linears.values():
        mask = checkpoint.tensors[tensor_name(module, "weight_mask")]
        inputs = 256 if module.endswith("layer.1.output.dense") else 64
        kept = unpack_mask(mask, inputs)
        assert kept.mean() == pytest.approx(0.2, abs=0.001)
        groups = kept.reshape(len(kept), -1, stored)
        assert (groups.all(axis=2) == groups.any(axis=2)).all()


@pytest.mark.parametrize("quantized", [True, False])
def test_a_dense_checkpoint_has_no_masks(tmp_path: Path, quantized: bool) -> None:
    folder = write_synthetic(tmp_path / "model", "tiny", pattern="dense", quantized=quantized)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.quantization.numbers == ("int8" if quantized else "float32")
    assert checkpoint.quantization.pattern == "dense"
    assert checkpoint.quantization.sparsity == 0
    assert not [name for name in checkpoint.tensors if name.endswith("weight_mask")]


def test_layers_can_be_fewer_and_differ(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_synthetic(tmp_path / "model", "tiny", num_layers=3))
    names = [tensor_name(linear_names(layer, "bert").linears["query"], "weight_values") for layer in range(3)]
    assert not np.array_equal(checkpoint.tensors[names[0]], checkpoint.tensors[names[1]])
    assert tensor_name(linear_names(3, "bert").linears["query"], "weight_values") not in checkpoint.tensors


def test_one_seed_gives_one_checkpoint(tmp_path: Path) -> None:
    folders = [write_synthetic(tmp_path / str(i), "tiny", seed=seed) for i, seed in enumerate((1, 1, 2))]
    first, same, other = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == same
    assert first != other


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "gpt"}, "no synthetic model 'gpt'; known are bert-base"),
        ({"pattern": "2:3"}, "no pattern '2:3'; known are block4"),
        ({"sparsity": 80}, "sparsity is 80"),
        ({"num_layers": 0}, "number of layers is 0"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    arguments: dict[str, object] = {"name": "tiny", **changes}
    with pytest.raises(UnsupportedError, match=said):
        write_synthetic(tmp_path / "model", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_synthetic_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, quantized: bool
) -> None:
    assert family in {shape.family for shape in synthetic.SHAPES.values()}
    shape = SyntheticShape(2, 64, 4, vocab_size=100, max_positions=32, family=family, embedding_size=40)
    monkeypatch.setitem(synthetic.SHAPES, "other", shape)
    folder = write_synthetic(tmp_path / "model", "other", sparsity=0.8, quantized=quantized)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.shape.family == family
    assert checkpoint.shape.max_positions == 32
    assert Engine.from_pretrained(folder)([[5, 6, 7]]).shape == (1, 2)
