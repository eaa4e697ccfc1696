"""Distances between a student and its teacher, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["cosine_distance", "hidden_state_loss", "sigmoid_divergence", "softmax_divergence"]


def softmax_divergence(
    student: Tensor, teacher: Tensor, temperature: float, kept: Tensor | None = None
) -> Tensor:
    """Returns how far the student's distribution is from the teacher's.

    Args:
        student: (..., L) logits, float; computed in float32.
        teacher: (..., L) logits, float, no gradient.
        temperature: Softens both distributions, T.
        kept: (..., L) bool, the outcomes that exist; None means all. At least one in every row.

    Returns:
        (...,) float32: T**2 * KL(teacher || student).

    Source:
        Hinton et al., "Distilling the knowledge in a neural network" (2015), section 2.
    """
    own, other = student.float() / temperature, teacher.detach().float() / temperature
    if kept is not None:  # not -inf: infinity minus infinity, even where it is not used, has no gradient
        floor = torch.finfo(torch.float32).min
        own, other = own.masked_fill(~kept, floor), other.masked_fill(~kept, floor)
    own, other = functional.log_softmax(own, dim=-1), functional.log_softmax(other, dim=-1)
    parts = functional.kl_div(own, other, reduction="none", log_target=True)
    if kept is not None:
        parts = parts.masked_fill(~kept, 0.0)
    return parts.sum(-1) * temperature**2


def sigmoid_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Returns how far each of the student's yes-or-no answers is from the teacher's.

    Its gradient is that of the binary cross entropy against the teacher's probabilities; less their entropy
    it is 0 where both agree.

    Args:
        student: (...,) logits, float; computed in float32.
        teacher: (...,) logits, float, no gradient.
        temperature: Softens both, T.

    Returns:
        (...,) float32: T**2 * KL between the two Bernoulli distributions.
    """
    own, other = student.float() / temperature, teacher.detach().float() / temperature
    sure = torch.sigmoid(other)
    cross = functional.binary_cross_entropy_with_logits(own, sure, reduction="none")
    entropy = functional.binary_cross_entropy_with_logits(other, sure, reduction="none")
    return (cross - entropy) * temperature**2


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns 1 - cosine of each row.

    Args:
        student: (B, H) float; computed in float32.
        teacher: (B, H) float, no gradient.

    Returns:
        (B,) float32, 0 to 2.
    """
    return 1.0 - functional.cosine_similarity(student.float(), teacher.detach().float(), dim=-1)


def hidden_state_loss(
    student_states: Sequence[Tensor],
    teacher_states: Sequence[Tensor],
    attention_mask: Tensor | None,
    items: Tensor | None = None,
) -> Tensor:
    """Returns how far the student's hidden states are from the teacher's.

    Args:
        student_states: One (B, S, H) float for each layer.
        teacher_states: One (B, S, H) float for each layer, no gradient.
        attention_mask: (B, S), 1 = a token that counts; None counts all.
        items: (B,) how much each row weighs; None means 1.

    Returns:
        Scalar float32: squared distances, averaged over the features and the tokens of a row, summed over
        layers and, as they weigh, rows.

    Source:
        Jiao et al., "TinyBERT" (2020), equation 8 with W_h the identity, since both have the same width.
    """
    total = torch.zeros((), device=student_states[0].device)
    for student, teacher in zip(student_states, teacher_states, strict=True):
        squares = (student.float() - teacher.detach().float()).square().mean(-1)  # (B, S)
        if attention_mask is None:
            rows = squares.mean(-1)
        else:
            weights = attention_mask.to(squares.dtype)
            rows = (squares * weights).sum(-1) / weights.sum(-1)
        total = total + (rows if items is None else rows * items).sum()
    return total
