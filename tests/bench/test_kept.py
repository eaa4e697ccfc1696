"""What scores add up to, row by row, and what is made of it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from secateur.bench.kept import kept, row_sums, score_of_sums
from secateur.errors import DataError
from secateur.tasks import Task
from secateur.tasks.text_classification import Row, TextClassification
from secateur.tasks.token_classification import Row as WordsRow
from secateur.tasks.token_classification import TokenClassification

TAGS = ["O", "B-a", "I-a", "B-b", "I-b"]


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def cases() -> dict[str, tuple[Task, list[object]]]:
    draw = random.Random(0)
    labels = ["x", "y", "z"]
    texts = ["one two", "three", "four five six"]
    single = [Row(draw.choice(texts), draw.choice([*labels, "oos"])) for _ in range(80)]
    several = [
        Row(draw.choice(texts), tuple(sorted(draw.sample(labels, draw.randint(0, 3))))) for _ in range(80)
    ]
    words = [WordsRow(tuple("abcdef"), tuple(draw.choices(TAGS, k=6))) for _ in range(80)]
    plain = [WordsRow(tuple("abc"), tuple(draw.choices(["noun", "verb"], k=3))) for _ in range(80)]
    return {
        "single": (TextClassification([*labels, "oos"]), single),
        "several": (TextClassification(labels, "multi-label"), several),
        "entities": (TokenClassification(TAGS), words),
        "tags": (TokenClassification(["noun", "verb"]), plain),
    }


def random_outputs(task: Task, lengths: list[int], seed: int) -> list[NDArray[np.float32]]:
    random_ = np.random.default_rng(seed)
    shapes = [
        (length, len(task.labels)) if task.head == "token" else (len(task.labels),) for length in lengths
    ]
    return [random_.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("name", list(cases()))
def test_sums_give_the_score_of_the_task(name: str) -> None:
    if name == "entities":
        pytest.importorskip("seqeval")
    task, rows = cases()[name]
    encoded = task.encode(tokenizer(), rows, 64)
    outputs = random_outputs(task, [len(ids) for ids in encoded.input_ids], 1)
    sums = row_sums(task, rows, encoded, outputs)
    assert sums is not None
    assert len(sums) == len(rows)
    scored = task.score(rows, encoded, outputs)[task.main_metric]
    assert score_of_sums(sums.sum(0)) == pytest.approx(scored, abs=1e-12)
    assert 0 < scored < 1


def test_rows_behind_the_test_rows_are_no_part_of_it() -> None:
    task = TextClassification(["x", "y"])
    rows = [Row("one", "x"), Row("two", "y"), Row("three", "oos")]
    encoded = task.encode(tokenizer(), rows, 64)
    outputs = [np.array([1, 0], np.float32)] * 3
    assert np.array_equal(row_sums(task, rows[:2], encoded, outputs), [[1, 1], [0, 1]])


def test_a_correlation_adds_up_to_nothing() -> None:
    task = TextClassification(["score"], "regression")
    rows = [Row("one", 1.0), Row("two", 2.0)]
    encoded = task.encode(tokenizer(), rows, 64)
    assert row_sums(task, rows, encoded, [np.zeros(1, np.float32)] * 2) is None


def sums_of(right: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.stack([right, np.ones(len(right))], axis=1).astype(np.float64)


def test_kept_over_seeds() -> None:
    random_ = np.random.default_rng(0)
    dense = [random_.random(1000) < 0.9 for _ in range(3)]
    other = [one & (random_.random(1000) < 0.95) for one in dense]
    found = kept([sums_of(one) for one in dense], [sums_of(one) for one in other], draws=500)
    ratios = [two.mean() / one.mean() for one, two in zip(dense, other, strict=True)]
    assert found["by_seed"] == pytest.approx(ratios)
    assert found["value"] == pytest.approx(np.mean(ratios))
    assert found["low"] < found["value"] < found["high"] < 1
    assert found["spread"] == pytest.approx(max(ratios) - min(ratios))
    alone = kept([sums_of(dense[0])], [sums_of(other[0])], draws=500)
    assert alone["spread"] is None
    assert alone["high"] - alone["low"] > found["high"] - found["low"]


def test_scores_of_other_rows_are_refused() -> None:
    with pytest.raises(DataError, match="same rows"):
        kept([np.ones((3, 2))], [np.ones((4, 2))])
    assert math.isnan(float(score_of_sums(np.zeros(2))))
