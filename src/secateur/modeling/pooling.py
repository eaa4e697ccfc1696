"""From the states of a text's tokens to one vector, as sentence-transformers do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from secateur.errors import UnsupportedError
from secateur.tasks.sentence_embeddings import POOLING_MODES

__all__ = ["Pooling"]


@dataclass(frozen=True)
class Pooling:
    """How token states become a sentence embedding. It has no weights, so a model keeps its state dict.

    Attributes:
        mode: `mean` over a text's tokens, `cls` for its first, `max` over its tokens.
        normalize: Divides by the Euclidean length.
    """

    mode: str = "mean"
    normalize: bool = True

    @classmethod
    def of(cls, config: Any) -> Pooling:
        """Reads `sentence_embedding` of a config; without it, mean and normalized, as the task.

        Args:
            config: A transformers config.

        Raises:
            UnsupportedError: The mode is not known.
        """
        entry = getattr(config, "sentence_embedding", None) or {}
        mode = entry.get("pooling", "mean")
        if mode not in POOLING_MODES:
            raise UnsupportedError(
                f"The config pools sentence embeddings by {mode!r}; supported: {', '.join(POOLING_MODES)}."
            )
        return cls(mode, bool(entry.get("normalize", True)))

    def __call__(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Pools the states that leave the last layer.

        Args:
            states: (B, S, H) float; computed in float32.
            attention_mask: (B, S), 1 = a token of the text; None means all.

        Returns:
            (B, H) float32.
        """
        states = states.float()
        if self.mode == "cls":
            pooled = states[:, 0]
        elif attention_mask is None:
            pooled = states.mean(1) if self.mode == "mean" else states.amax(1)
        elif self.mode == "mean":
            weights = attention_mask.to(states.dtype).unsqueeze(-1)  # (B, S, 1)
            pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        else:
            pooled = states.masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf).amax(1)
        return functional.normalize(pooled, dim=-1) if self.normalize else pooled
