"""Catches what flows through a model's encoder in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.distillation.lesson import Lesson
from secateur.distillation.losses import attention_scores
from secateur.errors import RecipeError
from secateur.modeling.structure import EncoderBlock, Projection, find_blocks

__all__ = ["Caught", "InnerStates", "scores_of"]


@dataclass
class Caught:
    """What was caught, in the order of the passes through the layers.

    Attributes:
        embeddings: (B, S, H), what enters the first layer; None where it was not asked for.
        hidden: One (B, S, H) a layer, what leaves it.
        queries: One (B, S, N) a layer, before the integer products that quantization makes of them.
        keys: One (B, S, N) a layer.
    """

    embeddings: Tensor | None = None
    hidden: list[Tensor] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)

    def to(self, device: torch.device) -> Caught:
        """Returns the same on a device."""
        return Caught(
            None if self.embeddings is None else self.embeddings.to(device),
            *([one.to(device) for one in part] for part in (self.hidden, self.queries, self.keys)),
        )


class InnerStates:
    """Hooks on one model that catch hidden states, the embeddings' output, queries and keys.

    Attention maps are made of the outputs of the query and key layers, so that they are there whatever
    function attends: eager, sdpa, or the integer attention of quantization, whose rounding of queries, keys
    and probabilities takes no part in them.

    Attributes:
        layers: Passes through layers.
        width: H.
        heads: Heads of each pass.
    """

    def __init__(self) -> None:
        self.layers = 0
        self.width = 0
        self.heads: list[int] = []
        self._caught = Caught()
        self._norms: list[nn.LayerNorm] = []

    def attach_(self, model: nn.Module, lesson: Lesson) -> list[Any]:
        """Hangs the hooks that a lesson needs.

        Args:
            model: A live model of a supported family.
            lesson: Only whether its weights are above 0 matters.

        Returns:
            The handles of the hooks.

        Raises:
            RecipeError: Attention maps are asked for of a model with relative positions in its scores.
        """
        blocks = find_blocks(model)
        self.layers, self.heads = len(blocks), [block.num_heads for block in blocks]
        config = cast(Any, model.config)
        if getattr(config, "num_hidden_groups", None) is not None:
            # ALBERT's layers share their weights: one module, which speaks at every pass through it.
            self.layers = config.num_hidden_layers * config.inner_group_num
            self.heads = self.heads[:1] * self.layers
        self.width = blocks[0].hidden_size
        self._norms = [block.ffn_norm for block in blocks]
        handles = []
        if lesson.hidden > 0.0:
            handles += [norm.register_forward_hook(self._catch_hidden) for norm in self._norms]
        if lesson.embeddings > 0.0:
            first = model.get_submodule(blocks[0].prefix)
            handles.append(first.register_forward_pre_hook(self._catch_embeddings, with_kwargs=True))
        if lesson.attention > 0.0:
            kind = getattr(config, "position_embedding_type", None) or "absolute"
            if kind != "absolute":
                raise RecipeError(
                    f"Attention maps are made of queries and keys, but this {config.model_type} model adds "
                    f"positions to its scores ({kind}): set attention to 0."
                )
            for block in blocks:
                handles += self._attend(block)
        return handles

    def take(self) -> Caught:
        """Returns what was caught since the last time."""
        caught, self._caught = self._caught, Caught()
        return caught

    def require_gradients(self) -> None:
        """Raises RecipeError where what was caught will not move the weights that it came from."""
        trained = any(norm.weight.requires_grad for norm in self._norms)
        if not (trained and torch.is_grad_enabled()):
            return
        for caught in (self._caught.hidden, self._caught.queries):
            if caught and not any(one.requires_grad for one in caught):
                raise RecipeError(
                    "Gradient checkpointing hides what happens within the layers from distillation: set "
                    "gradient_checkpointing_kwargs={'use_reentrant': False}."
                )

    def _attend(self, block: EncoderBlock) -> list[Any]:
        return [
            projection.linear.register_forward_hook(partial(self._catch_rows, projection, name))
            for name, projection in (("queries", block.q), ("keys", block.k))
        ]

    def _catch_rows(
        self, projection: Projection, name: str, module: nn.Module, args: Any, output: Tensor
    ) -> None:
        if not _recomputing():
            getattr(self._caught, name).append(output[..., projection.row_slice])

    def _catch_hidden(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if not _recomputing():
            self._caught.hidden.append(output)

    def _catch_embeddings(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self._caught.embeddings is None and not _recomputing():
            given = (*args, *kwargs.values())  # the states come first, whatever a version calls them
            self._caught.embeddings = next(one for one in given if isinstance(one, Tensor))


def scores_of(caught: Caught, layer: int, heads: int) -> Tensor:
    """Returns the attention scores (B, heads, S, S) float32 of a layer."""
    return attention_scores(caught.queries[layer], caught.keys[layer], heads)


def _recomputing() -> bool:
    """Says whether gradient checkpointing runs a layer a second time."""
    return bool(torch._C._current_graph_task_id() != -1)
