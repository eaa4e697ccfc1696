"""TF-IDF vectors as sentence embeddings."""

from __future__ import annotations

import random

import numpy as np
import pytest

from secateur.baselines import TfidfCosine, measure
from secateur.data import Splits
from secateur.tasks.sentence_embeddings import Row, SentenceEmbeddings

pytest.importorskip("sklearn")

WORDS = ["apple", "pear", "plum", "hammer", "saw", "drill", "coat", "hat", "sock", "rain", "snow", "wind"]


def pairs(count: int, seed: int) -> list[Row]:
    """The score is how many of four words two texts share."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        first = draw.sample(WORDS, 4)
        others = [word for word in WORDS if word not in first]
        shared = draw.randint(0, 4)
        second = draw.sample(first, shared) + draw.sample(others, 4 - shared)
        made.append(Row(" ".join(first), " ".join(second), float(shared)))
    return made


def test_shared_words_are_nearness() -> None:
    train = pairs(60, 0)
    made = Splits("tiny", SentenceEmbeddings.from_rows(train), train, pairs(30, 1), pairs(60, 2))
    found = measure(TfidfCosine(made.task), made)
    assert found["test"][made.task.main_metric] > 0.8
    assert found["latency_ms"] > 0


def test_vectors_have_length_one_and_equal_texts_one_vector() -> None:
    train = pairs(20, 0)
    baseline = TfidfCosine(SentenceEmbeddings.from_rows(train))
    baseline.fit(train, [])
    same = train[0]._replace(text_pair=train[0].text)
    encoded, outputs = baseline.outputs([same, train[1]])
    assert len(outputs) == len(encoded) == 4
    assert np.allclose(np.linalg.norm(np.array(outputs), axis=1), 1.0, atol=1e-6)
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[2], outputs[3])
