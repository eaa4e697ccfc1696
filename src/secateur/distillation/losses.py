"""Distillation losses as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["distillation_loss", "hidden_state_loss"]


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels_loss: Tensor | float,
    hardness: float,
    temperature: float,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Mixes the loss against the labels with the distance from the teacher.

    Args:
        student_logits: (B, L) float; computed in float32.
        teacher_logits: (B, L) float, no gradient.
        labels_loss: The loss against the labels, divided by the same number of items.
        hardness: Weight of the teacher, 0-1.
        temperature: Softens both distributions, T.
        num_items: What the sum over rows is divided by; None means B.

    Returns:
        Scalar float32: (1 - hardness) * labels_loss + hardness * T**2 * KL(teacher || student) / num_items.

    Source:
        Hinton et al., "Distilling the knowledge in a neural network" (2015), section 2.
    """
    student = functional.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    divergence = functional.kl_div(student, teacher, reduction="sum", log_target=True)
    count = student_logits.shape[0] if num_items is None else num_items
    soft = divergence * (temperature**2 * hardness) / count
    if hardness == 1.0:  # keeps a labels' loss that is infinite, or not there, out of the sum
        return soft
    return soft + (1.0 - hardness) * torch.as_tensor(labels_loss, dtype=torch.float32, device=soft.device)


def hidden_state_loss(
    student_states: Sequence[Tensor],
    teacher_states: Sequence[Tensor],
    attention_mask: Tensor | None,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Returns how far the student's hidden states are from the teacher's.

    Args:
        student_states: One (B, S, H) float for each layer.
        teacher_states: One (B, S, H) float for each layer, no gradient.
        attention_mask: (B, S), 1 = a token that counts; None counts all.
        num_items: What the sum over rows is divided by; None means B.

    Returns:
        Scalar float32: squared distances, averaged over the features and the tokens of a row, summed over
        layers and rows, divided by `num_items`.

    Source:
        Jiao et al., "TinyBERT" (2020), equation 8 with W_h the identity, since both have the same width.
    """
    first = student_states[0]
    count = first.shape[0] if num_items is None else num_items
    total = torch.zeros((), device=first.device)
    for student, teacher in zip(student_states, teacher_states, strict=True):
        squares = (student.float() - teacher.detach().float()).square().mean(-1)  # (B, S)
        if attention_mask is None:
            total = total + squares.mean(-1).sum()
        else:
            weights = attention_mask.to(squares.dtype)
            total = total + ((squares * weights).sum(-1) / weights.sum(-1)).sum()
    return total / count
