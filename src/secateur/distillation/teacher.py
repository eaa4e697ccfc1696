"""The hook on the student through which a teacher speaks, under a Trainer that knows nothing of it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.distillation.losses import distillation_loss, hidden_state_loss
from secateur.errors import DataError, RecipeError, StructureError
from secateur.modeling.structure import find_blocks

__all__ = ["TEACHER_LOGITS", "StudentHook"]

TEACHER_LOGITS = "teacher_logits"
_COUNT = "num_items_in_batch"
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
        hidden: Weight of the distance between the hidden states after every layer; above 0 needs a teacher
            with as many layers of the same width.
    """

    def __init__(
        self, hardness: float, temperature: float, teacher: nn.Module | None = None, hidden: float = 0.0
    ) -> None:
        self.hardness = hardness
        self.temperature = temperature
        self.hidden = hidden
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self._handles: list[Any] = []
        self._precomputed: Tensor | None = None
        self._count: Tensor | int | None = None
        self._takes_count = True
        self._student_states = _States()
        self._teacher_states = _States()

    def attach_(self, student: nn.Module) -> None:
        """Hangs the hook on a student.

        Args:
            student: A transformers classifier whose forward takes `labels` and returns `logits` and `loss`.
        """
        if self._handles:
            raise StructureError("The hook hangs on a student already: detach_() it first.")
        parameters = inspect.signature(student.forward).parameters
        self._takes_count = _COUNT in parameters or any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
        )
        self._handles = [
            student.register_forward_pre_hook(self._before, with_kwargs=True),
            student.register_forward_hook(self._after, with_kwargs=True),
        ]
        if self.hidden > 0.0:
            if self.teacher is None:
                raise RecipeError(
                    "The recipe distils hidden states, and columns of logits do not hold them: "
                    "give CompressionCallback a teacher."
                )
            self._handles += self._student_states.attach_(student) + self._teacher_states.attach_(
                self.teacher
            )
            shapes = self._student_states.shape, self._teacher_states.shape
            if shapes[0] != shapes[1]:
                self.detach_()
                raise RecipeError(
                    f"Hidden states are compared layer by layer, but the student has {shapes[0][0]} layers "
                    f"of width {shapes[0][1]}, the teacher {shapes[1][0]} of width {shapes[1][1]}."
                )

    def follow_(self, hardness: float, temperature: float, hidden: float) -> None:
        """Changes the weights of the losses from the next forward on.

        Args:
            hardness: As in the class; 0 leaves the teacher unasked.
            temperature: As in the class.
            hidden: As in the class; above 0 only where it was when the hook was attached.
        """
        self.hardness, self.temperature, self.hidden = hardness, temperature, hidden

    def detach_(self) -> None:
        """Takes the hook off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, student: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._precomputed = kwargs.get(TEACHER_LOGITS)
        self._count = kwargs.get(_COUNT)
        self._student_states.clear()
        ours = {TEACHER_LOGITS} if self._takes_count else {TEACHER_LOGITS, _COUNT}
        return args, {name: value for name, value in kwargs.items() if name not in ours}

    def _after(self, student: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        precomputed, self._precomputed = self._precomputed, None
        if not student.training:
            self._student_states.clear()
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
        given, self._count = self._count, None
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
        self._teacher_states.clear()
        teacher_logits = self._teacher_logits(args, kwargs, precomputed, logits.device)
        if teacher_logits.numel() != logits.numel() or teacher_logits.shape[-1] != logits.shape[-1]:
            raise DataError(
                f"The teacher gives logits {tuple(teacher_logits.shape)} for a batch in which the student "
                f"gives {tuple(output.logits.shape)}: both must know the same labels."
            )
        teacher_logits = teacher_logits.reshape(logits.shape)
        output.loss = distillation_loss(
            logits[kept], teacher_logits[kept], labels_loss, self.hardness, self.temperature, count
        )
        if self.hidden > 0.0:
            output.loss = output.loss + self.hidden * hidden_state_loss(
                self._student_states.take(), self._teacher_states.take(), kwargs.get("attention_mask"), count
            )
        return output

    def _teacher_logits(
        self, args: Any, kwargs: dict[str, Any], precomputed: Tensor | None, device: torch.device
    ) -> Tensor:
        if precomputed is not None and self.hidden == 0.0:
            return precomputed
        if self.teacher is None:
            raise RecipeError(
                "The recipe distils, but there is no teacher: give CompressionCallback a teacher, or the "
                f"batches a column {TEACHER_LOGITS!r}."
            )
        inputs = {name: value for name, value in kwargs.items() if name not in ("labels", _COUNT)}
        if next(self.teacher.parameters()).device != device:
            self.teacher.to(device)  # the Trainer moves the student only
        with torch.no_grad():
            logits: Tensor = self.teacher(*args, **inputs).logits
        return logits


class _States:
    """Catches the hidden states that leave a model's encoder layers in one forward pass."""

    def __init__(self) -> None:
        self._states: list[Tensor] = []
        self.shape = (0, 0)  # layers, width

    def attach_(self, model: nn.Module) -> list[Any]:
        blocks = find_blocks(model)
        self.shape = (len(blocks), blocks[0].hidden_size)
        return [block.ffn_norm.register_forward_hook(self._catch) for block in blocks]

    def take(self) -> list[Tensor]:
        states, self._states = self._states, []
        return states

    def clear(self) -> None:
        self._states = []

    def _catch(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # gradient checkpointing runs the layer a second time
        self._states.append(output)
