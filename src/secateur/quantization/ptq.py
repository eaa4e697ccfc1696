"""Post-training quantization: ranges from a few batches, no training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.quantization.qat import (
    attach_quantizers_,
    enable_quantizers_,
    find_quantizers,
    freeze_observers_,
    is_quantized,
)
from secateur.quantization.scheme import PostTraining, QuantScheme

__all__ = ["PostTrainingReport", "calibrate_", "quantize_post_training_"]


@dataclass(frozen=True)
class PostTrainingReport:
    """What `quantize_post_training_` did.

    Attributes:
        facts: Ready for metrics.json: `rows`, `observers` (tensor to the observer chosen), `outliers` (the
            channels that were smoothed), `auto` (order of the errors, what was left in float, the loss).
        weights: What `export_checkpoint(weights=...)` shall be given.
    """

    facts: dict[str, Any]
    weights: Literal["f32", "bf16"]


def quantize_post_training_(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], settings: PostTraining | None = None
) -> PostTrainingReport:
    """Quantizes a trained model, with or without masks, from calibration batches; no training.

    Args:
        model: A live model of a supported family without quantizers; zeros of its matrices stay zeros.
        batches: Keyword arguments of `model.forward`, as tensors; they are read several times, so they are
            kept. `labels` are used only where `max_loss_increase` is given.
        settings: How; the defaults where None.

    Returns:
        What was done.

    Raises:
        DataError: There are too few rows.
        SecateurError: A tensor is constant, NaN or infinite; names it.
        RecipeError: `max_loss_increase` cannot be kept.
    """
    raise NotImplementedError  # replaced within the hour; the signature stays


def calibrate_(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], scheme: QuantScheme | None = None
) -> None:
    """Attaches quantizers, learns their ranges from batches in eval mode, and freezes them.

    Without a scheme the ranges are the extremes of all batches: clipping rare values costs more than the
    finer steps gain (MiniLM on clinc150: 1.0 point at the 99.95th percentile, 0.2 with extremes).

    Args:
        model: A live model of a supported family, with or without masks; quantizers that are there stay.
        batches: Keyword arguments of `model.forward`, as tensors; `labels` are not needed.
        scheme: How ranges are learnt.

    Raises:
        DataError: If there is no batch.
        SecateurError: If a range is not finite.
    """
    if not is_quantized(model):
        attach_quantizers_(model, scheme or QuantScheme(averaging=0.0))
    enable_quantizers_(model)
    quantizers = find_quantizers(model).values()
    was_training = model.training
    model.eval()
    for quantizer in quantizers:
        quantizer.observing = True
    device = next(model.parameters()).device
    count = 0
    try:
        with torch.no_grad():
            for batch in batches:
                model(**{name: _moved(value, device) for name, value in batch.items()})
                count += 1
    finally:
        for quantizer in quantizers:
            quantizer.observing = False
        model.train(was_training)
    if not count:
        raise DataError("Calibration needs at least one batch of texts, but got none.")
    freeze_observers_(model)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
