"""Layer-adaptive magnitude pruning: what is small beside the rest of its own matrix goes."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.sparsity.pruner import Pruner

__all__ = ["LampPruner"]


class LampPruner(Pruner):
    """Ranks a block by its share of the energy of all blocks in its matrix that are not smaller.

    Plain magnitudes compare matrices of different scale and thin out those with small weights; this score
    bounds what removing a block does to the output of its own matrix.

    Source:
        Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning" (2021), equation 4, with the
        sum of squares of a block for the squared weight.
    """

    def score(self, param: Tensor) -> Tensor:
        """Returns each block's score, spread over its weights.

        Args:
            param: [N, K] float32.

        Returns:
            [N, K] float32; the sum over a block is its score, 0 where the block is gone.
        """
        blocks = self.pattern.block_scores(param.square())
        ordered = blocks.flatten().sort()
        not_smaller = ordered.values.double().flip(0).cumsum(0).flip(0)
        shares = (ordered.values / not_smaller.clamp_min(torch.finfo(torch.float32).tiny)).float()
        scores = torch.empty_like(shares).scatter_(0, ordered.indices, shares).view_as(blocks)
        return self.pattern.expand(scores / self.pattern.block_size)
