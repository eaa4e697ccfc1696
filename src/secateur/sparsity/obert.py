"""Optimal BERT Surgeon: what costs the loss least goes, and what stays makes up for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.errors import DataError, RecipeError, StructureError
from secateur.pattern import Pattern
from secateur.sparsity.choice import choose_masks
from secateur.sparsity.evidence import Evidence
from secateur.sparsity.fisher import BlockLayout, FisherBlocks, bytes_needed
from secateur.sparsity.pruner import Pruner, Ranking

__all__ = ["ObertPruner", "block_size_of"]

_SIZE = 50
_SIZE_OF_BLOCKS = 32
_DAMPS = (10.0, 1.0, 0.1, 0.01, 0.001)  # times the mean square of the gradients
_SCALE_GRADIENTS = 32


class ObertPruner(Pruner):
    """Ranks by how much the loss would grow, to second order, and moves what stays to where it grows least.

    Args:
        pattern: What is removed together.
        ranking: See `Pruner`.
        num_grads: Mini-batch gradients that the Fisher matrix is made of.
        damp: Added to its diagonal. `auto` tries five values around the mean square of the gradients and
            takes the one with which the held-out loss is lowest after pruning.
        fisher_block_size: Weights of one of its blocks, a multiple of the pattern's; None takes 50 for
            single weights, 32 for block4, and for others the multiple next below 50.
        recomputations: Into how many parts a step is cut, each with a Fisher matrix of its own; each part
            removes the same share of what is left.
        max_memory_gb: What Fisher blocks, scores and new weights may take together, in 10^9 bytes. Where
            they need more, a group of matrices is done at a time, with the same result: the gradients are
            then computed once, or with global ranking twice, for every group.

    Raises:
        RecipeError: An option has no possible value, or does not fit the pattern.

    Source:
        Kurtic et al., "The Optimal BERT Surgeon" (arXiv 2203.07259), algorithm 1; defaults are the authors'.
        We deviate in the update (see `FisherBlocks.update`) and in how a step is cut (geometrically).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def __init__(
        self,
        pattern: Pattern,
        *,
        ranking: Ranking = "global",
        num_grads: int = 1024,
        damp: float | Literal["auto"] = 1e-7,
        fisher_block_size: int | None = None,
        recomputations: int = 1,
        max_memory_gb: float = 4.0,
    ) -> None:
        super().__init__(pattern, ranking=ranking)
        if num_grads < 1 or recomputations < 1:
            raise RecipeError(
                f"oBERT needs at least 1 gradient and 1 recomputation, got {num_grads} and {recomputations}."
            )
        if damp != "auto" and not (0.0 < damp < math.inf):
            raise RecipeError(f"damp must be a positive number or auto, got {damp!r}.")
        self.num_grads = num_grads
        self.damp = damp
        self.block_size = block_size_of(pattern, fisher_block_size)
        self.recomputations = recomputations
        self.max_memory_gb = max_memory_gb
        self._notes: dict[str, float] = {}
        self._held_out_loss = math.nan

    def attach_(self, model: nn.Module) -> None:
        """See `Pruner.attach_`.

        Raises:
            RecipeError: `max_memory_gb` is too little.
        """
        super().attach_(model)
        self.groups()

    def check_rows(self, rows: int) -> None:
        """See `Pruner.check_rows`."""
        if rows < self.num_grads:
            raise DataError(
                f"oBERT asks for num_grads {self.num_grads}, and there are only {rows} rows to take "
                "gradients of: lower num_grads, or give more rows."
            )

    def notes(self) -> dict[str, float]:
        """Returns `damp`, `predicted_increase` of the loss, and with `damp: auto` the `held_out_loss`."""
        return dict(self._notes)

    def step_(self, sparsity: float, evidence: Evidence | None = None) -> None:
        """See `Pruner.step_`; where nothing is left to remove, nothing changes.

        Raises:
            StructureError: See `Pruner.step_` and `FisherBlocks.update`.
            DataError: There are fewer rows than gradients.
        """
        self._require_attached()
        self._require_evidence(evidence)
        assert evidence is not None
        start = self.sparsity
        damps: Sequence[float] | None = None if self.damp == "auto" else (float(self.damp),)
        growth = 0.0
        for part in range(1, self.recomputations + 1):
            target = _between(start, sparsity, part / self.recomputations)
            if not self._is_removing(target):
                continue
            best = self._best_of(damps or self._damps(evidence, part), target, evidence, part)
            self._put_(best.weights, best.masks)
            growth += best.growth
            damps = (best.damp,)
            self._notes = {"damp": best.damp, "predicted_increase": growth}
            if best.loss is not None:
                self._held_out_loss = best.loss
            if self.damp == "auto":
                self._notes["held_out_loss"] = self._held_out_loss
        self.prune_biases_()

    def fingerprint(self) -> Tensor:
        """See `Pruner.fingerprint`; the weights, which each process updates for itself, count too."""
        bits = []
        for weight in self.weights():
            numbers = weight.float().view(torch.int32).flatten().long()
            places = torch.arange(1, numbers.numel() + 1, device=numbers.device)
            bits.append((numbers * (places * 0x9E3779B97F4A7C1 | 1) >> 8).sum())
        return torch.cat((super().fingerprint(), torch.stack(bits)))

    def groups(self) -> list[list[int]]:
        """Returns the matrices whose Fisher blocks are in memory together, group by group.

        Raises:
            RecipeError: `max_memory_gb` is too little for one matrix.
        """
        trials = len(_DAMPS) if self.damp == "auto" else 1
        weights = sum(mask.numel() for mask in self.masks())
        fixed = 4 * weights * (trials + 1)  # scores or new weights of every trial, and those it started with
        needs = [bytes_needed(self._layout(mask), self.num_grads) for mask in self.masks()]
        room = int(self.max_memory_gb * 1e9) - fixed
        largest = max(range(len(needs)), key=needs.__getitem__)
        if needs[largest] > room:
            few = self.num_grads < self.block_size
            lower = f"num_grads ({self.num_grads})" if few else f"fisher_block_size ({self.block_size})"
            raise RecipeError(
                f"oBERT needs {(fixed + needs[largest]) / 1e9:.3g} GB for one matrix at a time "
                f"({self._projections[largest].name} is the largest), and max_memory_gb is "
                f"{self.max_memory_gb:g}: raise it, or lower {lower}."
            )
        groups: list[list[int]] = []
        used = room + 1
        for index, need in enumerate(needs):
            if used + need > room:
                groups.append([])
                used = 0
            groups[-1].append(index)
            used += need
        return groups

    # --- inside ----------------------------------------

    def _best_of(self, damps: Sequence[float], target: float, evidence: Evidence, draw: int) -> _Trial:
        """Tries damps; of several takes the one with the lowest held-out loss, of equal ones the first."""
        trials = [_Trial(damp) for damp in damps]
        groups = self.groups()
        with torch.no_grad():
            if len(groups) == 1 or self.ranking == "matrix" or self.pattern.is_grouped:
                for group in groups:
                    fishers = self._gather(group, evidence, draw)
                    self._score_(trials, fishers)
                    self._choose_(trials, group, target)
                    self._update_(trials, fishers)
            else:
                for group in groups:
                    fishers = self._gather(group, evidence, draw)
                    self._score_(trials, fishers)
                self._choose_(trials, range(len(self._projections)), target)
                for group in reversed(groups):  # the blocks of the last one are at hand
                    if group is not groups[-1]:
                        fishers.clear()
                        fishers = self._gather(group, evidence, draw)
                    self._update_(trials, fishers)
            fishers.clear()
            sound = _sound(trials)
            if not sound and trials[0].problem is not None:
                raise trials[0].problem
            if self.damp == "auto" and len(damps) > 1:
                self._measure_(sound, evidence)
        return min(sound, key=lambda trial: math.inf if trial.loss is None else trial.loss)

    def _gather(self, group: list[int], evidence: Evidence, draw: int) -> dict[int, FisherBlocks]:
        weights = self.weights()
        fishers = {
            index: FisherBlocks(self._layout(weights[index]), self.num_grads, device=weights[index].device)
            for index in group
        }
        for gradients in evidence.gradients(self.num_grads, draw=draw, matrices=group):
            for index, gradient in zip(group, gradients, strict=True):
                fishers[index].add_(gradient)
        return fishers

    def _score_(self, trials: list[_Trial], fishers: dict[int, FisherBlocks]) -> None:
        weights, group = self.weights(), self.pattern.block_size
        for trial in _sound(trials):
            with trial.noting_problems():
                for index, fisher in fishers.items():
                    trial.scores[index] = fisher.saliencies(weights[index], trial.damp, group)

    def _choose_(self, trials: list[_Trial], which: Sequence[int], target: float) -> None:
        """Replaces the scores of these matrices by masks."""
        kept = [self.masks()[index] for index in which]
        for trial in _sound(trials):
            with trial.noting_problems():
                scores = [trial.scores.pop(index) for index in which]
                chosen = choose_masks(scores, self.pattern, target, self.ranking, kept)
                trial.masks.update(zip(which, chosen, strict=True))

    def _update_(self, trials: list[_Trial], fishers: dict[int, FisherBlocks]) -> None:
        weights = self.weights()
        for trial in _sound(trials):
            with trial.noting_problems():
                for index, fisher in fishers.items():
                    new, growth = fisher.update(weights[index], trial.masks[index], trial.damp)
                    trial.weights[index] = new
                    trial.growths[index] = growth

    def _measure_(self, trials: list[_Trial], evidence: Evidence) -> None:
        """Notes the held-out loss of every trial; the model is then what it was."""
        before = dict(enumerate(self.weights()))
        masks = {index: mask.clone() for index, mask in enumerate(self.masks())}
        for trial in trials:
            self._put_(trial.weights, trial.masks)
            trial.loss = evidence.held_out_loss()
        self._put_(before, masks)
        if not any(math.isfinite(trial.loss or 0.0) for trial in trials):
            raise StructureError(
                "The held-out loss is not finite with any damp: the training has diverged; lower the "
                "learning rate."
            )
        for trial in trials:
            if trial.loss is not None and math.isnan(trial.loss):
                trial.loss = math.inf

    def _put_(self, weights: dict[int, Tensor], masks: dict[int, Tensor]) -> None:
        with torch.no_grad():
            for index, projection in enumerate(self._projections):
                projection.linear.parametrizations["weight"].original.copy_(weights[index])
                self._masks[index].mask.copy_(masks[index])

    def _damps(self, evidence: Evidence, draw: int) -> list[float]:
        """Returns what `auto` tries, the largest first."""
        count = min(_SCALE_GRADIENTS, self.num_grads)
        total = 0.0
        for gradients in evidence.gradients(count, draw=draw):
            total += sum(float(gradient.square().sum(dtype=torch.float64)) for gradient in gradients)
        kept = sum(int(mask.sum()) for mask in self.masks())
        mean = total / (count * max(kept, 1))
        if mean == 0.0:
            raise StructureError(
                "All gradients are 0, so that oBERT cannot tell weights apart: look whether the loss depends "
                "on the pruned layers, and whether all rows are learnt already."
            )
        return [float(f"{factor * mean:.3g}") for factor in _DAMPS]

    def _is_removing(self, target: float) -> bool:
        """Says whether a sparsity takes more than is gone."""
        masks = self.masks()
        nothing = [torch.zeros(mask.shape, device=mask.device) for mask in masks]
        chosen = choose_masks(nothing, self.pattern, target, self.ranking, masks)
        return any(bool((mask & ~new).any()) for mask, new in zip(masks, chosen, strict=True))

    def _layout(self, matrix: Tensor) -> BlockLayout:
        return BlockLayout(self.pattern, (matrix.shape[0], matrix.shape[1]), self.block_size)


