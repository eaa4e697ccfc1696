"""Which tensors are quantized, and how their ranges are learnt. Formulas live in `secateur.affine`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from secateur.errors import RecipeError

__all__ = ["Activations", "QuantScheme"]

Activations = Literal["u8_static", "s8_dynamic"]


@dataclass(frozen=True)
class QuantScheme:
    """The law of the checkpoint format, with the settings that training may choose.

    Attributes:
        weights: Linear weights, int8 symmetric, one scale per output row, taken from the current weight.
        activations: Inputs of linear layers. `u8_static`: uint8 with a zero point, one learnt range a tensor.
            `s8_dynamic`: int8 symmetric, the scale taken from each token as it comes, nothing learnt.
        embeddings: Every looked-up row, int8 symmetric with its own scale.
        attention: Query uint8, key and value int8, probabilities rounded to 255ths of the row's largest.
        averaging: Weight of the newest batch in the moving average of a range. The first batches count
            equally, until each would count for less than this. 0 keeps the extremes of all batches.
    """

    weights: Literal["s8_per_row"] = "s8_per_row"
    activations: Activations = "u8_static"
    embeddings: Literal["s8_per_row"] = "s8_per_row"
    attention: Literal["int8"] = "int8"
    averaging: float = 0.01

    def __post_init__(self) -> None:
        if self.activations not in get_args(Activations):
            raise RecipeError(
                f"activations must be {' or '.join(map(repr, get_args(Activations)))}, "
                f"but is {self.activations!r}."
            )
        if not 0.0 <= self.averaging <= 1.0:
            raise RecipeError(f"averaging must lie between 0 and 1, but is {self.averaging}.")
