from __future__ import annotations

import numpy as np
import pytest

from secateur.errors import DataError
from secateur.tasks.text_classification import Row, agreement, answers, oos_auroc, score, softmax


def _rows(*labels: str) -> list[Row]:
    return [Row(f"text {i}", label) for i, label in enumerate(labels)]


def _logits(*tops: int, num_labels: int = 3) -> np.ndarray:
    return 5 * np.eye(num_labels, dtype=np.float32)[list(tops)]


def test_softmax_survives_large_logits() -> None:
    probabilities = softmax([[1000.0, 999.0], [-1000.0, -1000.0]])
    np.testing.assert_allclose(probabilities, [[0.7310586, 0.2689414], [0.5, 0.5]], rtol=1e-6)
    assert probabilities.dtype == np.float32


def test_answers_come_best_first() -> None:
    found = answers(["a", "b", "c"], [[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]], top_k=2)
    assert [[answer["label"] for answer in row] for row in found] == [["b", "c"], ["a", "b"]]
    assert len(answers(["a", "b", "c"], [[0.0, 1.0, 2.0]], top_k=None)[0]) == 3
    assert sum(answer["score"] for answer in answers(["a", "b"], [[0.3, 0.1]], None)[0]) == pytest.approx(1)


def test_score_counts_what_is_right() -> None:
    result = score(["a", "b", "c"], _logits(0, 1, 1, 0), _rows("a", "b", "a", "a"))
    # F1: a = 2*2/(3+2), b = 2*1/(1+2), c occurs nowhere
    assert result == {"accuracy": 0.75, "macro_f1": pytest.approx((0.8 + 2 / 3) / 2), "n": 4}


def test_a_trained_out_of_scope_label_is_reported_apart() -> None:
    result = score(["a", "b", "oos"], _logits(0, 1, 2, 0), _rows("a", "b", "oos", "oos"))
    assert result["accuracy"] == 1.0
    assert result["n"] == 2
    assert result["oos_recall"] == 0.5
    assert result["n_oos"] == 2


def test_rows_kept_apart_never_enter_accuracy() -> None:
    apart = np.zeros((2, 3), np.float32)
    result = score(["a", "b", "c"], _logits(0, 1), _rows("a", "b"), apart)
    assert result["accuracy"] == result["oos_auroc"] == 1.0
    assert result["n"] == result["n_oos"] == 2


def test_auroc_counts_ties_half() -> None:
    sure, torn = [4.0, 0.0], [0.0, 0.0]
    assert oos_auroc([sure, sure], [torn]) == 1.0
    assert oos_auroc([torn], [sure]) == 0.0
    assert oos_auroc([torn, sure], [torn, sure]) == 0.5


def test_impossible_scores_are_refused() -> None:
    with pytest.raises(DataError, match="no row"):
        score(["a", "b"], np.zeros((0, 2)), [])
    with pytest.raises(DataError, match="does not know the label 'z'"):
        score(["a", "b", "c"], _logits(0), _rows("z"))
    with pytest.raises(DataError, match=r"\[2, 3\]"):
        score(["a", "b", "c"], _logits(0, 1), _rows("a"))


def test_agreement_measures_what_the_targets_ask() -> None:
    reference = np.array([[1.0, 0.9], [0.0, 1.0]])
    same = agreement(reference, reference)
    assert same == {"rows_differ": 0.0, "worst_margin": 0.0, "mean_difference": 0.0}
    other = agreement(reference, [[0.9, 1.0], [0.0, 1.0]])
    assert other["rows_differ"] == 0.5
    assert other["worst_margin"] == pytest.approx(0.1)
    assert other["mean_difference"] == pytest.approx(0.05 / reference.std())
