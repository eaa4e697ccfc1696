"""Altered copies of the training rows, which only a teacher can label: a few hundred texts become many."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from secateur.training.encoding import Features, Padder

__all__ = ["AugmentingPadder"]

_MOST_REPLACED = 0.5  # of the tokens of an altered row


class AugmentingPadder(Padder):
    """Collates rows, some of them altered: a span comes from another row, and single tokens are replaced.

    Args:
        pad_token_id: The id to pad with.
        rows: Where spans and half of the tokens are drawn from; frequent tokens come more often.
        words: Tokens from which the other half is drawn, evenly: words that the rows may not have, so that
            the student keeps what the teacher knows of them.
        special_ids: Tokens that stay where they are.
        fraction: How many rows are altered, 0-1.
        seed: Seeds the draws.

    Source:
        Jiao et al., "TinyBERT" (2020), shows what augmented data are worth to a student; the words there
        come from a language model, here from the other rows.
    """

    def __init__(
        self,
        pad_token_id: int,
        rows: Features,
        words: Sequence[int],
        special_ids: Sequence[int],
        fraction: float,
        seed: int,
    ) -> None:
        super().__init__(pad_token_id)
        special = set(special_ids)
        self._special = np.array(sorted(special))
        self._texts = [[token for token in ids if token not in special] for ids in rows.input_ids]
        self._texts = [text for text in self._texts if text]
        self._tokens = np.array([token for text in self._texts for token in text])
        self._words = np.array(words) if len(words) else self._tokens
        self._fraction = fraction if self._texts else 0.0
        self._seed = seed
        self._random = np.random.default_rng(seed)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Returns a batch as `Padder` does; altered rows keep their label id, which means nothing then.

        The draws depend on the seed and the batch's rows only: a resumed run does not know earlier ones.
        """
        tokens = np.concatenate([row["input_ids"] for row in rows]).astype(np.int64)
        digest = hashlib.blake2b(tokens.tobytes(), digest_size=8).digest()
        self._random = np.random.default_rng([self._seed, int.from_bytes(digest, "little")])
        altered = [
            {**row, "input_ids": self._altered(row["input_ids"])}
            if self._random.random() < self._fraction
            else row
            for row in rows
        ]
        return super().__call__(altered)

    def _altered(self, input_ids: list[int]) -> list[int]:
        """Returns a row of the same length, special tokens untouched."""
        ids = np.array(input_ids)
        places = np.flatnonzero(~np.isin(ids, self._special))
        if len(places) == 0:
            return input_ids
        other = self._texts[self._random.integers(len(self._texts))]
        length = int(self._random.integers(0, min(len(places), len(other)) + 1))
        target = int(self._random.integers(0, len(places) - length + 1))
        source = int(self._random.integers(0, len(other) - length + 1))
        ids[places[target : target + length]] = other[source : source + length]
        replaced = places[self._random.random(len(places)) < self._random.uniform(0.0, _MOST_REPLACED)]
        source_of = self._random.random(len(replaced)) < 0.5
        ids[replaced] = np.where(
            source_of,
            self._random.choice(self._tokens, len(replaced)),
            self._random.choice(self._words, len(replaced)),
        )
        return [int(token) for token in ids]
