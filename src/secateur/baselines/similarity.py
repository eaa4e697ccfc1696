"""TF-IDF vectors as sentence embeddings: their products are cosines of shared words and letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tokenizers import Tokenizer, models

from secateur.baselines.tfidf import Vectors
from secateur.errors import DataError
from secateur.tasks import Encoded, Outputs, Task

__all__ = ["TfidfCosine"]

# Of words and of letters: outputs are dense arrays, and a text of this many numbers fills 64 kB.
_MOST_FEATURES = 8192
_ANY_LENGTH = 1 << 30


class TfidfCosine:
    """Texts are as near as the cosine of their TF-IDF vectors; nothing is learnt but words and their weights.

    Args:
        task: What its rows are.
    """

    name: ClassVar[str] = "TF-IDF cosine"

    def __init__(self, task: Task) -> None:
        self._task = task
        self._vectors = Vectors(_MOST_FEATURES)

    def fit(self, train: Sequence[Any], validation: Sequence[Any]) -> None:
        """Learns: see `Baseline`."""
        self._vectors.fit(list(dict.fromkeys(text for row in train for text in _texts(row))))

    def outputs(self, rows: Sequence[Any]) -> tuple[Encoded, Outputs]:
        """Returns a vector a text, of length 1: see `Baseline`."""
        from scipy import sparse

        # A tokenizer that knows whole texts only gives every feature the number of its text.
        texts = list(dict.fromkeys(["", *(text for row in rows for text in _texts(row))]))
        whole = Tokenizer(models.WordLevel({text: place for place, text in enumerate(texts)}, unk_token=""))
        encoded = self._task.encode(whole, rows, _ANY_LENGTH)
        places = [ids[0] if len(ids) == 1 else 0 for ids in encoded.input_ids]
        if 0 in places:
            raise DataError("A row has an empty text: leave it out or give it a word.")
        vectors = sparse.hstack(self._vectors(texts), format="csr") / np.sqrt(2.0)
        return encoded, list(np.asarray(vectors[places].todense(), np.float32))

    def size_bytes(self) -> int:
        """Returns the size of vocabulary and weights: see `Baseline`."""
        return self._vectors.size_bytes()


def _texts(row: Any) -> list[str]:
    return [text for text in (row.text, row.text_pair) if text]
