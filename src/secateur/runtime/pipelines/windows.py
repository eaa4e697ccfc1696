"""Texts, or questions with their contexts, as token ids: whole, cut, or in windows that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tokenizers import Encoding, Tokenizer

from secateur.errors import DataError
from secateur.tasks.task import Encoded

__all__ = ["Window", "Windows", "windows_of"]


@dataclass(frozen=True)
class Window:
    """A part of a text's tokens, special tokens included.

    Attributes:
        whole: All tokens of the text, or of the pair.
        places: Which of them belong to the window, ascending.
    """

    whole: Encoding
    places: Sequence[int]

    @cached_property
    def input_ids(self) -> list[int]:
        """[S] token ids."""
        ids = self.whole.ids
        return ids if len(ids) == len(self.places) else [ids[place] for place in self.places]

    @cached_property
    def token_type_ids(self) -> list[int]:
        """[S] 0, or 1 where the tokenizer marks the second text so."""
        types = self.whole.type_ids
        return [types[place] for place in self.places]

    @cached_property
    def offsets(self) -> list[tuple[int, int]]:
        """[S] first character of each token, and the one behind its last."""
        offsets = self.whole.offsets
        return [offsets[place] for place in self.places]

    @cached_property
    def sequences(self) -> list[int | None]:
        """[S] 0 for tokens of the first text, 1 for those of the second, None for special ones."""
        sequences = self.whole.sequence_ids
        return [sequences[place] for place in self.places]

    @cached_property
    def words(self) -> list[int | None]:
        """[S] the number of the word that a token is of, as far as the tokenizer knows words."""
        words = self.whole.word_ids
        return [words[place] for place in self.places]


@dataclass(frozen=True)
class Windows:
    """The windows of several texts.

    Attributes:
        windows: One after another.
        rows: The text of each, ascending.
        cut: How many texts lost tokens.
    """

    windows: list[Window]
    rows: list[int]
    cut: int

    def encoded(self, positions: list[list[int]] | None = None) -> Encoded:
        """Returns the windows as features, asked at `positions`, or everywhere."""
        types = [window.token_type_ids for window in self.windows]
        return Encoded(
            [window.input_ids for window in self.windows],
            types if any(map(any, types)) else None,
            self.rows,
            positions,
        )


def windows_of(
    tokenizer: Tokenizer,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    max_length: int,
    stride: int | None = None,
) -> Windows:
    """Tokenizes texts, or pairs of which the second text is read in windows.

    Args:
        tokenizer: One without truncation and padding; it is left as it is, as other threads use it.
        texts: Texts or pairs.
        max_length: Most tokens of a window, special tokens included.
        stride: How many tokens neighbouring windows share; None keeps the first window only.

    Raises:
        DataError: A text cannot be tokenized, or leaves no room for the second.
    """
    try:
        encodings = tokenizer.encode_batch(list(texts))
    except (TypeError, UnicodeError) as error:
        raise DataError(f"The texts cannot be tokenized: {error}.") from None
    windows: list[Window] = []
    rows: list[int] = []
    cut = 0
    for row, encoding in enumerate(encodings):
        found = [range(len(encoding))] if len(encoding) <= max_length else None
        for places in found or _parts(encoding, row, max_length, stride):
            windows.append(Window(encoding, places))
            rows.append(row)
        cut += found is None and stride is None
    return Windows(windows, rows, cut)


def _parts(encoding: Encoding, row: int, max_length: int, stride: int | None) -> list[list[int]]:
    sequences = encoding.sequence_ids
    last = 1 if 1 in sequences else 0
    first, behind = sequences.index(last), len(sequences) - sequences[::-1].index(last)
    room = max_length - (len(sequences) - (behind - first))
    if room <= (stride or 0):
        what = f"The question of text {row}" if last else f"Text {row}"
        raise DataError(
            f"{what} leaves room for {max(room, 0)} tokens of {max_length}, and windows share {stride or 0}: "
            f"make it shorter, or allow more tokens or a smaller stride."
        )
    before, after = list(range(first)), list(range(behind, len(sequences)))
    parts = []
    for start in range(first, behind, room - (stride or 0)):
        stop = min(start + room, behind)
        parts.append([*before, *range(start, stop), *after])
        if stride is None or stop == behind:
            break
    return parts
