"""Recipes: typed records that say what is done to a model and when. YAML is only their spelling."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur.errors import RecipeError, problem_list

__all__ = [
    "BUILTIN_RECIPES",
    "DistillationStage",
    "PruningStage",
    "QuantizationStage",
    "Recipe",
    "SmallData",
    "Stage",
    "TrainingSettings",
    "load_recipe",
]

_BUILTIN_FOLDER = Path(__file__).parent / "builtin"
BUILTIN_RECIPES = tuple(sorted(path.stem for path in _BUILTIN_FOLDER.glob("*.yaml")))

_Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
_Epoch = Annotated[float, Field(ge=0.0)]
StageT = TypeVar("StageT", "PruningStage", "DistillationStage", "QuantizationStage")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainingSettings(_Record):
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
    warmup: _Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    batch_size: Annotated[int, Field(ge=1)] = 32
    freeze_embeddings: bool = False
    dropout: _Fraction | None = None


class PruningStage(_Record):
    """Removes weights step by step, ranked over all pruned matrices together.

    Attributes:
        type: `pruning`.
        method: How weights are scored.
        pattern: What is removed together.
        sparsity: Fraction of weights removed at the end.
        initial_sparsity: Fraction removed at the first update.
        schedule: Curve between the two.
        start_epoch: First update.
        end_epoch: Last update; from then on the masks stay.
        update_every: Epochs between two updates.
    """

    type: Literal["pruning"]
    method: Literal["magnitude", "lamp"] = "magnitude"
    pattern: Literal["unstructured", "block4"] = "block4"
    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)]
    initial_sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    schedule: Literal["cubic", "linear"] = "cubic"
    start_epoch: _Epoch
    end_epoch: _Epoch
    update_every: Annotated[float, Field(gt=0.0)] = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> PruningStage:
        if self.end_epoch <= self.start_epoch:
            raise ValueError(
                f"end_epoch {self.end_epoch:g} must be later than start_epoch {self.start_epoch:g}"
            )
        if self.initial_sparsity > self.sparsity:
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity:g} must not be above sparsity {self.sparsity:g}"
            )
        return self


class DistillationStage(_Record):
    """Lets the student learn from the dense teacher's logits, over the whole run.

    Attributes:
        type: `distillation`.
        hardness: Weight of the teacher against the labels, 0-1.
        temperature: Softens both distributions.
        hidden: Weight of the distance between the hidden states of student and teacher after every layer.
        augmentation: Fraction of the rows that `compress` shows altered, with spans of other rows and random
            words in them; only the teacher can say what such a text means, so `hardness` must be 1.
    """

    type: Literal["distillation"]
    hardness: _Fraction = 1.0
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    hidden: Annotated[float, Field(ge=0.0)] = 0.0
    augmentation: _Fraction = 0.0

    @model_validator(mode="after")
    def _labelled(self) -> DistillationStage:
        if self.augmentation > 0.0 and self.hardness < 1.0:
            raise ValueError(
                f"augmentation needs hardness 1, because altered texts have no label; it is {self.hardness:g}"
            )
        return self


class QuantizationStage(_Record):
    """Trains with the engine's int8 arithmetic simulated.

    Attributes:
        type: `quantization`.
        start_epoch: From here on fake quantization is on.
        freeze_epoch: From here on the ranges of the activations stay as they are.
        averaging: Weight of the newest batch in the moving average of a range.
    """

    type: Literal["quantization"]
    start_epoch: _Epoch
    freeze_epoch: _Epoch
    averaging: _Fraction = 0.01

    @model_validator(mode="after")
    def _ordered(self) -> QuantizationStage:
        if self.freeze_epoch <= self.start_epoch:
            raise ValueError(
                f"freeze_epoch {self.freeze_epoch:g} must be later than start_epoch {self.start_epoch:g}"
            )
        return self


Stage = Annotated[PruningStage | DistillationStage | QuantizationStage, Field(discriminator="type")]


class SmallData(_Record):
    """What changes where the data are so few that the run is stretched to `min_steps`.

    Every row is then seen so often that a student learns the rows by heart and loses what else its teacher
    knows; hidden states and altered rows hold against that, and cost a teacher forward a step.

    Attributes:
        batch_size: Replaces that of the run: the same rows give more steps.
        steps: Length of the run in optimizer steps, instead of `min_steps`.
        learning_rate: Replaces that of the run.
        method: Replaces that of the pruning stage.
        end_epoch: Replaces that of the pruning stage.
        hidden: Replaces that of the distillation stage.
        augmentation: Replaces that of the distillation stage.
        update_every: Replaces that of the pruning stage.
    """

    batch_size: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    method: Literal["magnitude", "lamp"] | None = None
    end_epoch: _Epoch | None = None
    hidden: Annotated[float, Field(ge=0.0)] | None = None
    augmentation: _Fraction | None = None
    update_every: Annotated[float, Field(gt=0.0)] | None = None


class Recipe(_Record):
    """What is done to a model and when.

    Attributes:
        name: A word.
        description: One sentence.
        training: The run.
        stages: What happens in it; at most one of each type.
        small_data: What changes for a few rows; None changes nothing but the length.
    """

    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    training: TrainingSettings
    stages: tuple[Stage, ...] = ()
    small_data: SmallData | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        problems = []
        types = [stage.type for stage in self.stages]
        problems += [
            f"several stages of the type {kind}" for kind in sorted({t for t in types if types.count(t) > 1})
        ]
        for index, stage in enumerate(self.stages):
            for key in ("end_epoch", "freeze_epoch"):
                epoch = getattr(stage, key, 0.0)
                if epoch > self.training.epochs:
                    problems.append(
                        f"stages[{index}].{key} {epoch:g} lies after the end of the run, "
                        f"training.epochs {self.training.epochs:g}"
                    )
        if problems:
            raise ValueError("; ".join(problems))
        if self.small_data is not None:
            # What the changes would make of the recipe is refused now, not when few rows meet it.
            try:
                Recipe.model_validate(self._changed())
            except ValidationError as error:
                found = (one["msg"].removeprefix("Value error, ") for one in error.errors())
                raise ValueError(f"with small_data: {'; '.join(found)}") from None
        return self

    def _changed(self) -> dict[str, Any]:
        """Returns the recipe's values with `small_data` carried out and left out."""
        values = self.model_dump()
        changes = {key: value for key, value in (values.pop("small_data") or {}).items() if value is not None}
        training = values["training"]
        training["min_steps"] = changes.pop("steps", training["min_steps"])
        for record in (training, *values["stages"]):
            record |= {key: value for key, value in changes.items() if key in record}
        return values

    def stage(self, kind: type[StageT]) -> StageT | None:
        """Returns the stage of a type, or None where the recipe has none."""
        return next((stage for stage in self.stages if isinstance(stage, kind)), None)

    def stretched(self, rows: int) -> Recipe:
        """Returns the recipe for a data set of this size, with `min_steps` and `small_data` carried out.

        Args:
            rows: Training rows, at least 1.
        """
        if self.training.epochs * -(-rows // self.training.batch_size) >= self.training.min_steps:
            return self
        values = self._changed()
        training = values["training"]
        factor = training["min_steps"] / (training["epochs"] * -(-rows // training["batch_size"]))
        for record in (training, *values["stages"]):
            for key in ("epochs", "start_epoch", "end_epoch", "freeze_epoch", "update_every"):
                if key in record:
                    record[key] = round(record[key] * factor, 4)
        return Recipe.model_validate(values)

    def to_yaml(self) -> str:
        """Returns the recipe as YAML, every default spelled out."""
        values = self.model_dump(mode="json")
        return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110))

    @classmethod
    def from_yaml(cls, text: str, source: str = "The recipe") -> Recipe:
        """Reads a recipe.

        Args:
            text: YAML.
            source: Where it came from, for messages.

        Raises:
            RecipeError: Names everything that is wrong, each with its place; for an unknown key also the
                nearest known one.
        """
        try:
            values = yaml.load(text, Loader=_StrictLoader)
        except yaml.YAMLError as error:
            place = getattr(error, "problem_mark", None)
            where = f" in line {place.line + 1}" if place is not None else ""
            problem = getattr(error, "problem", None) or "not readable"
            raise RecipeError(f"{source} is not valid YAML{where}: {problem}.") from error
        return cls.from_values(values, source)

    @classmethod
    def from_values(cls, values: Any, source: str = "The recipe") -> Recipe:
        """Reads a recipe from plain values; arguments and errors as in `from_yaml`."""
        if not isinstance(values, dict):
            raise RecipeError(f"{source} must be a mapping with the keys {', '.join(Recipe.model_fields)}.")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [_described(dict(problem)) for problem in error.errors()]
            raise RecipeError(problem_list(source, problems)) from None


def load_recipe(name_or_path: str | Path | Recipe) -> Recipe:
    """Loads a recipe.

    Args:
        name_or_path: Name of a recipe of the package, or path of a YAML file; a Recipe is returned as it is.

    Raises:
        RecipeError: There is no such recipe, or it is wrong.
    """
    if isinstance(name_or_path, Recipe):
        return name_or_path
    path = Path(name_or_path)
    if str(name_or_path) in BUILTIN_RECIPES:
        path = _BUILTIN_FOLDER / f"{name_or_path}.yaml"
    elif not path.is_file():
        near = get_close_matches(str(name_or_path), BUILTIN_RECIPES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RecipeError(
            f"There is no recipe {str(name_or_path)!r}: give one of {', '.join(BUILTIN_RECIPES)}, "
            f"or the path of a YAML file.{hint}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error}.") from error
    return Recipe.from_yaml(text, f"The recipe {name_or_path}")


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc,unused-ignore]
    """Refuses a key that stands twice in one mapping; plain YAML keeps the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if str(key) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(str(key))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_RECORDS: dict[str, type[_Record]] = {
    "training": TrainingSettings,
    "small_data": SmallData,
    "pruning": PruningStage,
    "distillation": DistillationStage,
    "quantization": QuantizationStage,
}


def _described(problem: dict[str, Any]) -> str:
    """Turns one of pydantic's errors into a clause with its place."""
    location = tuple(problem["loc"])
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = list(_record_at(location[:-1]).model_fields)
        key = str(location[-1])
        near = get_close_matches(key, known, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{_place(location[:-1])}has the unknown key {key!r} ({hint})"
    if kind == "missing":
        return f"{_place(location[:-1])}lacks the key {location[-1]!r}"
    if kind == "union_tag_invalid":
        given = str(problem["ctx"]["tag"])
        stages = [name for name in _RECORDS if name not in ("training", "small_data")]
        near = get_close_matches(given, stages, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known types: {', '.join(stages)}"
        return f"{_place(location)}has the unknown type {given!r} ({hint})"
    if kind == "union_tag_not_found":
        return f"{_place(location)}lacks the key 'type'"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem.get("input")
    shown = f", but is {value!r}" if isinstance(value, (str, int, float)) else ""
    return f"{_place(location)}{message[:1].lower()}{message[1:]}{shown}"


def _record_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    named = [part for part in location if part in _RECORDS]
    return _RECORDS[str(named[-1])] if named else Recipe


def _place(location: tuple[int | str, ...]) -> str:
    """Spells a place as the author of the YAML sees it: `stages[0].sparsity: `."""
    spelled = ""
    previous: int | str | None = None
    for part in location:
        if isinstance(part, int):
            spelled += f"[{part}]"
        elif not (isinstance(previous, int) and part in _RECORDS):  # the union's tag is no key
            spelled += f".{part}" if spelled else part
        previous = part
    return f"{spelled}: " if spelled else ""
