"""A recipe as a plan over optimizer steps: what holds at every step of one run. Pure, without PyTorch.

The callback asks it after every step; `secateur recipe check` and its plot show it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from secateur.errors import RecipeError, problem_list
from secateur.recipe.consistency import inconsistencies
from secateur.recipe.problems import Problem
from secateur.recipe.recipe import Recipe
from secateur.recipe.spans import DistillationSpan, FreezingSpan, LearningRateSpan, PruningSpan
from secateur.recipe.stages import (
    DistillationStage,
    FreezingStage,
    LearningRateStage,
    PruningStage,
    QuantizationStage,
)
from secateur.recipe.times import Clock
from secateur.schedule import run_learning_rate

__all__ = [
    "LEAST_SPARSITY",
    "DistillationSpan",
    "FreezingSpan",
    "LearningRateSpan",
    "PruningSpan",
    "StepPlan",
    "StepState",
]

LEAST_SPARSITY = 1e-3  # a dense model has single zeros by chance


@dataclass(frozen=True)
class StepState:
    """What a recipe asks for once a number of optimizer steps is done.

    Attributes:
        step: That number.
        sparsity: Fraction of removed weights.
        update: The pruning stage that chooses its masks anew now, or None.
        quantizing: Whether fake quantization is on.
        ranges_frozen: Whether the ranges of the activations stay.
        distillation: The stage by which the teacher speaks, or None.
        frozen: Groups of parameters that stay as they are, `training.freeze_embeddings` left out.
        learning_rate: Factor on the run's learning rate, None where the run's own schedule rules.
    """

    step: int
    sparsity: float
    update: PruningSpan | None
    quantizing: bool
    ranges_frozen: bool
    distillation: DistillationStage | None
    frozen: frozenset[str]
    learning_rate: float | None


@dataclass(frozen=True)
class StepPlan:
    """A recipe on one run.

    Attributes:
        recipe: The recipe.
        steps_per_epoch: Optimizer steps an epoch.
        total_steps: Length of the run.
        pruning: The pruning stages, in order.
        quantize_step: From here on fake quantization is on; None without.
        freeze_step: From here on the ranges of the activations stay; None without.
        distillation: The distillation stages, in order.
        freezing: The freezing stages.
        learning_rate: The learning rate stages, in order.
        found_sparsity: Fraction of zeros that the model had before the run; 0 where they are mere chance.
    """

    recipe: Recipe
    steps_per_epoch: int
    total_steps: int
    pruning: tuple[PruningSpan, ...]
    quantize_step: int | None
    freeze_step: int | None
    distillation: tuple[DistillationSpan, ...]
    freezing: tuple[FreezingSpan, ...]
    learning_rate: tuple[LearningRateSpan, ...]
    found_sparsity: float = 0.0

    @classmethod
    def of(
        cls, recipe: Recipe, steps_per_epoch: int, total_steps: int, found_sparsity: float = 0.0
    ) -> StepPlan:
        """Lays a recipe over a run.

        Args:
            recipe: The recipe; of its `training` only what the run does not say itself matters.
            steps_per_epoch: Optimizer steps an epoch, at least 1.
            total_steps: Length of the run, at least 1.
            found_sparsity: Fraction of zeros that the model has before the run.

        Raises:
            RecipeError: The recipe does not fit the run or the model; names everything.
        """
        found_sparsity = found_sparsity if found_sparsity >= LEAST_SPARSITY else 0.0
        clock = Clock(total_steps / steps_per_epoch, steps_per_epoch, total_steps)
        stages = list(enumerate(recipe.stages))
        problems = inconsistencies(recipe.training, stages, clock)
        problems += [
            Problem(
                ("stages", index, "sparsity"),
                f"{stage.sparsity:g} is below the {found_sparsity:.4g} that the model already has",
            )
            for index, stage in stages
            if isinstance(stage, PruningStage) and stage.sparsity < found_sparsity - 1e-4
        ]
        if problems:
            run = f"a run of {total_steps} steps, which ends at epoch {total_steps / steps_per_epoch:.4g}"
            raise RecipeError(
                problem_list(f"The recipe {recipe.name!r} does not fit {run}", map(str, problems))
            )
        pruning = _pruning(recipe, clock, found_sparsity)
        quantize = freeze = None
        quantization = recipe.stage(QuantizationStage)
        if quantization is not None:
            quantize = clock.step(quantization.start_epoch)
            # At least one batch must be seen before ranges can be frozen.
            freeze = max(clock.step(quantization.freeze_epoch), quantize + 1)
        rates = tuple(_rate(stage, clock, pruning) for stage in recipe.stages_of(LearningRateStage))
        last_prune = pruning[-1].end if pruning else 0
        too_short = max(last_prune, freeze or 0) > total_steps
        too_short |= freeze is not None and last_prune > freeze
        too_short |= any(span.end - span.start < len(span.starts) for span in rates)
        if too_short:
            raise RecipeError(
                f"A run of {total_steps} steps is too short for the recipe {recipe.name!r}: train longer."
            )
        return cls(
            recipe,
            steps_per_epoch,
            total_steps,
            pruning,
            quantize,
            freeze,
            tuple(DistillationSpan(one, *_range(one, clock)) for one in recipe.stages_of(DistillationStage)),
            tuple(FreezingSpan(one, *_range(one, clock)) for one in recipe.stages_of(FreezingStage)),
            rates,
            found_sparsity,
        )

    @classmethod
    def for_rows(cls, recipe: Recipe, rows: int) -> StepPlan:
        """Lays a recipe over the run that `compress` makes of it in one process.

        Args:
            recipe: The recipe, `stretched` already.
            rows: Training rows, at least 1.

        Raises:
            RecipeError: See `of`.
        """
        training = recipe.training
        steps_per_epoch = -(-rows // training.batch_size)
        return cls.of(recipe, steps_per_epoch, math.ceil(training.epochs * steps_per_epoch))

    def at(self, step: int) -> StepState:
        """Returns what the recipe asks for once `step` optimizer steps are done.

        The same step always gives the same answer, so a resumed run goes on where it was.
        """
        update = next((span for span in reversed(self.pruning) if span.updates_at(step)), None)
        return StepState(
            step=step,
            sparsity=self.sparsity(step),
            update=update,
            quantizing=self.quantize_step is not None and step >= self.quantize_step,
            ranges_frozen=self.freeze_step is not None and step >= self.freeze_step,
            distillation=next((span.stage for span in self.distillation if self._is_on(span, step)), None),
            frozen=frozenset(
                name for span in self.freezing if self._is_on(span, step) for name in span.stage.groups
            ),
            learning_rate=self.learning_rate_factor(step),
        )

    def sparsity(self, step: int) -> float:
        """Returns the fraction of removed weights once `step` steps are done; what is gone stays gone."""
        begun = [span.sparsity(step) for span in self.pruning if step >= span.start]
        return max(self.found_sparsity, *begun) if begun else self.found_sparsity

    def learning_rate_factor(self, step: int) -> float | None:
        """Returns the factor on the run's learning rate, or None where the run's own schedule rules."""
        return next((span.factor(step) for span in self.learning_rate if self._is_on(span, step)), None)

    def learning_rate_at(self, step: int) -> float:
        """Returns the learning rate after `step` steps as `compress` runs the recipe."""
        factor = self.learning_rate_factor(step)
        if factor is None:
            return self.run_learning_rate_at(step)
        return self.recipe.training.learning_rate * factor

    def run_learning_rate_at(self, step: int) -> float:
        """Returns what the run's own schedule says, as though there were no learning rate stages."""
        training = self.recipe.training
        return training.learning_rate * run_learning_rate(
            training.schedule, step, warmup_steps=self.warmup_steps, total_steps=self.total_steps
        )

    @property
    def warmup_steps(self) -> int:
        """Steps in which the run's own schedule rises; rounded as TrainingArguments does."""
        return math.ceil(self.recipe.training.warmup * self.total_steps)

    def _is_on(self, span: DistillationSpan | FreezingSpan | LearningRateSpan, step: int) -> bool:
        # After the last step nothing trains; what was at work then is still said to be.
        return span.start <= step < span.end or step == span.end == self.total_steps


