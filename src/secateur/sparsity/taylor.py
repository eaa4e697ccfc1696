"""First-order Taylor pruning: what the loss would hardly notice, by its gradient, goes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import DataError, RecipeError, StructureError
from secateur.pattern import Pattern
from secateur.sparsity.evidence import Evidence
from secateur.sparsity.pruner import Pruner, Ranking

__all__ = ["TaylorPruner"]


class TaylorPruner(Pruner):
    """Ranks a block by the mean square of (sum of gradient * weight) over mini-batches.

    Args:
        pattern: What is removed together.
        ranking: See `Pruner`.
        num_grads: Mini-batch gradients.

    Raises:
        RecipeError: `num_grads` is below 1.

    Source:
        Molchanov et al., "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771), equation 8:
        the squared change of the loss when a group's weights go to 0, to first order, with their groups being
        our blocks; the mean over mini-batches stands where they average over a training epoch.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def __init__(self, pattern: Pattern, *, ranking: Ranking = "global", num_grads: int = 64) -> None:
        super().__init__(pattern, ranking=ranking)
        if num_grads < 1:
            raise RecipeError(f"First-order Taylor needs at least 1 gradient, got {num_grads}.")
        self.num_grads = num_grads

    def check_rows(self, rows: int) -> None:
        """See `Pruner.check_rows`."""
        if rows < self.num_grads:
            raise DataError(
                f"First-order Taylor asks for num_grads {self.num_grads}, and there are only {rows} rows to "
                "take gradients of: lower num_grads, or give more rows."
            )

    def scores(self, evidence: Evidence | None) -> list[Tensor]:
        """See `Pruner.scores`; the score of a block is shared evenly by its weights.

        Raises:
            StructureError: A gradient is not finite, or evidence is missing.
            DataError: There are fewer rows than gradients.
        """
        if evidence is None:
            raise StructureError("First-order Taylor learns from gradients: give it evidence.")
        weights = self.weights()
        sums = [torch.zeros_like(self.pattern.block_scores(weight)) for weight in weights]
        for gradients in evidence.gradients(self.num_grads):
            for total, gradient, weight in zip(sums, gradients, weights, strict=True):
                total += self.pattern.block_scores(gradient * weight).square()
        share = self.num_grads * self.pattern.block_size
        return [self.pattern.expand(total / share) for total in sums]
