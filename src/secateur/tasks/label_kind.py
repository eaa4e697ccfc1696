"""What the labels of a text classification mean: one of several, some of several, or a number."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from secateur.errors import DataError

__all__ = [
    "KINDS",
    "Kind",
    "Label",
    "as_labels",
    "as_number",
    "check_kind",
    "guess_kind",
    "is_place",
    "named_labels",
    "read_label",
    "sorted_labels",
    "split_label",
]

Kind = Literal["single-label", "multi-label", "regression"]
KINDS: tuple[Kind, ...] = ("single-label", "multi-label", "regression")

Label = str | tuple[str, ...] | float | None

_SEPARATORS = ("|", ";", ",")
_NO_NUMBER = ("nan", "inf", "-inf")  # as pandas writes what is missing or out of range
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def guess_kind(labels: Iterable[Label]) -> Kind:
    """Says what labels mean, as files give them.

    Lists are several labels. JSON numbers with a fraction part, and strings that are all numbers of which one
    has digits other than 0 behind the point, are regression. Strings are several labels where they fall into
    pieces at one of `|`, `;` and `,` and pieces come back in other combinations. Anything else is one label.
    """
    distinct = set(labels)
    if any(isinstance(label, tuple) for label in distinct):
        return "multi-label"
    if any(isinstance(label, float) for label in distinct):
        return "regression"
    words = {str(label) for label in distinct}
    numbers = {word for word in words if word.lower() not in _NO_NUMBER}
    if numbers and all(_NUMBER.fullmatch(word) for word in numbers):
        if len(numbers) < len(words):
            return "regression"  # which refuses the row that has none, where a class called nan would not
        return "regression" if any(not float(word).is_integer() for word in words) else "single-label"
    return "multi-label" if _separator(words) is not None else "single-label"


def as_labels(label: Label, known: Sequence[str] | None) -> tuple[str, ...]:
    """Makes several labels of what a file gives.

    Args:
        label: A list, or a string that may hold several.
        known: The labels that there are; None where they are being learnt.
    """
    if isinstance(label, tuple):
        return label
    word = "" if label is None else str(label)
    if not word:
        return ()
    if known is not None and word in known:
        return (word,)
    for separator in _SEPARATORS:
        pieces = split_label(word, separator)
        if len(pieces) > 1 and (known is None or set(pieces) <= set(known)):
            return pieces
    return (word,)


def as_number(label: Label) -> float:
    """Makes a number of what a file gives.

    Raises:
        DataError: It is none; a clause that begins with the role.
    """
    if isinstance(label, (str, float)):
        try:
            number = float(label)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    shown = list(label) if isinstance(label, tuple) else label
    raise DataError(f"'label' must be a number for regression, but is {shown!r}")


def split_label(word: str, separator: str) -> tuple[str, ...]:
    """Returns the pieces of a string of labels, without spaces around them and without empty ones."""
    return tuple(piece for piece in (piece.strip() for piece in word.split(separator)) if piece)


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """Sorts labels: numbers by value, anything else by name."""
    given = list(labels)
    numbers = all(label.isascii() and label.isdecimal() and len(label) < 1000 for label in given)
    return sorted(given, key=lambda label: (int(label) if numbers else 0, label))


def check_kind(kind: str) -> Kind:
    """Returns the kind that was asked for.

    Raises:
        DataError: There is none of this name.
    """
    for known in KINDS:
        if kind == known:
            return known
    raise DataError(f"The kind {kind!r} is not known to text-classification: give {', '.join(KINDS)}.")


def is_place(label: str, names: Sequence[str]) -> bool:
    """Says whether a label is an integer that counts a place in names."""
    return label.isascii() and label.isdecimal() and len(label) < 10 and int(label) < len(names)


def named_labels(found: set[str], names: Sequence[str]) -> tuple[list[str], bool]:
    """Returns the names that occur, in their order; or all, and True, where labels count places in them.

    Args:
        found: The labels that occur.
        names: Labels in the order that a manifest or a data set gives.

    Raises:
        DataError: A label is neither a name nor a place.
    """
    unnamed = sorted(found - set(names))
    wrong = [label for label in unnamed if not is_place(label, names)]
    if wrong:
        raise DataError(f"The label {wrong[0]!r} is none of the {len(names)} labels that the data set names.")
    return (list(names), True) if unnamed else ([name for name in names if name in found], False)


def read_label(label: Any) -> Label:
    """Takes a label as a file gives it: a string, a number, or a list of strings.

    Raises:
        DataError: It is nothing of these; a clause that begins with the role.
    """
    if isinstance(label, float):
        return label
    if isinstance(label, (list, tuple)) and all(isinstance(one, (str, int)) for one in label):
        return tuple(str(one).strip() for one in label)
    if label is None:
        raise DataError("'label' is missing")
    if not isinstance(label, (str, int)):
        raise DataError(
            f"'label' must be a string, a number or a list of strings, but is {type(label).__name__}"
        )
    return str(label).strip()


def _separator(words: set[str]) -> str | None:
    """Finds what separates labels; a name that merely holds a comma is no list of names."""
    for separator in _SEPARATORS:
        split = {word: split_label(word, separator) for word in words}
        several = [pieces for pieces in split.values() if len(pieces) > 1]
        if not several:
            continue
        uses: dict[str, int] = {}
        for pieces in split.values():
            for piece in pieces:
                uses[piece] = uses.get(piece, 0) + 1
        if all(any(uses[piece] > 1 for piece in pieces) for pieces in several):
            return separator
    return None
