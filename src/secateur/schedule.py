"""Schedules: step -> sparsity, step -> learning rate. Pure functions that know neither model nor PyTorch."""

from __future__ import annotations

import math

from secateur.errors import RecipeError

__all__ = [
    "SCHEDULES",
    "constant_sparsity",
    "cubic_sparsity",
    "cycled_learning_rate",
    "geometric_sparsity",
    "is_update_step",
    "linear_sparsity",
    "run_learning_rate",
    "scheduled_sparsity",
]


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


def geometric_sparsity(progress: float, initial: float, final: float) -> float:
    """Returns the sparsity of a schedule whose updates each take an equal part of what is left.

    Args:
        progress: As in `cubic_sparsity`.
        initial: As in `cubic_sparsity`.
        final: As in `cubic_sparsity`, below 1.

    Returns:
        `1 - (1 - initial)**(1 - progress) * (1 - final)**progress`.

    Source:
        Frankle and Carbin, "The lottery ticket hypothesis" (2019), section 2: iterative pruning removes
        p**(1/n) of the weights that survive in each of n rounds.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress in (0.0, 1.0):
        return final if progress else initial
    return float(1.0 - (1.0 - initial) ** (1.0 - progress) * (1.0 - final) ** progress)


def constant_sparsity(progress: float, initial: float, final: float) -> float:
    """Returns the final sparsity at once; arguments as in `cubic_sparsity`."""
    return final


SCHEDULES = {
    "constant": constant_sparsity,
    "cubic": cubic_sparsity,
    "geometric": geometric_sparsity,
    "linear": linear_sparsity,
}


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
        schedule: Name of the curve, a key of `SCHEDULES`.
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


def run_learning_rate(schedule: str, step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Returns the factor on the learning rate that transformers' schedule of this name gives.

    Args:
        schedule: `linear`, `cosine` or `constant_with_warmup`.
        step: Number of optimizer steps done.
        warmup_steps: Steps in which the factor rises from 0 to 1.
        total_steps: Length of the run.

    Raises:
        RecipeError: The schedule is not known.
    """
    if step < warmup_steps:
        return step / warmup_steps
    decaying = max(1, total_steps - warmup_steps)
    if schedule == "linear":
        return max(0.0, (total_steps - step) / decaying)
    if schedule == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / decaying)))
    if schedule == "constant_with_warmup":
        return 1.0
    raise RecipeError(
        f"The learning rate schedule {schedule!r} is not known; "
        "allowed: linear, cosine, constant_with_warmup."
    )


def cycled_learning_rate(
    schedule: str,
    step: int,
    *,
    start_step: int,
    end_step: int,
    cycles: int = 1,
    peak: float = 1.0,
    final: float = 0.0,
    rewind: float = 1.0,
    warmup: float = 0.0,
    low: float = 0.0,
) -> float:
    """Returns the factor on the learning rate in cycles of equal length, each with its rise and its fall.

    Args:
        schedule: How it falls: `linear`, `cosine` or `constant`.
        step: Number of optimizer steps done; clipped to the range.
        start_step: Where the first cycle starts.
        end_step: Where the last cycle ends, later than `start_step`.
        cycles: Number of cycles, at least 1.
        peak: Factor at the top of the first cycle.
        final: Part of a cycle's peak that is left at its end.
        rewind: Peak of a cycle as a part of that of the cycle before.
        warmup: Part of each cycle in which the factor rises: from `low` in the first, later from where the
            cycle before ended.
        low: Factor from which the first cycle rises.

    Raises:
        RecipeError: The schedule is not known.
    """
    length = end_step - start_step
    scaled = (min(max(step, start_step), end_step) - start_step) * cycles  # whole numbers: exact boundaries
    cycle = min(scaled // length, cycles - 1)
    progress = (scaled - cycle * length) / length
    top = peak * rewind**cycle
    if progress < warmup:
        low = low if cycle == 0 else final * peak * rewind ** (cycle - 1)
        return low + (top - low) * progress / warmup
    fallen = (progress - warmup) / (1.0 - warmup) if warmup < 1.0 else 0.0
    if schedule == "linear":
        left = 1.0 - fallen
    elif schedule == "cosine":
        left = 0.5 * (1.0 + math.cos(math.pi * fallen))
    elif schedule == "constant":
        return top
    else:
        raise RecipeError(
            f"The learning rate schedule {schedule!r} is not known; allowed: linear, cosine, constant."
        )
    return top * (final + (1.0 - final) * left)
