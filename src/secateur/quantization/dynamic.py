"""Quantization of one activation token by token: each row's scale is its own largest value over 127."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.errors import SecateurError
from secateur.quantization.fake_quantize import compute_dtype, quantize_rows

__all__ = ["DynamicQuantizer"]


class DynamicQuantizer(nn.Module):  # type: ignore[misc]
    """Int8 symmetric quantization of every row by its own scale. Nothing is learnt, so it has no state.

    It takes the place of an `ActivationQuantizer` at the input of linear layers; there is no range to observe
    or freeze, so `find_quantizers` does not list it.

    Attributes:
        tensor: What is quantized, for messages.
        enabled: False lets the float model run as if nothing were attached.
    """

    def __init__(self, tensor: str) -> None:
        super().__init__()
        self.tensor = tensor
        self.enabled = True

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Quantizes `x` by the scales of its rows.

        Args:
            x: [..., K] any floating type.
            dtype: Type of the integers; None takes what the surrounding autocast wants.

        Returns:
            q: [..., K] integers, -127 to 127.
            scale: [...] float32, what one unit of a row is worth.

        Raises:
            SecateurError: If `x` holds NaN or infinity; not looked for on a GPU, which it would stall.
        """
        q, scale = quantize_rows(x, dtype or compute_dtype(x.device.type))
        if x.device.type == "cpu" and not scale.isfinite().all().item():
            raise SecateurError(
                f"{self.tensor} holds NaN or infinity: the training has diverged; lower the learning rate, "
                f"or check the input."
            )
        return q, scale
