"""Scores of labels: F1 of one label or several a row, and out-of-scope texts told from the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateur.tasks.probability import softmax

__all__ = ["macro_f1", "multi_label_scores", "oos_auroc"]


def macro_f1(truth: NDArray[np.int64], top: NDArray[np.int64], num_labels: int) -> float:
    """Returns the mean F1 of the labels that occur in the truth or in the answers.

    Args:
        truth: [n] label numbers.
        top: [n] label numbers.
        num_labels: How many labels there are.
    """
    hits = np.bincount(truth[truth == top], minlength=num_labels)
    occurrences = np.bincount(truth, minlength=num_labels) + np.bincount(top, minlength=num_labels)
    present = occurrences > 0
    return float((2 * hits[present] / occurrences[present]).mean())


def multi_label_scores(truth: NDArray[np.bool_], given: NDArray[np.bool_]) -> dict[str, float]:
    """Scores sets of labels.

    Args:
        truth: [n, L] which labels are right.
        given: [n, L] which were answered.

    Returns:
        `micro_f1` (over all labels of all rows), `macro_f1` (mean over the labels that occur in the truth or
        in the answers) and `subset_accuracy` (fraction of rows with exactly the right labels). Where no label
        is right or answered anywhere, F1 is 0.
    """
    hits = (truth & given).sum(axis=0)
    occurrences = truth.sum(axis=0) + given.sum(axis=0)
    present = occurrences > 0
    return {
        "micro_f1": float(2 * hits.sum() / max(occurrences.sum(), 1)),
        "macro_f1": float((2 * hits[present] / occurrences[present]).mean()) if present.any() else 0.0,
        "subset_accuracy": float((truth == given).all(axis=1).mean()),
    }


def oos_auroc(in_scope_logits: ArrayLike, out_of_scope_logits: ArrayLike) -> float:
    """Returns how often an in-scope text has a larger top probability than an out-of-scope one.

    Args:
        in_scope_logits: [n, L], n > 0.
        out_of_scope_logits: [m, L], m > 0.

    Returns:
        The area under the ROC curve: 1 is perfect, 0.5 is chance; ties count half.
    """
    inside = softmax(in_scope_logits).max(axis=-1)
    outside = np.sort(softmax(out_of_scope_logits).max(axis=-1))
    below = np.searchsorted(outside, inside, side="left")
    not_above = np.searchsorted(outside, inside, side="right")
    return float((below + not_above).mean() / 2 / len(outside))
