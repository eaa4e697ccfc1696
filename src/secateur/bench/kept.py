"""How much of the dense model's score another one keeps, how sure that is, and how far seeds lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.bench.bootstrap import paired_bootstrap
from secateur.errors import DataError
from secateur.tasks import Encoded, Outputs, Task

__all__ = ["kept", "row_sums", "score_of_sums"]

RowSums = NDArray[np.float64]

# Main metrics that are means over rows, of which each can be scored alone.
_MEANS = ("accuracy", "f1", "exact_match")


def row_sums(task: Task, rows: Sequence[Any], encoded: Encoded, outputs: Outputs) -> RowSums | None:
    """Returns what the task's main metric adds up over rows.

    Args:
        task: The task.
        rows: [n] labelled rows.
        encoded: Their features, in the order of the rows; for means over rows there may be more behind.
        outputs: [F] reduced outputs.

    Returns:
        [n, 2] (what a row scores, and how much it weighs) for means over rows or words; [n, 3] (right,
        answered and true entities or labels) for an F1 over all rows; None for other metrics, as
        correlations.
    """
    if task.main_metric == "micro_f1":
        truth = np.array([target["labels"] for target in task.targets(rows, encoded)]) > 0.5
        answered = np.array([np.asarray(output) >= 0.0 for output in outputs])  # a probability of 0.5
        return np.stack([(truth & answered).sum(1), answered.sum(1), truth.sum(1)], axis=1).astype(np.float64)
    if task.name == "token-classification":
        answers = task.answers(rows, encoded, outputs, aggregation="none")
        count = _entity_counts if task.main_metric == "f1" else _tag_counts
        return np.array(
            [count(row.tags, answer["tags"]) for row, answer in zip(rows, answers, strict=True)], np.float64
        )
    if task.main_metric not in _MEANS:
        return None
    sums = np.zeros((len(rows), 2))
    for index, features in enumerate(_features_of(len(rows), encoded)):
        found = task.score([rows[index]], _part(encoded, features), [outputs[place] for place in features])
        value = found[task.main_metric]
        if value is not None:
            sums[index] = value, 1.0
    return sums


def score_of_sums(sums: RowSums) -> NDArray[np.float64]:
    """Returns the metric of rows that were added up, [..., 2 or 3] to [...]; NaN where there is nothing."""
    right, *counts = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = (
            right / counts[0] if len(counts) == 1 else 2 * right / (counts[0] + counts[1])
        )
    return result


def kept(
    dense: Sequence[RowSums],
    other: Sequence[RowSums],
    groups: Sequence[object] | None = None,
    draws: int = 2000,
) -> dict[str, Any]:
    """Compares models with the dense ones that they were made from, pair by pair.

    Args:
        dense: One array a seed, each [n, 2] or [n, 3].
        other: As many arrays of the same rows.
        groups: [n] rows that belong together, see `paired_bootstrap`.
        draws: See `paired_bootstrap`.

    Returns:
        `value` (mean over seeds of score / dense score), `low` and `high` (95 % bounds over test rows: the
        same rows are drawn for all seeds and for both models), `by_seed` and `spread` (largest minus smallest
        of these; None for one seed).

    Raises:
        DataError: The arrays are not of the same rows.
    """
    if len(dense) != len(other) or len({len(sums) for sums in (*dense, *other)}) != 1:
        raise DataError("Only scores of the same rows, pair by pair, can be compared.")
    first, second = np.stack(dense), np.stack(other)  # [seeds, n, 2 or 3]

    def mean_ratio(indices: NDArray[np.intp]) -> float:
        ratios = score_of_sums(second[:, indices].sum(1)) / score_of_sums(first[:, indices].sum(1))
        return float(ratios.mean())

    found = paired_bootstrap(mean_ratio, first.shape[1], groups=groups, draws=draws)
    by_seed = [float(ratio) for ratio in score_of_sums(second.sum(1)) / score_of_sums(first.sum(1))]
    spread = max(by_seed) - min(by_seed) if len(by_seed) > 1 else None
    return {
        "value": fmean(by_seed),
        "low": found.low,
        "high": found.high,
        "by_seed": by_seed,
        "spread": spread,
    }


def _entity_counts(truth: Sequence[str], given: Sequence[str]) -> tuple[int, int, int]:
    """Returns how many entities are right, answered and true."""
    true, answered = _entities(truth), _entities(given)
    return len(true & answered), len(answered), len(true)


def _tag_counts(truth: Sequence[str], given: Sequence[str]) -> tuple[int, int]:
    """Returns how many words are right, and how many there are."""
    return sum(one == other for one, other in zip(truth, given, strict=True)), len(truth)


def _entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Returns (name, first, last) of every entity; an I- that continues nothing begins one, as in CoNLL."""
    found = set()
    start, name = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        kind, _, entity = tag.partition("-")
        if name and (kind != "I" or entity != name):
            found.add((name, start, place - 1))
            name = ""
        if kind in ("B", "I") and (kind == "B" or not name):
            start, name = place, entity
    return found


def _features_of(rows: int, encoded: Encoded) -> list[list[int]]:
    """Returns the features of each row."""
    places: list[list[int]] = [[] for _ in range(rows)]
    for place, row in enumerate(encoded.rows):
        if row < rows:
            places[row].append(place)
    return places


def _part(encoded: Encoded, features: Sequence[int]) -> Encoded:
    """Returns some features as those of a first and only row."""

    def chosen(values: Any) -> Any:
        return [values[place] for place in features] if values else values

    return Encoded(
        chosen(encoded.input_ids),
        chosen(encoded.token_type_ids),
        [0] * len(features),
        chosen(encoded.positions),
        chosen(encoded.details),
    )
