"""Texts to token ids, once; batches padded to their longest row only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from secateur.errors import DataError
from secateur.tasks.text_classification import Row

__all__ = ["EncodedRows", "Padder", "encode_rows"]

_logger = logging.getLogger(__name__)


class EncodedRows(Dataset[dict[str, Any]]):  # type: ignore[misc]
    """Token ids and label ids of a data set, as the Trainer and the collator want them.

    Args:
        input_ids: Token ids of each row, special tokens included.
        labels: Label id of each row.
    """

    def __init__(self, input_ids: list[list[int]], labels: list[int]) -> None:
        self.input_ids = input_ids
        self.labels = labels
        self.teacher_logits: Tensor | None = None  # (rows, num_labels) float32

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {"input_ids": self.input_ids[index], "labels": self.labels[index]}
        if self.teacher_logits is not None:
            item["teacher_logits"] = self.teacher_logits[index]
        return item

    def by_length(self) -> list[int]:
        """Returns the row numbers, longest row first, so that a batch too large for memory fails at once."""
        return sorted(range(len(self)), key=lambda index: -len(self.input_ids[index]))


class Padder:
    """Collates rows into a batch padded to its longest row.

    Args:
        pad_token_id: The id to pad with.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Returns `input_ids`, `attention_mask` (B, S), `labels` (B,), and `teacher_logits` (B, L) if any."""
        lengths = np.array([len(row["input_ids"]) for row in rows])
        kept = np.arange(lengths.max()) < lengths[:, None]  # (B, S)
        input_ids = np.full(kept.shape, self._pad_token_id, np.int64)
        input_ids[kept] = np.concatenate([row["input_ids"] for row in rows])
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(kept.astype(np.int64)),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }
        if "teacher_logits" in rows[0]:
            batch["teacher_logits"] = torch.stack([row["teacher_logits"] for row in rows])
        return batch


def encode_rows(tokenizer: Any, rows: Sequence[Row], labels: Sequence[str], max_length: int) -> EncodedRows:
    """Tokenizes rows.

    Args:
        tokenizer: A transformers tokenizer; its own padding and truncation settings are not used.
        rows: Texts and labels.
        labels: All labels; a row's label id is its place in this list.
        max_length: Longer texts are cut to this many tokens, which is logged once.

    Returns:
        The encoded rows, in the given order.

    Raises:
        DataError: A row's label is not among the labels.
    """
    places = {label: index for index, label in enumerate(labels)}
    unknown = sorted({str(row.label) for row in rows} - places.keys())
    if unknown:
        raise DataError(
            f"The data have labels that the model does not know: {', '.join(unknown[:5])}"
            f"{' …' if len(unknown) > 5 else ''}; the model knows {len(places)} labels. "
            "Use the data the model was fine-tuned on, or start from the pretrained model."
        )
    encoded = tokenizer(
        [row.text for row in rows],
        padding=False,
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_overflowing_tokens=False,
        verbose=False,
    )["input_ids"]
    full = sum(len(ids) == max_length for ids in encoded)
    if full:
        _logger.warning(
            "%d of %d texts fill or exceed %d tokens; the rest is cut.", full, len(rows), max_length
        )
    return EncodedRows([list(ids) for ids in encoded], [places[str(row.label)] for row in rows])
