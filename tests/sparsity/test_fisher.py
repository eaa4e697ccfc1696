"""Fisher blocks against plain formulas, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.errors import StructureError
from secateur.pattern import Pattern
from secateur.sparsity.fisher import BlockLayout, FisherBlocks, bytes_needed

SHAPE = (8, 12)
DAMP = 1e-3
# name of a pattern, weights of a block of the Fisher matrix
LAYOUTS = [("unstructured", 6), ("unstructured", 10), ("block4", 8), ("block:2x3", 12), ("2:4", 12)]
COUNTS = [3, 40]  # fewer gradients than a block has weights; more than are summed at once


def made(pattern: str, size: int, count: int) -> tuple[FisherBlocks, Tensor]:
    """Returns blocks and their gradients, [count, N, K] float64; a third of the weights has none."""
    torch.manual_seed(count)
    layout = BlockLayout(Pattern.parse(pattern), SHAPE, size)
    gradients = torch.randn(count, *SHAPE, dtype=torch.float64)
    gradients[:, 5:] = 0.0
    fisher = FisherBlocks(layout, count, dtype=torch.float64)
    for gradient in gradients:
        fisher.add_(gradient)
    return fisher, gradients


def plain(fisher: FisherBlocks, gradients: Tensor) -> Tensor:
    """Returns the damped Fisher matrix of every block by its formula, [blocks, size, size]."""
    cut = torch.stack([fisher.layout.cut(gradient) for gradient in gradients], dim=1)
    eye = torch.eye(fisher.layout.size, dtype=torch.float64)
    return cut.transpose(1, 2) @ cut / len(gradients) + DAMP * eye


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("pattern", "size"), LAYOUTS)
def test_the_inverse_is_that_of_the_damped_matrix(pattern: str, size: int, count: int) -> None:
    fisher, gradients = made(pattern, size, count)
    expected = torch.linalg.inv(plain(fisher, gradients))
    torch.testing.assert_close(fisher.inverse(DAMP), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("pattern", "size"), LAYOUTS)
def test_a_saliency_is_the_least_growth_when_a_group_goes(pattern: str, size: int, count: int) -> None:
    fisher, gradients = made(pattern, size, count)
    weight = torch.randn(SHAPE, dtype=torch.float64)
    group = fisher.layout.pattern.block_size
    scores = fisher.layout.cut(fisher.saliencies(weight, DAMP, group).double())
    matrices, cut = plain(fisher, gradients), fisher.layout.cut(weight)
    for block in range(fisher.layout.blocks):
        for start in range(0, size, group):
            gone = torch.zeros(size, dtype=torch.bool)
            gone[start : start + group] = True
            _, growth = constrained(matrices[block], cut[block], gone)
            assert float(scores[block, gone].sum()) == pytest.approx(growth, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("pattern", "size"), LAYOUTS)
def test_the_update_is_the_constrained_minimum(pattern: str, size: int, count: int) -> None:
    fisher, gradients = made(pattern, size, count)
    layout = fisher.layout
    weight = torch.randn(SHAPE, dtype=torch.float64)
    units = torch.rand(layout.pattern.block_scores(weight).shape) < 0.5
    keep = layout.pattern.expand(units)
    new, growth = fisher.update(weight, keep, DAMP)
    matrices = plain(fisher, gradients)
    undamped = matrices - DAMP * torch.eye(size, dtype=torch.float64)
    total = 0.0
    for block in range(layout.blocks):
        before, stays = layout.cut(weight)[block], layout.cut(keep)[block]
        step, _ = constrained(matrices[block], before, ~stays)
        torch.testing.assert_close(layout.cut(new)[block], before + step, rtol=1e-8, atol=1e-8)
        total += 0.5 * float(step @ undamped[block] @ step)
    assert growth == pytest.approx(total, rel=1e-8)
    assert not new[~keep].any()


def constrained(matrix: Tensor, weight: Tensor, gone: Tensor) -> tuple[Tensor, float]:
    """Minimizes 1/2 d^T F d where d = -w on what goes, by its Karush-Kuhn-Tucker system."""
    size, rows = len(weight), torch.eye(len(weight), dtype=torch.float64)[gone]
    system = torch.zeros(size + len(rows), size + len(rows), dtype=torch.float64)
    system[:size, :size] = matrix
    system[:size, size:] = rows.T
    system[size:, :size] = rows
    right = torch.cat((torch.zeros(size, dtype=torch.float64), -weight[gone]))
    step = torch.linalg.solve(system, right)[:size]
    return step, 0.5 * float(step @ matrix @ step)


@pytest.mark.parametrize("count", COUNTS)
def test_what_is_gone_already_moves_nothing(count: int) -> None:
    fisher, _ = made("unstructured", 6, count)
    weight = torch.randn(SHAPE, dtype=torch.float64)
    weight[5:] = 0.0  # where `made` has no gradients
    keep = weight != 0
    new, growth = fisher.update(weight, keep, DAMP)
    assert torch.equal(new, weight)
    assert growth == 0.0
    assert not fisher.saliencies(weight, DAMP, 1)[5:].any()


@pytest.mark.parametrize(("pattern", "size"), [*LAYOUTS, ("block:2x3", 18), ("unstructured", 500)])
def test_cutting_and_joining_gives_the_matrix_back(pattern: str, size: int) -> None:
    layout = BlockLayout(Pattern.parse(pattern), SHAPE, size)
    matrix = torch.randn(SHAPE)
    cut = layout.cut(matrix)
    assert cut.shape == (layout.blocks, size)
    assert torch.equal(layout.join(cut), matrix)
    units = torch.arange(layout.pattern.block_scores(matrix).numel(), dtype=torch.float32)
    cut = layout.cut(layout.pattern.expand(units.view_as(layout.pattern.block_scores(matrix))))
    groups = cut.unflatten(1, (-1, layout.pattern.block_size))
    assert torch.equal(groups.amin(-1), groups.amax(-1))  # a block of the pattern lies in one piece


def test_float32_sums_are_close_to_the_formula() -> None:
    torch.manual_seed(0)
    layout = BlockLayout(Pattern.parse("unstructured"), SHAPE, 12)
    fisher, exact = FisherBlocks(layout, 200), FisherBlocks(layout, 200, dtype=torch.float64)
    for gradient in torch.randn(200, *SHAPE) * 1e-3:
        fisher.add_(gradient)
        exact.add_(gradient.double())
    torch.testing.assert_close(fisher.inverse(1e-7), exact.inverse(1e-7), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("count", COUNTS)
def test_the_bytes_are_those_of_the_tensors(count: int) -> None:
    fisher = FisherBlocks(BlockLayout(Pattern.parse("unstructured"), SHAPE, 10), count)
    held = [fisher._gradients, fisher._sums]
    assert bytes_needed(fisher.layout, count) == sum(4 * one.numel() for one in held if one is not None)


def test_too_small_a_damp_is_said() -> None:
    layout = BlockLayout(Pattern.parse("unstructured"), SHAPE, 12)
    fisher = FisherBlocks(layout, 20)
    for _ in range(20):
        fisher.add_(torch.ones(SHAPE) * 1e6)
    with pytest.raises(StructureError, match="cannot be inverted with damp 1e-30: give a larger damp"):
        fisher.saliencies(torch.ones(SHAPE), 1e-30, 1)


def test_gradients_are_counted() -> None:
    fisher, gradients = made("unstructured", 6, 3)
    with pytest.raises(StructureError, match="made for 3 gradients"):
        fisher.add_(gradients[0])
    empty = FisherBlocks(fisher.layout, 3)
    with pytest.raises(StructureError, match="needs 3 gradients and has 0"):
        empty.inverse(DAMP)
