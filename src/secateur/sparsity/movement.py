"""Movement pruning: weights go that training moves towards zero, by scores that are learnt."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.errors import RecipeError, StructureError
from secateur.pattern import Pattern
from secateur.sparsity.choice import choose_blocks
from secateur.sparsity.evidence import Evidence
from secateur.sparsity.mask import (
    MaskParametrization,
    attach_mask_,
    find_mask,
    remove_mask_,
)
from secateur.sparsity.pruner import Pruner, Ranking

__all__ = ["MovementPruner", "ScoredMask", "SoftMovementPruner"]


class ScoredMask(MaskParametrization):
    """A mask whose blocks have scores that learn through it.

    Going forward it is a mask like any other. Going back, the mask's choice is taken for the identity: with G
    [N, K] the gradient of the effective weight W * M, the weight gets G * M, and the score of a block the sum
    of G * W over it, also where the block is masked. What lies behind the mask is kept and saved, because it
    may come back.

    Args:
        mask: [N, K] bool, True = keep.
        pattern: What has one score.

    Source:
        Sanh et al., "Movement pruning: adaptive sparsity by fine-tuning" (2020), section 3: dL/dS = dL/da x^T
        W there is G * W here; for blocks, summed over them as in Lagunas et al., "Block pruning for faster
        transformers" (2021).
    """

    revives: ClassVar[bool] = True
    learnt: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(self, mask: Tensor, pattern: Pattern) -> None:
        super().__init__(mask)
        self.pattern = pattern
        shape = mask.shape[0] // pattern.rows, mask.shape[1] // pattern.columns
        self.scores = nn.Parameter(torch.zeros(shape, device=mask.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the effective weight, [N, K] float32."""
        if not torch.is_grad_enabled() or not (weight.requires_grad or self.scores.requires_grad):
            return weight * self.multiplier(weight.dtype)
        result: Tensor = _Scored.apply(weight, self.scores, self.multiplier(weight.dtype), self.pattern)
        return result


