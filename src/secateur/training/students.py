"""The student of a run, where it is not a copy of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import set_seed

from secateur.errors import DataError
from secateur.modeling.student import build_student
from secateur.recipe.recipe import Recipe, load_recipe
from secateur.tasks import Task
from secateur.training.loading import agreed_task, has_head, load_network, load_tokenizer

__all__ = ["check_student_folder", "load_student", "make_student"]


def make_student(model: Any, recipe: Recipe | str) -> Any:
    """Makes the student that a recipe starts with.

    Args:
        model: A live model of a supported family, without masks or quantizers; it stays as it is.
        recipe: A recipe, the name of one, or the path of one.

    Returns:
        What its `student` says, see `secateur.modeling.build_student`; the model itself where it says
        nothing.

    Raises:
        UnsupportedError: Such a student cannot be made of the model.
    """
    shape = load_recipe(recipe).student
    return model if shape is None else build_student(model, **shape.model_dump())


def load_student(folder: Path, task: Task, seed: int) -> Any:
    """Loads a student that was made before, as one taught on plain text; with a new head where it has none.

    Args:
        folder: Its folder.
        task: As the model does it.
        seed: Of a new head.

    Raises:
        SecateurError: It cannot be loaded, or does another task.
    """
    ready = has_head(folder, type(task))
    own = agreed_task(folder, task, "the model") if ready else task
    if own.labels != task.labels:
        raise DataError(
            f"The student {folder} has its labels in another order than the model: save it alike."
        )
    set_seed(seed)
    return load_network(folder, own, new_head=not ready)


def check_student_folder(folder: Path, tokenizer: Any, recipe: Recipe) -> None:
    """Checks a student's folder before anything is trained.

    Raises:
        DataError: It has another vocabulary, or the recipe makes a student itself.
        UnsupportedError: It is no model folder.
    """
    if recipe.student is not None:
        raise DataError(
            f"The recipe {recipe.name!r} makes its student of the model, and {folder} is another: leave out "
            "one of the two."
        )
    if load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise DataError(
            f"The student {folder} has another vocabulary than the model: give one with its tokenizer."
        )
