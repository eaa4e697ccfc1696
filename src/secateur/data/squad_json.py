"""The nested JSON of SQuAD v1 and v2 to a record a question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secateur.data.record import Record
from secateur.errors import DataError

__all__ = ["is_squad", "read_squad"]


def is_squad(articles: list[Any]) -> bool:
    """Says whether a JSON list holds articles with paragraphs."""
    return bool(articles) and all(isinstance(one, dict) and "paragraphs" in one for one in articles)


def read_squad(path: Path, articles: list[Any]) -> Iterator[Record]:
    """Reads questions; one that is marked impossible has no answers, whatever seems plausible.

    Raises:
        DataError: A paragraph or question lacks something; it is named by its number.
    """
    number = 0
    for article in articles:
        for paragraph in _list(path, number, article, "paragraphs"):
            for question in _list(path, number, paragraph, "qas"):
                number += 1
                answers = [] if question.get("is_impossible") else question.get("answers", [])
                values = {name: question.get(name) for name in ("id", "question")}
                values |= {"title": article.get("title"), "context": paragraph.get("context")}
                yield Record(number, {**values, "answers": answers})


def _list(path: Path, number: int, owner: Any, name: str) -> list[dict[str, Any]]:
    found = owner.get(name) if isinstance(owner, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DataError(
            f"{path}: behind question {number} there is something without a list of {name!r}; SQuAD has one."
        )
    return found
