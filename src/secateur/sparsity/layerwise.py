"""What Wanda and SparseGPT share: matrix after matrix, from what it reads on calibration texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.errors import RecipeError
from secateur.modeling.structure import EncoderBlock, Projection, find_blocks
from secateur.pattern import Pattern
from secateur.sparsity.choice import choose_masks
from secateur.sparsity.evidence import Evidence
from secateur.sparsity.hessian import InputMoments, InputSquares
from secateur.sparsity.layer_inputs import inputs_by_layer
from secateur.sparsity.mask import find_mask, set_weight_, unquantized_weight
from secateur.sparsity.pruner import Pruner, Ranking

__all__ = ["LayerwisePruner"]


class LayerwisePruner(Pruner):
    """Prunes each matrix so that its own outputs change little; later ones see what earlier ones became.

    No labels are needed, and no gradients. With the ranking `global`, blocks of all matrices are compared
    first, as the model stands, which says how much each loses; otherwise each loses the same share.

    Args:
        pattern: What is removed together.
        ranking: `global`, `matrix` or `row`.
        statistics: What is gathered of inputs.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"inputs"})

    def __init__(
        self, pattern: Pattern, *, ranking: Ranking, statistics: type[InputSquares] | type[InputMoments]
    ) -> None:
        super().__init__(pattern, ranking=ranking)
        self._statistics = statistics
        self._blocks: list[EncoderBlock] = []

    def attach_(self, model: nn.Module) -> None:
        """Attaches masks; see `Pruner.attach_`."""
        super().attach_(model)
        self._blocks = find_blocks(model)

    def step_(self, sparsity: float, evidence: Evidence | None = None) -> None:
        """Chooses the masks anew, and where the method does so the weights.

        Args:
            sparsity: Fraction of blocks to remove over all matrices, 0-1.
            evidence: Shows what matrices read.

        Raises:
            RecipeError: The sparsity is none that the pattern can have.
            StructureError: No masks are attached, or there is no evidence.
            DataError: Inputs are not finite; names the layer.
        """
        self._require_attached()
        if not 0.0 <= sparsity <= 1.0:
            raise RecipeError(f"The sparsity {sparsity:g} is no fraction: give 0 to 1.")
        self._require_evidence(evidence)
        assert evidence is not None
        shares = self._even(sparsity) if self.ranking != "global" else self._compared(sparsity, evidence)
        for group, found in inputs_by_layer(self._blocks, evidence, self._statistics):
            self._prepare_(found)
            for projection in group:
                self._prune_(projection, found, shares[projection.name])
        self._prepare_(None)
        self.enforce_()

    @abstractmethod
    def costs(self, weight: Tensor, found: InputSquares) -> Tensor:
        """Says how much each weight of one matrix matters, before anything is made up for.

        Args:
            weight: [N, K] float32, masked.
            found: What its input is like.

        Returns:
            [N, K] float32; the sum over a block is what the block matters.
        """

    @abstractmethod
    def pruned(
        self, weight: Tensor, kept: Tensor, found: InputSquares, sparsity: float
    ) -> tuple[Tensor, Tensor]:
        """Prunes one matrix.

        Args:
            weight: [N, K] float32, masked.
            kept: [N, K] bool, what the mask keeps so far.
            found: What its input is like.
            sparsity: Of this matrix.

        Returns:
            weight: [N, K] float32.
            keep: [N, K] bool.
        """

    def _prepare_(self, found: InputSquares | None) -> None:
        """Makes what matrices with the same input share; None forgets it."""

    def _even(self, sparsity: float) -> Mapping[str, float]:
        """Returns the same share for each matrix, to one block, so that together they meet the target."""
        if self.pattern.is_grouped:
            return {projection.name: sparsity for projection in self._projections}
        shares, seen = {}, 0
        for projection in self._projections:
            size = projection.in_features * projection.out_features // self.pattern.block_size
            remove = round(sparsity * (seen + size)) - round(sparsity * seen)
            shares[projection.name] = remove / size
            seen += size
        return shares

    def _compared(self, sparsity: float, evidence: Evidence) -> Mapping[str, float]:
        """Returns how much each matrix loses, by comparing blocks of all of them."""
        names, scores, kept = [], [], []
        for group, found in inputs_by_layer(self._blocks, evidence, self._statistics):
            self._prepare_(found)
            for projection in group:
                weight = unquantized_weight(projection.linear)
                names.append(projection.name)
                scores.append(self.costs(weight, found))
                kept.append(self._mask_of(projection))
        masks = choose_masks(scores, self.pattern, sparsity, "global", kept)
        return {name: 1.0 - float(mask.double().mean()) for name, mask in zip(names, masks, strict=True)}

    def _prune_(self, projection: Projection, found: InputSquares, sparsity: float) -> None:
        mask = find_mask(projection.linear)
        assert mask is not None  # attach_ has seen to it
        weight, keep = self.pruned(
            unquantized_weight(projection.linear), self._mask_of(projection), found, sparsity
        )
        with torch.no_grad():
            mask.mask.copy_(keep)
        set_weight_(projection.linear, weight)

    def _mask_of(self, projection: Projection) -> Tensor:
        mask = find_mask(projection.linear)
        assert mask is not None
        return mask.mask
