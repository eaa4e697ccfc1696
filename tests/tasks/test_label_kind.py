"""Kinds of text classification: guessed from labels, forced, encoded, answered and scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from task_tokenizers import word_pieces

from secateur.errors import DataError, UnsupportedError
from secateur.tasks import TASKS, Encoded, TextClassification, task_named, task_of
from secateur.tasks.label_kind import guess_kind, named_labels
from secateur.tasks.text_classification import Row


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["a", "b"], "single-label"),
        (["0", "1", "12"], "single-label"),
        (["1.0", "2.0"], "single-label"),
        (["1.0", "2.5"], "regression"),
        ([1.0, "3"], "regression"),
        ([("a", "b"), ("a",)], "multi-label"),
        (["joy|anger", "joy", ""], "multi-label"),
        (["joy, anger", "fear, joy"], "multi-label"),
        (["news, sport and more", "music"], "single-label"),
        (["a;b", "c;d"], "single-label"),
    ],
)
def test_the_kind_is_guessed_from_labels(labels: list[Any], kind: str) -> None:
    assert guess_kind(labels) == kind


def _rows(*labels: Any) -> list[Row]:
    return [Row(f"text {i}", label) for i, label in enumerate(labels)]


def _features(rows: list[Row]) -> Encoded:
    return Encoded([[1, 2]] * len(rows), None, list(range(len(rows))))


def test_several_labels_are_learnt_answered_and_scored() -> None:
    raw = _rows("joy|anger", "joy", "", "fear|joy")
    task = TextClassification.from_rows(raw)
    assert (task.kind, task.labels, task.main_metric) == ("multi-label", ["anger", "fear", "joy"], "micro_f1")
    rows = [task.adapt(row) for row in raw]
    assert [row.label for row in rows] == [("anger", "joy"), ("joy",), (), ("fear", "joy")]
    encoded = _features(rows)
    assert task.targets(rows, encoded)[0] == {"labels": [1.0, 0.0, 1.0]}
    outputs = [np.array(one, np.float32) for one in ([2, -3, 1], [-1, -1, 3], [-2, -2, -1], [-1, -1, 2])]
    result = task.score(rows, encoded, outputs)
    # 4 of 5 labels are found, none is wrong
    assert result["micro_f1"] == pytest.approx(8 / 9)
    assert result["macro_f1"] == pytest.approx((1 + 0 + 1) / 3)
    assert result["subset_accuracy"] == 0.75
    assert [one[0]["label"] for one in task.answers(rows, encoded, outputs)] == ["anger", "joy", "joy", "joy"]
    answered = task.answers(rows, encoded, outputs, threshold=0.5)
    assert [[one["label"] for one in row] for row in answered] == [["anger", "joy"], ["joy"], [], ["joy"]]
    assert [len(row) for row in task.answers(rows, encoded, outputs, threshold=0.5, top_k=1)] == [1, 1, 0, 1]
    assert task.config()["problem_type"] == "multi_label_classification"


def test_numbers_are_learnt_answered_and_scored() -> None:
    raw = _rows("0.5", "3", "5.0")
    task = TextClassification.from_rows(raw)
    assert (task.kind, task.labels, task.main_metric) == ("regression", ["score"], "spearman")
    rows = [task.adapt(row) for row in raw]
    encoded = _features(rows)
    assert task.targets(rows, encoded) == [{"labels": 0.5}, {"labels": 3.0}, {"labels": 5.0}]
    outputs = [np.array([value], np.float32) for value in (0.5, 4.0, 4.5)]
    result = task.score(rows, encoded, outputs)
    assert result["spearman"] == pytest.approx(1)
    assert result["rmse"] == pytest.approx(np.sqrt((0 + 1 + 0.25) / 3))
    assert task.answers(rows, encoded, outputs)[1] == [{"label": "score", "score": 4.0}]
    with pytest.raises(DataError, match="'label' must be a number for regression, but is 'bad'"):
        task.adapt(Row("x", "bad"))
    with pytest.raises(DataError, match="must be a number"):
        task.adapt(Row("x", "nan"))


def test_a_kind_can_be_forced() -> None:
    rows = _rows("1", "2", "1")
    assert TextClassification.from_rows(rows, kind="regression").kind == "regression"
    forced = TextClassification.from_rows(_rows("a,b", "c"), kind="multi-label")
    assert forced.labels == ["a", "b", "c"]
    single = TextClassification.from_rows(_rows("a|b", "a", "b"), kind="single-label")
    assert single.labels == ["a", "a|b", "b"]
    with pytest.raises(DataError, match="'label' must be one label, but is"):
        single.adapt(Row("x", ("a", "b")))
    with pytest.raises(DataError, match="give single-label, multi-label, regression"):
        TextClassification.from_rows(rows, kind="ordinal")


def test_names_order_labels_and_stand_for_numbers() -> None:
    assert named_labels({"b", "a"}, ["c", "b", "a"]) == (["b", "a"], False)
    assert named_labels({"0", "1"}, ["neg", "pos"]) == (["neg", "pos"], True)
    with pytest.raises(DataError, match="'2' is none of the 2 labels"):
        named_labels({"0", "2"}, ["neg", "pos"])
    task = TextClassification.from_rows(_rows("0", "1"), names=["neg", "pos"])
    assert task.adapt(Row("x", "1")).label == "pos"
    learnt = TextClassification.from_rows(_rows("a", "b"))
    assert learnt.adapt(Row("x", "1")).label == "1"
    assert learnt.unknown([Row("x", "1")]) == ["1"]


def test_pairs_are_found_and_tokenized_as_pairs() -> None:
    guess = TextClassification.guess
    assert guess(["question", "sentence", "label", "idx"]) == {
        "text": "question",
        "text_pair": "sentence",
        "label": "label",
    }
    assert guess(["Premise", "Hypothesis", "label"])["text_pair"] == "Hypothesis"
    assert guess(["sentence", "label"]) == {"text": "sentence", "label": "label"}
    row = TextClassification.parse({"text": "the book", "text_pair": "is new", "label": 1})
    assert row == Row("the book", "1", "is new")
    task = TextClassification(["0", "1"])
    encoded = task.encode(word_pieces(), [row, Row("berlin", "0")], 16)
    assert encoded.token_type_ids == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0]]
    assert task.encode(word_pieces(), [Row("berlin", "0")], 16).token_type_ids is None
    assert task.encode(word_pieces(), [row], 5).cut == 1


def test_a_model_says_its_kind_and_labels() -> None:
    for kind, labels in (("single-label", ["x", "y"]), ("multi-label", ["x"]), ("regression", ["score"])):
        task = TextClassification(labels, kind)
        again = TextClassification.from_config(task.config())
        assert (again.kind, again.labels) == (kind, labels)
    assert TextClassification.from_config({"id2label": {"1": "b", "0": "a"}}).labels == ["a", "b"]
    assert TextClassification.from_config({"id2label": {0: "LABEL_0"}}).kind == "regression"
    assert TextClassification.from_config({}).labels == ["LABEL_0", "LABEL_1"]
    with pytest.raises(UnsupportedError, match="must number the labels from 0 on"):
        TextClassification.from_config({"id2label": {"1": "a"}})
    with pytest.raises(UnsupportedError, match="a regression with 2 numbers"):
        TextClassification.from_config({"id2label": {0: "a", 1: "b"}, "problem_type": "regression"})
    with pytest.raises(UnsupportedError, match="problem_type is 'ranking'"):
        TextClassification.from_config({"problem_type": "ranking"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.5}, "is for multi-label models"),
        ({"top_k": 0}, "top_k must be a positive integer or None"),
        ({"temperature": 2}, "no option 'temperature'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    rows = [Row("x")]
    with pytest.raises(DataError, match=message):
        TextClassification(["a", "b"]).answers(rows, _features(rows), [np.zeros(2, np.float32)], **options)


def test_tasks_are_found_by_name_and_by_model() -> None:
    assert set(TASKS) == {
        "text-classification",
        "token-classification",
        "question-answering",
        "fill-mask",
        "sentence-embeddings",
    }
    for name, architecture in (
        ("text-classification", "BertForSequenceClassification"),
        ("token-classification", "RobertaForTokenClassification"),
        ("question-answering", "AlbertForQuestionAnswering"),
        ("fill-mask", "BertForMaskedLM"),
        ("sentence-embeddings", "DistilBertModel"),
    ):
        assert task_named(name) is task_of({"architectures": [architecture]}) is TASKS[name]
    for config in ({}, {"architectures": ["BertForMultipleChoice"]}):
        with pytest.raises(UnsupportedError, match="save the model with its head"):
            task_of(config)
    with pytest.raises(UnsupportedError, match="'translation' is not known"):
        task_named("translation")
