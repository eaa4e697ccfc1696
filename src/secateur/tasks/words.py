"""Which token belongs to which word of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from secateur.tasks.entities import Join

__all__ = ["TextReader", "TokenizedText", "Window", "used_tokens"]


class TokenizedText(NamedTuple):
    """A text of n tokens, special tokens left out.

    Attributes:
        offsets: [n] first character, and the one after the last.
        words: [n] the number of the word whose first token it is, else -1.
        pieces: [n] as the vocabulary spells them, or the characters themselves where it does not know them.
        subword: [n] whether it goes on with the word before, as transformers' pipeline sees it.
        indices: [n] places among the tokens of the whole text, special tokens included.
        join: Makes text of pieces.
    """

    offsets: list[tuple[int, int]]
    words: list[int]
    pieces: list[str]
    subword: list[bool]
    indices: list[int]
    join: Join


@dataclass(frozen=True)
class Window:
    """What a feature shows of its text.

    Attributes:
        first: How many tokens stand before the text's.
        start: Which of the text's tokens is the first.
        used: Which of its tokens are taken from this feature, from and up to.
        text: The whole text, shared by all of its features.
    """

    first: int
    start: int
    used: tuple[int, int]
    text: TokenizedText


class TextReader:
    """Reads encodings of one tokenizer.

    Args:
        tokenizer: What made them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        model = tokenizer.model
        self._has_prefix = bool(getattr(model, "continuing_subword_prefix", None))
        unknown = getattr(model, "unk_token", None)
        self._unknown_id = tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None
        if self._unknown_id is None:
            self._unknown_id = getattr(model, "unk_id", None)
        decoder = tokenizer.decoder
        self._join: Join = " ".join if decoder is None else decoder.decode

    def __call__(
        self, text: str, words: Sequence[str] | None, encoding: Encoding, chosen: Sequence[int]
    ) -> TokenizedText:
        """Describes the tokens of a text.

        Args:
            text: What was encoded.
            words: The words it was joined of by single spaces; None for what stands between white space.
            encoding: Its encoding.
            chosen: The tokens that are no special tokens.
        """
        offsets, ids, tokens = encoding.offsets, encoding.ids, encoding.tokens
        spans = [offsets[index] for index in chosen]
        pieces, subword = [], []
        for index, (start, end) in zip(chosen, spans, strict=True):
            shown = text[start:end]
            unknown = ids[index] == self._unknown_id
            pieces.append(shown if unknown else tokens[index])
            if self._has_prefix:
                goes_on = len(tokens[index]) != len(shown)
            else:
                goes_on = start > 0 and " " not in text[start - 1 : start + 1]
            subword.append(goes_on and not unknown)
        return TokenizedText(
            spans, _first_tokens(text, words, spans), pieces, subword, list(chosen), self._join
        )


def used_tokens(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Shares the tokens of overlapping windows out: each to the window in which it is farthest from an edge.

    Args:
        spans: Windows as `windows` gives them.

    Returns:
        From and up to, a window; together they hold every token once.
    """
    borders = [(after[0] + before[1]) // 2 for before, after in pairwise(spans)]
    return list(zip([spans[0][0], *borders], [*borders, spans[-1][1]], strict=True))


def _first_tokens(text: str, words: Sequence[str] | None, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Returns the number of the word that each token is the first of, else -1."""
    if words is None:
        found = [match.span() for match in re.finditer(r"\S+", text)]
        starts = np.array([start for start, _ in found], np.int64)
        stops = np.array([stop for _, stop in found], np.int64)
    else:
        lengths = np.array([len(word) for word in words], np.int64)
        starts = np.array([0, *accumulate(int(length) + 1 for length in lengths[:-1])], np.int64)
        stops = starts + lengths
    numbers = []
    seen = -1
    for start, end in spans:
        while start < end and text[start].isspace():  # byte-level tokens may hold the space before a word
            start += 1
        word = int(np.searchsorted(starts, start, side="right")) - 1 if start < end else -1
        if word > seen and start < stops[word]:
            seen = word
            numbers.append(word)
        else:
            numbers.append(-1)
    return numbers