@dataclass
class _Trial:
    """What pruning with one damp gives, matrix by matrix.

    Attributes:
        damp: It.
        scores: [N, K] float32, until masks are chosen.
        masks: [N, K] bool.
        weights: [N, K] float32, the new ones.
        growths: How much each matrix makes the loss grow, to second order.
        loss: On the held-out batches, where several damps are tried.
        problem: Why this damp cannot be used.
    """

    damp: float
    scores: dict[int, Tensor] = field(default_factory=dict)
    masks: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[int, Tensor] = field(default_factory=dict)
    growths: dict[int, float] = field(default_factory=dict)
    loss: float | None = None
    problem: StructureError | None = None

    @property
    def growth(self) -> float:
        """How much the loss grows, to second order; the same sum however matrices were grouped."""
        return math.fsum(self.growths.values())

    @contextmanager
    def noting_problems(self) -> Iterator[None]:
        """Notes that a block cannot be inverted, for which another damp may be large enough."""
        try:
            yield
        except StructureError as error:
            self.problem = error


def _sound(trials: list[_Trial]) -> list[_Trial]:
    return [trial for trial in trials if trial.problem is None]


def _between(start: float, end: float, part: float) -> float:
    """Returns the sparsity at a part of the way, 0-1, if every step removes one share of what is left."""
    if part >= 1.0 or start >= 1.0:
        return end
    return 1.0 - (1.0 - start) * math.pow((1.0 - end) / (1.0 - start), part)


def block_size_of(pattern: Pattern, size: int | None = None) -> int:
    """Returns the number of weights of a Fisher block.

    Args:
        pattern: What is removed together.
        size: What was asked for; None takes the pattern's own.

    Raises:
        RecipeError: It is not a multiple of the pattern's blocks or groups.
    """
    unit = pattern.group or pattern.block_size
    if size is None:
        if pattern.name == "block4":
            return _SIZE_OF_BLOCKS
        return max(unit, _SIZE // unit * unit)
    if size < 1 or size % unit:
        raise RecipeError(
            f"fisher_block_size is {size}, and the pattern {pattern.name} has {unit} weights together: "
            f"give a multiple of {unit}."
        )
    return size
