"""Texts in, labels out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from secateur.checkpoint.folder import TOKENIZER_FILE
from secateur.errors import CheckpointError, DataError, UnsupportedError
from secateur.runtime.engine import Engine
from secateur.tasks import Encoded, TextClassification
from secateur.tasks.text_classification import Answer, Row

__all__ = ["TextClassificationPipeline", "pipeline"]

_MAX_BATCH_TOKENS = 8192  # keeps activations of a large request small; speed no longer gains from more


def pipeline(
    folder: str | os.PathLike[str],
    num_threads: int | None = None,
    isa: str | None = None,
    *,
    max_tokens: int | None = None,
) -> TextClassificationPipeline:
    """Loads a checkpoint for use on texts.

    Args:
        folder: A folder that `secateur compress` wrote.
        num_threads: Threads that a call may use; None takes all CPUs that this process may use.
        isa: The instruction set to use; see `Engine.from_pretrained`.
        max_tokens: Most tokens that go through the layers at a time. It bounds memory and does not cut texts:
            one that is longer is an error.

    Returns:
        A function of a text or a list of texts.

    Raises:
        CheckpointError: If the folder is no sound checkpoint or has no tokenizer.
        UnsupportedError: If this version, build or CPU cannot run what is asked for.
    """
    return TextClassificationPipeline(Engine.from_pretrained(folder, num_threads, isa, max_tokens=max_tokens))


class TextClassificationPipeline:
    """Classifies texts. Safe to call from many threads at a time.

    Attributes:
        engine: What runs the model.
        labels: The classes, in the order of the logits.
        task: What turns logits into answers.
    """

    def __init__(self, engine: Engine) -> None:
        """Loads the tokenizer that lies beside the engine's checkpoint."""
        kind = engine.config.get("problem_type") or "single_label_classification"
        if kind != "single_label_classification" or len(engine.labels) < 2:
            raise UnsupportedError(
                f"{engine.folder} holds a model with {len(engine.labels)} labels for {kind}; "
                f"the pipeline answers single-label classification only, use Engine for its logits."
            )
        self.engine = engine
        self.labels = engine.labels
        self.task = TextClassification(engine.labels)
        self._tokenizer = _load_tokenizer(engine)
        self._said_truncated = False

    # A str is a Sequence[str], and 1 an int: mypy takes the first that fits, which is the one meant.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, texts: str, top_k: int | None = 1
    ) -> list[Answer]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, texts: Sequence[str], top_k: Literal[1] = 1
    ) -> list[Answer]: ...

    @overload
    def __call__(self, texts: Sequence[str], top_k: int | None) -> list[list[Answer]]: ...

    def __call__(
        self, texts: str | Sequence[str], top_k: int | None = 1
    ) -> list[Answer] | list[list[Answer]]:
        """Classifies.

        Args:
            texts: A text or several.
            top_k: How many labels a text, best first; None for all of them.

        Returns:
            For several texts: an answer each where `top_k` is 1, else a list of answers each. For one text:
            the list of its answers. An answer is `{"label": ..., "score": ...}`.

        Raises:
            DataError: If a text is empty or not a string.
        """
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise DataError(f"top_k must be a positive integer or None, but is {top_k!r}.")
        found = self.answers([texts] if isinstance(texts, str) else texts, top_k)
        if isinstance(texts, str):
            return found[0]
        return [best[0] for best in found] if top_k == 1 else found

    def answers(self, texts: Sequence[str], top_k: int | None) -> list[list[Answer]]:
        """Returns the likeliest labels of texts, best first: at most `top_k` each, all where it is None.

        Raises:
            DataError: If a text is empty or not a string.
        """
        given = list(texts)
        encoded = Encoded(self.encode(given), None, list(range(len(given))))
        logits = self._run(encoded.input_ids)
        return self.task.answers([Row(text) for text in given], encoded, list(logits), top_k=top_k)

    def logits(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """Returns the logits of texts.

        Args:
            texts: A text or B texts.

        Returns:
            [B, num_labels] float32.

        Raises:
            DataError: If a text is empty or not a string, or longer than `max_tokens`.
        """
        return self._run(self.encode(texts))

    def _run(self, sequences: list[list[int]]) -> NDArray[np.float32]:
        logits = np.zeros((len(sequences), len(self.labels)), np.float32)
        for indices in _batches([len(ids) for ids in sequences]):
            logits[indices] = self.engine([sequences[index] for index in indices])
        return logits

    def encode(self, texts: str | Sequence[str]) -> list[list[int]]:
        """Returns the token ids of texts, special tokens included, at most `engine.max_length` each.

        The first call that has to cut a text warns.

        Raises:
            DataError: If a text is empty or not a string.
        """
        given = _checked([texts] if isinstance(texts, str) else texts)
        try:
            encodings = self._tokenizer.encode_batch(given)
        except (TypeError, UnicodeError) as error:
            raise DataError(f"The texts cannot be tokenized: {error}.") from None
        cut = sum(bool(encoding.overflowing) for encoding in encodings)
        if cut and not self._said_truncated:
            self._said_truncated = True
            warnings.warn(
                f"{cut} of {len(given)} texts have more than the {self.engine.max_length} tokens that the "
                f"model takes and were cut at the end; this is said once.",
                stacklevel=2,
            )
        return [encoding.ids for encoding in encodings]


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
    tokenizer.enable_truncation(engine.max_length)
    return tokenizer


def _checked(texts: Sequence[str]) -> list[str]:
    given = list(texts)
    for position, text in enumerate(given):
        if not isinstance(text, str):
            raise DataError(f"Text {position} must be a string, but is {type(text).__name__}.")
        if not text.strip():
            raise DataError(f"Text {position} is empty; leave it out or give it a word.")
    return given


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Groups sequences of like length, longest first, up to a number of tokens."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and tokens + lengths[index] > _MAX_BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch
