"""Pruners: methods that say which weights of a live model matter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import StructureError
from secateur.modeling.structure import Projection, find_projections
from secateur.pattern import Pattern
from secateur.sparsity.choice import choose_masks
from secateur.sparsity.mask import (
    MaskParametrization,
    attach_mask_,
    find_mask,
    remove_mask_,
    unquantized_weight,
)

__all__ = ["Pruner"]


class Pruner(ABC):
    """Removes weights from the six linear layers of every encoder layer, ranked over all of them together.

    A method overrides `score`. Removed weights stay removed unless a method revives them.

    Args:
        pattern: What is removed together.
    """

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self._projections: list[Projection] = []
        self._masks: list[MaskParametrization] = []

    def attach_(self, model: nn.Module) -> None:
        """Attaches masks that keep everything; masks that are there already stay as they are.

        Args:
            model: A live model of a supported family.

        Raises:
            StructureError: A width does not divide into the pattern's blocks.
            UnsupportedError: The family is not supported.
        """
        self._projections = list(find_projections(model))
        for projection in self._projections:
            self.pattern.check(projection.name, projection.in_features)
        linears = [projection.linear for projection in self._projections]
        self._masks = [find_mask(linear) or attach_mask_(linear) for linear in linears]

    @abstractmethod
    def score(self, param: Tensor) -> Tensor:
        """Says how much each weight matters.

        Args:
            param: [N, K] float32, the masked weight.

        Returns:
            [N, K] float32, larger = keep; 0 for weights that are gone already.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns what the method itself learns, as groups for an optimizer.

        A method that learns scores, say, registers them as parameters in `attach_` and returns them here.

        Returns:
            Groups with `params`, their own `lr`, and what else the optimizer shall do otherwise with them;
            `weight_decay` is 0 where it is not given. Empty for methods that learn nothing.
        """
        return []

    def step_(self, sparsity: float) -> None:
        """Chooses the masks anew.

        Args:
            sparsity: Fraction of blocks to remove over all matrices, 0-1.
        """
        self._require_attached()
        weights = [unquantized_weight(projection.linear) for projection in self._projections]
        with torch.no_grad():
            chosen = choose_masks([self.score(weight) for weight in weights], self.pattern, sparsity)
            for mask, new in zip(self._masks, chosen, strict=True):
                mask.mask.copy_(new)
        self.enforce_()

    def enforce_(self) -> None:
        """Writes the zeros into the weights behind the masks, so that nothing hidden survives there."""
        with torch.no_grad():
            for projection, mask in zip(self._projections, self._masks, strict=True):
                projection.linear.parametrizations["weight"].original.mul_(mask.mask)

    def finalize_(self) -> None:
        """Takes the masks off; the zeros stay in the plain weights."""
        self._require_attached()
        for projection in self._projections:
            remove_mask_(projection.linear)
        self._masks = []

    @property
    def sparsity(self) -> float:
        """Fraction of masked weights over all matrices."""
        self._require_attached()
        kept = sum(int(mask.mask.sum()) for mask in self._masks)
        total = sum(int(mask.mask.numel()) for mask in self._masks)
        return 1.0 - kept / total

    def fingerprint(self) -> Tensor:
        """Returns [matrices] int64 that differ where masks differ, for comparing processes."""
        self._require_attached()
        sums = []
        for mask in self._masks:
            places = torch.arange(1, mask.mask.numel() + 1, device=mask.mask.device)
            # Odd multipliers that overflow on purpose: a plain count would not see a kept weight that moved.
            sums.append((mask.mask.flatten() * (places * 0x9E3779B97F4A7C1 | 1) >> 8).sum())
        return torch.stack(sums)

    def _require_attached(self) -> None:
        if not self._masks:
            raise StructureError("The pruner has no masks: call attach_(model) first.")
