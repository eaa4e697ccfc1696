"""The hook on the student through which a teacher speaks, under a Trainer that knows nothing of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.distillation.inner import InnerComparison
from secateur.distillation.lesson import Lesson
from secateur.distillation.objectives import Objective, objective_of, require_targets
from secateur.errors import DataError, RecipeError, StructureError
from secateur.modeling.chosen_tokens import ChosenTokens
from secateur.tasks.task import IGNORED

__all__ = ["TEACHER_LOGITS", "StudentHook"]

TEACHER_LOGITS = "teacher_logits"
_COUNT = "num_items_in_batch"


class StudentHook:
    """Replaces the loss in a student's output while it trains.

    The stock Trainer stays as it is: it asks the student for its loss and gets one that the teacher has part
    in, by the objective of its head (`objective_of`). The sum over items is divided by the Trainer's
    `num_items_in_batch` where it is given. Most of transformers' heads ignore that number and return a mean,
    so that without this hook gradient accumulation under transformers 5 multiplies the gradient by the number
    of accumulated batches. The student's own loss is not computed: its targets stay with the hook.

    Args:
        lesson: What is asked for until `follow_` says otherwise; `SILENT` needs no teacher and only sets the
            divisor right.
        teacher: The dense model; None where every batch brings `teacher_logits`, computed before: what
            `Objective.outputs` makes of the teacher's output, (B, L) or, padded, (B, S, L).
        later: The lessons that will follow: what they compare within the models is hooked from the start.
        teacher_device: Where the teacher stays and gets its inputs; None takes it to the student's device.
    """

    def __init__(
        self,
        lesson: Lesson,
        teacher: nn.Module | None = None,
        *,
        later: Sequence[Lesson] = (),
        teacher_device: torch.device | str | None = None,
    ) -> None:
        self.lesson = lesson
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self._place = None if teacher_device is None else torch.device(teacher_device)
        self._inner = InnerComparison((lesson, *later))
        self._objective: Objective | None = None
        self._handles: list[Any] = []
        self._batch: dict[str, Any] = {}
        self._takes_count = True
        self._arguments: list[str] = []  # of the student's forward, in their order
        self._chosen: list[ChosenTokens] = []  # of the student, and of the teacher

    def attach_(self, student: nn.Module) -> None:
        """Hangs the hook on a student.

        Args:
            student: A transformers model with one of the heads that `objective_of` knows. Where a lesson
                compares states within a narrower student with its teacher's, it gets a module
                `distillation_projections`; make its optimizer after that.

        Raises:
            RecipeError: What lies within the two models cannot be compared as the lessons ask.
            StructureError: The hook hangs on a student already.
        """
        if self._handles:
            raise StructureError("The hook hangs on a student already: detach_() it first.")
        parameters = inspect.signature(student.forward).parameters
        self._arguments = list(parameters)
        self._takes_count = _COUNT in parameters or any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
        )
        if self.teacher is not None and self._place is not None:
            self.teacher.to(self._place)
        if self._inner.wanted.looks_inside:
            if self.teacher is None:
                raise RecipeError(
                    "The recipe distils what lies within the models (hidden states, embeddings, attention), "
                    "and columns of logits do not hold that: give CompressionCallback a teacher."
                )
            self._handles = self._inner.attach_(student, self.teacher)
        self._handles += [
            student.register_forward_pre_hook(self._before, with_kwargs=True),
            student.register_forward_hook(self._after, with_kwargs=True),
        ]

    def follow_(self, lesson: Lesson) -> None:
        """Changes what is asked for from the next forward on.

        Args:
            lesson: One of those that the hook was made with, or one that compares outputs only.
        """
        self.lesson = lesson

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns what the hook itself learns, as groups for an optimizer; empty where it learns nothing."""
        learnt = self._inner.parameters()
        return [{"params": learnt}] if learnt else []

    def finish_(self) -> None:
        """Takes off what a student has only to learn by: the projections."""
        self._inner.remove_projections_()

    def detach_(self) -> None:
        """Takes the hook off."""
        for handle in (*self._handles, *self._chosen):
            detach = getattr(handle, "detach_", None) or handle.remove
            detach()
        self._handles, self._chosen, self._objective = [], [], None
        self.finish_()

    def count(self, student: nn.Module, batches: Iterable[Mapping[str, Any]]) -> Tensor | None:
        """Counts the items in batches, as the loss will; None where there is no batch.

        Args:
            student: The student.
            batches: What its forward will be given in one step.

        Raises:
            DataError: They lack their targets.
        """
        total: Tensor | None = None
        for batch in batches:
            items = self._items(student, batch).sum()
            total = items if total is None else total + items.to(total.device)
        return total

    def _items(self, student: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Returns (B,) what each row counts: its items; 1 where there are no targets and none are needed."""
        if self._unlabelled(batch):
            given = batch.get("input_ids")
            given = batch["inputs_embeds"] if given is None else given
            return torch.ones(len(given), device=given.device)
        objective = self._objective_for(student, batch)
        require_targets(batch, objective.targets)
        return objective.items(batch)

    def _unlabelled(self, batch: Mapping[str, Any]) -> bool:
        """Says whether a batch has no targets, and its lesson asks for none."""
        targets = ("labels", "start_positions", "end_positions")
        return not self.lesson.needs_labels and all(batch.get(name) is None for name in targets)

    def _objective_for(self, student: nn.Module, batch: Mapping[str, Any]) -> Objective:
        if self._objective is None:
            self._objective = objective_of(student, batch)
            if self._objective.masked:
                models = [student] if self.teacher is None else [student, self.teacher]
                self._chosen = [ChosenTokens(model) for model in models]
        return self._objective

    def _before(self, student: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._inner.clear_student()
        ours = {TEACHER_LOGITS} if self._takes_count else {TEACHER_LOGITS, _COUNT}
        if student.training:
            self._batch = {**dict(zip(self._arguments, args, strict=False)), **kwargs}
            if not self._unlabelled(self._batch):
                objective = self._objective_for(student, kwargs)
                require_targets(kwargs, objective.targets)
                ours |= {"labels", *objective.targets}
                if objective.masked:
                    self._chosen[0].choose(kwargs["labels"] != IGNORED)
        return args, {name: value for name, value in kwargs.items() if name not in ours}

    def _after(self, student: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if self._chosen:
            self._chosen[0].choose(None)
        if not student.training:
            self._inner.clear_student()
            return output
        batch, self._batch = self._batch, {}
        lesson = self.lesson
        items = self._items(student, batch)
        objective = None if self._unlabelled(batch) else self._objective_for(student, batch)
        given = batch.get(_COUNT)
        count = torch.as_tensor(items.sum() if given is None else given).to(items.device).clamp(min=1)
        loss = torch.zeros((), device=items.device)
        learnt = None
        if lesson.looks_inside or (lesson.compares_outputs and batch.get(TEACHER_LOGITS) is None):
            self._inner.clear_teacher()
            learnt = self._teacher_outputs(objective, args, kwargs, batch)
        elif lesson.compares_outputs:
            learnt = batch[TEACHER_LOGITS]
        if objective is not None and lesson.outputs > 0.0:
            loss = loss + lesson.outputs * self._outputs_loss(objective, output, learnt, batch, count)
        if lesson.looks_inside:
            apart = self._inner.loss(lesson, batch.get("attention_mask"), items)
            loss = loss + apart / count
        return _with_loss(output, loss)

    def _outputs_loss(
        self,
        objective: Objective,
        output: Any,
        learnt: Tensor | None,
        batch: Mapping[str, Any],
        count: Tensor,
    ) -> Tensor:
        hardness = self.lesson.hardness
        outputs = objective.outputs(output, batch)
        loss = torch.zeros((), device=outputs.device)
        if hardness < 1.0:  # at 1 a labels' loss that is infinite, or not there, stays out of the sum
            loss = loss + (1.0 - hardness) * objective.labels_loss(outputs, batch) / count
        if hardness > 0.0:
            assert learnt is not None
            learnt = learnt.to(outputs.device)
            if not objective.comparable(outputs, learnt, self.lesson):
                raise DataError(
                    f"The teacher gives {tuple(learnt.shape)} for a batch in which the student gives "
                    f"{tuple(outputs.shape)}: both must know the same labels, or be equally wide."
                )
            loss = loss + hardness * objective.distance(outputs, learnt, batch, self.lesson) / count
        return loss

    def _teacher_outputs(
        self, objective: Objective | None, args: Any, kwargs: dict[str, Any], batch: Mapping[str, Any]
    ) -> Tensor | None:
        """Asks the teacher; what lies within it is caught on the way."""
        if self.teacher is None:
            raise RecipeError(
                "The recipe distils, but there is no teacher: give CompressionCallback a teacher, or the "
                f"batches a column {TEACHER_LOGITS!r}."
            )
        place = self._place or _device_of(batch)
        if next(self.teacher.parameters()).device != place:
            self.teacher.to(place)  # the Trainer moves the student only
        inputs = {name: _moved(value, place) for name, value in kwargs.items() if name != _COUNT}
        masked = objective is not None and objective.masked
        if masked:
            self._chosen[1].choose((batch["labels"] != IGNORED).to(place))
        with torch.no_grad():
            output = self.teacher(*(_moved(value, place) for value in args), **inputs)
        if masked:
            self._chosen[1].choose(None)
        if objective is None or self.lesson.outputs == 0.0:
            return None
        there = {name: _moved(value, place) for name, value in batch.items()}
        return objective.outputs(output, there)


def _device_of(batch: Mapping[str, Any]) -> torch.device:
    """Returns where a batch lies."""
    given = batch.get("input_ids")
    found: torch.device = (batch["inputs_embeds"] if given is None else given).device
    return found


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _with_loss(output: Any, loss: Tensor) -> Any:
    """Returns a model's output with a loss, which comes first where such outputs have one."""
    if is_dataclass(output) and any(field.name == "loss" for field in fields(output)):
        kind, values = cast(Any, type(output)), cast(Any, output)
        return kind(**{**values, "loss": loss})
    output["loss"] = loss
    return output
