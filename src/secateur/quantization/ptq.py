"""Post-training quantization: ranges from a few batches, no training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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
from secateur.quantization.scheme import QuantScheme

__all__ = ["calibrate_"]


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
