"""Masks words anew for every batch, so that a resumed run masks the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling

from secateur.errors import UnsupportedError
from secateur.training.encoding import Padder

__all__ = ["MaskingPadder"]


class MaskingPadder(Padder):
    """Collates whole texts into a batch with masks, by transformers' own `DataCollatorForLanguageModeling`.

    The draws depend on the seed and the batch's rows only: a resumed run does not know earlier ones. Every
    epoch shuffles rows into other batches, and so masks others of their words; where all rows fit into one
    batch, it is masked alike whenever it holds them in the same order.

    Args:
        tokenizer: A transformers tokenizer.
        pad_token_id: The id to pad with.
        seed: Seeds the draws.
        probability: How many tokens are asked for, 0-1.

    Raises:
        UnsupportedError: The tokenizer has no mask.
    """

    def __init__(self, tokenizer: Any, pad_token_id: int, seed: int, probability: float = 0.15) -> None:
        super().__init__(pad_token_id)
        if tokenizer.mask_token_id is None:
            raise UnsupportedError("The tokenizer has no mask token: give one of a masked language model.")
        self._masker = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)
        self._special = torch.tensor(sorted({*tokenizer.all_special_ids, pad_token_id}))
        self._seed = seed

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Returns a batch as `Padder` does, with masks; `labels` (B, S), -100 where nothing is asked."""
        batch = super().__call__([{k: v for k, v in row.items() if k != "labels"} for row in rows])
        tokens = np.concatenate([row["input_ids"] for row in rows]).astype(np.int64)
        digest = hashlib.blake2b(
            tokens.tobytes(), digest_size=4, key=self._seed.to_bytes(8, "little")
        ).digest()
        special = torch.isin(batch["input_ids"], self._special)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest, "little"))
            batch["input_ids"], batch["labels"] = self._masker.torch_mask_tokens(batch["input_ids"], special)
        return batch
