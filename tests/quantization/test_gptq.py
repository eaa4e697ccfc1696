"""GPTQ rounding against its plain form, the numeric law, and rounding to nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_bert import random_sequences
from tiny_models import MEMBERS, family_batch, tiny_model
from torch import Tensor

from secateur import affine
from secateur.modeling import find_projections
from secateur.quantization.gptq import round_matrix, round_nearest, round_weights_
from secateur.sparsity.hessian import InputMoments, reconstruction_error
from secateur.sparsity.mask import find_mask, unquantized_weight


def inputs(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Returns [tokens, K] float64 whose columns go along with one another."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width // 3 + 1, generator=random, dtype=torch.float64)
    mixing = torch.randn(width // 3 + 1, width, generator=random, dtype=torch.float64)
    return hidden @ mixing + 0.2 * torch.randn(tokens, width, generator=random, dtype=torch.float64)


def moments_of(x: Tensor) -> InputMoments:
    """Returns the moments of [tokens, K]."""
    found = InputMoments("layer", x.shape[1])
    found.add_(x)
    return found


def matrix(rows: int, width: int, keep: float = 1.0, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Returns weights [N, K] float32 and their mask."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, width, generator=random) < keep
    return torch.randn(rows, width, generator=random) * mask, mask


def plain_gptq(weight: Tensor, mask: Tensor, hessian: Tensor, order: list[int], exact: bool) -> Tensor:
    """Rounds column by column; after each, solves for the free columns' best change. Integers.

    Free are the columns to come; `exact` leaves out those that a row does not keep.
    """
    scale = np.float32(affine.symmetric_scale(weight.abs().amax(1).numpy())).astype(np.float64)
    values = weight.double().numpy().copy()
    h = hessian.numpy()
    result = np.zeros_like(values)
    for row in range(len(values)):
        largest = max(order, key=lambda column: abs(float(weight[row, column])))
        for at, column in enumerate(order):
            free = [other for other in order[at + 1 :] if mask[row, other] or not exact]
            target = np.clip(np.rint(values[row, column] / scale[row]), -127, 127)
            if largest == column:
                target = 127 * np.sign(float(weight[row, column]))
            if not mask[row, column]:
                target = 0.0
            step = target * scale[row] - values[row, column]
            if free and step:
                values[row, free] -= np.linalg.solve(h[np.ix_(free, free)], h[free, column] * step)
            result[row, column] = target
    return torch.from_numpy(result)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("keep", "exact"), [(1.0, True), (0.4, True), (0.4, False)])
def test_rounding_is_the_plain_form(keep: float, exact: bool, act_order: bool) -> None:
    moments = moments_of(inputs(80, 10))
    weight, mask = matrix(6, 10, keep)
    work = 1e9 if exact else 0.0
    rounded = round_matrix(weight, moments, mask, act_order=act_order, row_work=work)
    order = list(range(10))
    if act_order:
        order.sort(key=lambda column: -float(moments.mean_squares()[column]))
    expected = plain_gptq(weight, mask, moments.damped(0.01), order, exact)
    scale = torch.from_numpy(affine.symmetric_scale(weight.abs().amax(1).numpy()))
    assert torch.equal((rounded / scale[:, None]).round().double(), expected)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_the_numeric_law_finds_the_same_integers_in_the_rounded_rows(keep: float, act_order: bool) -> None:
    moments = moments_of(inputs(400, 48))
    weight, mask = matrix(64, 48, keep)
    weight[5] = 0.0
    weight *= torch.logspace(-6, 6, 64)[:, None]
    rounded = round_matrix(weight, moments, mask, act_order=act_order)
    assert rounded.dtype == torch.float32
    assert not rounded[~mask].any()
    scale = affine.symmetric_scale(weight.abs().amax(1).numpy())
    integers = np.rint(rounded.numpy() / scale[:, None])
    assert np.abs(integers).max() == 127
    again = affine.symmetric_scale(rounded.abs().amax(1).numpy())
    assert np.array_equal(affine.quantize(rounded.numpy(), again[:, None], 0, -127, 127), integers)
    np.testing.assert_allclose(again, scale, rtol=3e-7)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.2])
def test_outputs_move_less_than_with_nearest(keep: float) -> None:
    moments = moments_of(inputs(600, 60))
    weight, mask = matrix(20, 60, keep)
    nearest = reconstruction_error(weight, round_nearest(weight), moments)
    for act_order in (False, True):
        rounded = round_matrix(weight, moments, mask, act_order=act_order)
        assert reconstruction_error(weight, rounded, moments) < 0.8 * nearest


def test_nearest_is_the_numeric_law() -> None:
    weight, _ = matrix(8, 12)
    scale = affine.symmetric_scale(weight.abs().amax(1).numpy())[:, None]
    assert np.array_equal(round_nearest(weight).numpy(), affine.fake_quantize(weight, scale, 0, -127, 127))


def test_a_dead_column_is_rounded_to_nearest() -> None:
    x = inputs(100, 12)
    x[:, 4] = 0.0
    weight, _ = matrix(5, 12)
    rounded = round_matrix(weight, moments_of(x))
    assert torch.equal(rounded[:, 4], round_nearest(weight)[:, 4])


@pytest.mark.parametrize("sparsity", [None, 0.5])
@pytest.mark.parametrize("member", MEMBERS)
def test_a_model_is_rounded_layer_by_layer(member: str, sparsity: float | None) -> None:
    model = tiny_model(member, sparsity=sparsity)
    sequences = random_sequences(40, seed=2)
    batches = [family_batch(model, sequences[start : start + 8]) for start in range(0, 40, 8)]
    before = {item.name: unquantized_weight(item.linear).clone() for item in find_projections(model)}
    errors = round_weights_(model, batches)
    assert list(errors) == list(before)
    assert sum(one.gptq for one in errors.values()) < sum(one.nearest for one in errors.values())
    for item in find_projections(model):
        after = unquantized_weight(item.linear)
        assert not torch.equal(after, before[item.name])
        assert torch.equal(after == 0, round_nearest(after) == 0)
        torch.testing.assert_close(round_nearest(after), after, rtol=1e-6, atol=0)
        assert not after[before[item.name] == 0].any()
        assert (find_mask(item.linear) is None) == (sparsity is None)
