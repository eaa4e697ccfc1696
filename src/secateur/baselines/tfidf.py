"""TF-IDF over words and letters with a linear model: what text classification costs without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from secateur.baselines.linear import (
    LABEL_STRENGTHS,
    NUMBER_STRENGTHS,
    LinearModel,
    fit_labels,
    fit_numbers,
    strongest,
)
from secateur.errors import DataError
from secateur.tasks import Encoded, Outputs
from secateur.tasks.text_classification import Row, TextClassification

__all__ = ["TfidfLinear", "Vectors", "one_feature_each"]

_MANY_ROWS = 1000  # from here on, what occurs in one row only is left out
_WORD = r"(?u)\w+|[^\w\s]"  # a text of signs only has words, too


class Vectors:
    """TF-IDF vectors of texts: words and pairs of words, and 2 to 5 letters within words.

    Args:
        most: Most word features, and as many letter features; the frequent ones are kept. None keeps all.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._parts: list[Any] = []

    def fit(self, texts: Sequence[str]) -> None:
        """Learns vocabulary and weights.

        Raises:
            DataError: No two texts have anything in common.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        shared: dict[str, Any] = {
            "sublinear_tf": True,
            "min_df": 2 if len(texts) >= _MANY_ROWS else 1,
            "max_features": self._most,
        }
        self._parts = [
            TfidfVectorizer(analyzer="word", ngram_range=(1, 2), token_pattern=_WORD, **shared),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **shared),
        ]
        try:
            for part in self._parts:
                part.fit(texts)
        except ValueError as error:
            raise DataError(
                f"The {len(texts)} training texts have no words in common: give texts of a language."
            ) from error

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        """Returns [n, F] sparse for words and for letters, rows of length 1."""
        return [part.transform(texts) for part in self._parts]

    def size_bytes(self) -> int:
        """Returns what storing vocabulary and weights takes."""
        terms = [term for part in self._parts for term in part.vocabulary_]
        return sum(len(term.encode()) + 1 for term in terms) + 4 * len(terms)


class TfidfLinear:
    """A linear model over TF-IDF features; of a pair, over both texts, their difference and what they share.

    Args:
        task: Knows the labels and what they mean.
        seed: Of the solver.
    """

    name: ClassVar[str] = "TF-IDF + linear"

    def __init__(self, task: TextClassification, seed: int = 42) -> None:
        self._task = task
        self._seed = seed
        self._vectors = Vectors()
        self._model: LinearModel | None = None
        self._pairs = False

    def fit(self, train: Sequence[Row], validation: Sequence[Row]) -> None:
        """Learns: see `Baseline`."""
        self._pairs = any(row.text_pair is not None for row in train)
        texts = [row.text for row in train]
        self._vectors.fit(texts + [row.text_pair or "" for row in train] if self._pairs else texts)
        features = self._features(train)
        targets = [target["labels"] for target in self._task.targets(train, one_feature_each(train))]
        score = None
        if validation:
            unseen = self._features(validation)
            encoded = one_feature_each(validation)

            def score(model: LinearModel) -> float:
                found = self._task.score(validation, encoded, list(model(unseen)))
                return float(found[self._task.main_metric] or 0.0)

        if self._task.kind == "regression":
            numbers = np.asarray(targets, np.float64)
            self._model = strongest(
                NUMBER_STRENGTHS, lambda one: fit_numbers(features, numbers, one, self._seed), score
            )
        else:
            truth = self._truth(targets)
            self._model = strongest(
                LABEL_STRENGTHS, lambda one: fit_labels(features, truth, one, self._seed), score
            )

    def outputs(self, rows: Sequence[Row]) -> tuple[Encoded, Outputs]:
        """Returns distances or numbers: see `Baseline`."""
        if self._model is None:
            raise DataError("The baseline has learnt nothing yet: call fit first.")
        return one_feature_each(rows), list(self._model(self._features(rows)))

    def size_bytes(self) -> int:
        """Returns the size of weights and vocabulary: see `Baseline`."""
        return self._vectors.size_bytes() + (0 if self._model is None else self._model.nbytes)

    def _truth(self, targets: Sequence[Any]) -> NDArray[np.bool_]:
        """Returns [n, L]."""
        given = np.asarray(targets)
        if self._task.kind == "multi-label":
            return np.asarray(given > 0.5)
        return np.asarray(given[:, None] == np.arange(len(self._task.labels)))

    def _features(self, rows: Sequence[Row]) -> Any:
        from scipy import sparse

        first = self._vectors([row.text for row in rows])
        if not self._pairs:
            return sparse.hstack(first, format="csr")
        second = self._vectors([row.text_pair or "" for row in rows])
        shared = [one.multiply(other) for one, other in zip(first, second, strict=True)]
        near = [sparse.csr_matrix(product.sum(axis=1)) for product in shared]  # cosines
        apart = [abs(one - other) for one, other in zip(first, second, strict=True)]
        return sparse.hstack([*first, *second, *apart, *shared, *near], format="csr")


def one_feature_each(rows: Sequence[Any]) -> Encoded:
    """Returns features without token ids, one a row, for the methods of a task that look at no tokens."""
    return Encoded([[] for _ in rows], None, list(range(len(rows))))
