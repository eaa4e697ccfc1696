"""The records of a recipe: the run, its stages, and what few rows change."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from secateur.recipe.problems import InconsistentError, Problem
from secateur.recipe.times import Clock, Time, shown

__all__ = [
    "STAGE_TYPES",
    "DistillationStage",
    "FreezingStage",
    "LearningRateStage",
    "PruningStage",
    "QuantizationStage",
    "Record",
    "SmallData",
    "Stage",
    "TrainingSettings",
    "order_problems",
]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
_GROUP = re.compile(r"embeddings|head|layers(\.\d+(-\d+)?)?")


def _some(time: float | str) -> float | str:
    if time == 0 or (isinstance(time, str) and float(time.split()[0]) == 0):
        raise ValueError("must be more than 0")
    return time


def _group(name: str) -> str:
    if not _GROUP.fullmatch(name):
        raise ValueError("is no group: write embeddings, head, layers, layers.3 or layers.0-3")
    first, _, last = name.removeprefix("layers").removeprefix(".").partition("-")
    if last and int(last) < int(first):
        raise ValueError("ends before it starts")
    return name


_Duration = Annotated[Time, AfterValidator(_some)]
_Group = Annotated[str, AfterValidator(_group), Field(json_schema_extra={"pattern": f"^({_GROUP.pattern})$"})]


def _any(groups: tuple[str, ...]) -> tuple[str, ...]:
    if not groups:
        raise ValueError("names no group")
    return groups


# Not Field(min_length=1): pydantic counts only the names that are right, and would complain twice.
_Groups = Annotated[tuple[_Group, ...], AfterValidator(_any), Field(json_schema_extra={"minItems": 1})]


class Record(BaseModel):
    """What all records share: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainingSettings(Record):
    """The run that the stages belong to.

    Attributes:
        epochs: Passes over the training rows.
        min_steps: A run with fewer optimizer steps is stretched to this many: every epoch number of the
            recipe grows by the same factor.
        learning_rate: Peak of the learning rate.
        schedule: Name of transformers' learning rate schedule.
        warmup: Part of the steps in which the learning rate rises.
        weight_decay: AdamW's, not on biases and norms.
        batch_size: Rows a step.
        freeze_embeddings: Leaves the embedding tables as they are; an epoch is then cheaper.
        dropout: Replaces every dropout probability of the student; None leaves the model's own.
    """

    epochs: Annotated[float, Field(gt=0.0)]
    min_steps: Annotated[int, Field(ge=0)] = 0
    learning_rate: Annotated[float, Field(gt=0.0)]
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    batch_size: Annotated[int, Field(ge=1)] = 32
    freeze_embeddings: bool = False
    dropout: Fraction | None = None


class _Stage(Record):
    @model_validator(mode="after")
    def _ordered(self) -> Any:
        problems = order_problems(self, Clock())
        if problems:
            raise InconsistentError(problems)
        return self


class PruningStage(_Stage):
    """Removes weights step by step, ranked over all pruned matrices together.

    Several may follow one another; each goes on where the one before ended.

    Attributes:
        type: `pruning`.
        method: How weights are scored.
        pattern: What is removed together; the same in all pruning stages.
        sparsity: Fraction of weights removed at the end.
        initial_sparsity: Fraction removed at the first update; None goes on from the pruning stage before,
            or from 0.
        schedule: Curve between the two.
        start_epoch: First update.
        end_epoch: Last update; from then on the masks stay.
        update_every: Time between two updates.
    """

    type: Literal["pruning"]
    method: Literal["magnitude", "lamp"] = "magnitude"
    pattern: Literal["unstructured", "block4"] = "block4"
    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)]
    initial_sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    schedule: Literal["cubic", "linear"] = "cubic"
    start_epoch: Time
    end_epoch: Time
    update_every: _Duration = 0.1


def _all_or_some(layers: str | tuple[int | None, ...]) -> str | tuple[int | None, ...]:
    if not isinstance(layers, str) and all(layer is None for layer in layers):
        raise ValueError("compares no layer")
    return layers


