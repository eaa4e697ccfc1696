"""A linear model over TF-IDF: every kind of label, chosen by the validation rows, measured like a model."""

from __future__ import annotations

import random

import numpy as np
import pytest

from secateur.baselines import TfidfLinear, good_enough, measure
from secateur.baselines.linear import LinearModel, fit_labels, strongest
from secateur.data import Splits
from secateur.errors import DataError
from secateur.tasks.text_classification import Row, TextClassification

pytest.importorskip("sklearn")

WORDS = {
    "fruit": ["apple", "pear", "plum"],
    "tool": ["hammer", "saw", "drill"],
    "cloth": ["coat", "hat", "sock"],
}
FILLERS = ["the", "a", "some", "where", "is", "my", "give", "me"]


def texts(count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    labels = list(WORDS)
    return [
        (" ".join([*draw.choices(FILLERS, k=4), draw.choice(WORDS[labels[index % 3]])]), labels[index % 3])
        for index in range(count)
    ]


def splits(train: list[Row], validation: list[Row], test: list[Row], kind: str | None = None) -> Splits:
    return Splits("tiny", TextClassification.from_rows(train, kind=kind), train, validation, test)


def test_single_labels_are_learnt() -> None:
    made = splits(*([Row(text, label) for text, label in texts(90, seed)] for seed in range(3)))
    found = measure(TfidfLinear(made.task), made)
    assert found["test"]["accuracy"] == found["validation"]["accuracy"] == 1.0
    assert found["test"]["n"] == 90
    assert found["latency_ms"] > 0
    assert found["minutes"] >= 0
    assert 0 < found["size_mb"] < 1


def test_out_of_scope_rows_are_scored_apart() -> None:
    made = splits(*([Row(text, label) for text, label in texts(60, seed)] for seed in range(3)))
    made.out_of_scope.extend([Row("??? !!!", "oos"), Row("zzzz qqqq", "oos")])
    found = measure(TfidfLinear(made.task), made)
    assert found["test"]["n"] == 60
    assert found["test"]["n_oos"] == 2
    assert found["test"]["oos_auroc"] == 1.0


def test_two_labels_are_one_machine() -> None:
    train = [Row(text, str(label == "fruit")) for text, label in texts(60, 0)]
    baseline = TfidfLinear(TextClassification.from_rows(train))
    baseline.fit(train, [])
    _, outputs = baseline.outputs(train)
    first, second = np.array(outputs).T
    assert np.array_equal(first, -second)


def test_several_labels_at_a_time() -> None:
    draw = random.Random(0)
    rows = []
    for _ in range(120):
        chosen = draw.sample(list(WORDS), k=draw.randint(0, 2))
        text = " ".join([*draw.choices(FILLERS, k=3), *(draw.choice(WORDS[label]) for label in chosen)])
        rows.append(Row(text, tuple(sorted(chosen))))
    made = splits(rows[:80], rows[80:100], rows[100:])
    found = measure(TfidfLinear(made.task), made)
    assert found["test"]["micro_f1"] == 1.0


def test_numbers() -> None:
    weights = {word: place for place, word in enumerate(word for words in WORDS.values() for word in words)}
    draw = random.Random(0)
    rows = []
    for _ in range(300):
        chosen = draw.choices(list(weights), k=4)
        rows.append(Row(" ".join(chosen), float(sum(weights[word] for word in chosen))))
    made = splits(rows[:200], rows[200:250], rows[250:])
    assert measure(TfidfLinear(made.task), made)["test"]["spearman"] > 0.95


def test_of_pairs_it_sees_what_they_share() -> None:
    draw = random.Random(0)
    everything = [word for words in WORDS.values() for word in words]
    rows = []
    for index in range(400):
        first = draw.sample(everything, 3)
        same = index % 2 == 0
        second = draw.sample(first, 3) if same else draw.sample([w for w in everything if w not in first], 3)
        rows.append(Row(" ".join(first), "same" if same else "other", " ".join(second)))
    made = splits(rows[:300], rows[300:350], rows[350:])
    assert measure(TfidfLinear(made.task), made)["test"]["accuracy"] == 1.0
    alone = [row._replace(text_pair=None) for row in rows]
    blind = splits(alone[:300], alone[300:350], alone[350:])
    assert measure(TfidfLinear(blind.task), blind)["test"]["accuracy"] < 0.75


def test_the_same_seed_gives_the_same_model() -> None:
    train = [Row(text, label) for text, label in texts(60, 0)]
    task = TextClassification.from_rows(train)
    outputs = []
    for _ in range(2):
        baseline = TfidfLinear(task, seed=3)
        baseline.fit(train, train[:10])
        outputs.append(np.array(baseline.outputs(train)[1]))
    assert np.array_equal(*outputs)


def test_a_label_without_rows_is_never_answered() -> None:
    features = np.eye(3)
    model = fit_labels(features, np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], bool), 1.0, 0)
    assert (model(features)[:, 2] == -1).all()
    assert np.array_equal(model(features)[:, :2].argmax(axis=1), [0, 1, 0])


def test_the_validation_rows_choose_the_strength() -> None:
    def fit(strength: float) -> LinearModel:
        return LinearModel(np.zeros((1, 1), np.float32), np.array([strength], np.float32))

    assert strongest((1.0, 2.0, 3.0), fit, lambda model: -abs(float(model.bias[0]) - 2.0)).bias == 2.0
    assert strongest((1.0, 2.0, 3.0), fit, lambda model: 0.0).bias == 1.0
    assert strongest((1.0, 2.0, 3.0), fit, None).bias == 2.0


def test_the_sentence_on_what_is_good_enough() -> None:
    assert "good enough" in good_enough("accuracy", 0.891, 0.9)
    assert "good enough" in good_enough("accuracy", 0.95, 0.9)
    worse = good_enough("accuracy", 0.85, 0.9)
    assert "worth its price" in worse
    assert "5.0 points" in worse


def test_nothing_to_learn_from() -> None:
    rows = [Row(text, label) for text, label in texts(6, 0)]
    made = Splits("tiny", TextClassification.from_rows(rows), [], [], rows)
    with pytest.raises(DataError, match="tiny has no training rows"):
        measure(TfidfLinear(made.task), made)
    with pytest.raises(DataError, match="learnt nothing yet"):
        TfidfLinear(made.task).outputs(rows)


def test_weights_are_what_a_file_would_hold() -> None:
    model = LinearModel(np.zeros((5, 2), np.float64), np.zeros(2))
    assert model.nbytes == 4 * 12
