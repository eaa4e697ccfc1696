"""What a simple baseline is to the rest, and how one is measured: like a model, by the task's own score."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, ClassVar, Protocol

from secateur.data import Splits
from secateur.errors import DataError
from secateur.tasks import Encoded, Outputs

__all__ = ["Baseline", "good_enough", "measure", "timed_calls"]

_TIMED_CALLS = 200
_WARM_CALLS = 5
_CLOSE = 0.01  # a point


class Baseline(Protocol):
    """A model without a network, that answers a task as a network would.

    Attributes:
        name: A few words for a row of a table.
    """

    name: ClassVar[str]

    def fit(self, train: Sequence[Any], validation: Sequence[Any]) -> None:
        """Learns from labelled rows; may choose its strength by the validation rows, where there are any."""

    def outputs(self, rows: Sequence[Any]) -> tuple[Encoded, Outputs]:
        """Returns features of rows and, for each, what the head of the task's models gives."""

    def size_bytes(self) -> int:
        """Returns what storing it takes: weights in float32 and the letters of its vocabulary."""


def measure(baseline: Baseline, splits: Splits) -> dict[str, Any]:
    """Trains a baseline and scores it.

    Args:
        baseline: Made for the task of the data.
        splits: The data.

    Returns:
        `name`, `validation` and `test` (as the task's `score` gives them, where there are rows), `minutes`
        (of training), `latency_ms` (median of calls with one text) and `size_mb`.

    Raises:
        DataError: There are no training rows, or nothing can be learnt from them.
    """
    if not splits.train:
        raise DataError(f"{splits.name} has no training rows: a baseline has nothing to learn from.")
    started = time.monotonic()
    baseline.fit(splits.train, splits.validation)
    minutes = (time.monotonic() - started) / 60
    result: dict[str, Any] = {"name": baseline.name}
    for split, rows in (("validation", splits.validation), ("test", [*splits.test, *splits.out_of_scope])):
        if rows:
            result[split] = splits.task.score(rows, *baseline.outputs(rows))
    timed = splits.test or splits.validation or splits.train
    return {
        **result,
        "minutes": round(minutes, 3),
        "latency_ms": round(timed_calls(lambda row: baseline.outputs([row]), timed), 4),
        "size_mb": round(baseline.size_bytes() / 1e6, 3),
    }


def good_enough(metric: str, baseline: float, reached: float) -> str:
    """Says in a sentence whether the baseline would do instead of a model.

    Args:
        metric: What was measured.
        baseline: The baseline's figure, more is better.
        reached: The model's.
    """
    figures = f"{metric} {baseline:.4f} against {reached:.4f}"
    if baseline >= reached - _CLOSE:
        return f"The simple baseline is good enough here: {figures}, within a point of the model."
    points = 100 * (reached - baseline)
    return f"The model is worth its price: {figures}, {points:.1f} points above the baseline."


def timed_calls(call: Callable[[Any], object], rows: Sequence[Any]) -> float:
    """Returns the median time of calls with one row in milliseconds.

    Args:
        call: What to time; its result is dropped.
        rows: What it is called with, from the first on, at most 200 of them.
    """
    chosen = [rows[index % len(rows)] for index in range(_WARM_CALLS + min(_TIMED_CALLS, len(rows)))]
    times = []
    for row in chosen:
        started = time.perf_counter()
        call(row)
        times.append(time.perf_counter() - started)
    return 1e3 * median(times[_WARM_CALLS:])
