"""SparseGPT against direct least squares, solved anew for every column."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from secateur.pattern import Pattern
from secateur.sparsity.choice import choose_masks
from secateur.sparsity.hessian import InputMoments, reconstruction_error, refit
from secateur.sparsity.sparsegpt import SparseGptPruner, prune_matrix

PATTERNS = ["unstructured", "block4", "block:2x4", "block:4x1", "2:4", "1:8"]


def moments_of(width: int, tokens: int = 200, seed: int = 0) -> InputMoments:
    """Returns moments of inputs whose columns go along with one another, some larger than others."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width // 3, generator=random, dtype=torch.float64)
    mixing = torch.randn(width // 3, width, generator=random, dtype=torch.float64)
    x = hidden @ mixing + 0.3 * torch.randn(tokens, width, generator=random, dtype=torch.float64)
    found = InputMoments("layer", width)
    found.add_(x * torch.linspace(0.5, 2.0, width, dtype=torch.float64))
    return found


def weights(rows: int, width: int, seed: int = 1) -> Tensor:
    """Returns [N, K] float32."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def cost(hessian: Tensor, row: Tensor, gone: list[int], first: int) -> tuple[float, Tensor]:
    """Returns what it costs a row to lose some columns with all from `first` on free, and what it becomes."""
    free = [column for column in range(first, len(row)) if column not in gone]
    change = torch.zeros_like(row)
    change[gone] = -row[gone]
    if free:
        right = -hessian[free][:, gone] @ change[gone]
        change[free] = torch.linalg.solve(hessian[free][:, free], right)
    return float(change @ hessian @ change), row + change


def plain_sparsegpt(
    weight: Tensor, hessian: Tensor, pattern: Pattern, sparsity: float, columns: int
) -> tuple[Tensor, Tensor]:
    """Prunes chunk by chunk; saliencies and updates are least squares problems, solved one by one."""
    rest = weight.double().clone()
    rows, width = rest.shape
    keep = torch.ones(rows, width, dtype=torch.bool)
    side = pattern.group or columns
    removed = 0
    for start in range(0, width, side):
        end = min(start + side, width)
        choices: list[tuple[float, int, list[int], list[int]]] = []
        for top in range(0, rows, pattern.rows):
            these = list(range(top, top + pattern.rows))
            for left in range(start, end, pattern.columns):
                gone = list(range(left, left + pattern.columns))
                choices.append(
                    (sum(cost(hessian, rest[row], gone, left)[0] for row in these), top, these, gone)
                )
        if pattern.is_grouped:
            for row in range(rows):
                own = sorted((choice for choice in choices if choice[1] == row), key=lambda choice: choice[0])
                for _, _, _, gone in own[: pattern.removed_of_group(sparsity)]:
                    keep[row, gone] = False
        else:
            total = rows * end // pattern.block_size
            count = round(sparsity * total) - removed
            removed += count
            for _, _, these, gone in sorted(choices, key=lambda choice: choice[0])[:count]:
                for row in these:
                    keep[row, gone] = False
        for column in range(start, end):
            for row in range(rows):
                if not keep[row, column]:
                    rest[row] = cost(hessian, rest[row], [column], column)[1]
                    rest[row, column] = 0.0
    return rest, keep


@pytest.mark.parametrize("columns", [8, 24])
@pytest.mark.parametrize("name", PATTERNS)
def test_masks_and_weights_are_those_of_the_plain_form(name: str, columns: int) -> None:
    pattern = Pattern.parse(name)
    moments, weight = moments_of(24), weights(8, 24)
    sparsity = pattern.limit if pattern.is_grouped else 0.6
    expected, mask = plain_sparsegpt(weight, moments.damped(0.01), pattern, sparsity, columns)
    new, keep = prune_matrix(weight, moments.inverse_factor(0.01), pattern, sparsity, columns=columns)
    assert torch.equal(keep, mask)
    torch.testing.assert_close(new.double(), expected, rtol=1e-5, atol=1e-6)
    assert not new[~keep].any()


@pytest.mark.parametrize("name", ["unstructured", "block4", "block:2x2"])
def test_costs_before_pruning_are_the_least_that_removing_one_block_can_cost(name: str) -> None:
    pattern = Pattern.parse(name)
    moments, weight = moments_of(16), weights(4, 16)
    pruner = SparseGptPruner(pattern)
    pruner._prepare_(moments)
    found = pattern.block_scores(pruner.costs(weight, moments))
    for top, left in itertools.product(range(0, 4, pattern.rows), range(0, 16, pattern.columns)):
        gone = list(range(left, left + pattern.columns))
        least = sum(
            cost(moments.damped(0.01), weight[row].double(), gone, 0)[0]
            for row in range(top, top + pattern.rows)
        )
        assert float(found[top // pattern.rows, left // pattern.columns]) == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.77, 1.0])
def test_the_target_is_met_to_one_block(name: str, sparsity: float) -> None:
    pattern = Pattern.parse(name)
    if pattern.is_grouped:
        sparsity *= pattern.limit
    weight = weights(12, 136)
    new, keep = prune_matrix(weight, moments_of(136).inverse_factor(), pattern, sparsity)
    blocks = keep.numel() // pattern.block_size
    zeros = int((~keep).sum()) // pattern.block_size
    assert zeros == round(pattern.reachable(sparsity) * blocks)
    assert torch.equal(pattern.expand(pattern.block_scores(keep.float())) == pattern.block_size, keep)
    if sparsity == 0.0:
        assert torch.equal(new, weight)
    elif sparsity == 1.0:
        assert not new.any()


@pytest.mark.parametrize("ranking", ["matrix", "row"])
@pytest.mark.parametrize("name", PATTERNS)
def test_what_is_gone_stays_gone_and_counts(name: str, ranking: str) -> None:
    pattern = Pattern.parse(name)
    weight, factor = weights(8, 48), moments_of(48).inverse_factor()
    low, high = (pattern.limit * share for share in (0.5, 0.9))
    score = weight.abs()
    first = choose_masks([score], pattern, low)[0]
    new, keep = prune_matrix(weight * first, factor, pattern, high, kept=first, columns=16, ranking=ranking)
    assert not (keep & ~first).any()
    expected = round(pattern.reachable(high) * keep.numel() / pattern.block_size)
    if ranking == "matrix":
        assert int((~keep).sum()) == expected * pattern.block_size
    again, same = prune_matrix(new, factor, pattern, float((~keep).double().mean()), kept=keep, columns=16)
    assert torch.equal(same, keep)
    assert torch.equal(again, new)


@pytest.mark.parametrize("name", ["unstructured", "block4", "2:4"])
def test_outputs_move_less_than_with_magnitude_and_least_after_refitting(name: str) -> None:
    pattern = Pattern.parse(name)
    moments, weight = moments_of(96, tokens=1000), weights(32, 96)
    sparsity = 0.5
    plain = choose_masks([weight.square()], pattern, sparsity)[0]
    new, keep = prune_matrix(weight, moments.inverse_factor(), pattern, sparsity)
    fitted = refit(weight, keep, moments.damped())
    errors = [reconstruction_error(weight, one, moments) for one in (weight * plain, new, fitted)]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < errors[1]


def test_ties_go_to_the_earlier_column() -> None:
    found = InputMoments("layer", 8)
    found.add_(torch.cat([torch.eye(8), -torch.eye(8)]).double())
    _, keep = prune_matrix(torch.ones(2, 8), found.inverse_factor(), Pattern.parse("unstructured"), 0.5)
    assert keep.tolist() == [[False] * 8, [True] * 8]
    _, keep = prune_matrix(torch.ones(2, 8), found.inverse_factor(), Pattern.parse("block4"), 0.25)
    assert keep.tolist() == [[False] * 4 + [True] * 4, [True] * 8]


@pytest.mark.parametrize("name", ["unstructured", "block4", "block:2x4"])
def test_by_row_every_row_loses_the_same_to_one_block_a_chunk(name: str) -> None:
    pattern = Pattern.parse(name)
    factor = moments_of(48).inverse_factor()
    _, keep = prune_matrix(weights(8, 48), factor, pattern, 0.45, columns=48, ranking="row")
    blocks = pattern.block_scores((~keep).float())[:, :] / pattern.block_size
    assert int(blocks.sum()) == round(0.45 * blocks.numel())
    assert blocks.sum(1).max() - blocks.sum(1).min() <= 1
