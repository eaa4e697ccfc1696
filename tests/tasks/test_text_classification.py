from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secateur.errors import DataError
from secateur.tasks import Encoded, TextClassification
from secateur.tasks.label_scores import oos_auroc
from secateur.tasks.text_classification import Row


def _rows(*labels: str) -> list[Row]:
    return [Row(f"text {i}", label) for i, label in enumerate(labels)]


def _logits(*tops: int, num_labels: int = 3) -> list[np.ndarray]:
    return list(5 * np.eye(num_labels, dtype=np.float32)[list(tops)])


def _score(labels: list[str], logits: Any, rows: list[Row]) -> dict[str, Any]:
    return TextClassification(labels).score(rows, _features(rows), logits)


def _answers(labels: list[str], logits: Any, **options: Any) -> list[Any]:
    rows = [Row("text")] * len(logits)
    return TextClassification(labels).answers(rows, _features(rows), logits, **options)


def _features(rows: list[Row]) -> Encoded:
    return Encoded([[1, 2]] * len(rows), None, list(range(len(rows))))


def test_answers_come_best_first() -> None:
    found = _answers(["a", "b", "c"], [[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]], top_k=2)
    assert [[answer["label"] for answer in row] for row in found] == [["b", "c"], ["a", "b"]]
    assert len(_answers(["a", "b", "c"], [[0.0, 1.0, 2.0]], top_k=None)[0]) == 3
    assert [len(row) for row in _answers(["a", "b", "c"], [[0.0, 1.0, 2.0]])] == [1]
    both = _answers(["a", "b"], [[0.3, 0.1]], top_k=None)[0]
    assert sum(answer["score"] for answer in both) == pytest.approx(1)


def test_no_text_has_no_answer() -> None:
    assert _answers(["a", "b"], []) == []


def test_score_counts_what_is_right() -> None:
    result = _score(["a", "b", "c"], _logits(0, 1, 1, 0), _rows("a", "b", "a", "a"))
    # F1: a = 2*2/(3+2), b = 2*1/(1+2), c occurs nowhere
    assert result == {"accuracy": 0.75, "macro_f1": pytest.approx((0.8 + 2 / 3) / 2), "n": 4}


def test_a_trained_out_of_scope_label_is_reported_apart() -> None:
    result = _score(["a", "b", "oos"], _logits(0, 1, 2, 0), _rows("a", "b", "oos", "oos"))
    assert result["accuracy"] == 1.0
    assert result["n"] == 2
    assert result["oos_recall"] == 0.5
    assert result["n_oos"] == 2


def test_rows_kept_apart_never_enter_accuracy() -> None:
    logits = [*_logits(0, 1), *np.zeros((2, 3), np.float32)]
    result = _score(["a", "b", "c"], logits, _rows("a", "b", "oos", "out_of_scope"))
    assert result["accuracy"] == result["oos_auroc"] == 1.0
    assert result["n"] == result["n_oos"] == 2


def test_auroc_counts_ties_half() -> None:
    sure, torn = [4.0, 0.0], [0.0, 0.0]
    assert oos_auroc([sure, sure], [torn]) == 1.0
    assert oos_auroc([torn], [sure]) == 0.0
    assert oos_auroc([torn, sure], [torn, sure]) == 0.5


def test_impossible_scores_are_refused() -> None:
    with pytest.raises(DataError, match="no row"):
        _score(["a", "b"], [], [])
    with pytest.raises(DataError, match="does not know the label 'z'"):
        _score(["a", "b", "c"], _logits(0), _rows("z"))
    with pytest.raises(DataError, match=r"\[2, 3\]"):
        _score(["a", "b", "c"], _logits(0, 1), _rows("a"))
