"""Schemes of tags: BIO, those that are read as BIO, and plain tags."""

from __future__ import annotations

from collections.abc import Iterable

from secateur.errors import DataError

__all__ = ["SCHEMES", "bio_labels", "scheme_of", "to_bio"]

SCHEMES = ("bio", "plain")

# BIOES and BILOU say the same as BIO, and mark the last word and single words besides.
_PREFIXES = {"B": "B", "I": "I", "E": "I", "L": "I", "M": "I", "S": "B", "U": "B", "W": "B"}


def scheme_of(tags: Iterable[str]) -> str:
    """Says whether tags name parts of entities (`bio`, also BIOES and BILOU) or stand alone (`plain`).

    Raises:
        DataError: Some do and some do not.
    """
    distinct = sorted(set(tags) - {"O"})
    marked = [tag for tag in distinct if _is_marked(tag)]
    if not marked:
        return "plain"
    if len(marked) < len(distinct):
        odd = next(tag for tag in distinct if not _is_marked(tag))
        raise DataError(
            f"The tag {odd!r} is neither O nor begins with B- or I- (BIOES and BILOU are read too), as "
            f"{marked[0]!r} does: write all tags in one scheme."
        )
    return "bio"


def to_bio(tag: str) -> str:
    """Returns a tag of BIOES or BILOU as BIO says it; others as they are."""
    return f"{_PREFIXES[tag[0]]}{tag[1:]}" if _is_marked(tag) else tag


def bio_labels(tags: Iterable[str]) -> list[str]:
    """Returns O, then B- and I- of every type in the order of the types' names."""
    types = sorted({tag[2:] for tag in tags if _is_marked(tag)})
    return ["O", *(f"{part}-{name}" for name in types for part in ("B", "I"))]


def _is_marked(tag: str) -> bool:
    return len(tag) > 2 and tag[1] == "-" and tag[0] in _PREFIXES
