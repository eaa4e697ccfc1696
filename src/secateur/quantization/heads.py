"""The task head of a quantized model: what the engine computes there, in PyTorch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation

from secateur.checkpoint.families import FAMILIES, HeadNames
from secateur.modeling.structure import find_architecture, find_module
from secateur.quantization.fake_quantize import fake_quantize_rows
from secateur.quantization.simulation import SimulatedActivation, SimulatedNorm

__all__ = ["decoder_is_quantized", "quantize_decoder_", "simulate_head_"]


def quantize_decoder_(model: nn.Module, rows: Any) -> None:
    """Lets a head over the vocabulary read the word table as int8, as lookups do; other heads stay.

    The float table stays as it is: the looked-up rows and the decoder's weight are quantized each for itself,
    which gives the same integers.

    Args:
        model: A live model of a supported family.
        rows: The quantizer of the word table's rows, which says whether it is switched on.
    """
    decoder = _decoder(model)
    if decoder is not None:
        decoder.forward = _QuantizedDecoder(decoder, rows)


def decoder_is_quantized(model: nn.Module) -> bool | None:
    """Says whether the head over the vocabulary reads int8; None for models without such a head."""
    decoder = _decoder(model)
    return None if decoder is None else isinstance(decoder.__dict__.get("forward"), _QuantizedDecoder)


def simulate_head_(model: nn.Module, gate: Any) -> None:
    """Lets the norm of a head, and a GELU that is no module of it, follow the engine in eval mode.

    Args:
        model: A live model of a supported family.
        gate: A quantizer of the same model, which says whether simulation is switched on.
    """
    head = _head(model)
    if head is None or head.norm is None or head.output is None:
        return
    norm, owner = find_module(model, head.norm), find_module(model, head.output)
    if isinstance(norm, nn.LayerNorm):
        norm.forward = SimulatedNorm(norm, gate)
    if owner is not None and head.norm == f"{head.output}.layer_norm":
        owner.forward = _FunctionalHead(owner, gate)


class _QuantizedDecoder:
    """Takes the place of the forward of the linear layer over the vocabulary."""

    def __init__(self, linear: nn.Linear, rows: Any) -> None:
        self.linear = linear
        self.rows = rows

    def __call__(self, x: Tensor) -> Tensor:
        weight = fake_quantize_rows(self.linear.weight) if self.rows.enabled else self.linear.weight
        return functional.linear(x, weight, self.linear.bias)


class _FunctionalHead:
    """Takes the place of the forward of RoBERTa's head over the vocabulary, whose GELU is a function."""

    def __init__(self, head: nn.Module, gate: Any) -> None:
        self.head = head
        self.activation = GELUActivation()
        self.gate = gate

    def __call__(self, features: Tensor, **kwargs: Any) -> Tensor:
        self.activation.train(self.head.training)
        x = SimulatedActivation(self.activation, "gelu", self.gate)(self.head.dense(features))
        logits: Tensor = self.head.decoder(self.head.layer_norm(x))
        return logits


def _head(model: nn.Module) -> HeadNames | None:
    architecture = find_architecture(model)
    return None if architecture is None else FAMILIES[model.config.model_type].architectures[architecture]


def _decoder(model: nn.Module) -> nn.Linear | None:
    head = _head(model)
    if head is None or head.decoder is None:
        return None
    decoder = find_module(model, head.decoder)
    return decoder if isinstance(decoder, nn.Linear) else None
