"""Post-training quantization as a whole: settings, bad input, auto, and the engine that runs the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bert import padded, random_sequences, tiny_bert, tiny_fast_tokenizer
from tiny_models import HEADS, MEMBERS, family_batch, tiny_model, token_types
from torch import nn

from secateur.checkpoint import read_checkpoint
from secateur.errors import DataError, RecipeError, SecateurError, StructureError
from secateur.export import export_checkpoint
from secateur.modeling import find_blocks, find_projections
from secateur.quantization import (
    PostTraining,
    calibrate_,
    find_quantizers,
    is_quantized,
    quantize_post_training_,
)
from secateur.quantization.calibration import CalibrationTexts
from secateur.quantization.fake_quantize import fake_quantize_rows
from secateur.quantization.loss_increase import FloatAnswers
from secateur.quantization.qat import attention_quantizer, input_quantizer
from secateur.runtime.engine import Engine
from secateur.sparsity.mask import unquantized_weight

SEQUENCES = random_sequences(48)
FRESH = random_sequences(60, seed=3)
CPU = torch.device("cpu")
PLAIN = {"observer": "minmax", "smoothing": None, "bias_correction": False}


def batches_of(model: Any, **extra: Any) -> list[dict[str, torch.Tensor]]:
    return [family_batch(model, SEQUENCES[start : start + 16]) | extra for start in range(0, 48, 16)]


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result = model(**family_batch(model, FRESH))
    return result.logits if hasattr(result, "logits") else next(iter(result.values()))


@pytest.mark.parametrize("sparsity", [None, 0.6])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"observer": "percentile"},
        {"observer": "mse"},
        {"rounding": "gptq"},
        {"activations": "dynamic"},
        {"attention": "float"},
    ],
    ids=str,
)
def test_every_setting_stays_close_and_keeps_the_zeros(
    settings: dict[str, Any], sparsity: float | None
) -> None:
    model = tiny_bert(sparsity=sparsity).train()
    before = outputs(model.eval())
    zeros = [unquantized_weight(one.linear) == 0 for one in find_projections(model)]
    model.train()
    report = quantize_post_training_(model, batches_of(model), PostTraining(**settings))
    assert model.training
    after = outputs(model.eval())
    assert 0 < (after - before).abs().mean() < 0.06 * before.std()
    for projection, old in zip(find_projections(model), zeros, strict=True):
        assert (unquantized_weight(projection.linear)[old] == 0).all(), projection.name
    assert all(one.frozen for one in find_quantizers(model).values())
    assert report.facts["rows"] == 48
    assert set(report.facts["observers"]) == set(find_quantizers(model))
    dynamic, floating = settings.get("activations") == "dynamic", settings.get("attention") == "float"
    assert len(find_quantizers(model)) == 2 * ((0 if dynamic else 4) + (0 if floating else 3))


def test_plain_settings_are_plain_extremes_of_real_tokens() -> None:
    model = tiny_bert()
    model_inputs = []
    with torch.no_grad():
        for batch in batches_of(model):
            hidden = model.bert.embeddings(batch["input_ids"], batch.get("token_type_ids"))
            model_inputs.append(hidden[batch["attention_mask"].bool()])
    expected = torch.cat(model_inputs)
    quantize_post_training_(model, batches_of(model), PostTraining(**PLAIN))
    found = find_quantizers(model)["bert.encoder.layer.0.attention.self.input_quantizer"]
    assert found.low == expected.min()
    assert found.high == expected.max()


def test_padding_and_order_of_the_texts_do_not_matter() -> None:
    ranges = []
    for batches in ([SEQUENCES], [[one] for one in SEQUENCES[::-1]]):
        model = tiny_bert()
        quantize_post_training_(model, [padded(one) for one in batches], PostTraining(bias_correction=False))
        ranges.append(torch.stack([one.scale for one in find_quantizers(model).values()]))
    torch.testing.assert_close(*ranges, rtol=1e-5, atol=0.0)


def test_best_errs_least_in_what_is_computed_of_a_tensor() -> None:
    """The error at the reader's outputs, recomputed plainly, is the least of the three observers'."""
    errors: dict[str, dict[str, float]] = {}
    for observer in ("minmax", "percentile", "mse", "best"):
        model = tiny_bert()
        texts = CalibrationTexts(batches_of(model), CPU)
        block = find_blocks(model)[1]
        seen: list[torch.Tensor] = []
        texts.watch(model, [(block.ffn_out.linear, "input")], lambda place, x, seen=seen: seen.append(x))
        settings = PostTraining(observer=observer, percentile=99.0, smoothing=None, bias_correction=False)
        report = quantize_post_training_(model, texts.inputs, settings)
        quantizer = input_quantizer(block.ffn_out)
        assert quantizer is not None
        q, scale = quantizer(torch.cat(seen))
        error = (q * scale - torch.cat(seen)) @ block.ffn_out.linear.weight.detach().t()
        name = next(name for name, one in find_quantizers(model).items() if one is quantizer)
        chosen = report.facts["observers"][name]
        errors[observer] = {chosen: float(error.square().sum())}
    (best,) = errors.pop("best").items()
    alone = {name: error for one in errors.values() for name, error in one.items()}
    assert best[0] == min(alone, key=lambda name: alone[name])
    assert best[1] == pytest.approx(min(alone.values()), rel=1e-5)


def test_gptq_leaves_weights_on_the_grid() -> None:
    model = tiny_bert(sparsity=0.5)
    report = quantize_post_training_(model, batches_of(model), PostTraining(rounding="gptq"))
    assert len(report.facts["rounding"]) == 12
    for projection in find_projections(model):
        weight = unquantized_weight(projection.linear)
        assert torch.equal(fake_quantize_rows(weight), weight)


@pytest.mark.parametrize("count", [0, 1, 15])
def test_too_few_rows(count: int) -> None:
    model = tiny_bert()
    given = {0: "no text", 1: "1 text only", 15: "15 texts only"}[count]
    with pytest.raises(DataError, match=f"was given {given} and needs at least 16"):
        quantize_post_training_(model, [padded(SEQUENCES[:count])] if count else [])
    assert not is_quantized(model)


def test_a_quantized_model_is_refused() -> None:
    model = tiny_bert()
    calibrate_(model, [padded(SEQUENCES)])
    with pytest.raises(StructureError, match="quantized already"):
        quantize_post_training_(model, batches_of(model))


@pytest.mark.parametrize("observer", ["minmax", "best"])
def test_a_constant_tensor_is_named(observer: Any) -> None:
    model = tiny_bert()
    with torch.no_grad():
        block = find_blocks(model)[1]
        block.v.linear.weight.zero_()
        block.v.linear.bias.fill_(0.25)
    with pytest.raises(SecateurError) as caught:
        quantize_post_training_(model, batches_of(model), PostTraining(observer=observer))
    message = str(caught.value)
    assert not is_quantized(model)
    assert "bert.encoder.layer.1.attention.value's output is" in message
    assert "everywhere" in message
    assert "layer.0" not in message


@pytest.mark.parametrize("observer", ["minmax", "best"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(observer: Any, bad: float) -> None:
    model = tiny_bert()
    with torch.no_grad():
        find_blocks(model)[1].ffn_in.linear.bias[3] = bad
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SecateurError, match=r"layer\.1\.output\.dense.* holds NaN or infinity"):
        quantize_post_training_(model, batches_of(model), PostTraining(observer=observer))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"observer": "moving_average"},
        {"smoothing": 1.5},
        {"smoothing": float("nan")},
        {"rounding": "floor"},
        {"activations": "int4"},
        {"attention": "bf16"},
        {"max_loss_increase": -0.1},
        {"max_loss_increase": float("nan")},
        {"max_loss_increase": float("inf")},
        {"float_weights": "f16"},
        {"percentile": 20.0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(settings))):
        PostTraining(**settings)


@pytest.mark.parametrize("weights", ["f32", "bf16"])
@pytest.mark.parametrize("sparsity", [None, 0.6])
def test_auto_leaves_the_worst_in_float_and_the_engine_runs_it(
    tmp_path: Path, weights: Any, sparsity: float | None
) -> None:
    model = tiny_bert(sparsity=sparsity)
    bound = 0.0004 if sparsity is None else 0.0003
    settings = PostTraining(max_loss_increase=bound, float_weights=weights)
    texts = CalibrationTexts(batches_of(model), CPU)
    answers = FloatAnswers(model, texts)
    before = outputs(model)
    report = quantize_post_training_(model, texts.inputs, settings)
    auto = report.facts["auto"]
    assert auto["measure"] == "divergence"
    assert auto["before"] > bound >= auto["after"]
    ordered = [entry["name"] for entry in auto["order"]]
    assert len(ordered) == 2 * 7
    divergences = [entry["divergence"] for entry in auto["order"]]
    assert divergences == sorted(divergences, reverse=True)
    left = auto["left_in_float"]
    assert 0 < len(left) < len(ordered)
    assert left == ordered[: len(left)]
    for block in find_blocks(model):
        for projection in block.projections():
            assert (input_quantizer(projection) is None) == (projection.name in left), projection.name
            assert isinstance(projection.linear, nn.Linear)
        assert (attention_quantizer(model, block) is None) == (f"{block.prefix}.attention" in left)
    if weights == "f32":
        assert answers.compare(model).loss == pytest.approx(auto["after"], rel=1e-4)
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out", weights=report.weights)
    engine = Engine.from_pretrained(folder)(FRESH, token_types(model, FRESH))
    after = outputs(model)
    # bfloat16 also rounds what the float matrices multiply.
    tolerance = 1e-3 if weights == "f32" else 0.06
    assert np.abs(engine - after.numpy()).mean() < tolerance * float(before.std())


def test_float_weights_come_back_where_a_matrix_stays_float() -> None:
    model = tiny_bert()
    texts = batches_of(model)
    kept = {one.name: one.linear.weight.detach().clone() for one in find_projections(model)}
    settings = PostTraining(smoothing=None, rounding="gptq", max_loss_increase=0.0003)
    left = quantize_post_training_(model, texts, settings).facts["auto"]["left_in_float"]
    linears = [one for one in find_projections(model) if one.name in left]
    assert linears
    for projection in find_projections(model):
        same = torch.equal(projection.linear.weight, kept[projection.name])
        assert same == (projection.name in left), projection.name


def test_a_loose_bound_leaves_nothing_and_a_tight_one_is_refused() -> None:
    model = tiny_bert()
    auto = quantize_post_training_(model, batches_of(model), PostTraining(max_loss_increase=1.0)).facts[
        "auto"
    ]
    assert auto["left_in_float"] == []
    assert auto["before"] == auto["after"]
    model = tiny_bert()
    with pytest.raises(RecipeError, match=r"max_loss_increase is 0, but with int8 embeddings alone"):
        quantize_post_training_(model, batches_of(model), PostTraining(max_loss_increase=0.0))


def test_labels_make_it_the_loss_that_is_bounded() -> None:
    model = tiny_bert()
    labelled = [batch | {"labels": torch.arange(16) % 5} for batch in batches_of(model)]
    texts = CalibrationTexts(labelled, CPU)
    answers = FloatAnswers(model, texts)
    assert answers.measure == "loss"
    with torch.no_grad():
        first = np.mean([float(model(**batch).loss) for batch in labelled])
        calibrate_(model, batches_of(model))
        second = np.mean([float(model(**batch).loss) for batch in labelled])
    assert answers.compare(model).loss == pytest.approx(second - first, abs=1e-6)


@pytest.mark.parametrize("end", HEADS)
@pytest.mark.parametrize("member", ["bert", "roberta"])
def test_every_head_has_a_distance_that_is_zero_for_itself(member: str, end: str) -> None:
    model = tiny_model(member, end)
    texts = CalibrationTexts(batches_of(model), CPU)
    answers = FloatAnswers(model, texts)
    assert answers.compare(model).divergence == pytest.approx(0.0, abs=1e-6)
    quantize_post_training_(model, texts.inputs, PostTraining(**PLAIN))
    assert answers.compare(model).divergence > 1e-5


def test_the_divergence_is_the_plain_one() -> None:
    model = tiny_model("bert", "ForTokenClassification")
    texts = CalibrationTexts(batches_of(model), CPU)
    answers = FloatAnswers(model, texts)
    rows = []
    with torch.no_grad():
        floats = [model(**batch).logits.double().softmax(-1) for batch in texts.inputs]
        calibrate_(model, texts.inputs)
        for batch, p in zip(texts.inputs, floats, strict=True):
            q = model(**batch).logits.double().softmax(-1)
            each = (p * (p / q).log()).sum(-1)
            rows.append(each[batch["attention_mask"].bool()].mean())
    assert answers.compare(model).divergence == pytest.approx(float(torch.stack(rows).mean()), rel=1e-3)


@pytest.mark.parametrize("member", MEMBERS)
def test_every_family_agrees_with_the_engine(tmp_path: Path, member: str) -> None:
    model = tiny_model(member)
    before = outputs(model)
    report = quantize_post_training_(model, batches_of(model))
    after = outputs(model)
    assert (after - before).abs().mean() < 0.1 * before.std()
    folder = export_checkpoint(model, tiny_fast_tokenizer(), tmp_path / "out", weights=report.weights)
    assert read_checkpoint(folder).quantization.numbers == "int8"
    engine = Engine.from_pretrained(folder)(FRESH, token_types(model, FRESH))
    assert np.abs(engine - after.numpy()).mean() < 0.01 * float(before.std())


def test_ranges_need_histograms_only_where_they_clip() -> None:
    model = tiny_bert()
    quantize_post_training_(model, batches_of(model), PostTraining(**PLAIN))
    assert not any("counts" in name for name in model.state_dict())
