"""Dynamic inputs: each token by its own scale, in training and evaluation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from reference_engine import fma
from tiny_bert import padded, random_sequences, tiny_bert
from torch import Tensor
from torch.nn import functional

from secateur import affine
from secateur.errors import RecipeError, SecateurError, StructureError
from secateur.modeling import find_blocks
from secateur.quantization import (
    DynamicQuantizer,
    QuantizedParts,
    QuantScheme,
    attach_quantizers_,
    calibrate_,
    enable_quantizers_,
    find_quantizers,
    is_quantized,
)
from secateur.quantization import fake_quantize as quick
from secateur.quantization.fake_quantize import fake_quantize_rows, quantize_rows
from secateur.quantization.integer_linear import integer_linear
from secateur.quantization.qat import idle_quantizers, input_quantizer

BATCH = padded(random_sequences(12))
LABELS = torch.arange(12) % 5
DYNAMIC = QuantScheme(activations="s8_dynamic")


@pytest.fixture(params=[None, 40])
def part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test at once, and in parts of a few elements."""
    if request.param is not None:
        monkeypatch.setattr(quick, "_PART", request.param)


def hard_rows() -> Tensor:
    """Returns rows of all sizes: empty, subnormal, tiny, huge, ties, one large value among small ones."""
    rows = torch.randn(14, 24, generator=torch.Generator().manual_seed(0))
    rows *= torch.logspace(-6, 6, 14)[:, None]
    rows[0] = 0.0
    rows[1] = 1e-40
    rows[2] = torch.linspace(-127, 127, 24).round() + 0.5  # ties where the scale is 127.5 / 127
    rows[3] = torch.arange(24) - 12.5
    rows[3, 0] = -127.0  # ties exactly: the scale is 1
    rows[4, 7] = -3e38
    rows[5] = torch.tensor([-1.0, 1.0]).repeat(12) * affine.SMALLEST_SCALE * 127
    rows[6] *= 1e-37
    return rows


