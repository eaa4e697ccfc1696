"""The learning rate stages of a recipe as a torch scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from secateur.errors import RecipeError
from secateur.recipe.plan import StepPlan

__all__ = ["learning_rate_scheduler", "steer_"]


def learning_rate_scheduler(optimizer: Optimizer, plan: StepPlan) -> LambdaLR:
    """Makes a scheduler for a plain training loop: call its `step()` after every optimizer step.

    Args:
        optimizer: Each group's learning rate is the one that the factors apply to.
        plan: The recipe on the run.
    """
    base = plan.recipe.training.learning_rate
    return LambdaLR(optimizer, lambda step: plan.learning_rate_at(step) / base)


def steer_(scheduler: Any, plan: StepPlan) -> None:
    """Lets the recipe's stages rule a live scheduler; between them it goes on as it was.

    The factor depends on the step alone and the scheduler saves the step, so a resumed run goes on exactly.

    Args:
        scheduler: The scheduler of a Trainer.
        plan: The recipe on the run.

    Raises:
        RecipeError: The scheduler is no function of the step alone, for example one that looks at the loss.
    """
    inner = getattr(scheduler, "scheduler", scheduler)  # accelerate may have wrapped it
    if not isinstance(inner, LambdaLR):
        raise RecipeError(
            f"The recipe steers the learning rate, which needs a LambdaLR, but the Trainer has a "
            f"{type(inner).__name__}: set lr_scheduler_type to linear, cosine or constant_with_warmup."
        )
    inner.lr_lambdas = [_steered(own, plan) for own in inner.lr_lambdas]
    rates = [
        base * factor(inner.last_epoch) for base, factor in zip(inner.base_lrs, inner.lr_lambdas, strict=True)
    ]
    for group, rate in zip(inner.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    inner._last_lr = rates


def _steered(own: Callable[[int], float], plan: StepPlan) -> Callable[[int], float]:
    # A function, not an object: LambdaLR would write an object's attributes into the checkpoint.
    def factor(step: int) -> float:
        ruled = plan.learning_rate_factor(step)
        return own(step) if ruled is None else ruled

    return factor
