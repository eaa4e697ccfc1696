"""Outlier channels move into the weights and nothing else changes: bit for bit, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_bert import random_sequences
from tiny_models import MEMBERS, family_batch, tiny_model
from torch_engine import SENTENCES

from secateur.bench.pretrained import packaged_minilm
from secateur.errors import MissingExtraError
from secateur.modeling import find_blocks, find_projections
from secateur.quantization import PostTraining, quantize_post_training_
from secateur.quantization.calibration import CalibrationTexts
from secateur.quantization.smoothing import smooth_
from secateur.sparsity.mask import unquantized_weight

SEQUENCES = random_sequences(40)
CPU = torch.device("cpu")


def batches_of(model: Any) -> list[dict[str, torch.Tensor]]:
    return [family_batch(model, SEQUENCES[start : start + 10]) for start in range(0, 40, 10)]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**family_batch(model, random_sequences(60, seed=7))).logits


def plant_(model: Any, factor: float = 64.0) -> None:
    """Gives every layer outlier channels that change nothing: two values, a query and a key."""
    with torch.no_grad():
        for block in find_blocks(model):
            for maker, reader, channel in (
                (block.q, block.k, 3),
                (block.k, block.q, 9),
            ):
                maker.linear.weight[channel] *= factor
                maker.linear.bias[channel] *= factor
                reader.linear.weight[channel] /= factor
                reader.linear.bias[channel] /= factor
            for channel in (5, 20):
                block.v.linear.weight[channel] *= factor
                block.v.linear.bias[channel] *= factor
                block.attn_out.linear.weight[:, channel] /= factor


@pytest.mark.parametrize("sparsity", [None, 0.6])
@pytest.mark.parametrize("member", MEMBERS)
def test_the_float_model_stays_the_same(member: str, sparsity: float | None) -> None:
    model = tiny_model(member, sparsity=sparsity)
    before = logits(model)
    weights = [unquantized_weight(one.linear).clone() for one in find_projections(model)]
    smooth_(model, CalibrationTexts(batches_of(model), CPU), 0.5)
    assert torch.equal(logits(model), before)
    changed = 0
    for projection, weight in zip(find_projections(model), weights, strict=True):
        now = unquantized_weight(projection.linear)
        assert torch.equal(now == 0, weight == 0)
        changed += not torch.equal(now, weight)
        factors = (now / weight)[weight != 0]
        assert torch.equal(factors.log2(), factors.log2().round())
    assert changed


def test_relu_feeds_ffn_out_with_channels_that_move_too() -> None:
    model = tiny_model("distilbert-relu")
    block = find_blocks(model)[0]
    before = [one.linear.weight.clone() for one in (block.ffn_in, block.ffn_out)]
    with torch.no_grad():
        block.ffn_in.linear.weight[7] *= 128
        block.ffn_in.linear.bias[7] *= 128
        block.ffn_out.linear.weight[:, 7] /= 128
    outliers = smooth_(model, CalibrationTexts(batches_of(model), CPU), 0.5)
    name = f"the input of {block.ffn_out.name}"
    (found,) = [one for one in outliers if one.tensor == name]
    assert list(found.channels) == [7]
    assert found.movable
    for projection, old in zip((block.ffn_in, block.ffn_out), before, strict=True):
        times = projection.linear.weight.abs().max() / old.abs().max()
        assert times < 8
    gelu = tiny_model("bert")
    ffn = [one.linear for one in (find_blocks(gelu)[0].ffn_in, find_blocks(gelu)[0].ffn_out)]
    before = [one.weight.clone() for one in ffn]
    smooth_(gelu, CalibrationTexts(batches_of(gelu), CPU), 0.5)
    assert all(torch.equal(one.weight, old) for one, old in zip(ffn, before, strict=True))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_the_factors_are_those_of_the_formula(alpha: float) -> None:
    model = tiny_model("bert")
    block = find_blocks(model)[0]
    values, inner = [], block.v.linear.weight.clone()
    columns = block.attn_out.linear.weight.abs().amax(0)
    handle = block.v.linear.register_forward_hook(lambda module, args, output: values.append(output))
    for batch in batches_of(model):
        with torch.no_grad():
            model(**batch)
        values[-1] = values[-1][batch["attention_mask"].bool()]
    handle.remove()
    activations = torch.cat(values).abs().amax(0)
    factors = 2.0 ** (activations**alpha / columns ** (1 - alpha)).log2().round()
    smooth_(model, CalibrationTexts(batches_of(model), CPU), alpha)
    assert torch.equal(block.v.linear.weight, inner / factors[:, None])


def test_planted_outliers_are_named_and_cost_nothing() -> None:
    errors = {}
    for name, smoothing in (("clean", 0.5), ("smoothed", 0.5), ("left", None)):
        model = tiny_model("roberta")
        expected = logits(model)
        if name != "clean":
            plant_(model)
            assert torch.equal(logits(model), expected)
        report = quantize_post_training_(model, batches_of(model), PostTraining(smoothing=smoothing))
        errors[name] = float((logits(model) - expected).abs().mean() / expected.std())
        if name == "clean":
            assert report.facts["outliers"] == []
            continue
        found = {entry["tensor"]: entry for entry in report.facts["outliers"]}
        prefix = find_blocks(model)[0].prefix
        assert set(found[f"{prefix}.attention.value's output"]["channels"]) == {5, 20}
        assert set(found[f"{prefix}.attention.query's output"]["channels"]) == {3}
        assert set(found[f"{prefix}.attention.key's output"]["channels"]) == {9}
        assert "has outlier channels 20 (" in found[f"{prefix}.attention.value's output"]["text"]
    assert errors["smoothed"] == pytest.approx(errors["clean"], rel=0.2)
    assert errors["left"] > 3 * errors["clean"]


def test_channels_that_nobody_reads_do_not_widen_a_range() -> None:
    model = tiny_model("bert")
    block = find_blocks(model)[0]
    with torch.no_grad():
        block.v.linear.weight[4] *= 1000
        block.attn_out.linear.weight[:, 4] = 0.0
        block.v.linear.weight[6] = 0.0
        block.v.linear.bias[6] = 0.0
    before = logits(model)
    smooth_(model, CalibrationTexts(batches_of(model), CPU), 0.5)
    assert torch.equal(logits(model), before)
    assert block.v.linear.weight[4].abs().max() < 100
    assert (block.attn_out.linear.weight[:, 4] == 0).all()
    assert torch.isfinite(block.attn_out.linear.weight).all()


def test_planted_outliers_cost_a_real_model_nothing() -> None:
    transformers = pytest.importorskip("transformers")
    try:
        folder = packaged_minilm()
    except MissingExtraError as error:
        pytest.skip(str(error))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(words[start : start + 12]) for start in range(0, len(words) - 12, 3)]
    batch = dict(tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt"))
    cosines = {}
    for smoothing in (0.5, None):
        model = transformers.AutoModel.from_pretrained(folder).eval()
        with torch.no_grad():
            expected = model(**batch).last_hidden_state[:, 0]
            plant_(model)
            report = quantize_post_training_(
                model, [batch], PostTraining(smoothing=smoothing, observer="minmax", bias_correction=False)
            )
            found = model(**batch).last_hidden_state[:, 0]
        cosines[smoothing] = float(torch.cosine_similarity(found, expected).mean())
        named = {entry["tensor"]: set(entry["channels"]) for entry in report.facts["outliers"]}
        assert named["encoder.layer.3.attention.value's output"] >= {5, 20}
    assert cosines[0.5] > 0.985
    assert 1 - cosines[None] > 3 * (1 - cosines[0.5])
