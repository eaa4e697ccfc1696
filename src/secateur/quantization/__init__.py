"""Fake quantization that simulates the engine's int8 arithmetic inside a live PyTorch model."""

from secateur.quantization.dynamic import DynamicQuantizer
from secateur.quantization.observer import ActivationQuantizer
from secateur.quantization.ptq import PostTrainingReport, calibrate_, quantize_post_training_
from secateur.quantization.qat import (
    QuantizedParts,
    attach_quantizers_,
    enable_quantizers_,
    find_quantizers,
    freeze_observers_,
    is_quantized,
)
from secateur.quantization.scheme import PostTraining, QuantScheme

__all__ = [
    "ActivationQuantizer",
    "DynamicQuantizer",
    "PostTraining",
    "PostTrainingReport",
    "QuantScheme",
    "QuantizedParts",
    "attach_quantizers_",
    "calibrate_",
    "enable_quantizers_",
    "find_quantizers",
    "freeze_observers_",
    "is_quantized",
    "quantize_post_training_",
]
