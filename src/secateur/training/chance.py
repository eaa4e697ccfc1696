"""Says when a dense model knows no more than somebody who always gives the same answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from secateur.data import Splits

__all__ = ["chance_note"]

_MARGIN = 0.02  # of what is left above chance: less is luck on a few hundred rows


def chance_note(splits: Splits, scores: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Returns a warning where a dense model is hardly better than chance, so that compressing it is in vain.

    Args:
        splits: The data; the score of always giving the most frequent class is taken from them where rows
            have classes, and is 0 for other tasks.
        scores: What `evaluate` returned.
    """
    metric = splits.task.main_metric
    for split in ("validation", "test"):
        rows, found = getattr(splits, split), scores.get(split, {}).get(metric)
        if not rows or found is None:
            continue
        truths = [splits.task.truth(row) for row in rows]
        chance, same = 0.0, "nothing"
        if all(isinstance(truth, str) for truth in truths):
            label, count = Counter(truths).most_common(1)[0]
            chance, same = count / len(truths), f"always {label!r}"
        if found > chance + _MARGIN * (1.0 - chance):
            return None
        return (
            f"The dense model's {metric} on the {split} rows is {found:.3f}, and saying {same} gives "
            f"{chance:.3f}: it has not learnt this task, so there is nothing to keep; fine-tune it first."
        )
    return None
