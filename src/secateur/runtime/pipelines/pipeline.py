"""What pipelines of all tasks share: engine, tokenizer, options, and texts that are too long."""

from __future__ import annotations

import difflib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from secateur.errors import DataError
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines.outputs import outputs_of
from secateur.runtime.pipelines.tokenizer_files import load_tokenizer, longest_text, unknown_token_id
from secateur.tasks.task import Encoded, Outputs, Task

__all__ = ["Pipeline", "checked_text", "counting_number", "listed"]

AnyTask = TypeVar("AnyTask", bound=Task)


class Pipeline(ABC, Generic[AnyTask]):
    """A model that takes what a user has and gives what a user wants. Safe to call from many threads.

    Attributes:
        engine: What runs the model.
        task: What turns texts into token ids and outputs into answers.
        tokenizer: The one that lies beside the checkpoint, without padding or truncation.
        max_length: Most tokens of a text: what the model takes, or less if the tokenizer's settings say so.
        labels: The names of the model's outputs, in their order; empty where they have none.
        unknown_id: The token that stands for an unknown word; None where the tokenizer has none.
        options: The options of a call, and what they are where a call does not say.
    """

    OPTIONS: ClassVar[Mapping[str, Any]]

    def __init__(self, engine: Engine, task: AnyTask, **options: Any) -> None:
        """Loads the tokenizer that lies beside the engine's checkpoint.

        Args:
            engine: What runs the model.
            task: What the model does.
            **options: What calls shall take where they do not say.

        Raises:
            CheckpointError: There is no tokenizer, or it is another model's.
            DataError: An option is unknown or has an impossible value.
        """
        self.engine = engine
        self.task = task
        self.tokenizer = load_tokenizer(engine.folder, engine.vocab_size)
        self.max_length = longest_text(engine.folder, engine.max_length)
        self.labels = list(task.labels)
        self.unknown_id = unknown_token_id(engine.folder, self.tokenizer)
        self.options: dict[str, Any] = dict(self.OPTIONS)
        self.options = self._with(options)
        self._said_cut = False

    @abstractmethod
    def __call__(self, *args: Any, **options: Any) -> Any:
        """Answers; see the pipeline of each task."""

    def _with(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the options of a call, checked."""
        if not options and self.options is not self.OPTIONS:
            return self.options
        for name in options:
            if name not in self.OPTIONS:
                raise DataError(_unknown_option(self.task.name, name, self.OPTIONS))
        chosen = {**self.options, **options}
        self._check(chosen)
        return chosen

    @abstractmethod
    def _check(self, options: Mapping[str, Any]) -> None:
        """Raises DataError for an impossible value."""

    def encode_rows(
        self, rows: Sequence[Any], max_length: int | None = None, *, task: Task | None = None
    ) -> Encoded:
        """Returns the features of rows; the first call that has to cut one warns.

        Args:
            rows: Rows of the task.
            max_length: Most tokens of a feature, instead of the pipeline's own.
            task: Instead of the pipeline's own.

        Raises:
            DataError: A text cannot be tokenized.
        """
        longest = max_length or self.max_length
        encoded = (task or self.task).encode(self.tokenizer, rows, longest)
        if encoded.cut and not self._said_cut:
            self._said_cut = True
            warnings.warn(
                f"{encoded.cut} of {len(rows)} texts have more than the {longest} tokens that the model "
                f"takes and were cut at the end; this is said once.",
                stacklevel=2,
            )
        return encoded

    def outputs(self, encoded: Encoded) -> Outputs:
        """Returns what the model gives for features, reduced: see `outputs_of`."""
        return outputs_of(self.engine, self.task, encoded)


def checked_text(value: object, what: str) -> str:
    """Returns a text that can be tokenized.

    Args:
        value: What a user gave.
        what: What it is, as "Text 3" or "The context", for messages.

    Raises:
        DataError: It is no string, empty, or has half a character.
    """
    if not isinstance(value, str):
        raise DataError(f"{what} must be a string, but is {type(value).__name__}.")
    if not value.strip():
        raise DataError(f"{what} is empty; leave it out or give it a word.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{what} has half a character ({value[error.start]!a} at place {error.start}): delete it."
            ) from None
    return value


def listed(texts: Any) -> list[Any]:
    """Returns a list of one text or of those of a list.

    Raises:
        DataError: It is neither.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, (bytes, Mapping)):
        raise DataError(f"The input must be a text or a list of them, but is {type(texts).__name__}.")
    return list(texts)


def counting_number(name: str, value: object, *, none: str | None = None) -> None:
    """Checks an option that counts something.

    Args:
        name: The option.
        value: What a user gave.
        none: What None means, where it is allowed.

    Raises:
        DataError: It is no integer from 1 on.
    """
    if none is not None and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        allowed = "a positive integer" if none is None else f"a positive integer or None ({none})"
        raise DataError(f"{name} must be {allowed}, but is {value!r}.")


def _unknown_option(task: str, name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}" if near else f"known are {', '.join(known)}" if known else "it has none"
    return f"The {task} pipeline has no option {name!r}: {hint}{'?' if near else '.'}"