_LayerMap = Annotated[
    Literal["uniform", "last"] | tuple[Annotated[int, Field(ge=0)] | None, ...], AfterValidator(_all_or_some)
]


class DistillationStage(_Stage):
    """Lets the student learn from the dense teacher: from its outputs, and from what lies within it.

    Several may follow one another; where none is, the labels alone teach.

    Attributes:
        type: `distillation`.
        hardness: Weight of the teacher's outputs against the labels, 0-1.
        temperature: Softens both distributions.
        outputs: Weight of labels and the teacher's outputs together; 0 leaves what lies within.
        hidden: Weight of the distance between the hidden states of student and teacher after the layers.
        hidden_distance: `mse`, or `cosine` of each token.
        embeddings: Weight of the distance between what enters the first layers.
        attention: Weight of the distance between the attention maps.
        attention_of: Their `scores`, or the `probabilities` made of them.
        layer_map: From which layer of the teacher each layer of a shallower student learns: `uniform` spreads
            them, `last` takes the topmost, a list names one (from 0, or null for none) for each layer of the
            student.
        tokens: Of token tags: the teacher speaks on `all` tokens of a text, or on the `labelled` ones, the
            first piece of each word.
        vectors: Of sentence embeddings: compared by `cosine`, by the `similarity` of a batch's texts with
            each other, or `both`.
        augmentation: Fraction of the rows that `compress` shows altered, with spans of other rows and random
            words in them; only the teacher can say what such a text means, so `hardness` must be 1, over
            the whole run.
        start_epoch: When it begins.
        end_epoch: When it ends; None is the end of the run.
    """

    type: Literal["distillation"]
    hardness: Fraction = 1.0
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    outputs: Annotated[float, Field(ge=0.0)] = 1.0
    hidden: Annotated[float, Field(ge=0.0)] = 0.0
    hidden_distance: Literal["mse", "cosine"] = "mse"
    embeddings: Annotated[float, Field(ge=0.0)] = 0.0
    attention: Annotated[float, Field(ge=0.0)] = 0.0
    attention_of: Literal["scores", "probabilities"] = "scores"
    layer_map: _LayerMap = "uniform"
    tokens: Literal["all", "labelled"] = "all"
    vectors: Literal["cosine", "similarity", "both"] = "cosine"
    augmentation: Fraction = 0.0
    start_epoch: Time = 0.0
    end_epoch: Time | None = None

    @property
    def looks_inside(self) -> bool:
        """Whether it compares more than outputs, so that the teacher must be asked at every step."""
        return self.hidden > 0.0 or self.embeddings > 0.0 or self.attention > 0.0

    @property
    def needs_live_teacher(self) -> bool:
        """Whether the teacher's outputs, computed once before the run, are not enough."""
        return self.looks_inside or self.augmentation > 0.0

    @model_validator(mode="after")
    def _teaches(self) -> DistillationStage:
        if self.outputs == 0.0 and not self.looks_inside:
            text = "0 leaves nothing to learn from: give hidden, embeddings or attention a weight"
            raise InconsistentError([Problem(("outputs",), text)])
        return self

    @model_validator(mode="after")
    def _labelled(self) -> DistillationStage:
        if self.augmentation > 0.0 and self.hardness < 1.0 and self.outputs > 0.0:
            text = f"needs hardness 1, because altered texts have no label; it is {self.hardness:g}"
        elif self.augmentation > 0.0 and (self.start_epoch != 0.0 or self.end_epoch is not None):
            text = "needs a teacher over the whole run: leave start_epoch and end_epoch out"
        else:
            return self
        raise InconsistentError([Problem(("augmentation",), text)])


class QuantizationStage(_Stage):
    """Trains with the engine's int8 arithmetic simulated. At most one.

    Attributes:
        type: `quantization`.
        start_epoch: From here on fake quantization is on.
        freeze_epoch: From here on the ranges of the activations stay as they are.
        averaging: Weight of the newest batch in the moving average of a range.
    """

    type: Literal["quantization"]
    start_epoch: Time
    freeze_epoch: Time
    averaging: Fraction = 0.01


