"""How long a compression will take: a few real steps on a copy, before anything is trained."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from secateur.distillation.objectives import objective_of
from secateur.recipe.plan import StepPlan
from secateur.recipe.recipe import PruningStage, Recipe
from secateur.sparsity import PRUNERS
from secateur.training.arguments import cpu_has_bf16
from secateur.training.callback import CompressionCallback
from secateur.training.encoding import Features, Padder

__all__ = ["Estimate", "estimate"]

_ROUNDS = 3  # batches of short, middling and long features
_LONG = 2.0  # seconds; a longer step is timed on a quarter of its batch
_SUMS = 1.5  # an update that learns from gradients, beside the passes that give them
_FORWARD = 0.35  # of a step's time: about a third, and what an evaluation does beside it


@dataclass(frozen=True)
class Estimate:
    """Minutes that parts of a run will take, on this machine as busy as it is now.

    Attributes:
        fine_tuning: To the dense model; 0 where there is one.
        teacher: Its outputs computed before; 0 where it is asked at every step.
        compression: The recipe.
        scoring: Both models on validation and test rows.
    """

    fine_tuning: float
    teacher: float
    compression: float
    scoring: float

    @property
    def minutes(self) -> float:
        """All of it."""
        return self.fine_tuning + self.teacher + self.compression + self.scoring

    def __str__(self) -> str:
        """Returns a sentence."""
        parts = {
            "fine-tuning": self.fine_tuning,
            "the teacher's outputs": self.teacher,
            "compression": self.compression,
            "scoring": self.scoring,
        }
        named = ", ".join(f"{name} {_shown(minutes)}" for name, minutes in parts.items() if minutes > 0)
        return f"This will take about {_shown(self.minutes)} minutes ({named})."


def estimate(
    network: Any,
    features: Features,
    padder: Padder,
    plan: StepPlan,
    *,
    student: Any = None,
    tuning_steps: int = 0,
    tuning_batch: int = 32,
    live_teacher: bool = False,
    scored_rows: int = 0,
) -> Estimate:
    """Times steps of the student as it will be trained: masks, quantizers and the teacher's pass among them.

    Neither weights nor random numbers are touched: the steps are those of a copy, and the generator of
    PyTorch goes on where it was.

    Args:
        network: The dense model, or one with a new head.
        features: What will be trained on.
        padder: How they are collated.
        plan: The recipe on the run.
        student: Who is trained; None is a copy of the network.
        tuning_steps: Optimizer steps of fine-tuning before; 0 where there is none.
        tuning_batch: Rows in such a step.
        live_teacher: Whether the teacher is asked at every step.
        scored_rows: Rows that are scored before and after.

    Returns:
        The estimate.
    """
    size = min(plan.recipe.training.batch_size, len(features))
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        stopwatch = _Stopwatch(network, features, padder, size)
        plain = stopwatch.step() if tuning_steps else 0.0
        teacher = copy.deepcopy(network)
        if student is not None and student is not network:
            stopwatch = _Stopwatch(student, features, padder, size)
        callback = CompressionCallback(_without_evidence(plan.recipe), teacher)
        callback.attach_(
            stopwatch.network, steps_per_epoch=plan.steps_per_epoch, total_steps=plan.total_steps
        )
        callback.group_parameters_(stopwatch.optimizer)
        if not live_teacher:
            stopwatch.precompute_(teacher)
        floating = stopwatch.step()
        updating = stopwatch.seconds(partial(_update, callback))
        quantized = floating
        if plan.quantize_step is not None:
            callback.after_step(plan.quantize_step)
            quantized = stopwatch.step()
    until = plan.total_steps if plan.quantize_step is None else plan.quantize_step
    updates = sum(len(span.updates) for span in plan.pruning)
    seconds = until * floating + (plan.total_steps - until) * quantized + updates * updating
    passes = sum(len(span.updates) * _passes(span.stage) for span in plan.pruning)
    seconds += passes * floating * _SUMS
    forward = floating * _FORWARD / size
    return Estimate(
        fine_tuning=tuning_steps * plain * (tuning_batch / size) / 60,
        teacher=0.0 if live_teacher else len(features) * forward / 60,
        compression=seconds / 60,
        scoring=2 * scored_rows * forward / 60,
    )


class _Stopwatch:
    """Trains a copy of a network for a few steps."""

    def __init__(self, network: Any, features: Features, padder: Padder, size: int) -> None:
        self.network = copy.deepcopy(network).train()
        cuda = torch.cuda.is_available()
        if cuda:
            self.network.cuda()
        self._half = (
            torch.autocast("cuda" if cuda else "cpu", torch.bfloat16)
            if cuda or cpu_has_bf16()
            else nullcontext()
        )
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)
        order = features.by_length()
        self._batches = []
        for part in range(_ROUNDS):
            middle = (2 * part + 1) * len(order) // (2 * _ROUNDS)
            start = max(0, min(middle - size // 2, len(order) - size))
            chosen = [features[index] for index in order[start : start + size]]
            self._batches.append(padder(chosen))
        self._scale = 1
        self._known: list[Any] = [None] * _ROUNDS

    def precompute_(self, teacher: Any) -> None:
        """Asks the teacher now, so that steps find its outputs as they will in the run."""
        teacher = teacher.to(self.network.device).eval()
        objective = objective_of(teacher, self._batches[0])
        for place, batch in enumerate(self._batches):
            given = self._moved(batch)
            inputs = {key: value for key, value in given.items() if key not in ("labels", *objective.targets)}
            with torch.no_grad():
                self._known[place] = objective.outputs(teacher(**inputs), given)

    def step(self) -> float:
        """Returns the seconds of a step, the mean over batches of several lengths."""
        probe = self._batches[_ROUNDS // 2]
        rows = len(probe["input_ids"])
        first = self.seconds(partial(self._train, _ROUNDS // 2, max(1, rows // 4)))
        if rows >= 4 and self._scale == 1 and 4 * first > _LONG:
            self._scale = 4
        kept = max(1, rows // self._scale)
        if self._scale == 1:
            self._train(_ROUNDS // 2, kept)  # what the first one allots does not count
        total = sum(self.seconds(partial(self._train, place, kept)) for place in range(_ROUNDS))
        return total / _ROUNDS * (rows / kept)

    def seconds(self, act: Callable[[], object]) -> float:
        """Returns how long something takes."""
        started = time.perf_counter()
        act()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def _train(self, place: int, rows: int) -> None:
        batch = {name: tensor[:rows] for name, tensor in self._moved(self._batches[place]).items()}
        if self._known[place] is not None:
            batch["teacher_logits"] = self._known[place][:rows]
        with self._half:
            loss = self.network(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _moved(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {name: tensor.to(self.network.device) for name, tensor in batch.items()}


def _without_evidence(recipe: Recipe) -> Recipe:
    """Returns a recipe with magnitude for methods that learn from gradients or inputs, which are counted."""
    values = recipe.model_dump()
    shared = PruningStage.model_fields
    values["stages"] = [
        {**{key: value for key, value in stage.items() if key in shared}, "method": "magnitude"}
        if stage["type"] == "pruning" and PRUNERS[stage["method"]].needs
        else stage
        for stage in values["stages"]
    ]
    return Recipe.model_validate(values)


def _passes(stage: PruningStage) -> int:
    """Returns how many gradients an update takes."""
    options = stage.options
    return int(getattr(options, "num_grads", 0)) * int(getattr(options, "recomputations", 1))


def _update(callback: CompressionCallback) -> None:
    if callback.pruner is not None:
        callback.pruner.step_(callback.pruner.sparsity)


def _shown(minutes: float) -> str:
    return f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"
