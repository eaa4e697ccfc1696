"""Values of a record, checked; messages are clauses that begin with the role, as `Task.parse` wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.errors import DataError

__all__ = ["optional_text", "required_text"]


def required_text(record: Mapping[str, Any], role: str) -> str:
    """Returns a text that has at least one character that is no white space.

    Raises:
        DataError: It is missing, empty or no string.
    """
    text = record.get(role)
    if text is None:
        raise DataError(f"{role!r} is missing")
    if not isinstance(text, str):
        raise DataError(f"{role!r} must be a string, but is {type(text).__name__}")
    if not text.strip():
        raise DataError(f"{role!r} is empty; fill it or delete the row")
    return text


def optional_text(record: Mapping[str, Any], role: str) -> str | None:
    """Returns a text as `required_text` does, or None where the record has none."""
    return None if record.get(role) is None else required_text(record, role)
