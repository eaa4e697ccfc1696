"""Distillation losses as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["distillation_loss"]


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
