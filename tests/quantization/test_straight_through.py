"""The quick forms of fake quantization against plain ones: parts, clipped values, memory used again."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur import affine
from secateur.quantization import fake_quantize as quick
from secateur.quantization import integer_attention as quick_attention
from secateur.quantization.fake_quantize import fake_quantize_rows, quantize
from secateur.quantization.integer_attention import integer_attention
from secateur.quantization.integer_linear import Memory, integer_linear
from secateur.quantization.observer import ActivationQuantizer
from secateur.sparsity.mask import attach_mask_, find_mask, weight_and_mask

U8 = (0, 255)


@pytest.fixture(params=[None, 40])
def part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test at once, and in parts of a few elements."""
    if request.param is not None:
        monkeypatch.setattr(quick, "_PART", request.param)
        monkeypatch.setattr(quick_attention, "_PART", request.param)


def plain_quantize(x: Tensor, scale: float, zero_point: int) -> tuple[Tensor, Tensor]:
    """Returns the law's centred integers, and where nothing was clipped."""
    wide = affine.quantize(x.detach().numpy(), np.float32(scale), zero_point, -(10**6), 10**6)
    q = np.clip(wide, *U8)
    return torch.from_numpy(q - zero_point).float(), torch.from_numpy(q == wide)


@pytest.mark.parametrize("spread", [0.3, 3.0], ids=["inside", "clipped"])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_of_quantize_is_the_definition(
    part: None, spread: float, known: bool, transposed: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    leaf = (torch.randn(4, 5, 3, 8) * spread).requires_grad_()
    x = leaf.transpose(1, 2) if transposed else leaf
    span = (x.min().item(), x.max().item()) if known else None
    q = quantize(x, torch.tensor(0.02), torch.tensor(100.0), *U8, dtype, span)
    expected, inside = plain_quantize(x.contiguous(), 0.02, 100)
    assert inside.all() == (spread < 1.0)
    assert q.dtype == dtype
    assert q.is_contiguous()
    assert torch.equal(q.float(), expected)
    grad = torch.randn(q.shape).to(dtype)
    before = grad.clone()
    q.backward(grad)
    wanted = grad.float() * inside
    assert torch.equal(leaf.grad, wanted.transpose(1, 2) if transposed else wanted)
    assert torch.equal(grad, before)


def test_half_precision_is_taken_as_float32(part: None) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 16).bfloat16()
    q = quantize(x, torch.tensor(0.013), torch.tensor(128.0), *U8, torch.float32)
    assert torch.equal(q, plain_quantize(x.float(), 0.013, 128)[0])
    kept = x.float()
    quantize(kept, torch.tensor(0.013), torch.tensor(128.0), *U8, torch.bfloat16)
    assert torch.equal(kept, x.float())


def test_ranges_on_a_cpu_are_those_of_other_devices() -> None:
    """Single numbers go through numpy on a CPU, through PyTorch elsewhere."""
    for symmetric in (False, True):
        observer = ActivationQuantizer("x", symmetric=symmetric, averaging=0.1)
        for seed in range(20):
            torch.manual_seed(seed)
            observer(torch.randn(7) * 10.0 ** (seed % 5 - 3))
            scale, zero_point = quick.asymmetric_qparams(observer.low, observer.high)
            if symmetric:
                scale = quick.symmetric_scale(torch.maximum(observer.low.abs(), observer.high.abs()))
                zero_point = torch.tensor(0.0)
            assert torch.equal(observer.scale, scale)
            assert torch.equal(observer.zero_point, zero_point)


