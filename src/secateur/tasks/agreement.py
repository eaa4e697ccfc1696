"""How far two engines agree on the same features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateur.errors import DataError

__all__ = ["agreement"]


def agreement(
    reference: ArrayLike | Sequence[NDArray[Any]],
    other: ArrayLike | Sequence[NDArray[Any]],
    *,
    over_tokens: bool = False,
) -> dict[str, float]:
    """Compares the outputs of two engines for the same features.

    Args:
        reference: Outputs as a task takes them: [n, L], or n arrays [L] or [S_i, L]. Every row of L outputs
            is a decision: the largest wins.
        other: Outputs of the same shapes.
        over_tokens: A decision is a column of [S_i, L] instead: which token wins, as for the start and the
            end of an answer.

    Returns:
        `rows_differ` (fraction of decisions that differ), `worst_margin` (largest distance between the
        reference's top two among those, as a fraction of the range of its outputs; 0 where none differs) and
        `mean_difference` (mean absolute difference over the standard deviation of the reference).

    Raises:
        DataError: There is nothing to compare, or the shapes differ.
    """
    pairs = [
        (_decisions(one, over_tokens), _decisions(two, over_tokens))
        for one, two in zip(_listed(reference), _listed(other), strict=True)
    ]
    if not pairs or any(one.shape != two.shape for one, two in pairs):
        raise DataError("Outputs can be compared only where there are some, of the same shapes.")
    first = np.concatenate([one.ravel() for one, _ in pairs])
    second = np.concatenate([two.ravel() for _, two in pairs])
    differs = np.concatenate([one.argmax(axis=-1) != two.argmax(axis=-1) for one, two in pairs])
    margins = np.concatenate([_margins(one) for one, _ in pairs])
    margins = margins / ((first.max() - first.min()) or 1.0)
    return {
        "rows_differ": float(differs.mean()),
        "worst_margin": float(margins[differs].max(initial=0.0)),
        "mean_difference": float(np.abs(first - second).mean() / (first.std() or 1.0)),
    }


def _listed(outputs: ArrayLike | Sequence[NDArray[Any]]) -> list[NDArray[np.float64]]:
    """Returns one array for all features of one shape, else one array a feature."""
    given = outputs if isinstance(outputs, (list, tuple)) else list(np.asarray(outputs))
    arrays = [np.asarray(output, np.float64) for output in given]
    return [np.stack(arrays)] if arrays and all(array.ndim == 1 for array in arrays) else arrays


def _decisions(output: NDArray[np.float64], over_tokens: bool) -> NDArray[np.float64]:
    return output.T if over_tokens else output


def _margins(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    if rows.shape[-1] < 2:
        return np.zeros(len(rows))
    ordered = np.sort(rows, axis=-1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])
