"""Sets a split apart from the training rows where it has no file of its own."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from secateur.data.checks import normalized, repeats
from secateur.errors import DataError
from secateur.tasks import Task

__all__ = ["carve"]

_SHARE = 0.1  # of the training rows, for each split


def carve(
    task: type[Task], rows: Sequence[Any], missing: Sequence[str], notes: list[str]
) -> dict[str, list[Any]]:
    """Splits validation or test off the training rows; equal texts stay together, repeats are dropped.

    Args:
        task: Whose rows; says which texts stay together, and what class a row is of.
        rows: Training rows.
        missing: The splits to make.
        notes: Gets a sentence for each decision.

    Returns:
        `train` and the missing splits.

    Raises:
        DataError: There are too few rows.
    """
    distinct = list(dict.fromkeys(rows))
    if len(distinct) < len(rows):
        notes.append(f"{repeats(rows)} repeated rows were dropped.")
    groups = [normalized(task.group(row)) for row in distinct]
    stratum_of: dict[str, str] = {}
    for row, group in zip(distinct, groups, strict=True):
        truth = task.truth(row)
        stratum = truth if isinstance(truth, str) else ""
        stratum_of[group] = min(stratum, stratum_of.get(group, stratum))
    by_stratum: dict[str, list[str]] = defaultdict(list)
    for group, stratum in stratum_of.items():
        by_stratum[stratum].append(group)
    split_of: dict[str, str] = {}
    for texts in by_stratum.values():
        texts.sort(key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        share = round(_SHARE * len(texts)) or int(len(texts) > len(missing) + 1)
        for position, split in enumerate(missing):
            split_of |= dict.fromkeys(texts[position * share : (position + 1) * share], split)
    parts: dict[str, list[Any]] = {split: [] for split in ("train", *missing)}
    for row, group in zip(distinct, groups, strict=True):
        parts[split_of.get(group, "train")].append(row)
    for split in missing:
        if not parts[split]:
            raise DataError(
                f"There are too few rows to set some apart for {split}: give more, or a {split} file."
            )
        notes.append(
            f"{split} has no file: {len(parts[split])} training rows were set apart by a hash of the text."
        )
    return parts
