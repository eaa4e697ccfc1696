"""Tags of words without a network."""

from __future__ import annotations

import random

import pytest

from secateur.baselines import FrequentTag, WordFeatures, baselines_of, measure
from secateur.data import Splits
from secateur.errors import UnsupportedError
from secateur.tasks import TASKS
from secateur.tasks.token_classification import Row, TokenClassification

pytest.importorskip("sklearn")
pytest.importorskip("seqeval")

NAMES = ["Anna", "Bo", "Carl", "Dora", "Emil", "Fritz", "Greta", "Hans"]
PLACES = ["Rome", "Oslo", "Bonn", "Cairo", "Delhi", "Essen", "Fulda", "Genoa"]


def rows(count: int, seed: int) -> list[Row]:
    """A name follows "mr", a place of two words follows "in"; the words themselves do not tell."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        words, tags = ["today"], ["O"]
        if draw.random() < 0.8:
            words += ["mr", draw.choice(NAMES + PLACES)]
            tags += ["O", "B-person"]
        words += ["was", "in", draw.choice(NAMES + PLACES), draw.choice(NAMES + PLACES)]
        tags += ["O", "O", "B-place", "I-place"]
        made.append(Row(tuple(words), tuple(tags)))
    return made


@pytest.fixture(scope="module")
def splits() -> Splits:
    train = rows(150, 0)
    return Splits("tiny", TokenClassification.from_rows(train), train, rows(30, 1), rows(60, 2))


def test_neighbours_tell_what_a_word_does_not(splits: Splits) -> None:
    frequent, features = (measure(one, splits) for one in baselines_of(splits.task))
    assert features["test"]["f1"] == 1.0
    assert frequent["test"]["f1"] < 0.6


def test_the_most_frequent_tag(splits: Splits) -> None:
    train = [
        Row(("a", "b", "b", "c"), ("O", "B-place", "O", "O")),
        Row(("b", "b"), ("B-place", "B-place")),
        Row(("zz",), ("B-person",)),
    ]
    task = TokenClassification.from_rows(train)
    baseline = FrequentTag(task)
    baseline.fit(train, [])
    asked = [Row(("b", "never", "zz"), ("O", "O", "O"))]
    encoded, outputs = baseline.outputs(asked)
    answer = task.answers(asked, encoded, outputs, aggregation="none")[0]["tags"]
    assert answer[0] == "B-place"
    assert answer[2] == "B-person"
    assert baseline.size_bytes() == sum(len(word) + 2 for word in ("a", "b", "c", "zz"))
    assert len(answer) == 3


def test_odd_words_keep_their_place(splits: Splits) -> None:
    baseline = WordFeatures(splits.task)
    baseline.fit(splits.train, [])
    odd = [Row(("today", "mr", " ", "Anna", "was"), ("O",) * 5), Row(("in", "San Remo", "Bonn"), ("O",) * 3)]
    encoded, outputs = baseline.outputs(odd)
    answers = splits.task.answers(odd, encoded, outputs, aggregation="none")
    assert [len(answer["tags"]) for answer in answers] == [5, 3]
    assert answers[0]["tags"] == ["O", "O", "O", "B-person", "O"]


def test_every_task_has_baselines_or_says_why_not() -> None:
    found = {}
    for name, kind in TASKS.items():
        task = (
            kind(["a", "b"])
            if name.endswith("classification")
            else kind(kind="pairs")
            if name == "sentence-embeddings"
            else kind()
        )
        if name in ("question-answering", "fill-mask"):
            with pytest.raises(UnsupportedError, match=f"{name} has no simple baseline.*with\\.$"):
                baselines_of(task)
        else:
            found[name] = [one.name for one in baselines_of(task)]
    assert found == {
        "text-classification": ["TF-IDF + linear"],
        "token-classification": ["most frequent tag", "word features + linear"],
        "sentence-embeddings": ["TF-IDF cosine"],
    }