def law(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns integers and scales by `secateur.affine`."""
    scale = affine.symmetric_scale(np.abs(x).max(axis=-1))
    return affine.quantize(x, scale[..., None], 0, affine.S8_MIN, affine.S8_MAX), scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_follow_the_law_bit_for_bit(part: None, dtype: torch.dtype) -> None:
    rows = hard_rows()
    q, scale = quantize_rows(rows.view(2, 7, 24), dtype)
    expected, expected_scale = law(rows.numpy())
    assert scale.shape == (2, 7)
    assert scale.numpy().tobytes() == expected_scale.tobytes()
    assert q.dtype == dtype
    assert torch.equal(q.view(14, 24).float(), torch.from_numpy(expected).float())
    assert q.abs().max() == 127
    assert q.is_contiguous()


def test_a_transposed_input_gives_the_same(part: None) -> None:
    x = torch.randn(4, 5, 3, 8).transpose(1, 2)
    for ours, expected in zip(
        quantize_rows(x, torch.float32), quantize_rows(x.contiguous(), torch.float32), strict=True
    ):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_exact_product_rounds_as_the_law_says(part: None, bias: bool) -> None:
    torch.manual_seed(1)
    x, weight = hard_rows().clamp(-1e30, 1e30), torch.randn(16, 24)  # no sum leaves float32
    shift = torch.randn(16) if bias else None
    q, scale = quantize_rows(x.view(7, 2, 24), torch.float32)
    y = integer_linear(q, scale, weight, shift, exact=True)
    w_scale = affine.symmetric_scale(np.abs(weight.numpy()).max(axis=1))
    w = affine.quantize(weight.numpy(), w_scale[:, None], 0, affine.S8_MIN, affine.S8_MAX)
    integers, scales = law(x.numpy())
    sums = (integers @ w.T).astype(np.float32)
    addend = np.zeros(16, np.float32) if shift is None else shift.numpy()
    assert y.numpy().tobytes() == fma(sums, scales[:, None] * w_scale, addend).tobytes()


@pytest.mark.parametrize("rows", [3, 200])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_a_straight_through_formula(part: None, rows: int, masked: bool) -> None:
    torch.manual_seed(rows)
    leaves = (torch.randn(rows, 16), torch.randn(24, 16), torch.randn(24))
    mask = (torch.rand(24, 16) < 0.4).double() if masked else None
    grad = torch.randn(rows, 24)
    x, weight, bias = (leaf.clone().requires_grad_() for leaf in leaves)
    q, scale = quantize_rows(x, torch.float32)
    assert not scale.requires_grad
    y = integer_linear(q, scale, weight, bias, mask=None if mask is None else mask.float())
    y.backward(grad)

    x2, weight2, bias2 = (leaf.double().requires_grad_() for leaf in leaves)
    integers, scales = law(leaves[0].numpy())
    real = torch.from_numpy(integers * scales[:, None].astype(np.float64))
    effective = weight2 if mask is None else weight2 * mask
    fake = effective + (fake_quantize_rows(effective.detach()).double() - effective).detach()
    y2 = functional.linear(x2 + (real - x2).detach(), fake, bias2)
    y2.backward(grad.double())
    pairs = [(y, y2), (x.grad, x2.grad), (weight.grad, weight2.grad), (bias.grad, bias2.grad)]
    for ours, expected in pairs:
        # float32 sums of at most 200 terms of size 1 against float64
        torch.testing.assert_close(ours, expected.float(), rtol=1e-5, atol=1e-5)


def test_a_model_follows_its_inputs_without_any_range() -> None:
    model = tiny_bert(sparsity=0.5)
    attach_quantizers_(model, DYNAMIC)
    assert all(".attention_quantizer." in name for name in find_quantizers(model))
    for block in find_blocks(model):
        quantizers = [input_quantizer(projection) for projection in block.projections()]
        assert all(isinstance(quantizer, DynamicQuantizer) for quantizer in quantizers)
        assert len({id(quantizer) for quantizer in quantizers}) == 4
    assert idle_quantizers(model) == []
    assert not any("input_quantizer" in name for name in model.state_dict())


@pytest.mark.parametrize("autocast", [False, True])
def test_training_learns_and_every_parameter_gets_a_gradient(autocast: bool) -> None:
    model = tiny_bert(sparsity=0.5).train()
    attach_quantizers_(model, DYNAMIC)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step in range(40):
        torch.manual_seed(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**BATCH, labels=LABELS).loss
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_the_quantized_model_is_near_the_float_one_and_switches_off() -> None:
    model = tiny_bert()
    with torch.no_grad():
        before = model(**BATCH).logits
        calibrate_(model, [BATCH], DYNAMIC)
        after = model(**BATCH).logits
        enable_quantizers_(model, False)
        off = model(**BATCH).logits
    # 127 steps a token and row: a few per cent of the logits' spread, and not nothing
    assert 0 < (after - before).abs().mean() < 0.1 * before.std()
    assert torch.equal(off, before)


def test_other_tokens_do_not_change_a_token() -> None:
    model = tiny_bert()
    calibrate_(model, [BATCH], DYNAMIC)
    sequences = random_sequences(12)
    with torch.no_grad():
        alone = torch.cat([model(**padded([sequence])).logits for sequence in sequences])
        together = model(**BATCH).logits
    torch.testing.assert_close(together, alone, rtol=0.0, atol=1e-5)


def test_static_dynamic_and_float_inputs_stand_side_by_side() -> None:
    model = tiny_bert()
    blocks = find_blocks(model)
    first, second = blocks
    linears = [p.name for p in (first.q, first.k, first.attn_out, first.ffn_in, second.ffn_out)]
    dynamic = [first.q.name, first.k.name, second.ffn_out.name]
    attach_quantizers_(model, parts=QuantizedParts(linears, [1], False, dynamic))
    assert isinstance(input_quantizer(first.q), DynamicQuantizer)
    assert input_quantizer(first.q) is input_quantizer(first.k)
    assert input_quantizer(first.v) is None
    assert not isinstance(input_quantizer(first.attn_out), DynamicQuantizer)
    assert isinstance(input_quantizer(second.ffn_out), DynamicQuantizer)
    assert len(find_quantizers(model)) == 2 + 3
    copied = copy.deepcopy(model)
    calibrate_(copied, [BATCH])
    assert idle_quantizers(copied) == []


def test_only_dynamic_inputs_count_as_quantized() -> None:
    model = tiny_bert()
    name = find_blocks(model)[0].ffn_in.name
    attach_quantizers_(model, DYNAMIC, parts=QuantizedParts([name], [], False))
    assert is_quantized(model)
    assert not find_quantizers(model)
    del find_blocks(model)[0].ffn_in.linear.__dict__["forward"]
    assert idle_quantizers(model) == ["bert.encoder.layer.0.intermediate.dense.input_quantizer"]


def test_contradictions_are_refused() -> None:
    model = tiny_bert()
    block = find_blocks(model)[0]
    q, k, ffn = block.q.name, block.k.name, block.ffn_in.name
    with pytest.raises(StructureError, match="read one tensor"):
        attach_quantizers_(model, parts=QuantizedParts([q, k], [], False, [q]))
    with pytest.raises(StructureError, match=f"belong to quantized linear layers.*{ffn}"):
        attach_quantizers_(model, parts=QuantizedParts([q, k], [], False, [ffn]))
    with pytest.raises(RecipeError, match="activations must be 'u8_static' or 's8_dynamic', but is 'u8'"):
        QuantScheme(activations="u8")  # type: ignore[arg-type]
    assert not is_quantized(model)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(wrong: float) -> None:
    x = torch.randn(3, 8)
    x[1, 2] = wrong
    with pytest.raises(SecateurError, match="the input of layer 3 holds NaN or infinity"):
        DynamicQuantizer("the input of layer 3")(x)
