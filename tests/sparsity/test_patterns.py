"""Patterns: blocks and N:M against brute force, on ties, at 0 % and 100 %."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from secateur.errors import RecipeError, StructureError
from secateur.pattern import Pattern
from secateur.sparsity.choice import choose_masks

SHAPES = ((6, 8), (4, 16), (2, 8))


def brute_force(
    scores: list[Tensor], rows: int, columns: int, sparsity: float, by_matrix: bool
) -> list[Tensor]:
    """Sorts every block; the lowest go, of equal ones the earlier."""
    masks = [torch.ones_like(score, dtype=torch.bool) for score in scores]
    entries = []
    for matrix, score in enumerate(scores):
        for row in range(0, score.shape[0], rows):
            for column in range(0, score.shape[1], columns):
                place = (slice(row, row + rows), slice(column, column + columns))
                entries.append((float(score[place].sum()), len(entries), matrix, place))
    groups = [[one for one in entries if one[2] == matrix] for matrix in range(len(scores))]
    for group in groups if by_matrix else [entries]:
        for _, _, matrix, place in sorted(group, key=lambda one: one[:2])[: round(sparsity * len(group))]:
            masks[matrix][place] = False
    return masks


def whole_numbers(levels: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    # They sum exactly; with three levels most blocks tie, with one all do.
    return [torch.randint(0, levels, shape, generator=generator).float() for shape in SHAPES]


@pytest.mark.parametrize(
    ("name", "sparsity", "levels", "ranking"),
    list(
        itertools.product(
            ("unstructured", "block4", "block:2x4", "block:2x1", "block:1x8"),
            (0.0, 0.3, 0.5, 0.8, 1.0),
            (1, 3, 10**6),
            ("global", "matrix"),
        )
    ),
)
def test_blocks_are_chosen_as_by_brute_force(name: str, sparsity: float, levels: int, ranking: str) -> None:
    pattern = Pattern.parse(name)
    scores = whole_numbers(levels)
    expected = brute_force(scores, pattern.rows, pattern.columns, sparsity, ranking == "matrix")
    for mask, wanted in zip(choose_masks(scores, pattern, sparsity, ranking), expected, strict=True):
        assert torch.equal(mask, wanted)


@pytest.mark.parametrize(
    ("name", "sparsity", "removed"),
    [
        ("2:4", 0.0, 0),
        ("2:4", 0.2, 1),
        ("2:4", 0.375, 2),
        ("2:4", 0.5, 2),
        ("1:8", 0.5, 4),
        ("1:8", 0.875, 7),
        ("3:8", 0.0624, 0),
        ("3:8", 0.0625, 1),
    ],
)
@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_every_group_loses_its_smallest(name: str, sparsity: float, removed: int, levels: int) -> None:
    pattern = Pattern.parse(name)
    assert pattern.reachable(sparsity) == removed / pattern.group
    for score, mask in zip(
        whole_numbers(levels), choose_masks(whole_numbers(levels), pattern, sparsity), strict=True
    ):
        for row in range(score.shape[0]):
            for start in range(0, score.shape[1], pattern.group):
                group = [(float(score[row, start + i]), i) for i in range(pattern.group)]
                gone = {i for _, i in sorted(group)[:removed]}
                assert [not bool(mask[row, start + i]) for i in range(pattern.group)] == [
                    i in gone for i in range(pattern.group)
                ]


def test_a_group_that_shrinks_loses_no_other_weight_again() -> None:
    pattern = Pattern.parse("1:8")
    scores = [torch.rand(4, 16, generator=torch.Generator().manual_seed(1))]
    kept = None
    for removed in range(8):
        masks = choose_masks(scores, pattern, removed / 8, kept=kept)
        assert int((~masks[0]).sum()) == removed * 8
        if kept is not None:
            assert not (masks[0] & ~kept[0]).any()
        kept = masks
        scores = [torch.rand(4, 16)]  # other scores: what is gone stays gone all the same


def test_what_is_gone_goes_before_what_has_a_lower_score() -> None:
    scores = [torch.tensor([[5.0, 1.0, 2.0, 3.0]])]
    kept = [torch.tensor([[False, True, True, True]])]
    masks = choose_masks(scores, Pattern.parse("unstructured"), 0.5, kept=kept)
    assert masks[0].tolist() == [[False, False, True, True]]


def test_the_ranking_by_matrix_gives_each_its_share() -> None:
    small, large = torch.full((4, 8), 0.1), torch.full((4, 8), 10.0)
    for mask in choose_masks([small, large], Pattern.parse("block4"), 0.5, "matrix"):
        assert int(mask.sum()) == 16


def test_names_that_mean_the_same_are_the_same_pattern() -> None:
    assert Pattern.parse("block:1x4") == Pattern.parse("block4")
    assert Pattern.parse("block:1x1") == Pattern.parse("unstructured")
    assert Pattern.parse("block:4x1").block_size == 4
    assert Pattern.parse("2:4").limit == 0.5


def test_scores_of_blocks_are_sums_over_them() -> None:
    pattern = Pattern.parse("block:2x3")
    scores = torch.arange(24.0).view(4, 6)
    blocks = pattern.block_scores(scores)
    assert blocks.tolist() == [[24.0, 42.0], [96.0, 114.0]]
    assert torch.equal(pattern.block_scores(pattern.expand(blocks)), blocks * 6)


@pytest.mark.parametrize("name", ["4:4", "5:4"])
def test_a_group_that_loses_nothing_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"N must be below M, as in 2:4"):
        Pattern.parse(name)


@pytest.mark.parametrize("name", ["0:4", "block:0x4", "block:4", "2:", "block", "", "block:99999x1", "-1:4"])
def test_what_is_no_pattern_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="write unstructured, block4, block:RxC such as block:4x4, or N:M"):
        Pattern.parse(name)


@pytest.mark.parametrize(
    ("name", "shape", "what"),
    [
        ("block:4x4", (30, 32), "a.b has 30 outputs, which do not divide into blocks of 4 rows"),
        ("block:4x4", (32, 30), "a.b has 30 inputs, which do not divide into blocks of 4"),
        ("2:7", (32, 32), "a.b has 32 inputs, which do not divide into groups of 7"),
    ],
)
def test_a_matrix_that_does_not_divide_is_named(name: str, shape: tuple[int, int], what: str) -> None:
    with pytest.raises(StructureError, match=what):
        Pattern.parse(name).check("a.b", shape[1], shape[0])


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan")])
def test_a_sparsity_that_is_no_fraction_is_refused(sparsity: float) -> None:
    with pytest.raises(RecipeError, match="is no fraction: give 0 to 1"):
        choose_masks([torch.ones(4, 4)], Pattern.parse("unstructured"), sparsity)


def test_more_than_a_group_can_lose_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"The pattern 2:4 removes 0.5 of the weights, asked for 0.6"):
        choose_masks([torch.ones(4, 4)], Pattern.parse("2:4"), 0.6)


def test_an_unknown_ranking_is_refused() -> None:
    with pytest.raises(RecipeError, match="'layer' is not known; allowed: global, matrix"):
        choose_masks([torch.ones(4, 4)], Pattern.parse("2:4"), 0.5, "layer")
