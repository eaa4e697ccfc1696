"""What stages say against each other, against the run, and against the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

from secateur.recipe.problems import Problem
from secateur.recipe.record import StageRecord
from secateur.recipe.stages import (
    DistillationStage,
    FreezingStage,
    LearningRateStage,
    LockStage,
    PruningStage,
    QuantizationStage,
    Record,
    TrainingSettings,
)
from secateur.recipe.times import Clock, shown

__all__ = ["inconsistencies"]

Indexed = tuple[int, Record]
Spanning = PruningStage | DistillationStage | FreezingStage | LearningRateStage  # all with start and end
StageT = TypeVar("StageT", bound=Record)
_ENDLESS = 10**9
_ALL_GROUPS = {"embeddings", "layers", "head"}


def inconsistencies(
    training: TrainingSettings | None, stages: Sequence[Indexed], clock: Clock
) -> list[Problem]:
    """Returns everything that stages say against each other or the run.

    Args:
        training: The run; None where it is wrong itself.
        stages: Each stage that is right by itself, with its position in the recipe.
        clock: Knows the run as far as it is known; what cannot be put in order yet is no problem yet.
    """
    problems = [
        Problem(("stages", index, *problem.place), problem.text)
        for index, stage in stages
        for problem in _order_problems(stage, clock)
    ]
    problems += _after_the_end(stages, clock)
    problems += _overlaps(_of(PruningStage, stages), "pruning", clock)
    problems += _overlaps(_of(DistillationStage, stages), "distillation", clock)
    problems += _overlaps(_of(LearningRateStage, stages), "learning_rate", clock)
    problems += _pruning(_of(PruningStage, stages))
    problems += _targets(training, stages)
    problems += _cycles(stages)
    problems += _quantization(stages, clock)
    problems += _freezing(training, stages, clock)
    return sorted(problems, key=lambda problem: tuple(map(str, problem.place)))


def _order_problems(stage: Record, clock: Clock) -> list[Problem]:
    return stage.order_problems(clock) if isinstance(stage, StageRecord) else []


def _of(kind: type[StageT], stages: Sequence[Indexed]) -> list[tuple[int, StageT]]:
    return [(index, stage) for index, stage in stages if isinstance(stage, kind)]


def _after_the_end(stages: Sequence[Indexed], clock: Clock) -> Iterator[Problem]:
    for index, stage in stages:
        for key in ("start_epoch", "end_epoch", "freeze_epoch"):
            time = getattr(stage, key, None)
            if time is not None and clock.is_after_end(time):
                text = f"{shown(time)} lies after the end of the run, epoch {clock.epochs:.4g}"
                yield Problem(("stages", index, key), text)


def _overlaps(stages: Sequence[tuple[int, Spanning]], word: str, clock: Clock) -> Iterator[Problem]:
    """Says which stages of one type are at work at the same time, or stand in another order than in time."""
    for (before, first), (index, second) in pairwise(stages):
        start, end = second.start_epoch, first.end_epoch
        second_end = second.end_epoch
        place = ("stages", index, "start_epoch")
        if end is not None and clock.order(start, end) in (0, 1):
            continue
        if second_end is not None and clock.order(second_end, first.start_epoch) in (-1, 0):
            text = f"{shown(start)} comes before stages[{before}]: write them in the order of the run"
            yield Problem(place, text)
        elif end is None or clock.is_later(end, start):
            until = "the end of the run" if end is None else shown(end)
            text = f"{shown(start)} overlaps the {word} of stages[{before}], which goes on until {until}"
            yield Problem(place, text)


def _pruning(stages: Sequence[tuple[int, PruningStage]]) -> Iterator[Problem]:
    for (before, first), (index, second) in pairwise(stages):
        for key in ("pattern", "targets", "biases"):
            other, own = (_worded(getattr(stage, key)) for stage in (first, second))
            if own != other:
                text = f"{own} contradicts the {other} of stages[{before}]: give all the same"
                yield Problem(("stages", index, key), text)
        for key in ("sparsity", "initial_sparsity"):
            value = getattr(second, key)
            if value is not None and value < first.sparsity:
                text = f"{value:g} is below the {first.sparsity:g} that stages[{before}] reaches"
                yield Problem(("stages", index, key), text)


def _worded(value: str | bool | tuple[str, ...]) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value).lower()


def _targets(training: TrainingSettings | None, stages: Sequence[Indexed]) -> Iterator[Problem]:
    locks = _of(LockStage, stages)
    for index, _ in locks[1:]:
        yield Problem(("stages", index), f"is one of several stages of the type lock, after {locks[0][0]}")
    if training is None or not training.freeze_embeddings:
        return
    for index, stage in _of(PruningStage, stages):
        if "embeddings" in stage.targets:
            text = "has embeddings, which training.freeze_embeddings freezes for the whole run"
            yield Problem(("stages", index, "targets"), text)


def _cycles(stages: Sequence[Indexed]) -> Iterator[Problem]:
    for index, stage in _of(LearningRateStage, stages):
        if stage.cycles == "pruning" and not _of(PruningStage, stages):
            yield Problem(("stages", index, "cycles"), "is pruning, but no stage prunes: write a number")


def _quantization(stages: Sequence[Indexed], clock: Clock) -> Iterator[Problem]:
    quantizations = _of(QuantizationStage, stages)
    for index, _ in quantizations[1:]:
        text = f"is one of several stages of the type quantization, after stages[{quantizations[0][0]}]"
        yield Problem(("stages", index), text)
    for place, quantization in quantizations[:1]:
        for index, pruning in _of(PruningStage, stages):
            if clock.is_later(pruning.end_epoch, quantization.freeze_epoch):
                yield Problem(
                    ("stages", index, "end_epoch"),
                    f"{shown(pruning.end_epoch)} prunes after stages[{place}] froze the ranges of the "
                    f"activations at {shown(quantization.freeze_epoch)}, which then no longer fit",
                )


def _freezing(
    training: TrainingSettings | None, stages: Sequence[Indexed], clock: Clock
) -> Iterator[Problem]:
    freezings = _of(FreezingStage, stages)
    always = training is not None and training.freeze_embeddings
    for position, (index, stage) in enumerate(freezings):
        place = ("stages", index, "groups")
        if always and "embeddings" in stage.groups:
            text = "has embeddings, which training.freeze_embeddings freezes for the whole run"
            yield Problem(place, text)
        frozen = set(stage.groups) | ({"embeddings"} if always else set())
        for before, other in freezings[:position]:
            twice = [name for name in stage.groups if any(_meet(name, group) for group in other.groups)]
            if _together(stage, other, clock) is True:
                frozen |= set(other.groups)
                if twice:
                    text = f"freezes {twice[0]}, which stages[{before}] freezes at the same time"
                    yield Problem(place, text)
        if frozen >= _ALL_GROUPS:
            yield Problem(place, "leaves nothing to train: embeddings, layers and head are frozen")
        for other_index, pruning in _of(PruningStage, stages):
            layers = [name for name in stage.groups if name.startswith("layers")]
            if layers and _together(stage, pruning, clock) is True:
                text = f"freezes {layers[0]} while stages[{other_index}] prunes there"
                yield Problem(place, text)


def _together(one: Spanning, other: Spanning, clock: Clock) -> bool | None:
    """Says whether two stages are at work at the same time; None where nobody can know yet."""
    known = True
    for first, second in ((one, other), (other, one)):
        end, start = first.end_epoch, second.start_epoch
        order = 1 if end is None else clock.order(end, start)
        if order in (-1, 0):
            return False
        known = known and order is not None
    return True if known else None


def _meet(one: str, other: str) -> bool:
    """Says whether two groups of parameters share some."""
    first, second = _layers(one), _layers(other)
    if first is None or second is None:
        return one == other
    return first[0] <= second[1] and second[0] <= first[1]


def _layers(group: str) -> tuple[int, int] | None:
    """Returns the first and last layer of a group of layers, None for other groups."""
    if not group.startswith("layers"):
        return None
    numbers = [int(number) for number in re.findall(r"\d+", group)]
    return (numbers[0], numbers[-1]) if numbers else (0, _ENDLESS)
