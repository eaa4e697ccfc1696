"""Rows of a task as features that a Trainer takes; batches padded to their longest feature only."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from secateur.distillation.teacher import TEACHER_LOGITS
from secateur.tasks import Encoded, Task
from secateur.tasks.task import IGNORED

__all__ = ["Features", "Padder", "encode_rows", "pad_token_of", "takes_token_types"]

_logger = logging.getLogger(__name__)


class Features(Dataset[dict[str, Any]]):  # type: ignore[misc]
    """Token ids and targets of a data set, as the Trainer and the collator want them.

    A row of the data may be several features (windows of a long context), or share one with nobody.

    Args:
        encoded: The token ids.
        targets: [F] what the model shall learn of each feature, by the names of its arguments; may be empty.
        token_types: Whether the model takes token types.
    """

    def __init__(
        self, encoded: Encoded, targets: Sequence[dict[str, Any]], *, token_types: bool = True
    ) -> None:
        self.encoded = encoded
        self.input_ids = encoded.input_ids
        self.token_type_ids = encoded.token_type_ids if token_types else None
        self.targets = targets
        self.teacher_outputs: Sequence[Tensor] | None = None  # [F] (L,), (S, L) or (H,) float32

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {"input_ids": self.input_ids[index], **self.targets[index]}
        if self.token_type_ids is not None:
            item["token_type_ids"] = self.token_type_ids[index]
        if self.teacher_outputs is not None:
            item[TEACHER_LOGITS] = self.teacher_outputs[index]
        return item

    def by_length(self) -> list[int]:
        """Returns the feature numbers, longest first, so that a batch too large for memory fails at once."""
        return sorted(range(len(self)), key=lambda index: -len(self.input_ids[index]))


class Padder:
    """Collates features into a batch padded to its longest.

    Args:
        pad_token_id: The id to pad with.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Returns `input_ids` and `attention_mask` (B, S), and whatever else the features have.

        `token_type_ids` (B, S); targets as (B,), (B, L) or, one for every token, (B, S) padded with -100;
        `teacher_logits` as (B, L) or (B, S, L).
        """
        lengths = np.array([len(row["input_ids"]) for row in rows])
        kept = np.arange(lengths.max()) < lengths[:, None]  # (B, S)

        def padded(name: str, value: int) -> Tensor:
            filled = np.full(kept.shape, value, np.int64)
            filled[kept] = np.concatenate([row[name] for row in rows])
            return torch.from_numpy(filled)

        batch = {
            "input_ids": padded("input_ids", self._pad_token_id),
            "attention_mask": torch.from_numpy(kept.astype(np.int64)),
        }
        for name, first in rows[0].items():
            if name == "input_ids":
                continue
            if name == "token_type_ids":
                batch[name] = padded(name, 0)
            elif name == TEACHER_LOGITS:
                values = [row[name] for row in rows]
                each = first.ndim == 2  # one for every token
                batch[name] = torch.nn.utils.rnn.pad_sequence(values, True) if each else torch.stack(values)
            elif isinstance(first, Sequence) and not isinstance(first[0], float):
                batch[name] = padded(name, IGNORED)
            else:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch


def encode_rows(
    tokenizer: Any, task: Task, rows: Sequence[Any], max_length: int, network: Any = None
) -> Features:
    """Tokenizes rows to train on.

    Args:
        tokenizer: A transformers tokenizer; its own padding and truncation settings are not used.
        task: The task, with the labels in the order of the model's.
        rows: Labelled rows.
        max_length: Most tokens of a feature; that texts were cut is logged.
        network: The model, which may take no token types; None takes them.

    Returns:
        The features, in the order of the rows.

    Raises:
        DataError: A row's label is not among the labels, or a text cannot be tokenized.
    """
    encoded = task.encode(tokenizer.backend_tokenizer, rows, max_length)
    if encoded.cut:
        _logger.warning(
            "%d of %d rows are longer than %d tokens; the rest is cut.", encoded.cut, len(rows), max_length
        )
    targets = task.targets(rows, encoded)
    return Features(encoded, targets, token_types=network is None or takes_token_types(network))


def takes_token_types(network: Any) -> bool:
    """Says whether a model knows more than one type of token."""
    accepted = "token_type_ids" in inspect.signature(type(network).forward).parameters
    return accepted and getattr(network.config, "type_vocab_size", 0) > 1


def pad_token_of(network: Any) -> int:
    """Returns the id that a model pads with: where it counts positions, it counts no such token."""
    return int(getattr(network.config, "pad_token_id", None) or 0)
