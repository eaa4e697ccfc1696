"""Windows over a text that is too long for a model."""

from __future__ import annotations

from tokenizers import Encoding

from secateur.errors import DataError

__all__ = ["Frame", "windows"]


def windows(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Returns the windows over a text, as tokenizers cut them.

    Args:
        length: Tokens of the text.
        room: Most tokens of a window, at least 1.
        stride: Tokens that a window shares with the one before; where they would fill it, half of them.

    Returns:
        First token and the one after the last, ascending; one window at least, and none inside another.
    """
    if length <= room:
        return [(0, length)]
    step = room - (stride if stride < room else room // 2)
    starts = range(0, length - room + step, step)
    return [(start, min(start + room, length)) for start in starts]


class Frame:
    """What stands around the tokens of a text: special tokens, and a question before a context.

    Args:
        encoding: Of the whole text, or of a pair of which the second is cut, special tokens included.
        most_before: Most tokens of the first text of a pair; it is cut at its end.

    Attributes:
        first: How many tokens stand before a window.
        tokens: The place of each token of the text in `encoding`.
        cut: Whether the first text was cut.
    """

    def __init__(self, encoding: Encoding, most_before: int | None = None) -> None:
        places = encoding.sequence_ids
        last = 1 if most_before is not None else 0
        self.tokens = [index for index, place in enumerate(places) if place == last]
        start = self.tokens[0] if self.tokens else max(len(places) - 1, 0)
        stop = self.tokens[-1] + 1 if self.tokens else start
        before = list(range(start))
        after = list(range(stop, len(places)))
        self.cut = False
        if most_before is not None:
            asked = [index for index in before if places[index] == 0]
            self.cut = len(asked) > most_before
            dropped = set(asked[most_before:])
            before = [index for index in before if index not in dropped]
        self._before, self._after = before, after
        self._ids, self._types = encoding.ids, encoding.type_ids
        self.first = len(before)

    def room(self, max_length: int) -> int:
        """Returns how many tokens of the text fit into a window.

        Raises:
            DataError: None does.
        """
        room = max_length - len(self._before) - len(self._after)
        if room < 1:
            raise DataError(f"{max_length} tokens leave no room for text: allow more.")
        return room

    def feature(self, start: int, stop: int) -> tuple[list[int], list[int]]:
        """Returns token ids and token types of a window over `tokens`."""
        chosen = [*self._before, *self.tokens[start:stop], *self._after]
        return [self._ids[index] for index in chosen], [self._types[index] for index in chosen]
