"""The hook on the student through which a teacher speaks, under a Trainer that knows nothing of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.distillation.losses import hidden_state_loss
from secateur.distillation.objectives import Objective, objective_of, require_targets
from secateur.errors import DataError, RecipeError, StructureError
from secateur.modeling.chosen_tokens import ChosenTokens
from secateur.modeling.structure import find_blocks
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
        hardness: Weight of the teacher, 0-1; 0 needs no teacher and only sets the divisor right.
        temperature: See the objectives.
        teacher: The dense model; None where every batch brings `teacher_logits`, computed before: what
            `Objective.outputs` makes of the teacher's output, (B, L) or, padded, (B, S, L).
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
        self._objective: Objective | None = None
        self._handles: list[Any] = []
        self._batch: dict[str, Any] = {}
        self._takes_count = True
        self._arguments: list[str] = []  # of the student's forward, in their order
        self._chosen: list[ChosenTokens] = []  # of the student, and of the teacher
        self._student_states = _States()
        self._teacher_states = _States()

    def attach_(self, student: nn.Module) -> None:
        """Hangs the hook on a student.

        Args:
            student: A transformers model with one of the heads that `objective_of` knows.
        """
        if self._handles:
            raise StructureError("The hook hangs on a student already: detach_() it first.")
        parameters = inspect.signature(student.forward).parameters
        self._arguments = list(parameters)
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
        for handle in (*self._handles, *self._chosen):
            detach = getattr(handle, "detach_", None) or handle.remove
            detach()
        self._handles, self._chosen, self._objective = [], [], None

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
            objective = self._objective_for(student, batch)
            require_targets(batch, objective.targets)
            items = objective.items(batch).sum()
            total = items if total is None else total + items.to(total.device)
        return total

    def _objective_for(self, student: nn.Module, batch: Mapping[str, Any]) -> Objective:
        if self._objective is None:
            self._objective = objective_of(student, batch)
            if self._objective.masked:
                models = [student] if self.teacher is None else [student, self.teacher]
                self._chosen = [ChosenTokens(model) for model in models]
        return self._objective

    def _before(self, student: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._student_states.clear()
        ours = {TEACHER_LOGITS} if self._takes_count else {TEACHER_LOGITS, _COUNT}
        if student.training:
            objective = self._objective_for(student, kwargs)
            require_targets(kwargs, objective.targets)
            self._batch = {**dict(zip(self._arguments, args, strict=False)), **kwargs}
            ours |= {"labels", *objective.targets}
            if objective.masked:
                self._chosen[0].choose(kwargs["labels"] != IGNORED)
        return args, {name: value for name, value in kwargs.items() if name not in ours}

    def _after(self, student: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if self._chosen:
            self._chosen[0].choose(None)
        if not student.training:
            self._student_states.clear()
            return output
        batch, self._batch = self._batch, {}
        objective = self._objective_for(student, batch)
        outputs = objective.outputs(output, batch)
        items = objective.items(batch)
        given = batch.get(_COUNT)
        count = torch.as_tensor(items.sum() if given is None else given).to(outputs.device).clamp(min=1)
        loss = torch.zeros((), device=outputs.device)
        if self.hardness < 1.0:  # at 1 a labels' loss that is infinite, or not there, stays out of the sum
            loss = loss + (1.0 - self.hardness) * objective.labels_loss(outputs, batch) / count
        if self.hardness > 0.0:
            self._teacher_states.clear()
            learnt = self._teacher_outputs(objective, args, kwargs, batch, outputs.device)
            if learnt.shape != outputs.shape:
                raise DataError(
                    f"The teacher gives {tuple(learnt.shape)} for a batch in which the student gives "
                    f"{tuple(outputs.shape)}: both must know the same labels, or be equally wide."
                )
            distance = objective.distance(outputs, learnt, batch, self.temperature)
            loss = loss + self.hardness * distance / count
            if self.hidden > 0.0:
                states = self._student_states.take(), self._teacher_states.take()
                apart = hidden_state_loss(*states, batch.get("attention_mask"), items)
                loss = loss + self.hidden * apart / count
        return _with_loss(output, loss)

    def _teacher_outputs(
        self,
        objective: Objective,
        args: Any,
        kwargs: dict[str, Any],
        batch: Mapping[str, Any],
        device: torch.device,
    ) -> Tensor:
        known: Tensor | None = batch.get(TEACHER_LOGITS)
        if known is not None and self.hidden == 0.0:
            return known.to(device)
        if self.teacher is None:
            raise RecipeError(
                "The recipe distils, but there is no teacher: give CompressionCallback a teacher, or the "
                f"batches a column {TEACHER_LOGITS!r}."
            )
        inputs = {name: value for name, value in kwargs.items() if name != _COUNT}
        if next(self.teacher.parameters()).device != device:
            self.teacher.to(device)  # the Trainer moves the student only
        if objective.masked:
            self._chosen[1].choose(batch["labels"] != IGNORED)
        with torch.no_grad():
            output = self.teacher(*args, **inputs)
        if objective.masked:
            self._chosen[1].choose(None)
        return objective.outputs(output, batch)


def _with_loss(output: Any, loss: Tensor) -> Any:
    """Returns a model's output with a loss, which comes first where such outputs have one."""
    if is_dataclass(output) and any(field.name == "loss" for field in fields(output)):
        kind, values = cast(Any, type(output)), cast(Any, output)
        return kind(**{**values, "loss": loss})
    output["loss"] = loss
    return output


class _States:
    """Catches the hidden states that leave a model's encoder layers in one forward pass."""

    def __init__(self) -> None:
        self._states: list[Tensor] = []
        self.shape = (0, 0)  # layers, width

    def attach_(self, model: nn.Module) -> list[Any]:
        blocks = find_blocks(model)
        layers = len(blocks)
        config = cast(Any, model.config)
        if getattr(config, "num_hidden_groups", None) is not None:
            # ALBERT's layers share their weights: one module, which speaks at every pass through it.
            layers = config.num_hidden_layers * config.inner_group_num
        self.shape = (layers, blocks[0].hidden_size)
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
