"""Fill-mask: the tokens that fit where a text has masks.

A text without masks is measured: a share of its tokens, chosen by a hash of the text, is masked and asked
for, so that two models always answer the same questions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from secateur.errors import DataError, UnsupportedError
from secateur.tasks.fields import required_text
from secateur.tasks.probability import softmax
from secateur.tasks.task import IGNORED, Encoded, Outputs, Task
from secateur.tasks.tokenization import encodings
from secateur.tasks.windows import Frame, windows

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FillMask", "Row", "mask_token_id"]

_MASKS = ("[MASK]", "<mask>")
_SHARE = 0.15


class Row(NamedTuple):
    """A text, with or without masks."""

    text: str


class _Chunk(NamedTuple):
    """What a feature hides: the tokens at its positions, None where the text itself has masks there."""

    truth: list[int] | None
    tokenizer: Tokenizer


class FillMask(Task):
    """The tokens that fit where a text has masks.

    Args:
        share: Which share of a text's tokens is masked for measuring; one at least.
    """

    name = "fill-mask"
    head = "masked"
    auto_class = "AutoModelForMaskedLM"
    columns = {"text": ("text", "sentence", "content", "document")}  # noqa: RUF012
    main_metric = "accuracy"

    def __init__(self, *, share: float = _SHARE) -> None:
        self.labels: list[str] = []
        self.share = share

    @classmethod
    def from_rows(
        cls, rows: Sequence[Row], *, kind: str | None = None, names: Sequence[str] | None = None
    ) -> Self:
        """Returns the task; there is nothing to learn: see `Task`."""
        if kind is not None:
            raise DataError(f"{cls.name} has no kinds, but {kind!r} was given: leave it out.")
        return cls()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Returns the task: see `Task`."""
        return cls()

    def config(self) -> dict[str, Any]:
        """Returns nothing: the vocabulary is the tokenizer's. See `Task`."""
        return {}

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Row:
        """Makes a row: see `Task`."""
        return Row(required_text(record, "text"))

    @classmethod
    def key(cls, row: Row) -> str:
        """Returns the text: see `Task`."""
        return row.text

    # --- rows to token ids -----------------------------------------

    def encode(self, tokenizer: Tokenizer, rows: Sequence[Row], max_length: int) -> Encoded:
        """Tokenizes texts in chunks and masks them: see `Task`.

        A text that is too long becomes several features, one after another. `positions` are those of the
        masks: the text's own where it has some, else those that were chosen. Chunks without any are left out.

        Raises:
            UnsupportedError: The tokenizer has no mask token.
        """
        mask = mask_token_id(tokenizer)
        kept = Encoded([], None, [], positions=[], details=[])
        plain = self.chunks(tokenizer, rows, max_length)
        asked = {number for number, ids in zip(plain.rows, plain.input_ids, strict=True) if mask in ids}
        for number, ids, (chunk, first, stop) in zip(plain.rows, plain.input_ids, plain.details, strict=True):
            own = [place for place, token in enumerate(ids) if token == mask]
            truth = None
            if number not in asked:
                own = _chosen(rows[number].text, chunk, range(first, stop), self.share)
                truth = [ids[place] for place in own]
                hidden = set(own)
                ids = [mask if place in hidden else token for place, token in enumerate(ids)]
            if own and kept.positions is not None:
                kept.input_ids.append(ids)
                kept.rows.append(number)
                kept.positions.append(own)
                kept.details.append(_Chunk(truth, tokenizer))
        return kept

    def chunks(self, tokenizer: Tokenizer, rows: Sequence[Row], max_length: int) -> Encoded:
        """Tokenizes texts in chunks and masks nothing, for those who mask anew in every epoch.

        Args:
            tokenizer: See `encode`.
            rows: The texts.
            max_length: Most tokens of a feature.

        Returns:
            Features without positions. A detail is the number of the chunk in its row, its first token that
            is no special token, and the one after the last.

        Raises:
            DataError: A text cannot be tokenized.
        """
        made = Encoded([], None, [], details=[])
        for number, encoding in enumerate(encodings(tokenizer, [row.text for row in rows], offsets=False)):
            frame = Frame(encoding)
            for chunk, (start, stop) in enumerate(windows(len(frame.tokens), frame.room(max_length), 0)):
                if stop > start:
                    made.input_ids.append(frame.feature(start, stop)[0])
                    made.rows.append(number)
                    made.details.append((chunk, frame.first, frame.first + stop - start))
        return made

    def targets(self, rows: Sequence[Row], encoded: Encoded) -> list[dict[str, Any]]:
        """Returns the hidden token at each position, -100 elsewhere: see `Task`."""
        found = []
        for index, ids in enumerate(encoded.input_ids):
            labels = [IGNORED] * len(ids)
            for place, token in zip(_positions(encoded)[index], _truth(encoded, index), strict=True):
                labels[place] = token
            found.append({"labels": labels})
        return found

    # --- outputs to answers and scores -----------------------------

    def reduce(self, encoded: Encoded, index: int, output: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reduces [m, V] logits of hidden tokens to [m, 2]: see `Task`.

        Returns:
            The negative log-likelihood of each hidden token, and how many tokens come before it; logits as
            they are where the text has masks of its own.
        """
        truth = encoded.details[index].truth
        if truth is None:
            return output
        logits = np.asarray(output, np.float64)
        places = np.array(truth)
        right = logits[np.arange(len(places)), places][:, None]
        highest = logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
        earlier = (logits == right) & (np.arange(logits.shape[1]) < places[:, None])
        ranks = (logits > right).sum(axis=1) + earlier.sum(axis=1)
        return np.stack([total - right[:, 0], ranks], axis=1).astype(np.float32)

    def answers(
        self,
        rows: Sequence[Row],
        encoded: Encoded,
        outputs: Outputs,
        *,
        top_k: int = 5,
        targets: Sequence[int] | None = None,
        **options: Any,
    ) -> list[Any]:
        """Turns logits at a text's own masks into the likeliest tokens.

        Args:
            rows: The rows.
            encoded: Their features.
            outputs: [F] logits [m, V].
            top_k: Most tokens a mask.
            targets: Token ids to which answers are limited; None for the whole vocabulary.
            **options: There are no others.

        Returns:
            A row: for each of its masks a list of `score` (a probability), `token` (its id), `token_str` and
            `sequence` (the chunk with it, other masks left), best first.

        Raises:
            DataError: A text has no mask, or an option is not known or out of range.
        """
        if options:
            raise DataError(f"{self.name} has no option {sorted(options)[0]!r}.")
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise DataError(f"top_k must be a positive integer, but is {top_k!r}.")
        found: list[list[Any]] = [[] for _ in rows]
        for index, (number, output) in enumerate(zip(encoded.rows, outputs, strict=True)):
            if encoded.details[index].truth is None:
                found[number] += _fills(encoded, index, softmax(output), top_k, targets)
        bare = next((number for number, masks in enumerate(found) if not masks), None)
        if bare is not None:
            raise DataError(
                f"Text {bare} holds no mask: put {' or '.join(_MASKS)} where a word is asked for."
            )
        return found

    def score(self, rows: Sequence[Row], encoded: Encoded, outputs: Outputs) -> dict[str, Any]:
        """Scores reduced outputs.

        Returns:
            `accuracy` (fraction of hidden tokens that come first), `perplexity` (of the hidden tokens, given
            the others) and `n` (hidden tokens).

        Raises:
            DataError: There is nothing to score.
        """
        measured = [
            np.asarray(output, np.float64)
            for index, output in enumerate(outputs)
            if encoded.details[index].truth is not None
        ]
        if not measured:
            raise DataError("There is no text without masks to score: give data with a test split.")
        likelihoods, ranks = np.concatenate(measured).T
        return {
            "accuracy": float((ranks == 0).mean()),
            "perplexity": math.exp(min(float(likelihoods.mean()), 700.0)),
            "n": len(ranks),
        }

    def describe(self, rows: Sequence[Row]) -> list[str]:
        """Returns the number of words: see `Task`."""
        return [f"{sum(len(row.text.split()) for row in rows)} words"]


def mask_token_id(tokenizer: Tokenizer) -> int:
    """Returns the id of the token that stands for a hidden one.

    Raises:
        UnsupportedError: There is none.
    """
    for name in _MASKS:
        token = tokenizer.token_to_id(name)
        if token is not None:
            return int(token)
    raise UnsupportedError(
        f"The tokenizer has no mask token ({' or '.join(_MASKS)}): use that of a model trained with one."
    )


def _chosen(text: str, chunk: int, places: range, share: float) -> list[int]:
    """Chooses a share of places, one at least, by a hash of the text."""
    digest = hashlib.sha256(f"{chunk}\n{text}".encode("utf-8", "surrogatepass")).digest()
    state = np.arange(len(places), dtype=np.uint64) + np.uint64(int.from_bytes(digest[:8], "little") >> 1)
    # splitmix64: the same on every machine and version of numpy, as its own generators do not promise
    state = state * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    order = np.argsort(state ^ (state >> np.uint64(31)), kind="stable")
    count = max(1, round(share * len(places)))
    return sorted(places[int(index)] for index in order[:count])


def _positions(encoded: Encoded) -> list[list[int]]:
    return encoded.positions or []


def _truth(encoded: Encoded, index: int) -> list[int]:
    truth: list[int] | None = encoded.details[index].truth
    if truth is None:
        raise DataError("A text holds masks of its own, so nobody knows what they hide: give texts without.")
    return truth


def _fills(
    encoded: Encoded, index: int, scores: NDArray[np.float32], top_k: int, targets: Sequence[int] | None
) -> list[list[dict[str, Any]]]:
    ids, tokenizer = encoded.input_ids[index], encoded.details[index].tokenizer
    places = _positions(encoded)[index]
    allowed = np.arange(scores.shape[1]) if targets is None else np.array(list(dict.fromkeys(targets)))
    found = []
    for place, row in zip(places, scores, strict=True):
        best = _best(row, allowed, top_k)
        entries = []
        for token in best:
            filled = [*ids[:place], token, *ids[place + 1 :]]
            entries.append(
                {
                    "score": float(row[token]),
                    "token": token,
                    "token_str": tokenizer.decode([token], skip_special_tokens=False),
                    "sequence": tokenizer.decode(filled, skip_special_tokens=len(places) == 1),
                }
            )
        found.append(entries)
    return found


def _best(scores: NDArray[np.float32], allowed: NDArray[np.int64], count: int) -> list[int]:
    """Returns the allowed tokens of the largest scores, best first; sorting a whole vocabulary is slow."""
    found = scores[allowed]
    if count < len(found):
        least = np.partition(found, -count)[-count]
        allowed, found = allowed[found >= least], found[found >= least]
    return [int(token) for token in allowed[np.argsort(-found, kind="stable")[:count]]]
