"""The hook on the student through which a teacher speaks, under a Trainer that knows nothing of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.distillation.losses import distillation_loss
from secateur.errors import DataError, RecipeError, StructureError

__all__ = ["TEACHER_LOGITS", "StudentHook"]

TEACHER_LOGITS = "teacher_logits"
_IGNORED_LABEL = -100


class StudentHook:
    """Replaces the loss in a student's output while it trains.

    The stock Trainer stays as it is: it asks the student for its loss and gets one that the teacher has part
    in. The sum over rows is divided by the Trainer's `num_items_in_batch` where it is given. transformers'
    classifiers ignore that number and return a mean, so that without this hook gradient accumulation under
    transformers 5 multiplies the gradient by the number of accumulated batches.

    Args:
        hardness: Weight of the teacher, 0-1; 0 needs no teacher and only sets the divisor right.
        temperature: See `distillation_loss`.
        teacher: The dense model; None where every batch brings `teacher_logits` (B, L), computed before.
    """

    def __init__(self, hardness: float, temperature: float, teacher: nn.Module | None = None) -> None:
        self.hardness = hardness
        self.temperature = temperature
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self._handles: list[Any] = []
        self._precomputed: Tensor | None = None

    def attach_(self, student: nn.Module) -> None:
        """Hangs the hook on a student.

        Args:
            student: A transformers classifier whose forward takes `labels` and returns `logits` and `loss`.
        """
        if self._handles:
            raise StructureError("The hook hangs on a student already: detach_() it first.")
        self._handles = [
            student.register_forward_pre_hook(self._before, with_kwargs=True),
            student.register_forward_hook(self._after, with_kwargs=True),
        ]

    def detach_(self) -> None:
        """Takes the hook off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, student: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._precomputed = kwargs.get(TEACHER_LOGITS)
        return args, {name: value for name, value in kwargs.items() if name != TEACHER_LOGITS}

    def _after(self, student: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        precomputed, self._precomputed = self._precomputed, None
        if not student.training:
            return output
        labels = kwargs.get("labels")
        if labels is None:
            raise DataError(
                "The student was trained without labels: every batch must bring 'labels', and the Trainer "
                "must not take them away, as label smoothing and compute_loss_func do."
            )
        logits = getattr(output, "logits", None)
        if logits is None or not labels.dtype == torch.long:
            raise DataError(
                "The student must be a classifier with integer labels that returns its logits "
                f"(got labels of type {labels.dtype})."
            )
        logits = logits.reshape(-1, logits.shape[-1])
        targets = labels.reshape(-1)
        kept = targets != _IGNORED_LABEL
        given = kwargs.get("num_items_in_batch")
        count: Tensor | int = int(kept.sum()) if given is None else given
        labels_loss: Tensor | float = 0.0
        if self.hardness < 1.0:
            total = functional.cross_entropy(
                logits.float(), targets, ignore_index=_IGNORED_LABEL, reduction="sum"
            )
            labels_loss = total / count
        if self.hardness == 0.0:
            output.loss = labels_loss
            return output
        teacher_logits = self._teacher_logits(args, kwargs, precomputed).reshape(-1, logits.shape[-1])
        output.loss = distillation_loss(
            logits[kept], teacher_logits[kept], labels_loss, self.hardness, self.temperature, count
        )
        return output

    def _teacher_logits(self, args: Any, kwargs: dict[str, Any], precomputed: Tensor | None) -> Tensor:
        if precomputed is not None:
            return precomputed
        if self.teacher is None:
            raise RecipeError(
                "The recipe distils, but there is no teacher: give CompressionCallback a teacher, or the "
                f"batches a column {TEACHER_LOGITS!r}."
            )
        inputs = {
            name: value for name, value in kwargs.items() if name not in ("labels", "num_items_in_batch")
        }
        with torch.no_grad():
            logits: Tensor = self.teacher(*args, **inputs).logits
        return logits
