"""Scores against the libraries that others use."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.tasks.correlation import pearson, ranks, spearman
from secateur.tasks.label_scores import macro_f1, multi_label_scores, oos_auroc
from secateur.tasks.probability import sigmoid, softmax

stats = pytest.importorskip("scipy.stats")
metrics = pytest.importorskip("sklearn.metrics")


def test_softmax_survives_large_logits() -> None:
    probabilities = softmax([[1000.0, 999.0], [-1000.0, -1000.0]])
    np.testing.assert_allclose(probabilities, [[0.7310586, 0.2689414], [0.5, 0.5]], rtol=1e-6)
    assert probabilities.dtype == np.float32


def test_sigmoid_survives_large_logits() -> None:
    found = sigmoid([[-1000.0, -1.0, 0.0, 1.0, 1000.0]])
    np.testing.assert_allclose(found, [[0.0, 0.26894143, 0.5, 0.7310586, 1.0]], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_those_of_scipy(ties: bool) -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 50))
    if ties:
        one, two = one.round(), two.round()
    assert pearson(one, two) == pytest.approx(stats.pearsonr(one, two).statistic)
    assert spearman(one, two) == pytest.approx(stats.spearmanr(one, two).statistic)
    np.testing.assert_allclose(ranks(one), stats.rankdata(one))
    assert pearson(one, np.ones(50)) == 0.0


def test_f1_is_that_of_sklearn() -> None:
    rng = np.random.default_rng(1)
    truth, top = rng.integers(0, 6, (2, 80))
    top[top == 5] = 0
    assert macro_f1(truth, top, 9) == pytest.approx(metrics.f1_score(truth, top, average="macro"))
    sets, given = rng.random((2, 80, 5)) < 0.3
    found = multi_label_scores(sets, given)
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(sets, given, average="micro"))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(sets, given, average="macro"))
    assert found["subset_accuracy"] == pytest.approx(metrics.accuracy_score(sets, given))
    assert multi_label_scores(sets & False, given & False)["micro_f1"] == 0.0


def test_auroc_is_that_of_sklearn() -> None:
    rng = np.random.default_rng(2)
    inside, outside = rng.integers(-2, 3, (40, 3)).astype(float), rng.integers(-1, 2, (30, 3)).astype(float)
    surest = np.concatenate([softmax(inside).max(1), softmax(outside).max(1)])
    expected = metrics.roc_auc_score([1] * 40 + [0] * 30, surest)
    assert oos_auroc(inside, outside) == pytest.approx(expected)
