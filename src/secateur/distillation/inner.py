"""What lies within two models, compared: hidden states, the embeddings' outputs, attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.distillation.layer_map import layer_pairs
from secateur.distillation.lesson import Lesson
from secateur.distillation.losses import attention_distance, hidden_state_loss, state_distance
from secateur.distillation.states import Caught, InnerStates, scores_of
from secateur.errors import RecipeError, StructureError

__all__ = ["PROJECTIONS", "InnerComparison"]

PROJECTIONS = "distillation_projections"  # the name of the module that a narrower student gets


class InnerComparison:
    """Compares layers of a student with layers of its teacher, while both run.

    A student of another width gets learned projections, one for the hidden states and one for the
    embeddings: a module of its own on the student, so that checkpoints of a run hold it.

    Args:
        lessons: All that will be asked for in the run.
    """

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        inner = [lesson for lesson in lessons if lesson.looks_inside]
        self.wanted = Lesson(
            hidden=max((lesson.hidden for lesson in inner), default=0.0),
            embeddings=max((lesson.embeddings for lesson in inner), default=0.0),
            attention=max((lesson.attention for lesson in inner), default=0.0),
        )
        self._lessons = inner
        self._student = InnerStates()
        self._teacher = InnerStates()
        self._pairs: dict[Any, list[tuple[int, int]]] = {}
        self._projections: nn.ModuleDict | None = None
        self._owner: nn.Module | None = None

    def attach_(self, student: nn.Module, teacher: nn.Module) -> list[Any]:
        """Hangs hooks on both models, and projections on a student of another width.

        Returns:
            The handles of the hooks.

        Raises:
            RecipeError: The models cannot be compared as the lessons ask; nothing stays attached then.
            StructureError: The student has projections of another run.
        """
        handles: list[Any] = []
        try:
            handles += self._student.attach_(student, self.wanted)
            handles += self._teacher.attach_(teacher, self.wanted)
            self._pairs = {lesson.layer_map: self._paired(lesson) for lesson in self._lessons}
            self._add_projections_(student)
        except BaseException:
            for handle in handles:
                handle.remove()
            raise
        return handles

    def clear_student(self) -> None:
        """Forgets what a pass of the student left."""
        self._student.take()

    def clear_teacher(self) -> None:
        """Forgets what a pass of the teacher left."""
        self._teacher.take()

    def parameters(self) -> list[nn.Parameter]:
        """Returns what the projections learn; empty where both models are equally wide."""
        return [] if self._projections is None else list(self._projections.parameters())

    def remove_projections_(self) -> None:
        """Takes the projections off the student: they are of no use once it has learnt."""
        if self._owner is not None and hasattr(self._owner, PROJECTIONS):
            delattr(self._owner, PROJECTIONS)
        self._owner = None

    def loss(self, lesson: Lesson, attention_mask: Tensor | None, items: Tensor) -> Tensor:
        """Returns the weighted distances of the last pass of both models, and forgets it.

        Args:
            lesson: One of those of the run.
            attention_mask: (B, S), not 0 = a token that counts; None counts all.
            items: (B,) how much each row weighs.

        Returns:
            Scalar float32, summed over rows as they weigh and over the layers that are compared.

        Source:
            Jiao et al., "TinyBERT" (2020), equations 6 to 9.
        """
        self._student.require_gradients()
        own, other = self._student.take(), self._teacher.take().to(items.device)
        pairs = self._pairs[lesson.layer_map]
        mask = None if attention_mask is None else attention_mask.to(items.device)
        with torch.autocast(items.device.type, enabled=False):
            total = torch.zeros((), device=items.device)
            if lesson.hidden > 0.0:
                mine = [self._projected("hidden", own.hidden[layer]) for layer, _ in pairs]
                theirs = [other.hidden[layer] for _, layer in pairs]
                cosine = lesson.hidden_distance == "cosine"
                total = total + lesson.hidden * hidden_state_loss(mine, theirs, mask, items, cosine=cosine)
            if lesson.embeddings > 0.0:
                assert own.embeddings is not None
                assert other.embeddings is not None
                mapped = self._projected("embeddings", own.embeddings)
                rows = state_distance(mapped, other.embeddings, mask)
                total = total + lesson.embeddings * (rows * items).sum()
            if lesson.attention > 0.0:
                total = total + lesson.attention * self._attention(lesson, own, other, mask, items)
        return total

    def _attention(
        self, lesson: Lesson, own: Caught, other: Caught, mask: Tensor | None, items: Tensor
    ) -> Tensor:
        total = torch.zeros((), device=items.device)
        for mine, theirs in self._pairs[lesson.layer_map]:
            rows = attention_distance(
                scores_of(own, mine, self._student.heads[mine]),
                scores_of(other, theirs, self._teacher.heads[theirs]),
                mask,
                probabilities=lesson.attention_of == "probabilities",
            )
            total = total + (rows * items).sum()
        return total

    def _paired(self, lesson: Lesson) -> list[tuple[int, int]]:
        pairs = layer_pairs(lesson.layer_map, self._student.layers, self._teacher.layers)
        if lesson.attention > 0.0:
            for mine, theirs in pairs:
                heads = self._student.heads[mine], self._teacher.heads[theirs]
                if heads[0] != heads[1]:
                    raise RecipeError(
                        f"Attention maps are compared head by head, but layer {mine} of the student has "
                        f"{heads[0]} heads and layer {theirs} of the teacher {heads[1]}: set attention to 0, "
                        f"or give a student with {heads[1]} heads."
                    )
        return pairs

    def _add_projections_(self, student: nn.Module) -> None:
        widths = self._student.width, self._teacher.width
        names = [name for name in ("hidden", "embeddings") if getattr(self.wanted, name) > 0.0]
        if widths[0] == widths[1] or not names:
            return
        if hasattr(student, PROJECTIONS):
            raise StructureError(
                f"The student has a module {PROJECTIONS!r} already: finish the run that it belongs to first."
            )
        device = next(student.parameters()).device
        made = {name: _projection(*widths, seed).to(device) for seed, name in enumerate(names)}
        self._projections = nn.ModuleDict(made)
        self._owner = student
        student.add_module(PROJECTIONS, self._projections)

    def _projected(self, name: str, states: Tensor) -> Tensor:
        if self._projections is None:
            return states
        projected: Tensor = self._projections[name](states.float())
        return projected


def _projection(width: int, teacher_width: int, seed: int) -> nn.Linear:
    """Starts a projection that keeps lengths and angles; the same in every run, whatever else is random."""
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, width, teacher_width, bias=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        nn.init.orthogonal_(linear.weight, generator=generator)
    return linear
