"""Which tensors are quantized, and how their ranges are learnt. Formulas live in `secateur.affine`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from secateur.errors import RecipeError

__all__ = ["Activations", "Observer", "PostTraining", "QuantScheme"]

Activations = Literal["u8_static", "s8_dynamic"]
Observer = Literal["minmax", "moving_average", "percentile", "mse"]


@dataclass(frozen=True)
class QuantScheme:
    """How a model is quantized, and how the ranges of its activations are learnt.

    Attributes:
        weights: Linear weights, int8 symmetric, one scale per output row, taken from the current weight.
        activations: Inputs of linear layers. `u8_static`: uint8 with a zero point, one learnt range a tensor.
            `s8_dynamic`: int8 symmetric, the scale taken from each token as it comes, nothing learnt.
        embeddings: Every looked-up row, int8 symmetric with its own scale.
        attention: Query uint8, key and value int8, probabilities rounded to 255ths of the row's largest.
        averaging: Weight of the newest batch in the moving average of a range. The first batches count
            equally, until each would count for less than this. 0 takes all batches as one.
        observer: What the range of a batch is: its extremes (`moving_average`; with `minmax` those of all
            batches, whatever `averaging` is), the extremes without the rarest values at both ends
            (`percentile`), or those of all ranges whose rounding and clipping errs least in the mean of the
            squares (`mse`).
        percentile: Per cent of a tensor's values that lie below the upper end of its range, and above the
            lower one; for `percentile` only.
    """

    weights: Literal["s8_per_row"] = "s8_per_row"
    activations: Activations = "u8_static"
    embeddings: Literal["s8_per_row"] = "s8_per_row"
    attention: Literal["int8"] = "int8"
    averaging: float = 0.01
    observer: Observer = "moving_average"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.activations not in get_args(Activations):
            raise RecipeError(
                f"activations must be {' or '.join(map(repr, get_args(Activations)))}, "
                f"but is {self.activations!r}."
            )
        if not 0.0 <= self.averaging <= 1.0:
            raise RecipeError(f"averaging must lie between 0 and 1, but is {self.averaging}.")
        _check_choice("observer", self.observer, get_args(Observer))
        _check_percentile(self.percentile)


@dataclass(frozen=True)
class PostTraining:
    """How `quantize_post_training_` quantizes a trained model from calibration texts.

    Attributes:
        observer: How ranges come out of all texts together, see `QuantScheme`; `best` compares the three for
            every tensor by how far the layers that read it then miss their outputs.
        percentile: See `QuantScheme`.
        smoothing: How far outliers move from activations to weights, 0 to 1 (SmoothQuant's alpha); None moves
            nothing. Only scales that leave the float model's answers as they are to the last bit.
        bias_correction: Whether a layer's mean error on the texts is taken out of its bias.
        rounding: How weights become integers: each to the `nearest`, or `gptq`, which lets the weights not
            yet rounded make up for those that are.
        activations: `static` ranges, or `dynamic`: a scale of its own for every token.
        attention: Whether the products in attention are `int8` or `float`.
        max_loss_increase: Most by which the mean loss on the calibration texts may rise; matrices and
            attentions whose error is worst stay float until it does not. None leaves everything int8. Where
            the batches have no labels, the float model's answers are what is to be learnt, and the loss above
            theirs is the Kullback-Leibler divergence.
        float_weights: How export shall write the matrices that stay float: `f32`, or `bf16`, half the bytes,
            with which the engine also rounds what they multiply; the bound counts that.
    """

    observer: Literal["minmax", "percentile", "mse", "best"] = "best"
    percentile: float = 99.99
    smoothing: float | None = 0.5
    bias_correction: bool = True
    rounding: Literal["nearest", "gptq"] = "nearest"
    activations: Literal["static", "dynamic"] = "static"
    attention: Literal["int8", "float"] = "int8"
    max_loss_increase: float | None = None
    float_weights: Literal["f32", "bf16"] = "f32"

    def __post_init__(self) -> None:
        _check_choice("observer", self.observer, ("minmax", "percentile", "mse", "best"))
        _check_percentile(self.percentile)
        if self.smoothing is not None and not 0.0 <= self.smoothing <= 1.0:
            raise RecipeError(f"smoothing must lie between 0 and 1, or be None, but is {self.smoothing}.")
        _check_choice("rounding", self.rounding, ("nearest", "gptq"))
        _check_choice("activations", self.activations, ("static", "dynamic"))
        _check_choice("attention", self.attention, ("int8", "float"))
        _check_choice("float_weights", self.float_weights, ("f32", "bf16"))
        if self.max_loss_increase is not None and not 0.0 <= self.max_loss_increase < math.inf:
            raise RecipeError(
                f"max_loss_increase must be finite and not negative, but is {self.max_loss_increase}."
            )


def _check_choice(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RecipeError(f"{key} must be one of {', '.join(allowed)}, but is {value!r}.")


def _check_percentile(value: float) -> None:
    if not 50.0 < value <= 100.0:
        raise RecipeError(f"percentile must lie above 50 and be at most 100, but is {value}.")
