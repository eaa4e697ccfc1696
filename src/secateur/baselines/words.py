"""Tags of words without a network: the most frequent tag, and a linear model over words and neighbours."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from secateur.baselines.linear import LABEL_STRENGTHS, LinearModel, fit_labels, strongest
from secateur.errors import DataError
from secateur.tasks import Encoded, Outputs, Task
from secateur.tasks.task import IGNORED

__all__ = ["FrequentTag", "WordFeatures"]

_ANY_LENGTH = 1 << 30


class _Words:
    """The rows' words as a tokenizer would give them: a token each."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        self._tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    def encode(self, rows: Sequence[Any]) -> Encoded:
        return self._task.encode(self._tokenizer, rows, _ANY_LENGTH)

    def tags(self, rows: Sequence[Any], encoded: Encoded) -> list[NDArray[np.intp]]:
        """Returns for each row the place of each token's tag, -100 where a token begins no word."""
        found = [np.asarray(target["labels"]) for target in self._task.targets(rows, encoded)]
        for row, tags in zip(rows, found, strict=True):
            if np.count_nonzero(tags != IGNORED) != len(_seen(row)):
                raise DataError(f"The words of {' '.join(row.tokens)[:60]!r} cannot be told apart.")
        return found

    def spread(self, tags: NDArray[np.intp], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Puts the scores of words [W, L] where their tokens are, [S, L]."""
        output = np.zeros((len(tags), scores.shape[1]), np.float32)
        output[tags != IGNORED] = scores
        return output


class FrequentTag:
    """Every word gets the tag that it has most often in the training rows, an unknown one that of all words.

    Args:
        task: Knows the tags.
    """

    name: ClassVar[str] = "most frequent tag"

    def __init__(self, task: Task) -> None:
        self._words = _Words(task)
        self._num_tags = len(task.labels)
        self._tag_of: dict[str, int] = {}
        self._usual = 0

    def fit(self, train: Sequence[Any], validation: Sequence[Any]) -> None:
        """Learns: see `Baseline`."""
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        everywhere: Counter[int] = Counter()
        encoded = self._words.encode(train)
        for row, tags in zip(train, self._words.tags(train, encoded), strict=True):
            for word, tag in zip(_seen(row), tags[tags != IGNORED].tolist(), strict=True):
                counts[word][tag] += 1
                everywhere[tag] += 1
        self._tag_of = {word: found.most_common(1)[0][0] for word, found in counts.items()}
        self._usual = everywhere.most_common(1)[0][0]

    def outputs(self, rows: Sequence[Any]) -> tuple[Encoded, Outputs]:
        """Returns 1 for the tag of a word, 0 for others: see `Baseline`."""
        encoded = self._words.encode(rows)
        outputs = []
        for row, tags in zip(rows, self._words.tags(rows, encoded), strict=True):
            places = [self._tag_of.get(word, self._usual) for word in _seen(row)]
            scores = np.zeros((len(places), self._num_tags), np.float32)
            scores[np.arange(len(places)), places] = 1.0
            outputs.append(self._words.spread(tags, scores))
        return encoded, outputs

    def size_bytes(self) -> int:
        """Returns the letters of all words and a byte each: see `Baseline`."""
        return sum(len(word.encode("utf-8", "surrogatepass")) + 2 for word in self._tag_of)


class WordFeatures:
    """A linear model over a word's letters and shape and those of the words beside it.

    Args:
        task: Knows the tags.
        seed: Of the solver.
    """

    name: ClassVar[str] = "word features + linear"

    def __init__(self, task: Task, seed: int = 42) -> None:
        self._task = task
        self._words = _Words(task)
        self._seed = seed
        self._vectorizer: Any = None
        self._model: LinearModel | None = None

    def fit(self, train: Sequence[Any], validation: Sequence[Any]) -> None:
        """Learns: see `Baseline`."""
        from sklearn.feature_extraction import DictVectorizer

        encoded = self._words.encode(train)
        tags = np.concatenate([tags[tags != IGNORED] for tags in self._words.tags(train, encoded)])
        self._vectorizer = DictVectorizer(dtype=np.float64)
        self._vectorizer.fit(_described(train))
        features = self._features(train)
        truth = tags[:, None] == np.arange(len(self._task.labels))
        score = None
        if validation:

            def score(model: LinearModel) -> float:
                self._model = model
                found = self._task.score(validation, *self.outputs(validation))
                return float(found[self._task.main_metric] or 0.0)

        self._model = strongest(
            LABEL_STRENGTHS, lambda one: fit_labels(features, truth, one, self._seed), score
        )

    def outputs(self, rows: Sequence[Any]) -> tuple[Encoded, Outputs]:
        """Returns distances: see `Baseline`."""
        if self._model is None:
            raise DataError("The baseline has learnt nothing yet: call fit first.")
        encoded = self._words.encode(rows)
        scores = self._model(self._features(rows))
        ends = np.cumsum([len(_seen(row)) for row in rows])[:-1]
        tags = self._words.tags(rows, encoded)
        return encoded, [self._words.spread(*pair) for pair in zip(tags, np.split(scores, ends), strict=True)]

    def size_bytes(self) -> int:
        """Returns the size of weights and names of features: see `Baseline`."""
        if self._model is None:
            return 0
        names = self._vectorizer.feature_names_
        return self._model.nbytes + sum(len(name.encode("utf-8", "surrogatepass")) + 1 for name in names)

    def _features(self, rows: Sequence[Any]) -> Any:
        """Returns [words, F] sparse; the solver takes 32-bit places only, and the vectorizer makes others."""
        features = self._vectorizer.transform(_described(rows))
        features.indices = features.indices.astype(np.int32)
        features.indptr = features.indptr.astype(np.int32)
        return features


def _seen(row: Any) -> list[str]:
    """Returns the words that a tokenizer sees: those that are not white space."""
    return [word for word in row.tokens if word.split()]


def _described(rows: Sequence[Any]) -> Iterator[dict[str, float]]:
    """Yields the features of every word of every row."""
    for row in rows:
        words = ["", *_seen(row), ""]
        shapes = [_shape(word) for word in words]
        for place in range(1, len(words) - 1):
            word, lower = words[place], words[place].lower()
            before, after = words[place - 1].lower(), words[place + 1].lower()
            names = [
                f"word={lower}",
                f"shape={shapes[place]}",
                f"before={before}",
                f"after={after}",
                f"both={before} {lower}",
                f"shapes={shapes[place - 1]} {shapes[place]} {shapes[place + 1]}",
                *(f"start={word[:size]}" for size in (1, 2, 3) if len(word) > size),
                *(f"end={lower[-size:]}" for size in (1, 2, 3, 4) if len(lower) > size),
            ]
            yield dict.fromkeys(names, 1.0)


def _shape(word: str) -> str:
    """Returns a word with letters as x or X and digits as 0, runs of one kind as one sign."""
    signs: list[str] = []
    for letter in word:
        sign = "0" if letter.isdigit() else "X" if letter.isupper() else "x" if letter.isalpha() else letter
        if not signs or signs[-1] != sign:
            signs.append(sign)
    return "".join(signs)
