"""What looks wrong in a data set though it can be learnt from: repeats, contradictions, leaks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from secateur.tasks import Task

__all__ = ["contradictions", "leaks", "normalized", "repeats"]

_PAIRS = (("train", "validation"), ("train", "test"), ("validation", "test"))


def normalized(text: str) -> str:
    """Returns a text by which equal ones are known whatever their case and white space."""
    return " ".join(text.casefold().split())


def leaks(task: type[Task], parts: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Counts the texts that occur in two splits, by pair of splits."""
    texts = {split: {normalized(task.group(row)) for row in parts[split]} for split in parts}
    return {f"{first} and {second}": len(texts[first] & texts[second]) for first, second in _PAIRS}


def repeats(rows: Sequence[Any]) -> int:
    """Counts rows that are equal to one before them."""
    return len(rows) - len(set(rows))


def contradictions(task: type[Task], rows: Sequence[Any]) -> int:
    """Counts texts that occur in several rows which say different things about them."""
    said: dict[str, set[Hashable]] = defaultdict(set)
    for row in rows:
        truth = task.truth(row)
        if truth is not None:
            said[normalized(task.key(row))].add(truth)
    return sum(len(truths) > 1 for truths in said.values())
