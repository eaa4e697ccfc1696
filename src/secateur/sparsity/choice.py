"""The choice of what to keep: scores -> masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.errors import RecipeError, StructureError
from secateur.pattern import Pattern

__all__ = ["RANKINGS", "choose_blocks", "choose_masks"]

RANKINGS = ("global", "matrix")


def choose_masks(
    scores: Sequence[Tensor],
    pattern: Pattern,
    sparsity: float,
    ranking: str = "global",
    kept: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Keeps the best blocks.

    Globally, exactly `round(sparsity * blocks)` blocks of all matrices together go; by matrix, of each for
    itself. N:M removes in each group of M neighbours the same whole number, `pattern.removed_of_group`,
    however it is ranked. The lowest scores go first; of equal scores the earlier goes (matrices in the given
    order, then row-major), so the choice is the same on every machine.

    Args:
        scores: One [N_i, K_i] float32 per matrix, larger = keep; a block's score is the sum over it.
        pattern: What is removed together.
        sparsity: Fraction of blocks to remove, 0-1.
        ranking: `global` or `matrix`.
        kept: One [N_i, K_i] bool per matrix: blocks without a True go before all others, whatever their
            score, so that what is gone stays gone. None ranks all by their scores.

    Returns:
        One [N_i, K_i] bool per matrix, True = keep.

    Raises:
        RecipeError: The sparsity is none, or more than the pattern can have, or the ranking is not known.
        StructureError: A score is not finite.
    """
    blocks = [pattern.block_scores(score) for score in scores]
    present = None
    if kept is not None:
        present = [pattern.block_scores(mask.to(torch.float32)) > 0 for mask in kept]
    chosen = [pattern.expand(part) for part in choose_blocks(blocks, pattern, sparsity, ranking, present)]
    if kept is None:
        return chosen
    # A mask that a model brought along may be finer than the pattern: what is gone in a block stays so.
    return [new & old for new, old in zip(chosen, kept, strict=True)]


def choose_blocks(
    scores: Sequence[Tensor],
    pattern: Pattern,
    sparsity: float,
    ranking: str = "global",
    present: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Keeps the best blocks by scores that are those of blocks already.

    Args:
        scores: One [N_i / rows, K_i / columns] float32 per matrix, larger = keep.
        pattern: What is removed together.
        sparsity: Fraction of blocks to remove, 0-1.
        ranking: `global` or `matrix`.
        present: One bool per block: those without go before all others.

    Returns:
        One [N_i / rows, K_i / columns] bool per matrix, True = keep.

    Raises:
        RecipeError: See `choose_masks`.
        StructureError: See `choose_masks`.
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
    for block in scores:
        if not torch.isfinite(block).all():
            raise StructureError(
                "The pruning scores are not finite: the weights have diverged; lower the learning rate."
            )
    if present is not None:
        scores = [block.masked_fill(~some, -torch.inf) for block, some in zip(scores, present, strict=True)]
    if pattern.is_grouped:
        return [_keep_of_groups(block, pattern, sparsity) for block in scores]
    if ranking == "matrix":
        return [_keep(block.flatten(), sparsity).view_as(block) for block in scores]
    flat = _keep(torch.cat([block.flatten() for block in scores]), sparsity)
    parts = flat.split([block.numel() for block in scores])
    return [part.view_as(block) for part, block in zip(parts, scores, strict=True)]


def _keep(flat: Tensor, sparsity: float) -> Tensor:
    """Returns [blocks] bool without the lowest scores, of equal ones without the earlier."""
    remove = round(sparsity * flat.numel())
    keep = torch.ones_like(flat, dtype=torch.bool)
    if remove > 0:
        threshold = torch.kthvalue(flat, remove).values
        below = flat < threshold
        keep[below] = False
        ties = (flat == threshold).nonzero().flatten()
        keep[ties[: remove - int(below.sum())]] = False
    return keep


def _keep_of_groups(scores: Tensor, pattern: Pattern, sparsity: float) -> Tensor:
    """Returns [N, K] bool without the lowest scores of every group, of equal ones without the earlier."""
    groups = scores.unflatten(-1, (-1, pattern.group))
    lowest = groups.sort(dim=-1, stable=True).indices[..., : pattern.removed_of_group(sparsity)]
    keep = torch.ones_like(groups, dtype=torch.bool)
    keep.scatter_(-1, lowest, False)
    return keep.flatten(-2)
