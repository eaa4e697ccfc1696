"""Models pruned by patterns that the engine has no kernels for: exported, run, and described as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bert import padded, random_sequences, tiny_bert, tiny_fast_tokenizer
from transformers import BertForSequenceClassification

from secateur.checkpoint import read_checkpoint
from secateur.checkpoint.found_pattern import find_pattern
from secateur.commands.inspect import examine
from secateur.commands.inspect import run as inspect
from secateur.export import export_checkpoint
from secateur.pattern import Pattern
from secateur.quantization import calibrate_
from secateur.runtime.engine import Engine
from secateur.sparsity import MagnitudePruner, MovementPruner, Pruner
from secateur.sparsity.choice import choose_masks

SEQUENCES = random_sequences(60)
# pattern, sparsity, what int8 and float32 files say
CASES = [
    ("2:4", 0.5, "block4", "unstructured"),
    ("1:8", 0.875, "block4", "unstructured"),
    ("block:4x4", 0.7, "block4", "unstructured"),
    ("block:8x1", 0.8, "block4", "unstructured"),
    ("block:1x8", 0.8, "block4", "unstructured"),
    ("unstructured", 0.9, "block4", "unstructured"),
]


def pruned(pattern: str, sparsity: float) -> BertForSequenceClassification:
    model = tiny_bert(sparsity=None, hidden_size=64)
    pruner: Pruner = MagnitudePruner(Pattern.parse(pattern))
    pruner.attach_(model)
    pruner.step_(sparsity)
    return model


def logits(model: BertForSequenceClassification) -> np.ndarray:
    with torch.no_grad():
        return model(**padded(SEQUENCES)).logits.numpy()


@pytest.mark.parametrize(("pattern", "sparsity", "int8", "_"), CASES)
def test_the_engine_runs_any_pattern_in_int8(
    tmp_path: Path, pattern: str, sparsity: float, int8: str, _: str
) -> None:
    model = pruned(pattern, sparsity)
    calibrate_(model, [padded(SEQUENCES)])
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out")
    np.testing.assert_allclose(Engine.from_pretrained(folder)(SEQUENCES), logits(model), rtol=0, atol=2e-5)
    assert read_checkpoint(folder).quantization.pattern == int8
    assert examine(folder)["pruned"]["pattern"] == pattern


@pytest.mark.parametrize(("pattern", "sparsity", "_", "f32"), CASES)
def test_the_engine_runs_any_pattern_in_float32(
    tmp_path: Path, pattern: str, sparsity: float, _: str, f32: str
) -> None:
    model = pruned(pattern, sparsity)
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out")
    np.testing.assert_allclose(Engine.from_pretrained(folder)(SEQUENCES), logits(model), rtol=1e-4, atol=1e-3)
    assert read_checkpoint(folder).quantization.pattern == f32
    assert examine(folder)["pruned"]["pattern"] == pattern


def test_inspect_says_what_a_pattern_runs_as(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = pruned("2:4", 0.5)
    calibrate_(model, [padded(SEQUENCES)])
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out")
    inspect(folder, None, None)
    said = " ".join(capsys.readouterr().err.split())
    assert "Pruned as 2:4, for which the engine has no kernel of its own: it runs as block4, the" in said
    assert "% of the weights are stored." in said
    assert examine(folder)["pruned"]["stored"] > 0.8  # of what is half zeros
    block4 = pruned("block4", 0.8)
    calibrate_(block4, [padded(SEQUENCES)])
    inspect(export_checkpoint(block4, tiny_fast_tokenizer(), tmp_path / "plain"), None, None)
    assert "Pruned as" not in capsys.readouterr().err


def test_what_movement_hides_behind_its_masks_is_not_exported(tmp_path: Path) -> None:
    model = tiny_bert(sparsity=None, hidden_size=64)
    pruner = MovementPruner(Pattern.parse("block4"))
    pruner.attach_(model)
    for mask in pruner._scored():
        mask.scores.data.copy_(torch.randn(mask.scores.shape))
    pruner.step_(0.8)
    calibrate_(model, [padded(SEQUENCES)])
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out")
    np.testing.assert_allclose(Engine.from_pretrained(folder)(SEQUENCES), logits(model), rtol=0, atol=2e-5)
    assert read_checkpoint(folder).quantization.sparsity == pytest.approx(0.8, abs=2e-3)


@pytest.mark.parametrize("name", ["2:4", "1:4", "3:8", "block4", "block:4x4", "block:16x1", "unstructured"])
def test_the_pattern_is_told_from_the_zeros(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    pattern = Pattern.parse(name)
    scores = [torch.rand(64, 128, generator=generator) for _ in range(3)]
    sparsity = pattern.limit if pattern.is_grouped else 0.75
    masks = choose_masks(scores, pattern, sparsity)
    weights = [(mask * (torch.rand(mask.shape, generator=generator) > 0.02)).numpy() for mask in masks]
    assert find_pattern(weights) == name


def test_what_is_not_pruned_is_dense() -> None:
    assert find_pattern([np.ones((8, 8)), np.ones((4, 4))]) == "dense"
