"""Attention as the engine computes it, registered with transformers under the name `secateur_int8`."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from secateur.errors import StructureError, UnsupportedError
from secateur.quantization.integer_attention import integer_attention
from secateur.quantization.observer import ActivationQuantizer
from secateur.quantization.scheme import QuantScheme

__all__ = ["ATTENTION_NAME", "AttentionQuantizer", "choose_attention_", "int8_attention"]

ATTENTION_NAME = "secateur_int8"
_ATTRIBUTE = "attention_quantizer"
_FLOAT = "attends_in_float"


class AttentionQuantizer(nn.Module):  # type: ignore[misc]
    """The ranges of query, key and value of one attention module.

    Args:
        tensor: The attention module's name, for messages.
        scheme: How the ranges are learnt.
    """

    def __init__(self, tensor: str, scheme: QuantScheme) -> None:
        super().__init__()
        how = scheme.averaging, scheme.observer, scheme.percentile
        self.query = ActivationQuantizer(f"{tensor}.query's output", False, *how)
        self.key = ActivationQuantizer(f"{tensor}.key's output", True, *how)
        self.value = ActivationQuantizer(f"{tensor}.value's output", True, *how)

    def attach_(self, attention: nn.Module) -> None:
        """Hangs the quantizer where `int8_attention` looks for it.

        Args:
            attention: The module that transformers hands to an attention function.
        """
        attention.register_module(_ATTRIBUTE, self)
        if not hasattr(sys.modules[type(attention).__module__], "ALL_ATTENTION_FUNCTIONS"):
            attention.forward = _direct_forward(attention)

    @staticmethod
    def leave_float_(attention: nn.Module) -> None:
        """Lets `int8_attention` attend in float here, without a quantizer, where other layers have one.

        Args:
            attention: The module that transformers hands to an attention function.
        """
        setattr(attention, _FLOAT, True)

    @staticmethod
    def detach_(attention: nn.Module) -> None:
        """Takes the quantizer off an attention module, which attends in float from then on.

        Args:
            attention: The module that it was attached to.
        """
        delattr(attention, _ATTRIBUTE)
        AttentionQuantizer.leave_float_(attention)

    @staticmethod
    def of(attention: nn.Module) -> AttentionQuantizer | None:
        """Returns the quantizer of an attention module, or None where it has none."""
        found = getattr(attention, _ATTRIBUTE, None)
        return found if isinstance(found, AttentionQuantizer) else None

    @property
    def enabled(self) -> bool:
        """Whether the products are simulated in integers; False lets float attention run."""
        return self.query.enabled


def int8_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attends in integers: an attention function of transformers' `AttentionInterface`.

    Args:
        module: The attention module, which carries an `AttentionQuantizer`.
        query: [B, H, S, D] float.
        key: [B, H, T, D] float.
        value: [B, H, T, D] float.
        attention_mask: Broadcasts against [B, H, S, T]; bool, True = attend, or float, added to the scores;
            None attends everywhere.
        dropout: Fraction of probabilities dropped.
        scaling: Must be 1 / sqrt(D), which the engine assumes.
        **kwargs: What else transformers passes; not used.

    Returns:
        output: [B, S, H, D] float32.
        probabilities: [B, H, S, T] float32; None in training mode unless `output_attentions` asks for them.

    Raises:
        StructureError: If the module carries no quantizer.
        UnsupportedError: If `scaling` is another one.
    """
    quantizer = AttentionQuantizer.of(module)
    if quantizer is None and not getattr(module, _FLOAT, False):
        raise StructureError(
            f"{type(module).__name__} runs {ATTENTION_NAME} attention without quantizers, because its config "
            f"is shared with a quantized model: give each model its own config."
        )
    if quantizer is None or not quantizer.enabled:
        output, weights = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, weights
    if scaling is not None and not math.isclose(scaling, query.shape[-1] ** -0.5, rel_tol=1e-6):
        raise UnsupportedError(
            f"{type(module).__name__} scales its scores by {scaling}; the engine only knows "
            f"1 / sqrt(head size)."
        )
    q, query_scale = quantizer.query(query, torch.float32)
    k, key_scale = quantizer.key(key, torch.float32)
    v, value_scale = quantizer.value(value, torch.float32)
    output, probabilities = integer_attention(
        q,
        k,
        v,
        (query_scale, key_scale, value_scale),
        _kept(attention_mask),
        dropout,
        exact=not module.training,
        look=not module.training or _wanted(module, kwargs),
    )
    return output.transpose(1, 2).contiguous(), probabilities


