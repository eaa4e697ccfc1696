"""Logits of a PyTorch model over a data set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.training.encoding import EncodedRows, Padder

__all__ = ["predict_logits"]


def predict_logits(model: Any, rows: EncodedRows, *, pad_token_id: int, batch_size: int = 64) -> Tensor:
    """Runs a classifier in evaluation mode over all rows, longest first.

    Args:
        model: A transformers sequence classifier; its training mode is restored afterwards.
        rows: Encoded rows.
        pad_token_id: The id to pad with.
        batch_size: Rows a batch.

    Returns:
        (rows, num_labels) float32, in the order of the rows.
    """
    was_training = model.training
    model.eval()
    pad = Padder(pad_token_id)
    order = rows.by_length()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = pad([{"input_ids": rows.input_ids[i], "labels": rows.labels[i]} for i in chosen])
            batch.pop("labels")
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            parts.append(model(**batch).logits.float().cpu())
    model.train(was_training)
    logits = torch.empty(len(order), parts[0].shape[-1])
    logits[torch.tensor(order)] = torch.cat(parts)
    return logits