@pytest.mark.parametrize("rows", [3, 200])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_linear_with_a_mask(part: None, rows: int, masked: bool) -> None:
    torch.manual_seed(rows)
    x = torch.randint(-100, 156, (rows, 16)).float().requires_grad_()
    weight, bias = torch.randn(24, 16, requires_grad=True), torch.randn(24, requires_grad=True)
    mask = (torch.rand(24, 16) < 0.4).float() if masked else None
    scale, grad = torch.tensor(0.03), torch.randn(rows, 24)
    y = integer_linear(x, scale, weight, bias, None, mask, Memory())
    y.backward(grad)

    x2, weight2, bias2 = (leaf.detach().clone().requires_grad_() for leaf in (x, weight, bias))
    effective = weight2 if mask is None else weight2 * mask
    fake = effective + (fake_quantize_rows(effective) - effective).detach()
    y2 = functional.linear(x2 * scale, fake, bias2)
    y2.backward(grad)
    torch.testing.assert_close(y, y2, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(x.grad * scale, x2.grad, rtol=1e-5, atol=1e-6)  # ours is in real units
    torch.testing.assert_close(weight.grad, weight2.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias.grad, bias2.grad, rtol=1e-5, atol=1e-5)
    if mask is not None:
        assert torch.equal(y, integer_linear(x, scale, weight * mask, bias))
        assert (weight.grad[mask == 0] == 0).all()


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, scales: list[float], keep: Tensor, kept: Tensor, grad: Tensor
) -> list[Tensor]:
    """Returns output and three gradients in float64, written down from the definition."""
    q, k, v = (x.double() * scale for x, scale in zip((q, k, v), scales, strict=True))
    root = math.sqrt(q.shape[-1])
    scores = (q @ k.transpose(-1, -2) / root).masked_fill(~keep, -math.inf)
    p = torch.exp(scores - scores.amax(-1, keepdim=True)).mul(255).round()
    p = p / p.sum(-1, keepdim=True)
    kept = kept.double()
    grad_p = (grad.double() @ v.transpose(-1, -2)) * kept
    grad_s = p * (grad_p - (grad_p * p).sum(-1, keepdim=True))
    grads = [grad_s @ k / root, grad_s.transpose(-1, -2) @ q / root]
    return [(p * kept) @ v, *grads, (p * kept).transpose(-1, -2) @ grad.double()]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_attention_and_its_gradients_are_the_definition(part: None, dropout: float) -> None:
    torch.manual_seed(3)
    q, k, v = (torch.randint(-127, 128, (5, 2, 6, 8)).float().requires_grad_() for _ in range(3))
    scales = [0.013, 0.011, 0.02]
    keep = torch.ones(5, 1, 1, 6, dtype=torch.bool)
    keep[1, ..., 4:] = False
    grad = torch.randn(5, 2, 6, 8)
    torch.manual_seed(7)
    units = tuple(torch.tensor(scale) for scale in scales)
    output, seen = integer_attention(q, k, v, units, keep, dropout)
    output.backward(grad)
    torch.manual_seed(7)
    kept = torch.ones(5, 2, 6, 6)
    if dropout > 0.0:
        step = 5 if quick_attention._PART > 40 else 1
        kept = torch.cat([functional.dropout(ones, dropout) for ones in kept.split(step)])
    expected = plain_attention(q.detach(), k.detach(), v.detach(), scales, keep, kept, grad)
    for ours, wanted in zip((output, q.grad, k.grad, v.grad), expected, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.sum(-1), torch.ones(5, 2, 6))
    torch.manual_seed(7)
    unseen, nothing = integer_attention(q, k, v, units, keep, dropout, look=False)
    assert nothing is None
    assert torch.equal(unseen, output)


def test_two_batches_may_pass_before_a_gradient_does() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 16, requires_grad=True)
    memory, scale = Memory(), torch.tensor(0.1)
    x = torch.randint(-9, 9, (2, 5, 16)).float()
    for _ in range(3):  # the later rounds find memory to use again
        weight.grad = None
        outputs = [integer_linear(batch, scale, weight, None, None, None, memory) for batch in x]
        with torch.no_grad():
            integer_linear(x[0], scale, weight, None, None, None, memory)
        (outputs[0].sum() + outputs[1].square().sum()).backward()
        wanted = weight.detach().clone().requires_grad_()
        fresh = [integer_linear(batch, scale, wanted, None) for batch in x]
        (fresh[0].sum() + fresh[1].square().sum()).backward()
        assert torch.equal(weight.grad, wanted.grad)


def test_memory_that_was_overwritten_is_not_read_again() -> None:
    weight, memory, scale = torch.randn(8, 16, requires_grad=True), Memory(), torch.tensor(0.1)
    x = torch.ones(2, 16, requires_grad=True)
    loss = integer_linear(x, scale, weight, None, None, None, memory).sum()
    loss.backward(retain_graph=True)
    first = weight.grad.clone()
    loss.backward(retain_graph=True)
    torch.testing.assert_close(weight.grad, 2 * first)
    integer_linear(x, scale, weight, None, None, None, memory)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def masked(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    linear = nn.Linear(16, 8)
    attach_mask_(linear, torch.rand(8, 16) < 0.5)
    return linear


def test_the_masked_weight_is_the_product_every_time() -> None:
    linear = masked()
    weight, mask = weight_and_mask(linear)
    assert torch.equal(mask, find_mask(linear).mask.float())
    x = torch.randn(3, 16)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        if step == 2:
            find_mask(linear).mask.copy_(torch.rand(8, 16) < 0.3)
        twice = linear(x) + linear(2 * x).square()  # two reads before one gradient
        plain = weight.detach().clone().requires_grad_()
        product = plain * find_mask(linear).mask
        wanted = functional.linear(x, product, linear.bias)
        wanted = wanted + functional.linear(2 * x, product, linear.bias).square()
        assert torch.equal(twice, wanted)
        copied = copy.deepcopy(linear)
        assert torch.equal(copied(x), linear(x))
        optimizer.zero_grad()
        twice.sum().backward()
        wanted.sum().backward()
        torch.testing.assert_close(weight.grad, plain.grad)
        optimizer.step()


def test_a_masked_weight_that_was_overwritten_is_not_read_again() -> None:
    linear = masked()
    x = torch.ones(2, 16, requires_grad=True)
    loss = linear(x).sum()
    loss.backward(retain_graph=True)
    linear(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