class FreezingStage(_Stage):
    """Leaves groups of parameters as they are for a while.

    Attributes:
        type: `freezing`.
        groups: `embeddings` (the tables), `layers` (all), `layers.3`, `layers.0-3`, `head` (what stands
            after the last layer: pooler and classifier).
        start_epoch: When it begins.
        end_epoch: When it ends; None is the end of the run.
    """

    type: Literal["freezing"]
    groups: _Groups
    start_epoch: Time = 0.0
    end_epoch: Time | None = None


class LearningRateStage(_Stage):
    """Steers the learning rate for a while, in cycles that each fall and are rewound.

    Several may follow one another; where none is, the schedule of the run goes on as though they were not
    there.

    Attributes:
        type: `learning_rate`.
        schedule: How it falls within a cycle.
        cycles: Number of cycles, all of one length.
        peak: Top of the first cycle, as a part of the run's learning rate.
        final: Part of a cycle's peak that is left at its end.
        rewind: Peak of a cycle as a part of that of the cycle before; 1 goes all the way back.
        warmup: Part of each cycle in which it rises: from 0 in the first, later from where the cycle before
            ended.
        start_epoch: Where the first cycle starts.
        end_epoch: Where the last cycle ends; None is the end of the run.
    """

    type: Literal["learning_rate"]
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    cycles: Annotated[int, Field(ge=1)] = 1
    peak: Annotated[float, Field(gt=0.0)] = 1.0
    final: Fraction = 0.0
    rewind: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    start_epoch: Time = 0.0
    end_epoch: Time | None = None


Stage = Annotated[
    PruningStage | DistillationStage | QuantizationStage | FreezingStage | LearningRateStage,
    Field(discriminator="type"),
]
STAGE_TYPES: dict[str, type[_Stage]] = {
    "pruning": PruningStage,
    "distillation": DistillationStage,
    "quantization": QuantizationStage,
    "freezing": FreezingStage,
    "learning_rate": LearningRateStage,
}


class SmallData(Record):
    """What changes where the data are so few that the run is stretched to `min_steps`.

    Every row is then seen so often that a student learns the rows by heart and loses what else its teacher
    knows; hidden states and altered rows hold against that, and cost a teacher forward a step.

    Attributes:
        batch_size: Replaces that of the run: the same rows give more steps.
        steps: Length of the run in optimizer steps, instead of `min_steps`.
        learning_rate: Replaces that of the run.
        method: Replaces that of the pruning stages.
        end_epoch: Replaces that of the last pruning stage.
        hidden: Replaces that of the distillation stages.
        augmentation: Replaces that of the distillation stages.
        update_every: Replaces that of the pruning stages.
    """

    batch_size: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    method: Literal["magnitude", "lamp"] | None = None
    end_epoch: Time | None = None
    hidden: Annotated[float, Field(ge=0.0)] | None = None
    augmentation: Fraction | None = None
    update_every: _Duration | None = None


def order_problems(stage: Record, clock: Clock) -> list[Problem]:
    """Says what within a stage stands in an impossible order, as far as the clock knows.

    Args:
        stage: A stage; places are relative to it.
        clock: Without numbers it compares only times of the same unit.
    """
    problems = []
    start = getattr(stage, "start_epoch", 0.0)
    for key in ("end_epoch", "freeze_epoch"):
        time = getattr(stage, key, None)
        if time is None:
            continue
        if clock.order(time, start) in (-1, 0):
            problems.append(Problem((key,), f"{shown(time)} must be later than start_epoch {shown(start)}"))
    if isinstance(stage, PruningStage) and (stage.initial_sparsity or 0.0) > stage.sparsity:
        text = f"{stage.initial_sparsity:g} must not be above sparsity {stage.sparsity:g}"
        problems.append(Problem(("initial_sparsity",), text))
    return problems
