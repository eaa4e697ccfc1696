"""The choice of what to keep: scores -> masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.errors import RecipeError, StructureError
from secateur.pattern import Pattern

__all__ = ["RANKINGS", "choose_masks", "keep_highest", "keep_highest_of_rows"]

RANKINGS = ("global", "matrix", "row")


def choose_masks(
    scores: Sequence[Tensor],
    pattern: Pattern,
    sparsity: float,
    ranking: str = "global",
    kept: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Keeps the best blocks.

    Globally, exactly `round(sparsity * blocks)` blocks of all matrices together go; by matrix, of each for
    itself; by row the same of each matrix, shared out among its rows of blocks to one block. N:M removes in
    each group of M neighbours the same whole number, `pattern.removed_of_group`,
    however it is ranked. The lowest scores go first; of equal scores the earlier goes (matrices in the given
    order, then row-major), so the choice is the same on every machine.

    Args:
        scores: One [N_i, K_i] float32 per matrix, larger = keep; a block's score is the sum over it.
        pattern: What is removed together.
        sparsity: Fraction of blocks to remove, 0-1.
        ranking: `global`, `matrix` or `row`.
        kept: One [N_i, K_i] bool per matrix: blocks without a True go before all others, whatever their
            score, so that what is gone stays gone. None ranks all by their scores.

    Returns:
        One [N_i, K_i] bool per matrix, True = keep.

    Raises:
        RecipeError: The sparsity is none, or more than the pattern can have, or the ranking is not known.
        StructureError: A score is not finite.
    """
    if ranking not in RANKINGS:
        raise RecipeError(f"The ranking {ranking!r} is not known; allowed: {', '.join(RANKINGS)}.")
    if not 0.0 <= sparsity <= 1.0:
        raise RecipeError(f"The sparsity {sparsity:g} is no fraction: give 0 to 1.")
    if sparsity > pattern.limit + 1e-6:
        raise RecipeError(
            f"The pattern {pattern.name} removes {pattern.limit:g} of the weights, asked for {sparsity:g}: "
            "give that, or another pattern."
        )
    blocks = [pattern.block_scores(score) for score in scores]
    for block in blocks:
        if not torch.isfinite(block).all():
            raise StructureError(
                "The pruning scores are not finite: the weights have diverged; lower the learning rate."
            )
    if kept is not None:
        present = [pattern.block_scores(mask.to(torch.float32)) > 0 for mask in kept]
        blocks = [block.masked_fill(~some, -torch.inf) for block, some in zip(blocks, present, strict=True)]
    if pattern.is_grouped:
        return [_keep_of_groups(block, pattern, sparsity) for block in blocks]
    if ranking == "row":
        parts = [keep_highest_of_rows(block, round(sparsity * block.numel())) for block in blocks]
    elif ranking == "matrix":
        parts = [keep_highest(block, round(sparsity * block.numel())) for block in blocks]
    else:
        together = torch.cat([block.flatten() for block in blocks])
        flat = keep_highest(together, round(sparsity * together.numel()))
        sizes = [block.numel() for block in blocks]
        parts = [part.view_as(block) for part, block in zip(flat.split(sizes), blocks, strict=True)]
    return [pattern.expand(part) for part in parts]


def keep_highest(scores: Tensor, remove: int) -> Tensor:
    """Returns bool without the lowest scores, of equal ones without the earlier.

    Args:
        scores: [...] no NaN.
        remove: How many are False.

    Returns:
        [...] bool.
    """
    flat = scores.flatten()
    keep = torch.ones_like(flat, dtype=torch.bool)
    if remove > 0:
        threshold = torch.kthvalue(flat, remove).values
        below = flat < threshold
        keep[below] = False
        ties = (flat == threshold).nonzero().flatten()
        keep[ties[: remove - int(below.sum())]] = False
    return keep.view_as(scores)


def keep_highest_of_rows(scores: Tensor, remove: int) -> Tensor:
    """Returns bool without the lowest scores of every row, of equal ones without the earlier.

    Args:
        scores: [rows, blocks] no NaN.
        remove: How many are False; each row has the same number of them to one.

    Returns:
        [rows, blocks] bool.
    """
    rows = len(scores)
    ends = torch.tensor([remove * row // rows for row in range(rows + 1)], device=scores.device)
    ranks = scores.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks >= ends.diff()[:, None]


def _keep_of_groups(scores: Tensor, pattern: Pattern, sparsity: float) -> Tensor:
    """Returns [N, K] bool without the lowest scores of every group, of equal ones without the earlier."""
    groups = scores.unflatten(-1, (-1, pattern.group))
    lowest = groups.sort(dim=-1, stable=True).indices[..., : pattern.removed_of_group(sparsity)]
    keep = torch.ones_like(groups, dtype=torch.bool)
    keep.scatter_(-1, lowest, False)
    return keep.flatten(-2)
