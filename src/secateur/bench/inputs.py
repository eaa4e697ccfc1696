"""What candidates are asked: the token ids of a case, batches and their padding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from secateur.bench.worker import Case

__all__ = ["batches", "case_input_ids", "onnx_inputs", "padded", "vocab_size"]

_BATCH = 16


def case_input_ids(case: Case, vocab_size: int) -> NDArray[np.int64]:
    """Draws token ids, always the same for one case.

    Args:
        case: The shape of the request.
        vocab_size: Ids are drawn from the upper part of the vocabulary, clear of special tokens.

    Returns:
        [batch_size, seq_len] int64.
    """
    generator = np.random.default_rng(case.seq_len)
    low = min(1000, vocab_size // 2)
    return generator.integers(low, vocab_size, (case.batch_size, case.seq_len), dtype=np.int64)


def vocab_size(folder: str) -> int:
    """Reads the size of a model's vocabulary from the config.json in its folder."""
    return int(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["vocab_size"])


def batches(input_ids: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    """Cuts sequences into batches of a size that every candidate likes."""
    return [input_ids[start : start + _BATCH] for start in range(0, len(input_ids), _BATCH)]


def padded(batch: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pads sequences to the longest.

    Args:
        batch: B sequences of token ids.

    Returns:
        Token ids and attention mask, both [B, S] int64, zeros where padded.
    """
    longest = max(len(ids) for ids in batch)
    ids = np.zeros((len(batch), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


def onnx_inputs(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Names the inputs of an exported graph, in its order."""
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
