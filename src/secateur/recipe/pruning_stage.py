"""The pruning stage of a recipe: what all methods share, and the options of the one it names."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from secateur.errors import RecipeError
from secateur.pattern import PATTERN_SPELLING, Pattern
from secateur.recipe.problems import InconsistentError, Problem
from secateur.recipe.pruning_methods import METHODS, MethodOptions, option_problems
from secateur.recipe.record import Duration, StageRecord
from secateur.recipe.times import Clock, Time, shown

__all__ = ["Method", "PruningStage", "Targets"]

Target = Literal["encoder", "pooler", "embeddings"]


def _method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"is no method: {', '.join(METHODS)}")
    return name


def _pattern(name: str) -> str:
    try:
        return Pattern.parse(name).name
    except RecipeError as error:
        raise ValueError(str(error).rstrip(".")) from error


def _targets(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    if not targets or len(set(targets)) < len(targets):
        raise ValueError("names no target, or one twice: write some of encoder, pooler, embeddings")
    return targets


Targets = Annotated[tuple[Target, ...], AfterValidator(_targets)]
Method = Annotated[str, AfterValidator(_method), Field(json_schema_extra={"enum": list(METHODS)})]
_PatternName = Annotated[
    str, AfterValidator(_pattern), Field(json_schema_extra={"pattern": f"^({PATTERN_SPELLING})$"})
]
_Steps = Annotated[
    tuple[tuple[Time, Annotated[float, Field(ge=0.0, lt=1.0)]], ...],
    Field(json_schema_extra={"minItems": 1}),
]


class PruningStage(StageRecord):
    """Removes weights step by step.

    Several may follow one another; each goes on where the one before ended. The options of the method stand
    beside these keys.

    Attributes:
        type: `pruning`.
        method: How weights are scored.
        pattern: What is removed together: `unstructured`, `block4`, `block:RxC` (R rows, C columns), or
            `N:M` (N of every M neighbours in a row stay); the same in all pruning stages.
        ranking: `global` ranks over all pruned matrices together, `matrix` in each for itself, so that all
            get the same sparsity, `row` in each row of a matrix; `movement`, `sparsegpt` and
            `wanda` have their own where it is left out.
        targets: What is pruned: `encoder` (the six linear layers of every encoder layer), `pooler`,
            `embeddings` (the word table). The engine gains from the first alone.
        biases: Whether biases of the pruned linear layers go too, to the same sparsity, the smallest first.
        sparsity: Fraction of weights removed at the end; N:M has its own.
        initial_sparsity: Fraction removed at the first update; None goes on from the pruning stage before,
            or from 0.
        schedule: Curve between the two: `cubic`, `linear`, `geometric` (every update takes an equal part of
            what is left) or `constant` (all at the first update); or a list of steps, each a time and the
            sparsity from then on.
        start_epoch: First update; a list of steps has its own.
        end_epoch: Last update; from then on the masks stay. May be left out where the schedule is constant
            or a list.
        update_every: Time between two updates. With a constant schedule None updates once; a list of steps
            has its own times.
    """

    # The method's options; what is no option of it is refused below.
    model_config = ConfigDict(extra="allow")

    type: Literal["pruning"]
    method: Method = "magnitude"
    pattern: _PatternName = "block4"
    ranking: Literal["global", "matrix", "row"] = "global"
    targets: Targets = ("encoder",)
    biases: bool = False
    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)]
    initial_sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    schedule: Literal["cubic", "linear", "geometric", "constant"] | _Steps = "cubic"
    start_epoch: Time
    end_epoch: Time
    update_every: Duration | None = 0.1

    @property
    def options(self) -> MethodOptions:
        """The method's own keys, as its record."""
        return METHODS[self.method].model_validate(self.model_extra)

    @property
    def steps(self) -> tuple[tuple[float | str, float], ...] | None:
        """The times and sparsities of a list of steps, None with a curve."""
        return None if isinstance(self.schedule, str) else self.schedule

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        """Spells out what follows from other keys."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        schedule = values.get("schedule")
        if isinstance(schedule, (list, tuple)):
            steps = [step for step in schedule if isinstance(step, (list, tuple)) and len(step) == 2]
            if steps:
                values.setdefault("start_epoch", steps[0][0])
                values.setdefault("end_epoch", steps[-1][0])
                values.setdefault("sparsity", steps[-1][1])
                values.setdefault("initial_sparsity", steps[0][1])
            values.setdefault("update_every", None)
        elif schedule == "constant":
            values.setdefault("update_every", None)
            if "start_epoch" in values:
                values.setdefault("end_epoch", values["start_epoch"])
        if "sparsity" not in values and isinstance(values.get("pattern"), str):
            try:
                pattern = Pattern.parse(values["pattern"])
            except RecipeError:
                return values  # said of the pattern itself
            if pattern.is_grouped:
                values["sparsity"] = pattern.limit
        record = METHODS.get(str(values.get("method", "magnitude")))
        if record is not None:
            values.setdefault("ranking", record.ranking)
            own = {key: values[key] for key in record.model_fields if key in values}
            with suppress(ValidationError):  # said by `option_problems`, with its place
                values |= record.model_validate(own).model_dump()
        return values

    @model_validator(mode="after")
    def _own_options(self) -> PruningStage:
        problems = option_problems(self.method, dict(self.model_extra or {}), list(type(self).model_fields))
        if problems:
            raise InconsistentError(problems)
        return self

    def order_problems(self, clock: Clock) -> list[Problem]:
        """Says what within the stage stands in an impossible order; see `StageRecord`."""
        once = self.schedule == "constant" or (self.steps is not None and len(self.steps) == 1)
        problems = []
        if not once or clock.order(self.end_epoch, self.start_epoch) != 0:
            problems += super().order_problems(clock)
        problems += self._schedule_problems(clock)
        pattern = Pattern.parse(self.pattern)
        if pattern.is_grouped and abs(self.sparsity - pattern.limit) > 1e-6:
            text = (
                f"{self.sparsity:g} contradicts the pattern {pattern.name}, which removes {pattern.limit:g}"
            )
            problems.append(Problem(("sparsity",), f"{text}: leave it out"))
        if METHODS[self.method].encoder_only and self.targets != ("encoder",):
            others = " and ".join(name for name in self.targets if name != "encoder")
            text = f"has {others}, but {self.method} judges the encoder's matrices alone"
            problems.append(Problem(("targets",), f"{text}: write encoder, or take another method"))
        first = self.initial_sparsity or (self.sparsity if self.schedule == "constant" else 0.0)
        if METHODS[self.method].learns and clock.order(self.start_epoch, 0.0) == 0 and first > 0.0:
            text = f"leaves {self.method} no time to learn before its first update: start later"
            problems.append(
                Problem(("start_epoch",), f"{shown(self.start_epoch)} {text}, or from sparsity 0")
            )
        rewind = getattr(self, "rewind_epoch", None)
        if isinstance(rewind, (float, str)) and clock.order(rewind, self.start_epoch) == 1:
            text = f"{shown(rewind)} comes after the first update at start_epoch {shown(self.start_epoch)}"
            problems.append(Problem(("rewind_epoch",), text))
        return problems

    def _schedule_problems(self, clock: Clock) -> list[Problem]:
        problems = []
        initial = self.initial_sparsity
        if (initial or 0.0) > self.sparsity:
            text = f"{initial:g} must not be above sparsity {self.sparsity:g}"
            problems.append(Problem(("initial_sparsity",), text))
        elif initial is not None and self.schedule == "constant" and initial != self.sparsity:
            text = f"{initial:g} contradicts the constant schedule, which starts at {self.sparsity:g}"
            problems.append(Problem(("initial_sparsity",), text))
        if self.steps is None:
            if self.update_every is None and self.schedule != "constant":
                text = f"must be a time with the schedule {self.schedule}"
                problems.append(Problem(("update_every",), text))
            return problems
        if not self.steps:
            return [*problems, Problem(("schedule",), "is an empty list: write steps such as [2.0, 0.5]")]
        own = {"start_epoch": self.steps[0][0], "end_epoch": self.steps[-1][0]}
        for key, time in own.items():
            if clock.order(getattr(self, key), time) in (-1, 1):
                text = f"{shown(getattr(self, key))} contradicts the list of steps, which has {shown(time)}"
                problems.append(Problem((key,), f"{text}: leave it out"))
        given = {"sparsity": self.steps[-1][1], "initial_sparsity": self.steps[0][1]}
        for key, value in given.items():
            if getattr(self, key) not in (None, value):
                text = f"{getattr(self, key):g} contradicts the list of steps, which has {value:g}"
                problems.append(Problem((key,), f"{text}: leave it out"))
        if self.update_every is not None:
            problems.append(Problem(("update_every",), "has no use beside a list of steps: leave it out"))
        for index in range(1, len(self.steps)):
            (time, value), (before, low) = self.steps[index], self.steps[index - 1]
            if clock.order(time, before) in (-1, 0):
                text = f"{shown(time)} must be later than {shown(before)}"
                problems.append(Problem(("schedule", index, 0), text))
            if value < low:
                text = f"{value:g} is below the {low:g} of the step before"
                problems.append(Problem(("schedule", index, 1), text))
        return problems
