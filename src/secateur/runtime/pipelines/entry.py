"""From a checkpoint's folder to the pipeline of its task."""

from __future__ import annotations

import difflib
import os
from typing import Any, Literal, overload

from secateur.errors import DataError, UnsupportedError
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines.fill_mask import FillMaskPipeline
from secateur.runtime.pipelines.pipeline import Pipeline
from secateur.runtime.pipelines.question_answering import QuestionAnsweringPipeline
from secateur.runtime.pipelines.sentence_embeddings import SentenceEmbeddingsPipeline
from secateur.runtime.pipelines.text_classification import TextClassificationPipeline
from secateur.runtime.pipelines.token_classification import TokenClassificationPipeline
from secateur.tasks import TASKS, task_of

__all__ = ["PIPELINES", "pipeline", "pipeline_of"]

PIPELINES: dict[str, type[Pipeline[Any]]] = {
    "text-classification": TextClassificationPipeline,
    "token-classification": TokenClassificationPipeline,
    "question-answering": QuestionAnsweringPipeline,
    "fill-mask": FillMaskPipeline,
    "sentence-embeddings": SentenceEmbeddingsPipeline,
}
# As transformers calls them, too.
_OTHER_NAMES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}

Folder = str | os.PathLike[str]


@overload
def pipeline(
    folder: Folder, task: Literal["text-classification", "sentiment-analysis"], **options: Any
) -> TextClassificationPipeline: ...


@overload
def pipeline(
    folder: Folder, task: Literal["token-classification", "ner"], **options: Any
) -> TokenClassificationPipeline: ...


@overload
def pipeline(
    folder: Folder, task: Literal["question-answering"], **options: Any
) -> QuestionAnsweringPipeline: ...


@overload
def pipeline(folder: Folder, task: Literal["fill-mask"], **options: Any) -> FillMaskPipeline: ...


@overload
def pipeline(
    folder: Folder, task: Literal["sentence-embeddings"], **options: Any
) -> SentenceEmbeddingsPipeline: ...


@overload
def pipeline(folder: Folder, task: str | None = None, **options: Any) -> Any: ...


def pipeline(
    folder: Folder,
    task: str | None = None,
    *,
    num_threads: int | None = None,
    isa: str | None = None,
    max_tokens: int | None = None,
    **options: Any,
) -> Any:
    """Loads a checkpoint for use on texts.

    Args:
        folder: A folder that `secateur compress` wrote.
        task: What the model does, as "token-classification"; None takes it from the checkpoint.
        num_threads: Threads that a call may use; None takes all CPUs that this process may use.
        isa: The instruction set to use; see `Engine.from_pretrained`.
        max_tokens: Most tokens that go through the layers at a time. It bounds memory and does not cut texts:
            one that is longer is an error.
        **options: What calls shall take where they do not say, as `aggregation_strategy="simple"`.

    Returns:
        The pipeline of the task: a function of texts.

    Raises:
        CheckpointError: The folder is no sound checkpoint or has no tokenizer.
        UnsupportedError: The checkpoint is of another task, or this version, build or CPU cannot run it.
        DataError: There is no such task or option.
    """
    name = _known(task)
    engine = Engine.from_pretrained(folder, num_threads, isa, max_tokens=max_tokens)
    return pipeline_of(engine, name, **options)


def pipeline_of(engine: Engine, task: str | None = None, **options: Any) -> Pipeline[Any]:
    """Makes the pipeline of an engine that runs already.

    Args:
        engine: The engine.
        task: See `pipeline`.
        **options: See `pipeline`.

    Raises:
        CheckpointError: There is no tokenizer beside the checkpoint, or it is another model's.
        UnsupportedError: The checkpoint is of another task.
        DataError: There is no such task or option.
    """
    name = _known(task)
    found = task_of(engine.config)
    if name is not None and name != found.name:
        raise UnsupportedError(
            f"{engine.folder} holds a model for {found.name}, not for {name}: leave the task out, or give a "
            f"model for {name}."
        )
    return PIPELINES[found.name](engine, found.from_config(engine.config), **options)


def _known(task: str | None) -> str | None:
    if task is None:
        return None
    name = _OTHER_NAMES.get(task, task) if isinstance(task, str) else None
    if name is None or name not in TASKS:
        near = difflib.get_close_matches(str(task), [*TASKS, *_OTHER_NAMES], 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(TASKS)}."
        raise DataError(f"There is no task {task!r}: {hint}")
    return name
