"""What a file says in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Record"]


class Record(NamedTuple):
    """The line, or the number of the object in a JSON list, and the values by column."""

    line: int
    values: Mapping[str, Any]
