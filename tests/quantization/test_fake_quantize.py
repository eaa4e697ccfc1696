"""PyTorch obeys the numeric law bit for bit, and gradients pass straight through the rounding."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from secateur import affine
from secateur.checkpoint import decode_weight, encode_weight
from secateur.quantization.fake_quantize import (
    asymmetric_qparams,
    fake_quantize,
    fake_quantize_rows,
    quantize,
    row_scales,
    symmetric_scale,
)
from secateur.quantization.integer_attention import integer_attention
from secateur.quantization.integer_linear import integer_linear

U8 = (0, 255)
S8 = (-127, 127)


def same_bits(ours: Tensor, expected: np.ndarray) -> bool:
    return ours.dtype == torch.float32 and ours.detach().numpy().tobytes() == expected.tobytes()


def values_with_ties(scale: float, count: int = 4000) -> np.ndarray:
    """Random values, every half-way tie within and beyond the range, zeros of both signs, huge values."""
    random = np.random.default_rng(0)
    ties = (np.arange(-300, 300) + 0.5) * np.float64(scale)
    spread = random.normal(0, 90 * scale, count)
    return np.concatenate([ties, spread, [0.0, -0.0, 1e30, -1e30, 3e38]]).astype(np.float32)


@pytest.mark.parametrize("scale", [0.25, 2.0**-7, 0.031, 1.7e-3, 3.3])
@pytest.mark.parametrize(("zero_point", "limits"), [(0, S8), (0, U8), (19, U8), (128, U8), (255, U8)])
def test_equals_the_law(scale: float, zero_point: int, limits: tuple[int, int]) -> None:
    x = values_with_ties(scale)
    factors = torch.tensor(scale), torch.tensor(float(zero_point))
    expected = affine.quantize(x, np.float32(scale), zero_point, *limits)
    q = quantize(torch.from_numpy(x), *factors, *limits, torch.float32)
    np.testing.assert_array_equal(q.numpy() + zero_point, expected)
    ours = fake_quantize(torch.from_numpy(x), *factors, *limits) + 0.0  # the law has no negative zero
    assert same_bits(ours, affine.fake_quantize(x, np.float32(scale), zero_point, *limits) + np.float32(0))


def test_ranges_equal_the_law() -> None:
    random = np.random.default_rng(1)
    low = np.concatenate([random.normal(0, 3, 500), [0, 0, -1e-40, -5, 2, 1e-45]]).astype(np.float32)
    high = np.concatenate([low[:500] + random.exponential(2, 500), [0, 4, 1e-40, -1, 7, 1e-38]])
    high = high.astype(np.float32)
    scale, zero_point = asymmetric_qparams(torch.from_numpy(low), torch.from_numpy(high))
    expected_scale, expected_zero_point = affine.asymmetric_qparams(low, high)
    assert same_bits(scale, expected_scale)
    np.testing.assert_array_equal(zero_point.numpy(), expected_zero_point)
    assert same_bits(symmetric_scale(torch.from_numpy(np.abs(high))), affine.symmetric_scale(np.abs(high)))


def test_rows_equal_the_law() -> None:
    rows = np.random.default_rng(2).normal(0, 0.4, (64, 48)).astype(np.float32)
    rows[5] = 0.0
    rows[6] = 1e-42
    rows[7, 3] = 50.0
    scale = affine.symmetric_scale(np.abs(rows).max(axis=1))
    assert same_bits(row_scales(torch.from_numpy(rows)), scale)
    expected = affine.fake_quantize(rows, scale[:, None], 0, *S8)
    assert same_bits(fake_quantize_rows(torch.from_numpy(rows)) + 0.0, expected + np.float32(0))


@pytest.mark.parametrize("density", [None, 0.2, 0.9])
def test_linear_computes_with_what_the_checkpoint_stores(density: float | None) -> None:
    random = np.random.default_rng(3)
    weight = random.normal(0, 0.1, (24, 64)).astype(np.float32)
    mask = None
    if density is not None:
        mask = np.repeat(random.random((24, 16)) < density, 4, axis=1)
        weight *= mask
    scale = affine.symmetric_scale(np.abs(weight).max(axis=1))
    stored, _ = decode_weight(encode_weight(weight, mask, scale), 64)
    expected = affine.dequantize(stored, scale[:, None])
    # Reading one input at a time reads the weight back.
    seen = integer_linear(torch.eye(64), torch.tensor(1.0), torch.from_numpy(weight), None).T
    assert same_bits(seen.contiguous() + 0.0, expected + np.float32(0))


def test_linear_sums_integers_exactly() -> None:
    random = np.random.default_rng(4)
    x = random.integers(-255, 256, (17, 96)).astype(np.float32)
    weight, bias = (random.normal(0, 0.1, size).astype(np.float32) for size in ((40, 96), (40,)))
    scale = affine.symmetric_scale(np.abs(weight).max(axis=1))
    acc = x.astype(np.int64) @ affine.quantize(weight, scale[:, None], 0, *S8).T
    expected = acc.astype(np.float32) * (scale * np.float32(0.03)) + bias
    y = integer_linear(
        torch.from_numpy(x), torch.tensor(0.03), torch.from_numpy(weight), torch.from_numpy(bias)
    )
    assert same_bits(y, expected)


def test_bfloat16_products_are_exact_but_for_the_output() -> None:
    torch.manual_seed(0)
    x = torch.randint(-255, 256, (9, 64)).float()
    weight, bias = torch.randn(16, 64), torch.randn(16)
    exact = integer_linear(x, torch.tensor(0.01), weight, bias)
    rough = integer_linear(x.bfloat16(), torch.tensor(0.01), weight, bias)
    assert rough.dtype == torch.bfloat16
    assert ((rough.float() - exact).abs() / exact.abs().clamp(min=1.0)).max() < 2.0**-6


def test_gradients_of_linear_are_those_of_the_fake_quantized_float_graph() -> None:
    torch.manual_seed(1)
    leaves = [torch.randn(3, 5, 32), torch.randn(24, 32) * 0.1, torch.randn(24)]
    scale, zero_point = torch.tensor(0.02), torch.tensor(120.0)
    grad = torch.randn(3, 5, 24)

    x, weight, bias = (leaf.clone().requires_grad_() for leaf in leaves)
    q = quantize(x, scale, zero_point, *U8, torch.float32)
    integer_linear(q, scale, weight, bias).backward(grad)

    x2, weight2, bias2 = (leaf.clone().requires_grad_() for leaf in leaves)
    inside = (x2 > (0 - 120.5) * scale) & (x2 < (255 - 120 + 0.5) * scale)
    assert not inside.all()
    x_fake = torch.where(inside, x2, 0.0) + (fake_quantize(x2, scale, zero_point, *U8) - x2 * inside).detach()
    w_fake = weight2 + (fake_quantize_rows(weight2) - weight2).detach()
    functional.linear(x_fake, w_fake, bias2).backward(grad)
    for ours, expected in ((x, x2), (weight, weight2), (bias, bias2)):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-5, atol=1e-5)


def attention_inputs() -> tuple[list[Tensor], tuple[Tensor, Tensor, Tensor], Tensor]:
    torch.manual_seed(2)
    floats = [torch.randn(2, 3, 7, 8) for _ in range(3)]
    scales = torch.tensor(0.02), torch.tensor(0.025), torch.tensor(0.03)
    keep = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    keep[1, ..., 4:] = False
    return floats, scales, keep


def test_gradients_of_attention_are_close_to_float_attention() -> None:
    floats, scales, keep = attention_inputs()
    grad = torch.randn(2, 3, 7, 8)
    ours = [leaf.clone().requires_grad_() for leaf in floats]
    zero = torch.tensor(0.0)
    integers = [
        quantize(leaf, scale, zero, -200, 200, torch.float32)
        for leaf, scale in zip(ours, scales, strict=True)
    ]
    output, probabilities = integer_attention(*integers, scales, keep, 0.0)
    output.backward(grad)
    expected = [leaf.clone().requires_grad_() for leaf in floats]
    reference = functional.scaled_dot_product_attention(*expected, attn_mask=keep)
    reference.backward(grad)
    torch.testing.assert_close(output, reference, rtol=0.0, atol=0.05)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 3, 7))
    assert probabilities[1, ..., 4:].abs().max() == 0
    for leaf, other in zip(ours, expected, strict=True):
        assert (leaf.grad - other.grad).norm() < 0.03 * other.grad.norm()


def test_dropout_of_probabilities_is_in_the_gradient() -> None:
    floats, scales, keep = attention_inputs()
    value = (floats[2] / scales[2]).round().requires_grad_()
    q, k = ((x / scale).round() for x, scale in zip(floats[:2], scales[:2], strict=True))
    output, _ = integer_attention(q, k, value, scales, keep, dropout=0.5)
    whole, _ = integer_attention(q, k, value, scales, keep, dropout=0.0)
    assert not torch.allclose(output, whole)
    grad = torch.randn_like(output)
    output.backward(grad)
    # The output is linear in the values, so <output, g> = <value, gradient>, in real units.
    torch.testing.assert_close((output * grad).sum(), (value * scales[2] * value.grad).sum())


def test_a_row_without_any_key_stays_finite() -> None:
    floats, scales, keep = attention_inputs()
    keep[0] = False
    output, _ = integer_attention(*floats, scales, keep, 0.0)
    assert torch.isfinite(output).all()
