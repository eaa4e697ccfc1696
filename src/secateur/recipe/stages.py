"""The records of a recipe: the run, its stages, and what few rows change."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from secateur.recipe.problems import InconsistentError, Problem
from secateur.recipe.pruning_stage import Method, PruningStage, Targets
from secateur.recipe.record import Duration, Fraction, Record, StageRecord
from secateur.recipe.times import Time

__all__ = [
    "STAGE_TYPES",
    "DistillationStage",
    "FreezingStage",
    "LearningRateStage",
    "LockStage",
    "PruningStage",
    "QuantizationStage",
    "Record",
    "SmallData",
    "Stage",
    "TrainingSettings",
]

_GROUP = re.compile(r"embeddings|head|layers(\.\d+(-\d+)?)?")


def _group(name: str) -> str:
    if not _GROUP.fullmatch(name):
        raise ValueError("is no group: write embeddings, head, layers, layers.3 or layers.0-3")
    first, _, last = name.removeprefix("layers").removeprefix(".").partition("-")
    if last and int(last) < int(first):
        raise ValueError("ends before it starts")
    return name


_Group = Annotated[str, AfterValidator(_group), Field(json_schema_extra={"pattern": f"^({_GROUP.pattern})$"})]


def _any(groups: tuple[str, ...]) -> tuple[str, ...]:
    if not groups:
        raise ValueError("names no group")
    return groups


# Not Field(min_length=1): pydantic counts only the names that are right, and would complain twice.
_Groups = Annotated[tuple[_Group, ...], AfterValidator(_any), Field(json_schema_extra={"minItems": 1})]


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
        densify: Lets the zeros of a sparse model become weights again where the recipe neither prunes nor
            locks them; otherwise that is an error.
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
    densify: bool = False


def _all_or_some(layers: str | tuple[int | None, ...]) -> str | tuple[int | None, ...]:
    if not isinstance(layers, str) and all(layer is None for layer in layers):
        raise ValueError("compares no layer")
    return layers


_LayerMap = Annotated[
    Literal["uniform", "last"] | tuple[Annotated[int, Field(ge=0)] | None, ...], AfterValidator(_all_or_some)
]


class DistillationStage(StageRecord):
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


class QuantizationStage(StageRecord):
    """Trains with the engine's int8 arithmetic simulated. At most one.

    Attributes:
        type: `quantization`.
        start_epoch: From here on fake quantization is on.
        freeze_epoch: From here on the ranges of the activations stay as they are.
        averaging: Weight of the newest batch in the moving average of a range; 0 takes all batches as one.
        observer: What the range of a batch is: its extremes (`moving_average`; with `minmax` those of all
            batches), those without the rarest values (`percentile`), or the range that errs least (`mse`).
        percentile: Per cent of the values that lie below the upper end of a range, and above the lower one;
            for `percentile` only.
        activations: `static` ranges, or `dynamic`: every token of a linear layer's input has a scale of its
            own, and only attention has ranges to learn.
        attention: Whether the products in attention are `int8` or `float`.
    """

    type: Literal["quantization"]
    start_epoch: Time
    freeze_epoch: Time
    averaging: Fraction = 0.01
    observer: Literal["minmax", "moving_average", "percentile", "mse"] = "moving_average"
    percentile: Annotated[float, Field(gt=50.0, le=100.0)] = 99.99
    activations: Literal["static", "dynamic"] = "static"
    attention: Literal["int8", "float"] = "int8"


class FreezingStage(StageRecord):
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


class LockStage(StageRecord):
    """Keeps the zeros of a sparse model for the whole run, through fine-tuning, distillation, quantization.

    Where a pruning stage prunes a target, the zeros there are kept without it.

    Attributes:
        type: `lock`.
        targets: Where: `encoder`, `pooler`, `embeddings`, as in pruning stages.
    """

    type: Literal["lock"]
    targets: Targets = ("encoder",)


class LearningRateStage(StageRecord):
    """Steers the learning rate for a while, in cycles that each fall and are rewound.

    Several may follow one another; where none is, the schedule of the run goes on as though they were not
    there.

    Attributes:
        type: `learning_rate`.
        schedule: How it falls within a cycle.
        cycles: Number of cycles, all of one length; `pruning` starts one with every update of the pruning
            stages.
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
    cycles: Annotated[int, Field(ge=1)] | Literal["pruning"] = 1
    peak: Annotated[float, Field(gt=0.0)] = 1.0
    final: Fraction = 0.0
    rewind: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    start_epoch: Time = 0.0
    end_epoch: Time | None = None


Stage = Annotated[
    PruningStage | LockStage | DistillationStage | QuantizationStage | FreezingStage | LearningRateStage,
    Field(discriminator="type"),
]
STAGE_TYPES: dict[str, type[StageRecord]] = {
    "pruning": PruningStage,
    "lock": LockStage,
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
    method: Method | None = None
    end_epoch: Time | None = None
    hidden: Annotated[float, Field(ge=0.0)] | None = None
    augmentation: Fraction | None = None
    update_every: Duration | None = None
