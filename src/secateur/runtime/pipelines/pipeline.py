"""What pipelines of all tasks share: engine, tokenizer, options, and texts that are too long."""

from __future__ import annotations

import difflib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from tokenizers import Tokenizer

from secateur.checkpoint.folder import TOKENIZER_FILE
from secateur.errors import CheckpointError, DataError
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines.outputs import Reduce, outputs_of
from secateur.runtime.pipelines.special_tokens import special_token_id
from secateur.tasks.task import Encoded, Outputs, Task

__all__ = ["Pipeline", "checked_text", "counting_number"]

AnyTask = TypeVar("AnyTask", bound=Task)


class Pipeline(ABC, Generic[AnyTask]):
    """A model that takes what a user has and gives what a user wants. Safe to call from many threads at a time.

    Attributes:
        engine: What runs the model.
        task: What turns texts into token ids and outputs into answers.
        tokenizer: The one that lies beside the checkpoint, without padding or truncation.
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
        self.tokenizer = _load_tokenizer(engine)
        self.labels = list(task.labels)
        self.unknown_id = special_token_id(engine.folder, self.tokenizer, "unk")
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

    def _encode(self, rows: Sequence[Any], max_length: int | None = None, noun: str = "texts") -> Encoded:
        """Returns the features of rows; the first call that has to cut one warns."""
        longest = max_length or self.engine.max_length
        encoded = self.task.encode(self.tokenizer, rows, longest)
        if encoded.cut:
            self._say_cut(encoded.cut, len(rows), longest, noun)
        return encoded

    def _outputs(self, encoded: Encoded, reduce: Reduce | None = None) -> Outputs:
        return outputs_of(self.engine, self.task, encoded, reduce=reduce)

    def _say_cut(self, cut: int, count: int, longest: int, noun: str) -> None:
        if self._said_cut:
            return
        self._said_cut = True
        taken = "the model takes" if longest == self.engine.max_length else "are taken at a time"
        warnings.warn(
            f"{cut} of {count} {noun} have more than the {longest} tokens that {taken} "
            f"and were cut at the end; this is said once.",
            stacklevel=2,
        )


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
    return value


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


def _load_tokenizer(engine: Engine) -> Tokenizer:
    path = engine.folder / TOKENIZER_FILE
    if not path.is_file():
        raise CheckpointError(f"{engine.folder} has no {TOKENIZER_FILE}: copy the whole folder.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{path} is not a sound tokenizer ({error}): copy the folder again.") from None
    if tokenizer.get_vocab_size(with_added_tokens=True) > engine.vocab_size:
        raise CheckpointError(
            f"{path} has {tokenizer.get_vocab_size(with_added_tokens=True)} tokens and the model only "
            f"{engine.vocab_size}: the folder mixes the files of two models."
        )
    # all-MiniLM's own file pads and truncates to 128 tokens, so both are set here whatever the file says
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
