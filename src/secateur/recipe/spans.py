"""The stages of a recipe in optimizer steps. Pure, without PyTorch."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from secateur.pattern import Pattern
from secateur.recipe.stages import DistillationStage, FreezingStage, LearningRateStage, PruningStage
from secateur.schedule import cycled_learning_rate, is_update_step, scheduled_sparsity

__all__ = ["DistillationSpan", "FreezingSpan", "LearningRateSpan", "PruningSpan"]


@dataclass(frozen=True)
class PruningSpan:
    """One pruning stage in steps.

    Attributes:
        position: Which of the pruning stages, from 0.
        stage: The stage.
        start: First update.
        end: Last update.
        update_every: Steps between updates; not for a list of steps.
        initial: Sparsity at `start`.
        steps: A list of steps as optimizer steps with the sparsity from then on; None with a curve.
        remember: When a method that rewinds takes the early weights; None with other methods.
    """

    position: int
    stage: PruningStage
    start: int
    end: int
    update_every: int
    initial: float
    steps: tuple[tuple[int, float], ...] | None = None
    remember: int | None = None

    def sparsity(self, step: int) -> float:
        """Returns the sparsity that holds after `step` steps, at least `start`; what the pattern can give."""
        return Pattern.parse(self.stage.pattern).reachable(self._scheduled(step))

    def progress(self, step: int) -> float:
        """Returns how much of the final sparsity the schedule asks for after `step` steps, 0-1."""
        return self._scheduled(step) / self.stage.sparsity if step >= self.start else 0.0

    def _scheduled(self, step: int) -> float:
        if self.steps is not None:
            begun = bisect_right(self.steps, step, key=lambda one: one[0])
            return self.steps[max(begun, 1) - 1][1]
        assert isinstance(self.stage.schedule, str)
        return scheduled_sparsity(
            self.stage.schedule,
            step,
            start_step=self.start,
            end_step=self.end,
            update_every=self.update_every,
            initial=self.initial,
            final=self.stage.sparsity,
        )

    def updates_at(self, step: int) -> bool:
        """Says whether masks are chosen anew after `step` steps."""
        if self.steps is not None:
            return any(step == time for time, _ in self.steps)
        return is_update_step(step, start_step=self.start, end_step=self.end, update_every=self.update_every)

    @property
    def updates(self) -> tuple[int, ...]:
        """The steps after which masks are chosen anew."""
        if self.steps is not None:
            return tuple(time for time, _ in self.steps)
        return (*range(self.start, self.end, self.update_every), self.end)


@dataclass(frozen=True)
class DistillationSpan:
    """One distillation stage, at work from `start` until before `end`."""

    stage: DistillationStage
    start: int
    end: int


@dataclass(frozen=True)
class FreezingSpan:
    """One freezing stage, at work from `start` until before `end`."""

    stage: FreezingStage
    start: int
    end: int


@dataclass(frozen=True)
class LearningRateSpan:
    """One learning rate stage, at work from `start` until before `end`.

    Attributes:
        stage: The stage.
        start: Where its first cycle starts.
        end: Where its last cycle ends.
        rewinds: Where its later cycles start; None where all have one length.
    """

    stage: LearningRateStage
    start: int
    end: int
    rewinds: tuple[int, ...] | None = None

    def factor(self, step: int) -> float:
        """Returns the factor on the run's learning rate for the step after `step` steps."""
        stage = self.stage
        start, end, cycles, peak, low = self.start, self.end, stage.cycles, stage.peak, 0.0
        if self.rewinds is not None:
            cycle = bisect_right(self.rewinds, min(max(step, start), end))
            edges = (start, *self.rewinds, end)
            start, end, cycles = edges[cycle], edges[cycle + 1], 1
            peak = stage.peak * stage.rewind**cycle
            low = stage.final * stage.peak * stage.rewind ** (cycle - 1) if cycle else 0.0
        assert isinstance(cycles, int)
        return cycled_learning_rate(
            stage.schedule,
            step,
            start_step=start,
            end_step=end,
            cycles=cycles,
            peak=peak,
            final=stage.final,
            rewind=stage.rewind,
            warmup=stage.warmup,
            low=low,
        )

    @property
    def starts(self) -> tuple[int, ...]:
        """Where its cycles start."""
        if self.rewinds is not None:
            return (self.start, *self.rewinds)
        count = self.stage.cycles
        assert isinstance(count, int)
        return tuple(self.start + -(-cycle * (self.end - self.start) // count) for cycle in range(count))
