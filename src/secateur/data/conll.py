"""CoNLL-style text to records: a word a line with its tag last, an empty line behind each sentence."""

from __future__ import annotations

import re
from pathlib import Path

from secateur.data.record import Record
from secateur.errors import DataError

__all__ = ["looks_like_conll", "read_conll"]

_TAG = re.compile(r"O|[BIESLUMW]-\S+")
_LOOKED_AT = 200


def looks_like_conll(content: str) -> bool:
    """Says whether every line of a text's beginning is a word with an entity's tag behind it."""
    lines = [line.split() for line in content.split("\n", _LOOKED_AT)[:_LOOKED_AT] if line.strip()]
    cells = [line for line in lines if line[0] not in ("-DOCSTART-", "#")]
    return bool(cells) and all(len(line) > 1 and _TAG.fullmatch(line[-1]) for line in cells)


def read_conll(path: Path, content: str) -> list[Record]:
    """Reads sentences: `tokens` from the first column, `tags` from the last.

    Columns are separated by tabs where a line has some, else by white space. Lines that begin with -DOCSTART-
    or with "# " and no tag are left out.

    Raises:
        DataError: A line has a word without a tag.
    """
    records: list[Record] = []
    tokens: list[str] = []
    tags: list[str] = []
    first = 1
    for number, line in enumerate([*content.split("\n"), ""], start=1):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        cells = [cell for cell in cells if cell]
        if not cells:
            if tokens:
                records.append(Record(first, {"tokens": tokens, "tags": tags}))
            tokens, tags = [], []
        elif cells[0] == "-DOCSTART-" or (line.startswith("# ") and not _TAG.fullmatch(cells[-1])):
            continue
        elif len(cells) == 1:
            raise DataError(
                f"{path}, line {number}: {cells[0]!r} has no tag; a line holds a word and, last, its tag."
            )
        else:
            if not tokens:
                first = number
            tokens.append(cells[0])
            tags.append(cells[-1])
    return records
