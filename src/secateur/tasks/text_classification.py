"""Text classification: one text, one of several labels.

Out-of-scope texts follow one rule. Where `oos` or `out_of_scope` is a trained label, accuracy counts the
rows of the other labels and `oos_recall` those of this one. Where such a label occurs in no training row, its
test rows are kept apart: they never enter accuracy, and `oos_auroc` says how well the largest probability
tells them from the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateur.errors import DataError

__all__ = [
    "LABEL_COLUMNS",
    "OUT_OF_SCOPE_LABELS",
    "TEXT_COLUMNS",
    "Answer",
    "Row",
    "agreement",
    "answers",
    "oos_auroc",
    "score",
    "softmax",
]

# Looked for in this order when the user names no column.
TEXT_COLUMNS = ("text", "sentence", "utterance", "query", "question", "content")
LABEL_COLUMNS = ("label", "intent", "category", "target", "class")

OUT_OF_SCOPE_LABELS = frozenset({"oos", "out_of_scope"})


class Row(NamedTuple):
    """One labelled text."""

    text: str
    label: str


class Answer(TypedDict):
    """One label with its probability."""

    label: str
    score: float


def softmax(logits: ArrayLike) -> NDArray[np.float32]:
    """Returns probabilities.

    Args:
        logits: [B, L].

    Returns:
        [B, L] float32; rows sum to 1.
    """
    shifted = np.asarray(logits, np.float32)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    raised = np.exp(shifted)
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), np.float32)


def answers(labels: Sequence[str], logits: ArrayLike, top_k: int | None = 1) -> list[list[Answer]]:
    """Turns logits into the likeliest labels.

    Args:
        labels: [L] names, in the order of the logits.
        logits: [B, L].
        top_k: How many labels a text, best first; None for all of them.

    Returns:
        [B] lists of answers. Equal probabilities keep the order of the labels.
    """
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    return [
        [{"label": labels[index], "score": float(row[index])} for index in best]
        for row, best in zip(probabilities, order, strict=True)
    ]


def score(
    labels: Sequence[str],
    logits: ArrayLike,
    rows: Sequence[Row],
    out_of_scope_logits: ArrayLike | None = None,
) -> dict[str, Any]:
    """Scores logits against the true labels.

    Args:
        labels: [L] names, in the order of the logits.
        logits: [n, L] of the rows.
        rows: [n] labelled texts; every label must be one of `labels`.
        out_of_scope_logits: [m, L] of the out-of-scope rows that were kept apart, if any.

    Returns:
        `accuracy` (fraction of the in-scope rows whose label comes first; None without such rows), `macro_f1`
        (mean over the labels that occur in the truth or in the answers), `n` (in-scope rows); with trained
        out-of-scope rows `oos_recall` and `n_oos`; with `out_of_scope_logits` `oos_auroc` and `n_oos`.

    Raises:
        DataError: If there is no row, a label is unknown, or the sizes differ.
    """
    predicted = np.asarray(logits, np.float32)
    if not rows:
        raise DataError("There is no row to score: give data with a test split.")
    if predicted.shape != (len(rows), len(labels)):
        raise DataError(
            f"The logits are {list(predicted.shape)}, but {len(rows)} rows and {len(labels)} labels "
            f"were given."
        )
    index = {label: i for i, label in enumerate(labels)}
    unknown = sorted({row.label for row in rows} - set(index))
    if unknown:
        raise DataError(
            f"The model does not know the label {unknown[0]!r} ({len(unknown)} such labels in the data): "
            f"evaluate on data with the labels it was trained on."
        )
    truth = np.array([index[row.label] for row in rows])
    top = predicted.argmax(axis=-1)
    right = top == truth
    out_of_scope = np.array([row.label in OUT_OF_SCOPE_LABELS for row in rows])
    in_scope = ~out_of_scope
    result: dict[str, Any] = {
        "accuracy": float(right[in_scope].mean()) if in_scope.any() else None,
        "macro_f1": _macro_f1(truth, top, len(labels)),
        "n": int(in_scope.sum()),
    }
    if out_of_scope.any():
        result |= {"oos_recall": float(right[out_of_scope].mean()), "n_oos": int(out_of_scope.sum())}
    if out_of_scope_logits is not None and len(np.asarray(out_of_scope_logits)):
        apart = np.asarray(out_of_scope_logits, np.float32)
        result |= {"oos_auroc": oos_auroc(predicted[in_scope], apart), "n_oos": len(apart)}
    return result


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


def agreement(reference: ArrayLike, other: ArrayLike) -> dict[str, float]:
    """Compares the logits of two engines for the same texts.

    Args:
        reference: [n, L] logits, n > 0.
        other: [n, L] logits.

    Returns:
        `rows_differ` (fraction with another top label), `worst_margin` (largest distance between the
        reference's top two among those rows, as a fraction of the range of its logits; 0 where none differs)
        and `mean_difference` (mean absolute difference over the standard deviation of the reference).
    """
    first, second = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    differs = first.argmax(axis=-1) != second.argmax(axis=-1)
    ordered = np.sort(first, axis=-1)
    margins = (ordered[:, -1] - ordered[:, -2]) / (first.max() - first.min())
    return {
        "rows_differ": float(differs.mean()),
        "worst_margin": float(margins[differs].max(initial=0.0)),
        "mean_difference": float(np.abs(first - second).mean() / first.std()),
    }


def _macro_f1(truth: NDArray[np.int64], top: NDArray[np.int64], num_labels: int) -> float:
    hits = np.bincount(truth[truth == top], minlength=num_labels)
    occurrences = np.bincount(truth, minlength=num_labels) + np.bincount(top, minlength=num_labels)
    present = occurrences > 0
    return float((2 * hits[present] / occurrences[present]).mean())
