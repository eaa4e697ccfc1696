"""One file a task: its rows and columns, answers from logits, and how answers are scored. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.errors import UnsupportedError
from secateur.tasks.fill_mask import FillMask
from secateur.tasks.question_answering import QuestionAnswering
from secateur.tasks.sentence_embeddings import SentenceEmbeddings
from secateur.tasks.task import Encoded, Head, Outputs, Task
from secateur.tasks.text_classification import TextClassification
from secateur.tasks.token_classification import TokenClassification

__all__ = [
    "TASKS",
    "Encoded",
    "FillMask",
    "Head",
    "Outputs",
    "QuestionAnswering",
    "SentenceEmbeddings",
    "Task",
    "TextClassification",
    "TokenClassification",
    "task_named",
    "task_of",
]

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (TextClassification, TokenClassification, QuestionAnswering, FillMask, SentenceEmbeddings)
}

_BY_SUFFIX: dict[str, type[Task]] = {task.class_suffix(): task for task in TASKS.values()}


def task_named(name: str) -> type[Task]:
    """Returns the task that users call by a name.

    Raises:
        UnsupportedError: There is none.
    """
    if name not in TASKS:
        raise UnsupportedError(f"The task {name!r} is not known; supported: {', '.join(TASKS)}.")
    return TASKS[name]


def task_of(config: Mapping[str, Any]) -> type[Task]:
    """Returns the task of a model, by the class that its config.json names.

    Raises:
        UnsupportedError: The config names no class, or one whose head is not known.
    """
    architecture = str((config.get("architectures") or [""])[0])
    for suffix, task in _BY_SUFFIX.items():
        if architecture.endswith(suffix):
            return task
    known = ", ".join(f"*{suffix}" for suffix in _BY_SUFFIX)
    raise UnsupportedError(
        f"The config's architectures name {architecture or 'no class'!r}; known are {known}: "
        f"save the model with its head."
    )
