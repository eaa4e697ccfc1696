"""Options that make every pruning method small, and evidence from a few random rows."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import family_batch
from torch import Tensor, nn

from secateur.sparsity import PRUNERS, Pattern, Pruner
from secateur.training.evidence import TrainingEvidence

SMALL: dict[str, dict[str, Any]] = {
    "obert": {"num_grads": 5, "fisher_block_size": 16, "damp": 1e-4},
    "taylor": {"num_grads": 5},
}


def made(method: str, pattern: str = "block4", **changes: Any) -> Pruner:
    """Returns a pruner of a method, with few gradients where it asks for any."""
    return PRUNERS[method](Pattern.parse(pattern), **{**SMALL.get(method, {}), **changes})


def random_batches(model: nn.Module, count: int = 6, rows: int = 3, seed: int = 0) -> list[dict[str, Tensor]]:
    """Returns batches of random tokens and labels for a tiny model with a classifier."""
    draws = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        lengths = torch.randint(3, 9, (rows,), generator=draws).tolist()
        texts = [torch.randint(6, 20, (length,), generator=draws).tolist() for length in lengths]
        labels = torch.randint(0, model.config.num_labels, (rows,), generator=draws)
        batches.append({**family_batch(model, texts), "labels": labels})
    return batches


def evidence_for(model: nn.Module, **changes: Any) -> TrainingEvidence:
    """Returns evidence from random rows."""
    batches = random_batches(model, **changes)
    return TrainingEvidence(model, lambda: batches)
