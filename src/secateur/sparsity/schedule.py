"""Schedules: step -> sparsity. They know no model."""

from __future__ import annotations

from secateur.errors import RecipeError

__all__ = ["SCHEDULES", "cubic_sparsity", "is_update_step", "linear_sparsity", "scheduled_sparsity"]


def cubic_sparsity(progress: float, initial: float, final: float) -> float:
    """Returns the sparsity of a cubic schedule: fast at first, slow at the end.

    Args:
        progress: 0 at the first pruning step, 1 at the last; clipped.
        initial: Sparsity at the first pruning step.
        final: Sparsity at the last pruning step.

    Returns:
        `final + (initial - final) * (1 - progress)**3`.

    Source:
        Zhu and Gupta, "To prune, or not to prune" (2017), equation 1, with s_i = initial, s_f = final and
        progress = (t - t_0) / (n * delta_t).
    """
    progress = min(max(progress, 0.0), 1.0)
    return final + (initial - final) * (1.0 - progress) ** 3


def linear_sparsity(progress: float, initial: float, final: float) -> float:
    """Returns the sparsity of a linear schedule; arguments as in `cubic_sparsity`."""
    progress = min(max(progress, 0.0), 1.0)
    return initial + (final - initial) * progress


SCHEDULES = {"cubic": cubic_sparsity, "linear": linear_sparsity}


def scheduled_sparsity(
    schedule: str,
    step: int,
    *,
    start_step: int,
    end_step: int,
    update_every: int,
    initial: float,
    final: float,
) -> float:
    """Returns the sparsity that holds while a training step runs.

    Between two updates the value of the earlier one holds, so a run that is resumed anywhere continues with
    the masks it had. From `end_step` on it is exactly `final`.

    Args:
        schedule: Name of the curve: `cubic` or `linear`.
        step: Number of optimizer steps done.
        start_step: The first update; the sparsity before it is 0.
        end_step: The last update.
        update_every: Steps between updates.
        initial: Sparsity at `start_step`.
        final: Sparsity from `end_step` on.

    Raises:
        RecipeError: The curve is not known.
    """
    if schedule not in SCHEDULES:
        raise RecipeError(f"The schedule {schedule!r} is not known; allowed: {', '.join(SCHEDULES)}.")
    if step < start_step:
        return 0.0
    if step >= end_step:
        return final
    last_update = start_step + (step - start_step) // update_every * update_every
    return SCHEDULES[schedule]((last_update - start_step) / (end_step - start_step), initial, final)


def is_update_step(step: int, *, start_step: int, end_step: int, update_every: int) -> bool:
    """Says whether masks are chosen anew before this step; arguments as in `scheduled_sparsity`."""
    if step < start_step or step > end_step:
        return False
    return step == end_step or (step - start_step) % update_every == 0
