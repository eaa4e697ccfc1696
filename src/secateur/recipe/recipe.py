"""Recipes: typed records that say what is done to a model and when. YAML is only their spelling."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from secateur.errors import RecipeError, problem_list
from secateur.recipe.consistency import inconsistencies
from secateur.recipe.document import Document
from secateur.recipe.mistakes import find_problems
from secateur.recipe.problems import InconsistentError, Problem
from secateur.recipe.pruning_methods import METHODS
from secateur.recipe.stages import (
    DistillationStage,
    FreezingStage,
    LearningRateStage,
    LockStage,
    PruningStage,
    QuantizationStage,
    Record,
    SmallData,
    Stage,
    TrainingSettings,
)
from secateur.recipe.student import StudentShape
from secateur.recipe.times import Clock, stretched_time

__all__ = [
    "BUILTIN_RECIPES",
    "DistillationStage",
    "FreezingStage",
    "LearningRateStage",
    "LockStage",
    "PruningStage",
    "QuantizationStage",
    "Recipe",
    "SmallData",
    "Stage",
    "StudentShape",
    "TrainingSettings",
    "load_recipe",
]

_BUILTIN_FOLDER = Path(__file__).parent / "builtin"
BUILTIN_RECIPES = tuple(sorted(path.stem for path in _BUILTIN_FOLDER.glob("*.yaml")))

StageT = TypeVar("StageT", bound=Record)


class Recipe(Record):
    """What is done to a model and when.

    Attributes:
        name: A word.
        description: One sentence.
        student: A smaller student to start with; None trains a copy of the model.
        training: The run.
        stages: What happens in it; stages of one type follow one another in the order of the run.
        small_data: What changes for a few rows; None changes nothing but the length.
    """

    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    student: StudentShape | None = None
    training: TrainingSettings
    stages: tuple[Stage, ...] = ()
    small_data: SmallData | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        clock = Clock(self.training.epochs)
        problems = inconsistencies(self.training, list(enumerate(self.stages)), clock)
        if self.small_data is not None:
            problems += self._problems_of_small_data(self.small_data, {str(problem) for problem in problems})
        if problems:
            raise InconsistentError(problems)
        return self

    def _problems_of_small_data(self, small_data: SmallData, known: set[str]) -> list[Problem]:
        """Refuses now what the changes would make of the recipe, not when few rows meet it."""
        values = self._changed()
        try:
            Recipe.model_validate(values)
        except ValidationError as error:
            found = find_problems(error, values, Recipe)
            return [
                Problem(("small_data",), f"with it, {problem}", _changing(small_data, problem))
                for problem in found
                if str(problem) not in known
            ]
        return []

    def _changed(self) -> dict[str, Any]:
        """Returns the recipe's values with `small_data` carried out and left out."""
        values = self.model_dump()
        changes = {key: value for key, value in (values.pop("small_data") or {}).items() if value is not None}
        training = values["training"]
        training["min_steps"] = changes.pop("steps", training["min_steps"])
        end = changes.pop("end_epoch", None)
        prunings = [stage for stage in values["stages"] if stage["type"] == "pruning"]
        if end is not None and prunings:
            prunings[-1]["end_epoch"] = end
        for stage in prunings:
            if changes.get("method", stage["method"]) != stage["method"]:
                # The options of another method go with it, and how it ranks where the recipe did not say.
                old = METHODS[stage["method"]]
                for key in old.model_fields:
                    stage.pop(key, None)
                if stage["ranking"] == old.ranking:
                    del stage["ranking"]
        for record in (training, *values["stages"]):
            record |= {key: value for key, value in changes.items() if key in record}
        return values

    def stage(self, kind: type[StageT]) -> StageT | None:
        """Returns the first stage of a type, or None where the recipe has none."""
        return next((stage for stage in self.stages if isinstance(stage, kind)), None)

    def stages_of(self, kind: type[StageT]) -> tuple[StageT, ...]:
        """Returns all stages of a type, in order."""
        return tuple(stage for stage in self.stages if isinstance(stage, kind))

    def stretched(self, rows: int) -> Recipe:
        """Returns the recipe for a data set of this size, with `min_steps` and `small_data` carried out.

        Times in epochs grow with the run; steps and parts of the run stay as they are said.

        Args:
            rows: Training rows, at least 1.
        """
        if self.training.epochs * -(-rows // self.training.batch_size) >= self.training.min_steps:
            return self
        values = self._changed()
        training = values["training"]
        factor = training["min_steps"] / (training["epochs"] * -(-rows // training["batch_size"]))
        for record in (training, *values["stages"]):
            for key in ("epochs", "start_epoch", "end_epoch", "freeze_epoch", "update_every", "rewind_epoch"):
                if record.get(key) is not None:
                    record[key] = stretched_time(record[key], factor)
            if isinstance(record.get("schedule"), (list, tuple)):
                record["schedule"] = [
                    (stretched_time(time, factor), value) for time, value in record["schedule"]
                ]
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
            RecipeError: Names everything that is wrong, each with its line and place; for an unknown key
                also the nearest known one.
        """
        return cls._read(Document.parse(text, source), source)

    @classmethod
    def from_values(cls, values: Any, source: str = "The recipe") -> Recipe:
        """Reads a recipe from plain values; arguments and errors as in `from_yaml`, without lines."""
        return cls._read(Document(values), source)

    @classmethod
    def _read(cls, document: Document, source: str) -> Recipe:
        values = document.values
        if not isinstance(values, dict):
            raise RecipeError(f"{source} must be a mapping with the keys {', '.join(Recipe.model_fields)}.")
        problems = list(document.problems)
        try:
            recipe = cls.model_validate(values)
        except ValidationError as error:
            problems += find_problems(error, values, cls)
        if problems:
            problems.sort(key=lambda problem: document.line(problem.location) or 0)
            raise RecipeError(problem_list(source, map(document.described, problems)))
        return recipe


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


def _changing(small_data: SmallData, problem: Problem) -> str | None:
    """Returns the key of `small_data` that a problem comes from, None where several may be to blame."""
    last = problem.place[-1] if problem.place else None
    return str(last) if last in small_data.model_fields_set else None
