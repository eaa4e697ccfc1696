"""Distances between a student and its teacher, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "attention_distance",
    "attention_scores",
    "cosine_distance",
    "hidden_state_loss",
    "sigmoid_divergence",
    "similarity_distance",
    "softmax_divergence",
    "state_distance",
]


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


def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns how far the texts of a batch lie from each other otherwise than to the teacher.

    The widths may differ: only similarities are compared. Of one text there is nothing to compare.

    Args:
        student: (B, H) float; computed in float32.
        teacher: (B, G) float, no gradient.

    Returns:
        (B,) float32: for each text the mean over the others of (its cosine - the teacher's)**2.

    Source:
        Tung and Mori, "Similarity-Preserving Knowledge Distillation" (2019), equations 1 to 4; theirs divides
        each row of the matrix by its norm, here rows of the states are, so that it holds cosines.
    """
    own = functional.normalize(student.float(), dim=-1)
    other = functional.normalize(teacher.detach().float(), dim=-1)
    squares = (own @ own.T - other @ other.T).square()
    return squares.fill_diagonal_(0.0).sum(-1) / max(len(squares) - 1, 1)


def state_distance(
    student: Tensor, teacher: Tensor, kept: Tensor | None = None, *, cosine: bool = False
) -> Tensor:
    """Returns how far a student's states are from its teacher's, a mean over each row's own tokens.

    Args:
        student: (B, S, H) float; computed in float32.
        teacher: (B, S, H) float, no gradient.
        kept: (B, S), not 0 = a token that counts; None counts all.
        cosine: 1 - cosine of each token instead of the mean of squared differences.

    Returns:
        (B,) float32; 0 where no token counts.

    Source:
        Jiao et al., "TinyBERT" (2020), equations 8 (hidden states) and 9 (embeddings), W applied before; with
        `cosine` Sanh et al., "DistilBERT" (2019), section 2, L_cos. Both are averaged over real tokens here.
    """
    own, other = student.float(), teacher.detach().float()
    if cosine:
        tokens = 1.0 - functional.cosine_similarity(own, other, dim=-1)
    else:
        tokens = (own - other).square().mean(-1)  # (B, S)
    if kept is None:
        return tokens.mean(-1)
    weights = (kept != 0).to(tokens.dtype)
    return (tokens * weights).sum(-1) / weights.sum(-1).clamp(min=1.0)


def hidden_state_loss(
    student_states: Sequence[Tensor],
    teacher_states: Sequence[Tensor],
    attention_mask: Tensor | None,
    items: Tensor | None = None,
    *,
    cosine: bool = False,
) -> Tensor:
    """Returns how far the student's hidden states are from the teacher's.

    Args:
        student_states: One (B, S, H) float for each compared layer.
        teacher_states: One (B, S, H) float for each compared layer, no gradient.
        attention_mask: (B, S), 1 = a token that counts; None counts all.
        items: (B,) how much each row weighs; None means 1.
        cosine: See `state_distance`.

    Returns:
        Scalar float32: `state_distance`, summed over layers and, as they weigh, rows.

    Source:
        Jiao et al., "TinyBERT" (2020), equation 8; the sum over layers is that of equation 6.
    """
    total = torch.zeros((), device=student_states[0].device)
    for student, teacher in zip(student_states, teacher_states, strict=True):
        rows = state_distance(student, teacher, attention_mask, cosine=cosine)
        total = total + (rows if items is None else rows * items).sum()
    return total


def attention_scores(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    """Returns what attention takes the softmax of, before any mask.

    Args:
        query: (B, S, N) float, N = heads * D; computed in float32.
        key: (B, S, N) float.
        num_heads: Heads.

    Returns:
        (B, heads, S, S) float32: q . k / sqrt(D).
    """
    q, k = (one.float().unflatten(-1, (num_heads, -1)).transpose(1, 2) for one in (query, key))
    return q @ k.transpose(-1, -2) / float(q.shape[-1]) ** 0.5


def attention_distance(
    student: Tensor, teacher: Tensor, kept: Tensor | None = None, *, probabilities: bool = False
) -> Tensor:
    """Returns how far a student's attention is from its teacher's in one layer.

    Args:
        student: (B, heads, S, S) float32 scores, before any mask.
        teacher: (B, heads, S, S) float32 scores, no gradient.
        kept: (B, S), not 0 = a token that counts; None counts all.
        probabilities: Compares the softmax over real tokens instead of the scores.

    Returns:
        (B,) float32: squared differences, averaged over heads and pairs of real tokens; 0 where there is no
        real token.

    Source:
        Jiao et al., "TinyBERT" (2020), equation 7, whose A are scores. Their code counts padding as 0 and
        divides by all places; here padding neither adds nor divides.
    """
    own, other = student.float(), teacher.detach().float()
    if kept is None:
        kept = torch.ones(own.shape[0], own.shape[-1], device=own.device)
    real = kept != 0  # (B, S)
    if probabilities:
        floor = torch.finfo(torch.float32).min
        hidden = ~real[:, None, None, :]
        own = functional.softmax(own.masked_fill(hidden, floor), dim=-1)
        other = functional.softmax(other.masked_fill(hidden, floor), dim=-1)
    pairs = (real.unsqueeze(1) & real.unsqueeze(2)).to(own.dtype)  # (B, S, S)
    squares = (own - other).square().mean(1) * pairs
    return squares.sum((-1, -2)) / pairs.sum((-1, -2)).clamp(min=1.0)
