"""How many tokens a feature may have: what the model can, and what the task makes use of."""

from __future__ import annotations

import copy
from typing import Any

from secateur.errors import UnsupportedError
from secateur.tasks import QuestionAnswering, Task

__all__ = ["fit_window", "max_tokens"]

_LEAST = 8


def max_tokens(network: Any, tokenizer: Any, task: Task, wanted: int | None = None) -> int:
    """Returns the most tokens a feature may have.

    Args:
        network: A transformers model.
        tokenizer: Its tokenizer.
        task: What it is used for.
        wanted: What the user says; None means the window of a task that cuts contexts into such, otherwise
            all that the model can. Batches are padded to their longest feature only, so the data decide what
            a step costs.

    Raises:
        UnsupportedError: The model cannot have that many.
    """
    config = network.config
    limit = int(config.max_position_embeddings)
    positions = [one for name, one in network.named_modules() if name.endswith("position_embeddings")]
    padding = next(
        (one.padding_idx for one in positions if getattr(one, "padding_idx", None) is not None), None
    )
    if padding is not None:  # RoBERTa counts positions from the padding token on
        limit -= padding + 1
    own = getattr(tokenizer, "model_max_length", None)
    if own is not None and _LEAST <= own < limit:
        limit = int(own)
    if wanted is None:
        return min(limit, getattr(task, "window", limit))
    if not _LEAST <= wanted <= limit:
        raise UnsupportedError(f"The model takes {_LEAST} to {limit} tokens, but max_length is {wanted}.")
    return wanted


def fit_window(task: Task, wanted: int | None, doc_stride: int | None = None) -> Task:
    """Returns the task with windows as the user wants them, where it cuts contexts into such.

    Args:
        task: The task.
        wanted: Most tokens of a window; None leaves the task's own.
        doc_stride: Tokens that neighbouring windows share; None leaves the task's own.

    Raises:
        UnsupportedError: The task has no windows that could share anything.
    """
    if not isinstance(task, QuestionAnswering):
        if doc_stride is not None:
            raise UnsupportedError(
                "doc_stride is for question-answering, whose contexts are cut into windows; "
                f"{task.name} has none: leave it out."
            )
        return task
    fitted = copy.copy(task)
    fitted.window = task.window if wanted is None else wanted
    fitted.doc_stride = task.doc_stride if doc_stride is None else doc_stride
    return fitted
