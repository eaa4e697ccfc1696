"""Random pruning: a control for the methods that know something."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pattern import Pattern
from secateur.sparsity.evidence import Evidence
from secateur.sparsity.pruner import Pruner, Ranking

__all__ = ["RandomPruner"]


class RandomPruner(Pruner):
    """Removes blocks at random, the same ones in every run with one seed.

    Each matrix has one draw of scores for the whole run, so masks of higher sparsity lie within those of
    lower, on every device.

    Args:
        pattern: What is removed together.
        ranking: See `Pruner`.
        seed: Of the random numbers, 0 to 2**63 - 1.

    Source:
        The control of Gale et al., "The state of sparsity in deep neural networks" (2019), section 3.
    """

    def __init__(self, pattern: Pattern, *, ranking: Ranking = "global", seed: int = 0) -> None:
        super().__init__(pattern, ranking=ranking)
        self.seed = seed

    def scores(self, evidence: Evidence | None) -> list[Tensor]:
        """Returns the draw of every matrix, one [N, K] float32 each, equal within a block.

        Args:
            evidence: Not asked.
        """
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for mask in self.masks():
            rows, columns = mask.shape[0] // self.pattern.rows, mask.shape[1] // self.pattern.columns
            draw = torch.rand(rows, columns, generator=generator)
            found.append(self.pattern.expand(draw).to(mask.device))
        return found
