"""Linear models over sparse features: one against the rest for labels, ridge for numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinearModel", "fit_labels", "fit_numbers", "strongest"]

# Inverse strength of regularization; the validation rows choose.
LABEL_STRENGTHS = (0.1, 0.5, 2.0)
NUMBER_STRENGTHS = (0.1, 0.3, 1.0, 3.0)
_MOST_ITERATIONS = 3000


class LinearModel:
    """Weights and biases.

    Args:
        weight: [F, L] float32.
        bias: [L] float32.
    """

    def __init__(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        self.weight = np.ascontiguousarray(weight, np.float32)
        self.bias = np.asarray(bias, np.float32)

    def __call__(self, features: Any) -> NDArray[np.float32]:
        """Returns [n, L] float32 of a sparse matrix [n, F]."""
        return np.asarray(features.astype(np.float32) @ self.weight + self.bias, np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of weights and biases."""
        return self.weight.nbytes + self.bias.nbytes


def fit_labels(features: Any, truth: NDArray[np.bool_], strength: float, seed: int) -> LinearModel:
    """Fits a linear support vector machine for each label against the rest.

    Args:
        features: [n, F] sparse.
        truth: [n, L]; which labels a row has. Two columns that are each other's opposite are fitted once.
        strength: Inverse strength of regularization (C).
        seed: Of the order in which rows are visited.

    Returns:
        The model; its outputs are distances from the boundary, positive where the label is likely.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    num_labels = truth.shape[1]
    weight = np.zeros((features.shape[1], num_labels), np.float32)
    bias = np.zeros(num_labels, np.float32)
    opposite = num_labels == 2 and bool((truth[:, 0] != truth[:, 1]).all())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough: the validation rows choose
        for label in range(1 if opposite else 0, num_labels):
            positive = truth[:, label]
            if positive.all() or not positive.any():
                bias[label] = 1.0 if positive.all() else -1.0
                continue
            machine = LinearSVC(C=strength, dual="auto", random_state=seed, max_iter=_MOST_ITERATIONS)
            machine.fit(features, positive)
            weight[:, label], bias[label] = machine.coef_[0], machine.intercept_[0]
    if opposite:
        weight[:, 0], bias[0] = -weight[:, 1], -bias[1]
    return LinearModel(weight, bias)


def fit_numbers(features: Any, truth: NDArray[np.float64], strength: float, seed: int) -> LinearModel:
    """Fits a ridge regression.

    Args:
        features: [n, F] sparse.
        truth: [n] numbers.
        strength: Inverse strength of regularization.
        seed: Of the solver.

    Returns:
        The model, with one output.
    """
    from sklearn.linear_model import Ridge

    ridge = Ridge(alpha=1.0 / strength, random_state=seed).fit(features, truth)
    return LinearModel(np.asarray(ridge.coef_)[:, None], np.array([ridge.intercept_]))


def strongest(
    strengths: Sequence[float],
    fit: Callable[[float], LinearModel],
    score: Callable[[LinearModel], float] | None,
) -> LinearModel:
    """Fits with every strength and keeps what scores best.

    Args:
        strengths: What to try, weakest model first; of equal scores the first wins.
        fit: Strength to model.
        score: Of the validation rows, more is better; None takes the strength in the middle.
    """
    if score is None:
        return fit(strengths[len(strengths) // 2])
    best = None
    for strength in strengths:
        model = fit(strength)
        scored = score(model)
        if best is None or scored > best[0]:
            best = scored, model
    assert best is not None
    return best[1]
