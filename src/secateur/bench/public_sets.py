"""Public data sets that need more than a folder with three files before a figure on them is fair."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.data import Splits, load_splits

__all__ = ["group_of_rows", "load_public", "split_by_group"]

SQUAD_TRAINING = ("squadshifts_amazon_reviews", "squadshifts_new_wiki", "squadshifts_reddit")
SQUAD_TRAINING_ROWS = 6000
SQUAD_VALIDATION_ROWS = 600


def load_public(data: str | Path, task: str | None = None, train_rows: int = 0, test_rows: int = 0) -> Splits:
    """Loads a data set for a figure.

    Most sets are loaded as they are. Two are made here, by the name of the folder:

    - `qnli_dev` is one file, split by a hash of the paragraph that a sentence comes from (of the sentence,
      where the paragraph is not known), so that no context is in two splits;
    - `squad` is no folder: beside it lie the three squadshifts sets to learn from, 6,000 questions in equal
      parts and whole paragraphs, and squad_v1_dev to report on.

    Args:
        data: A folder or file.
        task: As in `load_splits`.
        train_rows: Learn from so many rows only, taken at even distances; 0 takes all.
        test_rows: Likewise, of the rows to choose by and to report on.

    Raises:
        DataError: A set is not there, or is not what `load_splits` takes.
    """
    path = Path(data)
    if path.name == "qnli_dev":
        splits = _qnli(path, task)
    elif path.name == "squad" and not path.exists():
        splits = _squad(path.parent)
    else:
        splits = load_splits(data, task)
    train, validation = _some(splits.train, train_rows), _some(splits.validation, test_rows)
    return replace(splits, train=train, validation=validation, test=_some(splits.test, test_rows))


def group_of_rows(splits: Splits) -> list[str] | None:
    """Returns which test rows hang together, as questions about one paragraph do; None where none do."""
    if splits.task.name == "question-answering":
        return [row.context for row in splits.test]
    if splits.task.name == "text-classification" and any(row.text_pair for row in splits.test):
        return [row.text_pair or row.text for row in splits.test]
    return None


def split_by_group(
    rows: Sequence[Any], group_of: Callable[[Any], str], shares: Sequence[float]
) -> list[list[Any]]:
    """Deals rows out by a hash of their group, so that a group is never in two parts.

    Args:
        rows: What to deal out; the order within a part is theirs.
        group_of: Row to group.
        shares: Of each part, summing to 1; parts come near them where there are many groups.
    """
    parts: list[list[Any]] = [[] for _ in shares]
    bounds = [sum(shares[: place + 1]) for place in range(len(shares) - 1)]
    for row in rows:
        digest = hashlib.sha256(group_of(row).encode("utf-8", "surrogatepass")).digest()
        parts[bisect_right(bounds, int.from_bytes(digest[:8], "big") / 2**64)].append(row)
    return parts


def _some(rows: list[Any], count: int) -> list[Any]:
    if not 0 < count < len(rows):
        return rows
    return [rows[place * len(rows) // count] for place in range(count)]


def _all_rows(path: Path, task: str | None) -> Splits:
    """Loads a set and puts every row of its files into `train`."""
    splits = load_splits(path, task)
    rows = [*splits.train, *splits.validation, *splits.test]
    return replace(splits, train=rows, validation=[], test=[], leaks={})


def _qnli(path: Path, task: str | None) -> Splits:
    whole = _all_rows(path, task)
    paragraph_of = _paragraphs(path.parent / "squad_v1_dev")
    train, validation, test = split_by_group(
        whole.train, lambda row: paragraph_of(str(row.text_pair)), (0.7, 0.1, 0.2)
    )
    note = "Split by a hash of the paragraph: no paragraph is in two splits."
    return replace(whole, name=str(path), train=train, validation=validation, test=test, notes=[note])


def _paragraphs(squad: Path) -> Callable[[str], str]:
    """Returns a function from a sentence to its paragraph, or to itself where SQuAD's are not there."""
    if not squad.is_dir():
        return lambda sentence: sentence
    contexts = sorted({" ".join(row.context.split()) for row in _all_rows(squad, "question-answering").train})
    text = "\n".join(contexts)
    starts = [0]
    for context in contexts:
        starts.append(starts[-1] + len(context) + 1)

    def paragraph(sentence: str) -> str:
        place = text.find(" ".join(sentence.split()))
        return sentence if place < 0 else contexts[bisect_right(starts, place) - 1]

    return paragraph


def _squad(root: Path) -> Splits:
    test = _all_rows(root / "squad_v1_dev", "question-answering")
    train: list[Any] = []
    validation: list[Any] = []
    for name in SQUAD_TRAINING:
        rows = _all_rows(root / name, "question-answering").train
        kept, apart = split_by_group(rows, lambda row: str(row.context), (0.9, 0.1))
        train += _first_paragraphs(kept, SQUAD_TRAINING_ROWS // len(SQUAD_TRAINING))
        validation += _first_paragraphs(apart, SQUAD_VALIDATION_ROWS // len(SQUAD_TRAINING))
    note = f"Trained on {len(train)} questions of the squadshifts sets, not on SQuAD's own training file."
    return Splits(
        name=str(root / "squad"),
        task=test.task,
        train=_mixed(train),
        validation=validation,
        test=test.train,
        columns=test.columns,
        notes=[note],
    )


def _first_paragraphs(rows: Sequence[Any], count: int) -> list[Any]:
    """Returns so many rows, of as few paragraphs as that takes: those with the smallest hashes."""
    return sorted(rows, key=lambda row: (_digest(row.context), _digest(row.question)))[:count]


def _mixed(rows: Sequence[Any]) -> list[Any]:
    """Returns rows in the order of a hash of their text, so that the first ones are of all sets."""
    return sorted(rows, key=lambda row: _digest(f"{row.question}\n{row.context}"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
