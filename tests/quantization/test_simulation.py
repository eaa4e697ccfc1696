"""The engine's float steps, told in PyTorch: near the true functions, fused steps rounded once."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny_bert import padded, random_sequences, tiny_bert
from torch import nn
from torch.nn import functional

from secateur.quantization import calibrate_, enable_quantizers_
from secateur.quantization.simulation import fma, gelu, layer_norm, probabilities

BATCH = padded(random_sequences(8))


def test_fma_rounds_once() -> None:
    random = np.random.default_rng(0)
    a, b = (random.normal(0, 1, 2000).astype(np.float32) for _ in range(2))
    c = (-a * b * (1 + random.normal(0, 1e-6, 2000))).astype(np.float32)  # cancels, which shows lost bits
    ours = fma(*(torch.from_numpy(x) for x in (a, b, c))).numpy()
    exact = [
        Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)
    ]
    np.testing.assert_array_equal(ours, np.array([float(value) for value in exact], np.float32))
    assert (ours != a * b + c).any()


@pytest.mark.parametrize(("kind", "approximate"), [("gelu", "none"), ("gelu_new", "tanh")])
def test_gelu_is_near_the_true_one(kind: str, approximate: str) -> None:
    x = torch.linspace(-8, 8, 100_001)
    error = (gelu(x, kind) - functional.gelu(x.double(), approximate=approximate)).abs().max()
    assert error < 2e-4
    assert gelu(torch.tensor([0.0, 300.0]), kind)[0] == 0.0


def test_layer_norm_is_near_the_true_one() -> None:
    torch.manual_seed(0)
    x, gamma, beta = torch.randn(3, 5, 96) * 4 + 1, torch.randn(96), torch.randn(96)
    expected = functional.layer_norm(x, (96,), gamma, beta, 1e-12)
    torch.testing.assert_close(layer_norm(x, gamma, beta, 1e-12), expected, rtol=1e-5, atol=1e-5)


def test_probabilities_are_near_the_true_ones() -> None:
    scores = -torch.arange(0.0, 400_000.0, 7.0)
    scale = torch.tensor(0.02)
    expected = 255 * torch.exp(scores.double() * float(scale) ** 2 / 32**0.5)
    ours = probabilities(scores.clone(), scale, scale, 32)
    assert (ours - expected).abs().max() < 0.501
    assert ours[0] == 255
    assert ours[-1] == 0
    assert probabilities(torch.tensor([torch.finfo(torch.float32).min]), scale, scale, 32) == 0


def test_gradients_are_those_of_the_true_functions() -> None:
    model = tiny_bert()
    calibrate_(model, [BATCH])
    with torch.no_grad():
        expected = model(**BATCH).logits
    exact = model(**BATCH).logits
    assert torch.equal(exact, expected)
    exact.sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    enable_quantizers_(model, False)
    model(**BATCH).logits.sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad.norm() > 1e-3:
            assert (gradients[name] - parameter.grad).norm() < 0.2 * parameter.grad.norm(), name


def test_training_runs_the_functions_of_pytorch() -> None:
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    calibrate_(model, [BATCH])
    norm = model.bert.encoder.layer[0].output.LayerNorm
    x = torch.randn(4, 32)
    assert not torch.equal(norm(x * 1e-3), functional.layer_norm(x * 1e-3, (32,), eps=norm.eps))
    model.train()
    assert torch.equal(norm(x), functional.layer_norm(x, (32,), norm.weight, norm.bias, norm.eps))
    activation = model.bert.encoder.layer[0].intermediate.intermediate_act_fn
    assert torch.equal(activation(x), nn.GELU()(x))
