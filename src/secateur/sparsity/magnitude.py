"""Magnitude pruning: what is small goes."""

from __future__ import annotations

from torch import Tensor

from secateur.sparsity.pruner import Pruner

__all__ = ["MagnitudePruner"]


class MagnitudePruner(Pruner):
    """Ranks a block by the sum of its squared weights.

    Source:
        Han et al., "Learning both weights and connections" (2015); ranked globally over blocks instead of per
        layer over single weights.
    """

    def score(self, param: Tensor) -> Tensor:
        """Returns the squared weights.

        Args:
            param: [N, K] float32.

        Returns:
            [N, K] float32.
        """
        return param.square()
