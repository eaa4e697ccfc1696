"""Texts in, vectors out: near each other where the texts mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateur.errors import DataError
from secateur.runtime.pipelines.pipeline import Pipeline, checked_text, listed
from secateur.tasks.sentence_embeddings import Row, SentenceEmbeddings

__all__ = ["SentenceEmbeddingsPipeline"]


class SentenceEmbeddingsPipeline(Pipeline[SentenceEmbeddings]):
    """Makes vectors of texts. Safe to call from many threads at a time."""

    OPTIONS: ClassVar[Mapping[str, Any]] = {"normalize_embeddings": False}

    def __call__(
        self, texts: str | Sequence[str], *, normalize_embeddings: bool | None = None
    ) -> NDArray[np.float32]:
        """Makes vectors.

        Args:
            texts: A text or B texts.
            normalize_embeddings: Makes every vector's length 1, also where the model does not; None for what
                the pipeline was made with, else False.

        Returns:
            [B, H] float32; [1, H] for one text.

        Raises:
            DataError: A text is empty or not a string.
        """
        chosen = self._with(
            {} if normalize_embeddings is None else {"normalize_embeddings": normalize_embeddings}
        )
        given = listed(texts)
        rows = [Row(checked_text(text, f"Text {place}")) for place, text in enumerate(given)]
        outputs = self.outputs(self.encode_rows(rows))
        if not outputs:
            return np.zeros((0, int(self.engine.config["hidden_size"])), np.float32)
        found = np.stack(outputs)
        return _normalized(found) if chosen["normalize_embeddings"] else found

    def encode(
        self, sentences: str | Sequence[str], *, normalize_embeddings: bool | None = None
    ) -> NDArray[np.float32]:
        """Makes vectors, called as in sentence-transformers.

        Args:
            sentences: A text or B texts.
            normalize_embeddings: As in a call.

        Returns:
            [B, H] float32; [H] for one text.

        Raises:
            DataError: A text is empty or not a string.
        """
        found = self(sentences, normalize_embeddings=normalize_embeddings)
        return found[0] if isinstance(sentences, str) else found

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Compares vectors by the cosine between them.

        Args:
            embeddings1: [n, H], or [H] for one.
            embeddings2: [m, H], or [H] for one.

        Returns:
            [n, m] float32, from -1 to 1.

        Raises:
            DataError: The vectors are not of one size.
        """
        try:
            first, second = (
                np.atleast_2d(np.asarray(given, np.float32)) for given in (embeddings1, embeddings2)
            )
        except (TypeError, ValueError):
            raise DataError("Embeddings must be arrays of numbers, as `encode` returns them.") from None
        if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
            raise DataError(
                f"Embeddings must be [n, H] and [m, H], but are {list(first.shape)} and {list(second.shape)}."
            )
        return np.asarray(_normalized(first) @ _normalized(second).T, np.float32)

    def _check(self, options: Mapping[str, Any]) -> None:
        if not isinstance(options["normalize_embeddings"], bool):
            raise DataError(
                f"normalize_embeddings must be True or False, but is {options['normalize_embeddings']!r}."
            )


def _normalized(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divides each row by its length, as torch.nn.functional.normalize does."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)