def _pruning(recipe: Recipe, clock: Clock, found: float) -> tuple[PruningSpan, ...]:
    spans: list[PruningSpan] = []
    reached, free = found, 0
    for position, stage in enumerate(recipe.stages_of(PruningStage)):
        # Rounding to steps must neither turn two stages around nor leave one without a step.
        start = max(clock.step(stage.start_epoch), free)
        once = clock.order(stage.end_epoch, stage.start_epoch) == 0
        end = start if once else max(clock.step(stage.end_epoch), start + 1)
        every = max(1, end - start if stage.update_every is None else clock.step(stage.update_every))
        initial = reached if stage.initial_sparsity is None else stage.initial_sparsity
        steps = None
        if stage.steps is not None:
            # Of steps that fall together the last holds.
            steps = tuple(
                {min(max(clock.step(time), start), end): value for time, value in stage.steps}.items()
            )
        rewind = getattr(stage.options, "rewind_epoch", None)
        remember = None if rewind is None else min(clock.step(rewind), start)
        spans.append(PruningSpan(position, stage, start, end, every, initial, steps, remember))
        reached, free = stage.sparsity, end
    return tuple(spans)


def _rate(stage: LearningRateStage, clock: Clock, pruning: tuple[PruningSpan, ...]) -> LearningRateSpan:
    start, end = _range(stage, clock)
    if stage.cycles != "pruning":
        return LearningRateSpan(stage, start, end)
    updates = {step for span in pruning for step in span.updates if start < step < end}
    return LearningRateSpan(stage, start, end, tuple(sorted(updates)))


def _range(stage: DistillationStage | FreezingStage | LearningRateStage, clock: Clock) -> tuple[int, int]:
    assert clock.total_steps is not None
    end = clock.total_steps if stage.end_epoch is None else clock.step(stage.end_epoch)
    return clock.step(stage.start_epoch), end
