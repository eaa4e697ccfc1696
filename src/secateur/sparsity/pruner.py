"""Pruners: methods that say which weights of a live model matter."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.errors import RecipeError, StructureError
from secateur.modeling.structure import Projection
from secateur.pattern import Pattern
from secateur.sparsity.choice import RANKINGS, choose_masks
from secateur.sparsity.evidence import Evidence
from secateur.sparsity.mask import (
    MaskParametrization,
    attach_mask_,
    find_mask,
    remove_mask_,
    unmasked_weight,
    unquantized_weight,
)
from secateur.sparsity.targets import find_targets

__all__ = ["Pruner", "Ranking"]

Ranking = Literal["global", "matrix"]
_SINGLE = Pattern.parse("unstructured")


class Pruner:
    """Removes weights from the six linear layers of every encoder layer, or from what `targets` says.

    A method overrides one function: `score` where a matrix is judged by its weights alone, `scores` where it
    needs evidence, `step_` where it also changes weights that stay. Its options are keyword arguments of its
    own. Removed weights stay removed unless a method revives them.

    Args:
        pattern: What is removed together.
        ranking: `global` ranks over all matrices together, `matrix` takes as much from each.

    Attributes:
        needs: What `step_` asks of its evidence: `gradients` (and the held-out loss), `inputs`.
        revives: Whether weights that are gone may come back.
        targets: What is pruned, see `find_targets`; set it before `attach_`.
        biases: Whether the biases of the pruned linear layers go, too, to the same sparsity, the smallest
            first; set it before `attach_`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    revives: ClassVar[bool] = False
    targets: tuple[str, ...] = ("encoder",)
    biases: bool = False

    def __init__(self, pattern: Pattern, *, ranking: Ranking = "global") -> None:
        if ranking not in RANKINGS:
            raise RecipeError(f"The ranking {ranking!r} is not known; allowed: {', '.join(RANKINGS)}.")
        self.pattern = pattern
        self.ranking: Ranking = ranking
        self._projections: list[Projection] = []

    def attach_(self, model: nn.Module) -> None:
        """Attaches masks that keep everything; masks that are there already stay as they are.

        Args:
            model: A live model of a supported family.

        Raises:
            RecipeError: The method cannot judge the targets.
            StructureError: A matrix does not divide into the pattern's blocks, or a target is not there.
            UnsupportedError: The family is not supported.
        """
        if self.needs and self.targets != ("encoder",):
            raise RecipeError(
                f"{type(self).__name__} learns from {' and '.join(sorted(self.needs))} of the encoder's "
                f"matrices alone: leave the targets {', '.join(self.targets)} to another method."
            )
        projections = find_targets(model, self.targets)
        for projection in projections:
            self.pattern.check(projection.name, projection.in_features, projection.out_features)
        self._projections = projections
        for projection in projections:
            self._mask_(projection.linear)
        for layer in self._biased() if self.biases else ():
            if find_mask(layer, "bias") is None:
                attach_mask_(layer, name="bias")

    def score(self, param: Tensor) -> Tensor:
        """Says how much each weight of a matrix matters, by the weights alone.

        Args:
            param: [N, K] float32, the masked weight.

        Returns:
            [N, K] float32, larger = keep; 0 for weights that are gone already.

        Raises:
            StructureError: The method needs evidence: it has `scores` instead.
        """
        raise StructureError(
            f"{type(self).__name__} does not judge a matrix by its weights alone: call step_."
        )

    def scores(self, evidence: Evidence | None) -> list[Tensor]:
        """Says how much each weight of every matrix matters.

        Args:
            evidence: What `needs` asks for; None where it asks for nothing.

        Returns:
            One [N, K] float32 per matrix, larger = keep; what is gone already goes first, whatever it has.
        """
        return [self.score(weight) for weight in self.weights()]

    def check_rows(self, rows: int) -> None:
        """Checks before a run that it has rows enough for what `step_` will ask.

        Args:
            rows: Training rows.

        Raises:
            DataError: It has not.
        """

    def notes(self) -> dict[str, float]:
        """Returns what the last step chose or measured itself, by name, to be logged and recorded."""
        return {}

    def follow_(self, progress: float) -> None:
        """Hears after every optimizer step, and when a run is resumed, how far the schedule is.

        Args:
            progress: Part of the final sparsity that the schedule asks for, 0-1.
        """

    def remember_(self) -> None:
        """Hears that the early weights of a method that rewinds are those of now."""

    def watch_(self, optimizer: torch.optim.Optimizer) -> None:
        """Hears of the optimizer, once or more often, before its first step.

        Args:
            optimizer: The one that trains the model.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns what the method itself learns, as groups for an optimizer.

        A method that learns scores, say, registers them as parameters in `attach_` and returns them here.

        Returns:
            Groups with `params`, their own `lr`, and what else the optimizer shall do otherwise with them;
            `weight_decay` is 0 where it is not given. Empty for methods that learn nothing.
        """
        return []

    def step_(self, sparsity: float, evidence: Evidence | None = None) -> None:
        """Chooses the masks anew.

        Args:
            sparsity: Fraction of blocks to remove, 0-1: over all matrices, or of each, by `ranking`.
            evidence: Where the method `needs` any.

        Raises:
            StructureError: No masks are attached, evidence is missing, or scores are not finite.
        """
        self._require_attached()
        self._require_evidence(evidence)
        with torch.no_grad():
            self.set_masks_(self.choose(self.scores(evidence), sparsity))

    def choose(self, scores: list[Tensor], sparsity: float) -> list[Tensor]:
        """Returns one [N, K] bool mask per matrix: the best blocks by `ranking`."""
        return choose_masks(scores, self.pattern, sparsity, self.ranking, self.masks())

    def set_masks_(self, chosen: list[Tensor]) -> None:
        """Puts new masks in place, one [N, K] bool per matrix, and the zeros into the weights."""
        with torch.no_grad():
            for mask, new in zip(self._masks, chosen, strict=True):
                mask.mask.copy_(new)
        self.prune_biases_()
        self.enforce_()

    def prune_biases_(self) -> None:
        """Prunes the biases to the sparsity that the weights have now, where `biases` says so."""
        if not self.biases:
            return
        layers = self._biased()
        masks = [mask for layer in layers if (mask := find_mask(layer, "bias")) is not None]
        scores = [layer.bias.detach().square().unsqueeze(0) for layer in layers]
        kept = [mask.mask.unsqueeze(0) for mask in masks]
        with torch.no_grad():
            chosen = choose_masks(scores, _SINGLE, self.sparsity, self.ranking, kept)
            for layer, mask, new in zip(layers, masks, chosen, strict=True):
                mask.mask.copy_(new.squeeze(0))
                unmasked_weight(layer, "bias").mul_(mask.mask)

    def weights(self) -> list[Tensor]:
        """Returns the masked weight of every matrix, [N, K] float32, detached."""
        return [unquantized_weight(projection.linear) for projection in self._projections]

    @property
    def projections(self) -> list[Projection]:
        """What is pruned, in the order of scores, masks and evidence."""
        return self._projections

    def masks(self) -> list[Tensor]:
        """Returns the mask of every matrix, [N, K] bool, True = keep."""
        return [mask.mask for mask in self._masks]

    def enforce_(self) -> None:
        """Writes the zeros into the weights behind the masks, so that nothing hidden survives there."""
        with torch.no_grad():
            for projection, mask in zip(self._projections, self._masks, strict=True):
                if not mask.revives:
                    unmasked_weight(projection.linear).mul_(mask.mask)
            for layer in self._biased():
                found = find_mask(layer, "bias")
                if found is not None:
                    unmasked_weight(layer, "bias").mul_(found.mask)

    def finalize_(self) -> None:
        """Takes the masks off; the zeros stay in the plain weights."""
        self._require_attached()
        for projection in self._projections:
            remove_mask_(projection.linear)
        for layer in self._biased():
            remove_mask_(layer, "bias")
        self._projections = []

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

    @property
    def _masks(self) -> list[MaskParametrization]:
        # Looked up anew: another stage's method may have put a mask of its own kind in the place of one.
        found = [find_mask(projection.linear) for projection in self._projections]
        return [mask for mask in found if mask is not None]

    def _mask_(self, module: nn.Module) -> None:
        """Attaches the mask of one matrix, where it has none."""
        if find_mask(module) is None:
            attach_mask_(module)

    def _biased(self) -> list[nn.Module]:
        modules = (projection.linear for projection in self._projections)
        return [module for module in modules if getattr(module, "bias", None) is not None]

    def _require_evidence(self, evidence: Evidence | None) -> None:
        if self.needs and evidence is None:
            raise StructureError(
                f"{type(self).__name__} learns from {' and '.join(sorted(self.needs))}: give step_ its "
                "evidence (in a loop of your own, give callback.attach_ batches)."
            )

    def _require_attached(self) -> None:
        if not self._masks:
            raise StructureError("The pruner has no masks: call attach_(model) first.")
