"""What is exported is what the model computed with, told by an independent implementation of the law."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_engine import reference_logits
from tiny_bert import padded, random_sequences, tiny_bert, tiny_fast_tokenizer
from transformers import BertForMultipleChoice, BertForSequenceClassification

from secateur import affine
from secateur.checkpoint import decode_weight, read_checkpoint
from secateur.errors import CheckpointError, StructureError, UnsupportedError
from secateur.export import export_checkpoint
from secateur.modeling import find_projections
from secateur.quantization import attach_quantizers_, calibrate_, enable_quantizers_
from secateur.quantization.fake_quantize import fake_quantize_rows
from secateur.runtime.engine import Engine
from secateur.sparsity import sparsity_of
from secateur.sparsity.mask import remove_mask_, unquantized_weight

SEQUENCES = random_sequences(150)
BATCHES = [padded(SEQUENCES[start : start + 50]) for start in range(0, 150, 50)]


def calibrated(**changes: object) -> BertForSequenceClassification:
    model = tiny_bert(**changes)
    calibrate_(model, BATCHES[:2])
    return model


def torch_logits(model: BertForSequenceClassification) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([model(**batch).logits for batch in BATCHES]).numpy()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("sparsity", [None, 0.7])
def test_reference_agrees_with_pytorch(tmp_path: Path, sparsity: float | None, activation: str) -> None:
    model = calibrated(sparsity=sparsity, hidden_act=activation)
    checkpoint = read_checkpoint(export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out"))
    expected = torch_logits(model)
    ours = reference_logits(checkpoint, SEQUENCES)
    # The reference has the true GELU and sums norms in another order: a few integers come out one apart.
    difference = np.abs(ours - expected)
    assert difference.mean() < 0.01 * expected.std()
    assert np.median(difference) < 1e-5


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("sparsity", [None, 0.7])
def test_engine_agrees_with_pytorch(tmp_path: Path, sparsity: float | None, activation: str) -> None:
    model = calibrated(sparsity=sparsity, hidden_act=activation, hidden_size=64, num_hidden_layers=4)
    engine = Engine.from_pretrained(export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out"))
    # Only the sums of the float head run in another order.
    np.testing.assert_allclose(engine(SEQUENCES), torch_logits(model), rtol=0, atol=2e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_unstructured_masks_are_stored_in_an_order_that_fills_blocks(tmp_path: Path, layers: int) -> None:
    model = calibrated(sparsity=0.8, pattern="unstructured", hidden_size=64, num_hidden_layers=layers)
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out")
    checkpoint = read_checkpoint(folder)
    orders = [name for name in checkpoint.tensors if name.endswith(".input_order")]
    assert len(orders) >= 3 * layers
    assert checkpoint.config["quantization_config"]["format_version"] == 2
    expected = torch_logits(model)
    np.testing.assert_allclose(Engine.from_pretrained(folder)(SEQUENCES), expected, rtol=0, atol=2e-5)
    difference = np.abs(reference_logits(checkpoint, SEQUENCES) - expected)
    assert difference.mean() < 0.01 * expected.std()


def test_stored_weights_are_the_fake_quantized_ones(tmp_path: Path) -> None:
    model = calibrated(sparsity=0.7)
    checkpoint = read_checkpoint(export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out"))
    for projection in find_projections(model):
        stored = {
            suffix: checkpoint.tensors[f"{projection.name}.{suffix}"]
            for suffix in ("weight", "weight_values", "weight_mask")
            if f"{projection.name}.{suffix}" in checkpoint.tensors
        }
        q, _ = decode_weight(stored, projection.in_features)
        ours = affine.dequantize(q, checkpoint.tensors[f"{projection.name}.weight_scale"][:, None])
        expected = fake_quantize_rows(unquantized_weight(projection.linear)).numpy()
        np.testing.assert_array_equal(ours, expected)


def test_config_says_what_was_done(tmp_path: Path) -> None:
    labels = ["alarm", "pay", "play", "stop", "ask"]
    model = calibrated(sparsity=0.7, id2label=dict(enumerate(labels)))
    checkpoint = read_checkpoint(export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out"))
    assert checkpoint.labels == labels
    assert checkpoint.quantization.pattern == "block4"
    zeros = sparsity_of([projection.linear for projection in find_projections(model)])
    assert checkpoint.quantization.sparsity == pytest.approx(zeros)
    assert checkpoint.quantization.sparsity == pytest.approx(0.7, abs=1e-3)
    assert "quantization_config" not in model.config.to_dict()
    dense = read_checkpoint(export_checkpoint(calibrated(), tiny_fast_tokenizer(), tmp_path / "dense"))
    assert (dense.quantization.pattern, dense.quantization.sparsity) == ("dense", 0.0)


def test_zeros_are_found_after_the_masks_are_gone(tmp_path: Path) -> None:
    model = tiny_bert(sparsity=0.7)
    for projection in find_projections(model):
        remove_mask_(projection.linear)
    calibrate_(model, BATCHES[:1])
    checkpoint = read_checkpoint(export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out"))
    assert checkpoint.quantization.pattern == "block4"


def test_folder_holds_tokenizer_recipe_metrics_and_card(tmp_path: Path) -> None:
    metrics = {"accuracy": 0.93125, "engine": {"latency_ms": 1.5}, "note": "a|b"}
    tokenizer = tiny_fast_tokenizer()
    out = export_checkpoint(calibrated(sparsity=0.7), tokenizer, tmp_path / "out", "stages: []\n", metrics)
    tokenizer_file = json.loads((out / "tokenizer.json").read_text())
    assert tokenizer_file["padding"] is None
    assert tokenizer_file["truncation"] is None
    assert (out / "recipe.yaml").read_text() == "stages: []\n"
    assert json.loads((out / "metrics.json").read_text()) == metrics
    card = (out / "README.md").read_text()
    assert "| accuracy | 0.9313 |" in card
    assert "| engine.latency_ms | 1.5 |" in card
    assert "70% of the encoder's weights are zero" in card
    assert tokenizer.backend_tokenizer.padding is not None  # the caller's own is left as it was


def test_nothing_tells_where_it_was_made(tmp_path: Path) -> None:
    model = calibrated()
    source = tmp_path / "source"
    model.config.save_pretrained(source)
    model.config._name_or_path = str(source)
    tokenizer = tiny_fast_tokenizer()
    tokenizer.save_pretrained(source)
    out = export_checkpoint(model, type(tokenizer).from_pretrained(source), tmp_path / "out")
    for path in out.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_a_checkpoint_is_replaced_and_foreign_files_are_not(tmp_path: Path) -> None:
    model, tokenizer = calibrated(), tiny_fast_tokenizer()
    out = export_checkpoint(model, tokenizer, tmp_path / "out", metrics={"run": 1})
    export_checkpoint(model, tokenizer, out, metrics={"run": 2})
    assert json.loads((out / "metrics.json").read_text()) == {"run": 2}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"thesis\.txt"):
        export_checkpoint(model, tokenizer, tmp_path / "mine")


def test_a_model_that_is_not_ready_names_everything(tmp_path: Path) -> None:
    tokenizer = tiny_fast_tokenizer()
    model = tiny_bert()
    attach_quantizers_(model)
    with pytest.raises(StructureError, match="never observed"):
        export_checkpoint(model, tokenizer, tmp_path / "out")
    calibrate_(model, BATCHES[:1])
    enable_quantizers_(model, False)
    with pytest.raises(StructureError, match="switched off"):
        export_checkpoint(model, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = calibrated()
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"classifier\.bias holds NaN"):
        export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_range_that_never_moved_is_said(tmp_path: Path) -> None:
    model = tiny_bert()
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.key.weight.zero_()
    calibrate_(model, BATCHES[:1])
    with pytest.warns(UserWarning, match=r"layer.0.attention.key's output was always 0"):
        export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out")


def test_other_heads_are_refused(tmp_path: Path) -> None:
    config = tiny_bert().config
    with pytest.raises(
        UnsupportedError, match="BertForMultipleChoice cannot be exported; supported: BertForSeq"
    ):
        export_checkpoint(BertForMultipleChoice(config), tiny_fast_tokenizer(), tmp_path / "out")
