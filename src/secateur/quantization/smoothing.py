"""Outlier channels: moved from activations to weights where that changes nothing else, and named everywhere.

One scale serves a whole tensor of activations, so a channel that is ten times as large as the others leaves
them a tenth of the integers. A channel may be divided by s where it is made and multiplied by s where it is
read, if nothing between the two, and nobody else, sees the difference. In these encoders that holds for

    value -> attn_out     attention averages every channel of the values by itself
    query <-> key         a score is the sum over the channels of their products
    ffn_in -> ffn_out     only where the activation is relu, which keeps positive factors

and for no others. What a layer norm gives is read by the residual connection, too, and the next norm takes
mean and variance over all channels: a factor on one of them cannot be undone behind. GELU keeps no factor.
There an outlier channel is named; what helps are ranges (`observer`), scales per token (`activations:
dynamic`), and leaving a matrix in float (`max_loss_increase`).

Every s is a power of two, so that products and sums stay the same to the last bit, and zeros stay zeros. The
engine runs the model as it runs any other: the factors are in the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.modeling.structure import EncoderBlock, Projection
from secateur.quantization.calibration import CalibrationTexts
from secateur.quantization.survey import survey
from secateur.sparsity.mask import unquantized_weight

__all__ = ["OUTLIER", "Outliers", "smooth_"]

OUTLIER = 8.0  # times the median of the channels' largest magnitudes
_LARGEST_EXPONENT = 16.0


@dataclass(frozen=True)
class Outliers:
    """The channels of one tensor that are far larger than its others.

    Attributes:
        tensor: Its name, as in a quantizer's messages.
        channels: Channel to how many times the median channel it reached.
        movable: Whether the weights can take the difference.
    """

    tensor: str
    channels: dict[int, float]
    movable: bool

    def __str__(self) -> str:
        most = sorted(self.channels, key=lambda channel: -self.channels[channel])
        shown = ", ".join(f"{channel} ({self.channels[channel]:.0f} x the median)" for channel in most[:8])
        rest = f" and {len(most) - 8} more" if len(most) > 8 else ""
        end = "which weights can take over" if self.movable else "which no weight can take over"
        return f"{self.tensor} has outlier channels {shown}{rest}, {end}"


def smooth_(model: nn.Module, texts: CalibrationTexts, alpha: float | None) -> list[Outliers]:
    """Moves outliers from activations to weights wherever the float model stays the same.

    Args:
        model: A live float model in eval mode, with or without masks.
        texts: What it reads.
        alpha: How far, 0 to 1: channel j of an activation x is divided by the power of two next to
            max |x_j| ** alpha / max |w_j| ** (1 - alpha), where w_j multiplies it; 0.5 leaves both equally
            large. None moves nothing.

    Returns:
        The outliers that were there, moved or not, in the order of the layers.

    Raises:
        SecateurError: A tensor is constant, NaN or infinite; names it. The model is unchanged then.

    Source:
        Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
        Models" (arXiv 2211.10438), equation 4; s is rounded to a power of two. They fold s into the layer
        norm before a linear layer, which holds for pre-norm models only; we fold it into the layer that makes
        the channel. For query and key, the key stands for the weight: the equalization of Nagel et al.
        (arXiv 1906.04721), equation 11.
    """
    relu = _activation_of(model) == "relu"
    outliers = []
    for block, tensors in survey(model, texts):
        movable = {"query", "key", "value", "attn_out", *(("ffn_out",) if relu else ())}
        for role, one in tensors.items():
            channels = _outliers(one.maxima)
            if channels:
                outliers.append(Outliers(one.tensor, channels, role in movable))
        if alpha is not None:
            _smooth_block_(block, {role: one.maxima for role, one in tensors.items()}, alpha, relu)
    return outliers


def _smooth_block_(block: EncoderBlock, maxima: dict[str, Tensor], alpha: float, relu: bool) -> None:
    factors = _factors(maxima["query"], maxima["key"], alpha)
    _scale_rows_(block.q, 1.0 / factors)
    _scale_rows_(block.k, factors)
    factors = _factors(maxima["value"], _column_maxima(block.attn_out), alpha)
    _scale_rows_(block.v, 1.0 / factors)
    _scale_columns_(block.attn_out, factors)
    if relu:
        factors = _factors(maxima["ffn_out"], _column_maxima(block.ffn_out), alpha)
        _scale_rows_(block.ffn_in, 1.0 / factors)
        _scale_columns_(block.ffn_out, factors)


def _factors(activation: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """Returns the power of two by which each channel is divided.

    Args:
        activation: [K] float32, the largest magnitude of each channel.
        weight: [K] float32, the same of what multiplies it; a channel that nothing reads counts as the one
            that is read least, and one that is always 0 stays as it is.
        alpha: See `smooth_`.
    """
    read = weight[weight > 0]
    if not len(read):
        return torch.ones_like(activation)
    weight = weight.clamp(min=float(read.min()))
    exponents = alpha * activation.log2() - (1.0 - alpha) * weight.log2()
    exponents = torch.where(activation > 0, exponents, 0.0)
    return torch.exp2(exponents.round().clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT))


def _outliers(maxima: Tensor) -> dict[int, float]:
    """Returns the channels that stand out, and how many times the median they are."""
    times = maxima / maxima.median().clamp(min=torch.finfo(torch.float32).tiny)
    channels = (times > OUTLIER).nonzero().flatten().tolist()
    return {channel: round(float(times[channel]), 1) for channel in channels}


def _column_maxima(projection: Projection) -> Tensor:
    weight = unquantized_weight(projection.linear)[projection.row_slice]
    return weight.abs().amax(0)


def _scale_rows_(projection: Projection, factors: Tensor) -> None:
    with torch.no_grad():
        _stored(projection.linear)[projection.row_slice].mul_(factors[:, None])
        if projection.linear.bias is not None:
            projection.linear.bias[projection.row_slice].mul_(factors)


def _scale_columns_(projection: Projection, factors: Tensor) -> None:
    with torch.no_grad():
        _stored(projection.linear)[projection.row_slice].mul_(factors)


def _stored(linear: nn.Linear) -> Tensor:
    """Returns the parameter under a mask: weights that are gone move with their channel."""
    if parametrize.is_parametrized(linear, "weight"):
        original: Tensor = linear.parametrizations["weight"].original
        return original
    return linear.weight


def _activation_of(model: nn.Module) -> str:
    config = model.config
    return str(getattr(config, "hidden_act", None) or getattr(config, "activation", ""))
