"""Linear layers without quantizers, exported as bfloat16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reference_engine import reference_logits
from tiny_bert import mixed_parts, padded, random_sequences, tiny_bert, tiny_fast_tokenizer
from transformers import AutoModelForSequenceClassification

import secateur.hf  # noqa: F401
from secateur.checkpoint import read_checkpoint
from secateur.errors import UnsupportedError
from secateur.export import export_checkpoint
from secateur.modeling import find_projections
from secateur.quantization import attach_quantizers_, calibrate_
from secateur.runtime.engine import Engine
from secateur.sparsity.mask import find_mask, unquantized_weight

SEQUENCES = random_sequences(60)
PRUNINGS = [(None, "block4"), (0.7, "block4"), (0.7, "unstructured")]


@pytest.mark.parametrize(("sparsity", "pattern"), PRUNINGS)
def test_weights_are_rounded_and_nothing_else(tmp_path: Path, sparsity: float | None, pattern: str) -> None:
    model = tiny_bert(sparsity=sparsity, pattern=pattern)
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out", weights="bf16")
    checkpoint = read_checkpoint(folder)
    assert checkpoint.quantization.format_version == 3
    assert checkpoint.quantization.numbers == "bfloat16"
    assert "weights are bfloat16" in (folder / "README.md").read_text()
    loaded, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    for ours, theirs in zip(find_projections(model), find_projections(loaded), strict=True):
        expected = unquantized_weight(ours.linear).bfloat16().float()
        assert torch.equal(unquantized_weight(theirs.linear), expected)
        assert unquantized_weight(theirs.linear).dtype == torch.float32
        masks = find_mask(ours.linear), find_mask(theirs.linear)
        if masks[0] is None or masks[1] is None:
            assert masks[0] is None
            assert masks[1] is None
        else:
            assert torch.equal(masks[0].mask, masks[1].mask)
    with torch.no_grad():
        batch = padded(SEQUENCES)
        difference = (loaded(**batch).logits - model(**batch).logits).abs().max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize(("sparsity", "pattern"), PRUNINGS)
def test_the_engine_computes_what_the_format_says(
    tmp_path: Path, sparsity: float | None, pattern: str
) -> None:
    model = tiny_bert(sparsity=sparsity, pattern=pattern, hidden_act="relu")
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out", weights="bf16")
    logits = Engine.from_pretrained(folder, num_threads=2)(SEQUENCES)
    error = np.abs(logits - reference_logits(read_checkpoint(folder), SEQUENCES)).max(axis=1)
    # An activation between two bfloat16 may be rounded to the other one; most texts hold none.
    assert (error < 2e-5).mean() > 0.7
    assert error.max() < 0.05


def test_exporting_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = export_checkpoint(
        tiny_bert(sparsity=0.7), tiny_fast_tokenizer(), tmp_path / "out", weights="bf16"
    )
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    again = export_checkpoint(loaded, tiny_fast_tokenizer(), tmp_path / "again", weights="bf16")
    for name in ("model.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_what_has_quantizers_stays_int8(tmp_path: Path) -> None:
    model = tiny_bert(sparsity=0.7)
    attach_quantizers_(model, parts=mixed_parts(model))
    calibrate_(model, [padded(SEQUENCES)])
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out", weights="bf16")
    checkpoint = read_checkpoint(folder)
    assert (checkpoint.quantization.weights, checkpoint.quantization.format_version) == ("mixed", 3)
    kernels = {
        step["kernel"].partition("_")[0] + step["type"] for step in Engine.from_pretrained(folder).inspect()
    }
    assert {"roundbf16", "round"} & kernels
    assert {"spmmu8s8", "spmmbf16"} <= kernels
    logits = Engine.from_pretrained(folder, num_threads=1)(SEQUENCES)
    assert np.abs(logits - reference_logits(checkpoint, SEQUENCES)).mean() < 5e-3


def test_other_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="'f16': give 'f32' or 'bf16'"):
        export_checkpoint(tiny_bert(), tiny_fast_tokenizer(), tmp_path / "out", weights="f16")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
