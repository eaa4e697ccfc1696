"""Lets the head of a masked language model see only the tokens that it is asked for."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.errors import StructureError

__all__ = ["ChosenTokens"]


class ChosenTokens:
    """Hands only chosen tokens from an encoder on to its head: [m, V] logits instead of [B, S, V].

    A head works on every token alone, so what it gives for the chosen ones is what it always gave. At 15 % of
    masked tokens it saves the larger part of a small model's step. No name of a head is needed: the encoder's
    output itself is cut.

    Args:
        model: A transformers model with a head on every token.

    Raises:
        StructureError: The model has no encoder apart from its head.
    """

    def __init__(self, model: Any) -> None:
        encoder = model.base_model
        if encoder is model:
            raise StructureError(f"{type(model).__name__} has no head whose tokens could be chosen.")
        self._chosen: Tensor | None = None
        self._handle = encoder.register_forward_hook(self._cut)

    def choose(self, chosen: Tensor | None) -> None:
        """Chooses tokens for the next forward passes.

        Args:
            chosen: (B, S) bool; the head's output is then [1, m, ...] in their order. None means all.
        """
        self._chosen = chosen

    def detach_(self) -> None:
        """Takes the hook off."""
        self._handle.remove()

    def _cut(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._chosen is None:
            return output
        if isinstance(output, tuple):
            return (output[0][self._chosen].unsqueeze(0), *output[1:])
        output.last_hidden_state = output.last_hidden_state[self._chosen].unsqueeze(0)
        return output
