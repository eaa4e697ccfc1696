"""Tokens' scores to entities, by the strategies of transformers' token-classification pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError, MissingExtraError

__all__ = ["AGGREGATIONS", "Join", "Piece", "entities_of", "entity_scores"]

AGGREGATIONS = ("none", "simple", "first", "average", "max")

Join = Callable[[list[str]], str]


@dataclass(frozen=True)
class Piece:
    """A token of a text, or a word of several.

    Attributes:
        word: The token as the vocabulary spells it.
        start: First character in the text.
        end: The one after its last.
        index: Its place among the tokens, special tokens included.
        is_subword: Whether it goes on with the word of the piece before.
        scores: [L] float32 probabilities of the tags.
    """

    word: str
    start: int
    end: int
    index: int
    is_subword: bool
    scores: NDArray[np.float32]


def entities_of(
    pieces: Sequence[Piece],
    labels: Sequence[str],
    join: Join,
    aggregation: str = "simple",
    ignore_labels: Sequence[str] = ("O",),
) -> list[dict[str, Any]]:
    """Finds entities.

    Args:
        pieces: The tokens of one text, special tokens left out.
        labels: [L] tags.
        join: Makes text of tokens.
        aggregation: `none` gives an entry a token. `simple` joins neighbours of one type, a B- begins anew.
            The others first let a word's tokens agree on one tag: that of its `first` token, the best of the
            `average` of its tokens' probabilities, or that of the token that is surest (`max`).
        ignore_labels: Tags or types that are left out.

    Returns:
        `entity` (`none`) or `entity_group`, `score`, `word`, `start`, `end` in characters; with `none` also
        `index`.

    Raises:
        DataError: The aggregation is not known.

    Source:
        transformers, TokenClassificationPipeline.aggregate.
    """
    if aggregation not in AGGREGATIONS:
        raise DataError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, but is {aggregation!r}.")
    given = list(pieces)
    if aggregation in ("first", "average", "max"):
        given = [_word(word, join, aggregation) for word in _words(given)]
    found = []
    for piece in given:
        best = int(piece.scores.argmax())
        entry = {"entity": labels[best], "score": float(piece.scores[best]), "index": piece.index}
        found.append({**entry, "word": piece.word, "start": piece.start, "end": piece.end})
    if aggregation == "none":
        return [entity for entity in found if entity["entity"] not in ignore_labels]
    groups = [_joined(group, join) for group in _groups(found)]
    return [group for group in groups if group["entity_group"] not in ignore_labels]


def entity_scores(truth: list[list[str]], given: list[list[str]]) -> dict[str, Any]:
    """Scores whole entities: an entity counts where its type and both of its ends are right.

    Args:
        truth: BIO tags of each row.
        given: As many.

    Returns:
        `f1`, `precision`, `recall` over all entities, and `f1_by_type`.

    Raises:
        MissingExtraError: seqeval is not installed.
    """
    try:
        from seqeval.metrics import classification_report
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Entity F1 needs {error.name}, which is not installed: pip install 'secateur[train]'."
        ) from error
    if not any(tag != "O" for tags in (*truth, *given) for tag in tags):
        return {"f1": 0.0, "precision": 0.0, "recall": 0.0, "f1_by_type": {}}
    report = classification_report(truth, given, output_dict=True, zero_division=0)
    total = report["micro avg"]
    by_type = {name: float(one["f1-score"]) for name, one in report.items() if not name.endswith(" avg")}
    return {
        "f1": float(total["f1-score"]),
        "precision": float(total["precision"]),
        "recall": float(total["recall"]),
        "f1_by_type": by_type,
    }


def _words(pieces: list[Piece]) -> list[list[Piece]]:
    words: list[list[Piece]] = []
    for piece in pieces:
        if words and piece.is_subword:
            words[-1].append(piece)
        else:
            words.append([piece])
    return words


def _word(pieces: list[Piece], join: Join, aggregation: str) -> Piece:
    if aggregation == "first":
        scores = pieces[0].scores
    elif aggregation == "average":
        scores = np.mean([piece.scores for piece in pieces], axis=0)
    else:
        scores = max(pieces, key=lambda piece: float(piece.scores.max())).scores
    word = join([piece.word for piece in pieces])
    return Piece(word, pieces[0].start, pieces[-1].end, pieces[0].index, False, scores)


def _groups(entities: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups: list[list[dict[str, Any]]] = []
    last = None
    for entity in entities:
        begins, kind = _tag(entity["entity"])
        if groups and kind == last and not begins:
            groups[-1].append(entity)
        else:
            groups.append([entity])
        last = kind
    return groups


def _joined(group: list[dict[str, Any]], join: Join) -> dict[str, Any]:
    return {
        "entity_group": group[0]["entity"].split("-", 1)[-1],
        "score": float(np.mean([entity["score"] for entity in group])),
        "word": join([entity["word"] for entity in group]),
        "start": group[0]["start"],
        "end": group[-1]["end"],
    }


def _tag(name: str) -> tuple[bool, str]:
    """Returns whether a tag begins an entity, and the type."""
    return name.startswith("B-"), name[2:] if name.startswith(("B-", "I-")) else name