def choose_attention_(model: nn.Module) -> None:
    """Makes a model, whose attention modules carry quantizers, call `int8_attention`.

    Args:
        model: A live transformers model.

    Raises:
        UnsupportedError: If transformers does not take it.
    """
    if any(isinstance(module.__dict__.get("forward"), _DirectForward) for module in model.modules()):
        return
    model.set_attn_implementation(ATTENTION_NAME)
    if model.config._attn_implementation != ATTENTION_NAME:
        raise UnsupportedError(
            f"{type(model).__name__} does not take another attention implementation: update transformers."
        )


class _DirectForward:
    """Replaces the forward of an attention where transformers, before version 5, fixes what it calls."""

    projections: tuple[str, str, str] = ("query", "key", "value")

    def __init__(self, attention: nn.Module) -> None:
        self.attention = attention

    def __call__(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        attention = self.attention
        q, k, v = (
            getattr(attention, name)(hidden_states)
            .unflatten(-1, (-1, attention.attention_head_size))
            .transpose(1, 2)
            for name in self.projections
        )  # (B, H, S, D)
        wanted = kwargs.get("output_attentions") or any(given is True for given in args)
        output, probabilities = int8_attention(
            attention, q, k, v, attention_mask, self.dropout(), output_attentions=wanted
        )
        return output.flatten(2), probabilities

    def dropout(self) -> float:
        """Returns the fraction of probabilities that is dropped."""
        return float(self.attention.dropout.p) if self.attention.training else 0.0


class _DirectDistilBert(_DirectForward):
    """DistilBERT's attention has other names and contains the output projection."""

    projections = ("q_lin", "k_lin", "v_lin")

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        # It takes query, key and value, all of them the hidden states, and then the mask.
        hidden_states = args[0] if args else kwargs["query"]
        mask = args[3] if len(args) > 3 else kwargs.get("mask")
        if mask is not None and mask.dim() == 2:  # 1 for tokens and 0 for padding
            mask = (mask != 0)[:, None, None, :]
        wanted = kwargs.get("output_attentions")
        output, probabilities = super().__call__(hidden_states, mask, *args[4:], output_attentions=wanted)
        return self.attention.out_lin(output), probabilities


class _DirectAlbert(_DirectForward):
    """ALBERT's attention contains the output projection, the residual and the norm."""

    def __call__(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        attention = self.attention
        output, probabilities = super().__call__(hidden_states, attention_mask, *args, **kwargs)
        output = attention.output_dropout(attention.dense(output))
        return attention.LayerNorm(hidden_states + output), probabilities

    def dropout(self) -> float:
        """Returns the fraction of probabilities that is dropped."""
        return float(self.attention.attention_dropout.p) if self.attention.training else 0.0


def _direct_forward(attention: nn.Module) -> _DirectForward:
    if hasattr(attention, "q_lin"):
        return _DirectDistilBert(attention)
    return (_DirectAlbert if hasattr(attention, "dense") else _DirectForward)(attention)


def _wanted(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Says whether the caller, or the model's config, asks for the probabilities."""
    asked = kwargs.get("output_attentions")
    return bool(getattr(module.config, "output_attentions", False) if asked is None else asked)


def _kept(attention_mask: Tensor | None) -> Tensor | None:
    """Returns the mask as bool; transformers before 5 gives some models one that is added to the scores."""
    if attention_mask is None or attention_mask.dtype == torch.bool:
        return attention_mask
    return attention_mask >= 0


# The mask function is what makes transformers build a padding mask for an implementation it does not know.
AttentionInterface.register(ATTENTION_NAME, int8_attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
