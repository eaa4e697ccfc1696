"""A bias correction is what the plain formula says, and the mean outputs are the float model's again."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from tiny_bert import random_sequences
from tiny_models import family_batch, tiny_model

from secateur.affine import fake_quantize, symmetric_scale
from secateur.modeling import find_blocks
from secateur.quantization import PostTraining, QuantScheme, attach_quantizers_, quantize_post_training_
from secateur.quantization.bias_correction import correct_biases_, output_means
from secateur.quantization.calibrated_ranges import learn_ranges_
from secateur.quantization.calibration import CalibrationTexts
from secateur.quantization.qat import input_quantizer

SEQUENCES = random_sequences(40)
CPU = torch.device("cpu")
Activations = Literal["u8_static", "s8_dynamic"]


def texts_of(model: Any) -> CalibrationTexts:
    return CalibrationTexts([family_batch(model, SEQUENCES[start : start + 20]) for start in (0, 20)], CPU)


def quantized(model: Any, texts: CalibrationTexts, activations: Activations = "u8_static") -> None:
    attach_quantizers_(model, QuantScheme(observer="percentile", averaging=0.0, activations=activations))
    learn_ranges_(model, texts, "percentile", 97.0, mean_counts=False)  # clips enough to move means


@pytest.mark.parametrize("activations", ["u8_static", "s8_dynamic"])
def test_the_first_layer_follows_the_closed_form(activations: Activations) -> None:
    model = tiny_model("bert")
    texts = texts_of(model)
    block = find_blocks(model)[0]
    inputs, outputs = [], []
    with torch.no_grad():
        for batch in texts.inputs:
            hidden = model.bert.embeddings(batch["input_ids"], batch["token_type_ids"])
            inputs.append(hidden[batch["attention_mask"].bool()])
            outputs.append(block.q.linear(inputs[-1]))
    means = output_means(model, texts)
    torch.testing.assert_close(means[block.q.name], torch.cat(outputs).double().mean(0), rtol=1e-5, atol=1e-6)
    bias = block.q.linear.bias.detach().clone()
    quantized(model, texts, activations)
    changes = correct_biases_(model, texts, means)
    # b' = b + E[W x] - E[V q(x)], by numpy; the embeddings are int8, too, when the quantized model runs.
    with torch.no_grad():
        x = torch.cat(
            [
                model.bert.embeddings(batch["input_ids"], batch["token_type_ids"])[
                    batch["attention_mask"].bool()
                ]
                for batch in texts.inputs
            ]
        )
        q, scale = input_quantizer(block.q)(x)
    seen = (q * (scale[:, None] if scale.dim() else scale)).double().mean(0).numpy()
    weight = block.q.linear.weight.detach().numpy()
    rounded = fake_quantize(weight, symmetric_scale(abs(weight).max(1))[:, None], 0, -127, 127)
    expected = means[block.q.name].numpy() - rounded.astype("float64") @ seen
    torch.testing.assert_close(
        block.q.linear.bias.detach().double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5
    )
    change = (block.q.linear.bias.detach() - bias).abs().max()
    assert changes[block.q.name] == pytest.approx(float(change), abs=1e-6)


@pytest.mark.parametrize("member", ["bert", "distilbert"])
def test_mean_outputs_are_those_of_the_float_model(member: str) -> None:
    model = tiny_model(member)
    texts = texts_of(model)
    expected = output_means(model, texts)
    quantized(model, texts)
    before = output_means(model, texts)
    assert correct_biases_(model, texts, expected).keys() == expected.keys()
    after = output_means(model, texts)
    for name, mean in expected.items():
        scale = float((before[name] - mean).abs().max())
        assert scale > 1e-4, name
        assert float((after[name] - mean).abs().max()) < 0.01 * scale, name


def test_layers_that_run_more_than_once_come_closer() -> None:
    model = tiny_model("albert-groups")
    texts = texts_of(model)
    expected = output_means(model, texts)
    quantized(model, texts)

    def distance() -> float:
        found = output_means(model, texts)
        return sum(float((found[name] - mean).square().sum()) for name, mean in expected.items())

    before = distance()
    correct_biases_(model, texts, expected)
    assert distance() < 0.7 * before


def test_a_pruned_and_clipped_model_answers_better() -> None:
    errors = {}
    for corrected in (False, True):
        model = tiny_model("bert", sparsity=0.6)
        texts = family_batch(model, random_sequences(60, seed=5))
        with torch.no_grad():
            expected = model(**texts).logits
        settings = PostTraining(observer="percentile", percentile=98.0, bias_correction=corrected)
        report = quantize_post_training_(model, texts_of(model).inputs, settings)
        assert ("bias_correction" in report.facts) == corrected
        with torch.no_grad():
            errors[corrected] = float((model(**texts).logits - expected).abs().mean())
    assert errors[True] < errors[False]
