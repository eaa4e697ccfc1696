"""Second moments and elimination against plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.errors import DataError, StructureError
from secateur.sparsity.hessian import InputMoments, InputSquares, compensate, reconstruction_error, refit


def correlated(tokens: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Returns inputs whose columns go along with one another, some much larger than others."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, max(2, width // 2), generator=random, dtype=torch.float64)
    mixing = torch.randn(max(2, width // 2), width, generator=random, dtype=torch.float64)
    noise = torch.randn(tokens, width, generator=random, dtype=torch.float64)
    sizes = torch.linspace(0.2, 3.0, width, dtype=torch.float64)
    return ((hidden @ mixing + 0.3 * noise) * sizes).to(dtype)


def moments_of(x: Tensor) -> InputMoments:
    """Returns the moments of [tokens, K]."""
    found = InputMoments("layer", x.shape[1])
    found.add_(x)
    return found


def test_moments_are_means_over_real_tokens_however_they_come() -> None:
    x = correlated(3000, 12)
    real = torch.rand(3000, generator=torch.Generator().manual_seed(1)) > 0.4
    poisoned = torch.where(real[:, None], x, 1e6)
    expected = x[real].t() @ x[real] / real.sum()
    found, squares = InputMoments("layer", 12), InputSquares("layer", 12)
    for part, kept in zip(poisoned.split(700), real.split(700), strict=True):
        found.add_(part, kept)
        squares.add_(part, kept)
    torch.testing.assert_close(found.matrix(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.matrix(), found.matrix().t())
    torch.testing.assert_close(squares.mean_squares(), expected.diagonal(), rtol=1e-12, atol=0)
    assert found.tokens == squares.tokens == int(real.sum())


def test_float32_products_keep_the_stated_error() -> None:
    x = correlated(5000, 16, dtype=torch.float32)
    exact = x.double().t() @ x.double() / 5000
    sizes = exact.diagonal().sqrt()
    off = (moments_of(x).matrix() - exact).abs() / torch.outer(sizes, sizes)
    assert off.max() < 2**-14


def test_inverse_and_factor_are_those_of_the_damped_matrix() -> None:
    x = correlated(40, 10)
    x[:, 3] = 0.0
    found = moments_of(x)
    plain = x.t() @ x / 40
    live = plain.diagonal() > 0
    expected = plain + 0.05 * plain.diagonal()[live].mean() * torch.eye(10, dtype=torch.float64)
    torch.testing.assert_close(found.damped(0.05), expected, rtol=1e-12, atol=1e-12)
    inverse = torch.linalg.inv(expected)
    torch.testing.assert_close(found.inverse(0.05), inverse, rtol=1e-8, atol=1e-10)
    factor = found.inverse_factor(0.05)
    torch.testing.assert_close(factor.t() @ factor, inverse, rtol=1e-8, atol=1e-10)
    assert torch.equal(factor, factor.triu())
    for start in range(10):
        rest = torch.linalg.inv(expected[start:, start:])
        part = factor[start:, start:]
        torch.testing.assert_close(part.t() @ part, rest, rtol=1e-8, atol=1e-10)
    order = torch.tensor([4, 1, 0, 9, 8, 2, 3, 7, 6, 5])
    turned = found.inverse_factor(0.05, order)
    torch.testing.assert_close(turned.t() @ turned, inverse[order][:, order], rtol=1e-8, atol=1e-10)


class _Sequence:
    """Sets columns to given values."""

    def __init__(self, wanted: dict[int, float]) -> None:
        self.wanted = wanted
        self.starts: list[int] = []

    def begin(self, start: int, chunk: Tensor) -> None:
        self.starts.append(start)

    def fix(self, column: int, values: Tensor) -> Tensor:
        return torch.full_like(values, self.wanted[column]) if column in self.wanted else values


@pytest.mark.parametrize("chunk", [1, 3, 128])
def test_compensation_is_the_constrained_least_squares_solution_after_every_column(chunk: int) -> None:
    x = correlated(60, 9)
    found = moments_of(x)
    hessian = found.damped(0.01)
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = {0: 0.0, 2: 0.5, 3: -0.25, 7: 0.0}
    result = compensate(weight, found.inverse_factor(0.01), rule := _Sequence(wanted), chunk)
    assert rule.starts == list(range(0, 9, chunk))

    plain = weight.clone()
    for column, value in wanted.items():
        # minimise d H d^T with d = 0 left of the column (what was fixed stays), d_column given, the rest free
        free = torch.arange(column + 1, 9)
        step = torch.zeros_like(plain)
        step[:, column] = value - plain[:, column]
        if len(free):
            step[:, free] = -torch.linalg.solve(
                hessian[free][:, free], hessian[free, column][:, None] * step[:, column]
            ).t()
        plain += step
    torch.testing.assert_close(result, plain, rtol=1e-8, atol=1e-9)


def test_refitted_rows_are_the_least_squares_solution() -> None:
    x = correlated(70, 9)
    found = moments_of(x)
    random = torch.Generator().manual_seed(4)
    weight = torch.randn(5, 9, generator=random, dtype=torch.float64)
    keep = torch.rand(5, 9, generator=random) > 0.5
    keep[1], keep[2] = False, True
    damp = 0.02 * float(found.mean_squares().mean()) * len(x)
    # ridge regression of the rows' outputs on the inputs that they keep, towards the weights they had
    result = refit(weight, keep, found.damped(0.02))
    for row in range(5):
        kept = keep[row]
        inputs = torch.cat([x[:, kept], damp**0.5 * torch.eye(9, dtype=torch.float64)[:, kept]])
        outputs = torch.cat([x @ weight[row], damp**0.5 * weight[row]])
        expected = torch.zeros(9, dtype=torch.float64)
        expected[kept] = torch.linalg.lstsq(inputs, outputs[:, None]).solution[:, 0]
        torch.testing.assert_close(result[row], expected, rtol=1e-8, atol=1e-9)
    assert torch.equal(result[2].float(), weight[2].float())


def test_a_dead_column_is_coupled_to_nothing() -> None:
    x = correlated(40, 5)
    x[:, 3] = 0.0
    for damp in (0.0, 0.01):
        found = moments_of(x)
        factor = found.inverse_factor(damp)
        mean = float(found.mean_squares().sum()) / 4
        assert factor.isfinite().all()
        assert not factor[3, 4:].any()
        assert not factor[:3, 3].any()
        assert float(factor[3, 3]) == pytest.approx(((damp or 1e-6) * mean) ** -0.5)


def test_reconstruction_error_is_that_of_the_outputs() -> None:
    x = correlated(50, 6)
    before = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
    after = before * (before.abs() > 0.5)
    expected = (x @ (before - after).double().t()).square().sum(1).mean()
    assert reconstruction_error(before, after, moments_of(x)) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("kind", [InputSquares, InputMoments])
def test_what_cannot_be_learnt_from_is_refused_by_name(kind: type[InputSquares]) -> None:
    with pytest.raises(DataError, match=r"No token reached some.layer"):
        kind("some.layer", 4).mean_squares()
    empty = kind("some.layer", 4)
    empty.add_(torch.ones(3, 4), torch.zeros(3))
    with pytest.raises(DataError, match=r"No token reached some.layer"):
        empty.mean_squares()
    constant = kind("some.layer", 4)
    constant.add_(torch.ones(3, 4))
    constant.add_(torch.ones(2, 4))
    assert not constant.varies
    constant.add_(torch.tensor([[1.0, 1.0, 1.0, 2.0]]))
    assert constant.varies
    with pytest.raises(DataError, match=r"input of some.layer holds NaN or infinity"):
        kind("some.layer", 4).add_(torch.tensor([[1.0, 2.0, float("nan"), 0.0]]))
    with pytest.raises(StructureError, match=r"some.layer was given inputs of the shape \(2, 3\)"):
        kind("some.layer", 4).add_(torch.ones(2, 3))


def test_moments_that_cannot_be_inverted_are_refused() -> None:
    found = moments_of(torch.tensor([[2.0, 2.0], [-2.0, -2.0]], dtype=torch.float64))
    with pytest.raises(DataError, match="input of layer cannot be inverted with damp 0 and 2 tokens"):
        found.inverse_factor(0.0)
    assert found.inverse_factor(0.01).isfinite().all()


def test_inputs_that_are_always_0_have_an_inverse() -> None:
    found = moments_of(torch.zeros(4, 3, dtype=torch.float64))
    assert torch.equal(found.damped(0.5), 0.5 * torch.eye(3, dtype=torch.float64))
    assert found.inverse_factor(0.0).isfinite().all()