class _Scored(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, factor: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(weight, factor)
        return weight * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, factor = ctx.saved_tensors
        grad_weight = grad * factor if ctx.needs_input_grad[0] else None
        grad_scores = ctx.pattern.block_scores(grad * weight) if ctx.needs_input_grad[1] else None
        return grad_weight, grad_scores, None, None


class MovementPruner(Pruner):
    """Keeps the blocks with the highest learnt scores; by matrix, as its authors do, unless told otherwise.

    Scores start at 0 and learn from the first step on, in an optimizer group of their own; between two
    updates the masks stay, and an update may bring weights back. Scores and what is masked are saved as
    `weight_scores` and `weight_hidden`.

    Args:
        pattern: What is removed together.
        ranking: See `Pruner`.
        score_learning_rate: Peak learning rate of the scores.

    Source:
        Sanh et al., "Movement pruning: adaptive sparsity by fine-tuning" (2020), hard form (Top_v), section 3
        and table 1. There masks are chosen anew in every forward pass, here at every update.
    """

    revives: ClassVar[bool] = True

    def __init__(
        self, pattern: Pattern, *, ranking: Ranking = "matrix", score_learning_rate: float = 1.0e-2
    ) -> None:
        super().__init__(pattern, ranking=ranking)
        self.score_learning_rate = score_learning_rate

    def scores(self, evidence: Evidence | None) -> list[Tensor]:
        """Returns the learnt score of its block for every weight, one [N, K] float32 per matrix.

        Args:
            evidence: Not asked.
        """
        return [self.pattern.expand(mask.scores.detach()) for mask in self._scored()]

    def step_(self, sparsity: float, evidence: Evidence | None = None) -> None:
        """Chooses the masks anew by the scores; see `Pruner.step_`."""
        self._require_attached()
        learnt = [mask.scores.detach() for mask in self._scored()]
        blocks = self._choose_blocks(learnt, sparsity)
        self.set_masks_([self.pattern.expand(block) for block in blocks])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns the scores with their own learning rate."""
        return [{"params": [mask.scores for mask in self._scored()], "lr": self.score_learning_rate}]

    def watch_(self, optimizer: torch.optim.Optimizer) -> None:
        """Checks that the scores learn apart from the weights.

        Raises:
            RecipeError: They share a group with them, or are in none.
        """
        own = {id(mask.scores) for mask in self._scored()}
        found = set()
        for group in optimizer.param_groups:
            members = {id(parameter) for parameter in group["params"]}
            if members & own and members - own:
                raise RecipeError(
                    "The scores of movement pruning are in the weights' optimizer group and would learn at "
                    "their rate: call callback.group_parameters_(optimizer) right after it is made."
                )
            found |= members & own
        if found != own:
            raise RecipeError(
                "The scores of movement pruning are in no optimizer group and would never learn: call "
                "callback.group_parameters_(optimizer) right after the optimizer is made."
            )

    def _choose_blocks(self, learnt: list[Tensor], sparsity: float) -> list[Tensor]:
        """Returns one bool per block of every matrix."""
        return choose_blocks(learnt, self.pattern, sparsity, self.ranking)

    def _mask_(self, module: nn.Module) -> None:
        found = find_mask(module)
        if isinstance(found, ScoredMask):
            if found.pattern != self.pattern:
                raise StructureError(
                    f"The mask has scores by the pattern {found.pattern.name}, not {self.pattern.name}."
                )
            return
        mask = None if found is None else found.mask.clone()
        remove_mask_(module)
        attach_mask_(module, mask, kind=partial(ScoredMask, pattern=self.pattern))

    def _scored(self) -> list[ScoredMask]:
        return [mask for mask in self._masks if isinstance(mask, ScoredMask)]


class SoftMovementPruner(MovementPruner):
    """Keeps the blocks whose scores pass one threshold for all matrices, with scores held down by an L1 term.

    With `threshold` "auto" the threshold is the one that gives the sparsity asked for, so that runs can be
    compared at equal sparsity. With a number, as its authors have it, the threshold on the sigmoid of the
    scores grows to that number as the sparsity of the schedule grows, and the sparsity is what comes of it.

    The L1 term is `regularization * progress * mean over matrices of mean(sigmoid(scores))`, added to the
    gradient of the scores right before an optimizer step: once a step, however many batches and processes
    share it, and after gradients are clipped.

    Args:
        pattern: What is removed together.
        ranking: See `Pruner`; of no account with a number for `threshold`.
        score_learning_rate: Peak learning rate of the scores.
        regularization: Weight of the L1 term at the end (lambda).
        threshold: On the sigmoid of the scores, at the end (tau), or "auto".

    Source:
        Sanh et al., "Movement pruning: adaptive sparsity by fine-tuning" (2020), sections 3 and 5 (soft
        movement pruning: lambda 400, tau from 0 to 0.1 by the cubic schedule, lambda growing with tau).
    """

    def __init__(
        self,
        pattern: Pattern,
        *,
        ranking: Ranking = "global",
        score_learning_rate: float = 1.0e-2,
        regularization: float = 400.0,
        threshold: float | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(pattern, ranking=ranking, score_learning_rate=score_learning_rate)
        if threshold != "auto" and pattern.is_grouped:
            raise RecipeError(
                f"The pattern {pattern.name} takes as much from every group, which no threshold does: leave "
                "threshold at auto."
            )
        self.regularization = regularization
        self.threshold = threshold
        self._progress = 0.0
        self._watched: torch.optim.Optimizer | None = None

    def follow_(self, progress: float) -> None:
        """Lets the weight of the L1 term, and a threshold that is a number, grow with the schedule."""
        self._progress = progress

    def watch_(self, optimizer: torch.optim.Optimizer) -> None:
        """Adds the gradient of the L1 term to that of the scores before every step of the optimizer."""
        super().watch_(optimizer)
        if self._watched is not optimizer:
            self._watched = optimizer
            optimizer.register_step_pre_hook(self._regularize_)

    def notes(self) -> dict[str, float]:
        """Returns the threshold on the sigmoid of the scores: the lowest that is kept."""
        kept = [
            mask.scores.detach()[self.pattern.block_scores(mask.mask.float()) > 0] for mask in self._scored()
        ]
        lowest = [float(scores.min()) for scores in kept if scores.numel()]
        return {"threshold": round(float(torch.tensor(min(lowest)).sigmoid()), 6)} if lowest else {}

    def _choose_blocks(self, learnt: list[Tensor], sparsity: float) -> list[Tensor]:
        if self.threshold == "auto":
            return super()._choose_blocks(learnt, sparsity)
        for scores in learnt:
            if not torch.isfinite(scores).all():
                raise StructureError(
                    "The pruning scores are not finite: training has diverged; lower score_learning_rate."
                )
        return [scores.sigmoid() > self.threshold * self._progress for scores in learnt]

    def _regularize_(self, *_: Any) -> None:
        scored = self._scored()
        with torch.no_grad():
            for mask in scored:
                if mask.scores.grad is None:
                    continue
                soft = mask.scores.sigmoid()
                weight = self.regularization * self._progress / (len(scored) * soft.numel())
                mask.scores.grad.add_(soft * (1.0 - soft), alpha=weight)
