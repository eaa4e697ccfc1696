"""A recipe on the stock transformers Trainer, as one callback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import TrainerCallback

from secateur.distillation.teacher import StudentHook
from secateur.errors import RecipeError
from secateur.modeling.structure import find_blocks
from secateur.quantization import (
    QuantScheme,
    attach_quantizers_,
    enable_quantizers_,
    freeze_observers_,
)
from secateur.quantization.qat import find_embeddings
from secateur.recipe.recipe import (
    DistillationStage,
    PruningStage,
    QuantizationStage,
    Recipe,
    load_recipe,
)
from secateur.sparsity import PRUNERS, Pattern, Pruner, scheduled_sparsity
from secateur.sparsity.schedule import is_update_step

__all__ = ["CompressionCallback"]


@dataclass(frozen=True)
class _Steps:
    """A recipe's epochs as optimizer steps."""

    prune_start: int = 0
    prune_end: int = 0
    prune_every: int = 1
    quantize: int = 0
    freeze: int = 0


class CompressionCallback(TrainerCallback):  # type: ignore[misc]
    """Prunes, distils and quantizes the model of a stock Trainer by a recipe.

    Masks, quantizers (switched off) and the distillation hook are attached when the Trainer is made, so that
    a resumed run finds every saved tensor in its place. Then the recipe advances after every optimizer step,
    before the Trainer saves or evaluates. The recipe's `training` record is for `compress`; of it only
    `freeze_embeddings` and `dropout` matter here.

    Args:
        recipe: A recipe, the name of one, or the path of one.
        teacher: The dense model to learn from. None is fine where the recipe does not distil, or where every
            batch brings `teacher_logits`; such a column needs `remove_unused_columns=False`.
    """

    def __init__(self, recipe: Recipe | str, teacher: nn.Module | None = None) -> None:
        self.recipe = load_recipe(recipe)
        self.pruner: Pruner | None = None
        self._pruning = self.recipe.stage(PruningStage)
        self._quantization = self.recipe.stage(QuantizationStage)
        distillation = self.recipe.stage(DistillationStage)
        if distillation is None:
            self._hook = StudentHook(0.0, 1.0)
        else:
            self._hook = StudentHook(
                distillation.hardness, distillation.temperature, teacher, distillation.hidden
            )
        self._teacher = teacher
        self._model: Any = None
        self._steps = _Steps()
        self._quantizing = False
        self._frozen = False

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Attaches everything to the model; called by the Trainer.

        Raises:
            RecipeError: The Trainer is set up so that the recipe would silently do something else.
            UnsupportedError: The model's family is not supported.
        """
        if args.label_smoothing_factor != 0:
            raise RecipeError(
                f"label_smoothing_factor is {args.label_smoothing_factor}, but smoothing takes the labels "
                "away from the model, and with them the teacher's part in the loss: set it to 0."
            )
        if self._model is not None:
            raise RecipeError("This CompressionCallback belongs to another Trainer: make a new one for each.")
        if self._teacher is model:
            raise RecipeError("Teacher and student are one and the same model: give the teacher as a copy.")
        find_blocks(model)
        self._model = model
        if self._pruning is not None:
            self.pruner = PRUNERS[self._pruning.method](Pattern.parse(self._pruning.pattern))
            self.pruner.attach_(model)
        if self._quantization is not None:
            scheme = QuantScheme(averaging=self._quantization.averaging)
            attach_quantizers_(model, scheme, enabled=False)
        if self.recipe.training.freeze_embeddings:
            for table in find_embeddings(model).values():
                table.requires_grad_(False)
        if self.recipe.training.dropout is not None:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = self.recipe.training.dropout
        self._hook.attach_(model)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Turns epochs into steps; called by the Trainer.

        Raises:
            RecipeError: The run is shorter than the recipe, or the Trainer made a new model since.
        """
        if model is not self._model:
            raise RecipeError(
                "The Trainer made a new model after the recipe was attached, as model_init does: "
                "give it a model instead."
            )
        steps_per_epoch = -(-len(train_dataloader) // args.gradient_accumulation_steps)
        self._steps = self._in_steps(steps_per_epoch, state.max_steps)
        self._advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advances the recipe; called by the Trainer after every optimizer step, before it saves."""
        self._advance(state.global_step)

    def _advance(self, step: int) -> None:
        """Does what is due once `step` optimizer steps are done. Doing it twice changes nothing."""
        steps = self._steps
        stage = self._pruning
        if stage is not None and self.pruner is not None:
            bounds = {
                "start_step": steps.prune_start,
                "end_step": steps.prune_end,
                "update_every": steps.prune_every,
            }
            if is_update_step(step, **bounds):
                self.pruner.step_(
                    scheduled_sparsity(
                        stage.schedule, step, **bounds, initial=stage.initial_sparsity, final=stage.sparsity
                    )
                )
        if self._quantization is not None:
            if step >= steps.quantize and not self._quantizing:
                enable_quantizers_(self._model)
                self._quantizing = True
            if step >= steps.freeze and not self._frozen:
                freeze_observers_(self._model)
                self._frozen = True

    def _in_steps(self, steps_per_epoch: int, max_steps: int) -> _Steps:
        epochs = max_steps / steps_per_epoch
        last = max(
            self._pruning.end_epoch if self._pruning else 0.0,
            self._quantization.freeze_epoch if self._quantization else 0.0,
        )
        if last > epochs + 1e-6:
            raise RecipeError(
                f"The recipe {self.recipe.name!r} goes on until epoch {last:g}, but the Trainer stops at "
                f"{epochs:g}: raise num_train_epochs or lower the recipe's end_epoch and freeze_epoch."
            )

        def steps(epoch: float) -> int:
            return min(round(epoch * steps_per_epoch), max_steps)

        prune_start = prune_end = quantize = freeze = 0
        prune_every = 1
        if self._pruning is not None:
            prune_start = steps(self._pruning.start_epoch)
            prune_end = max(steps(self._pruning.end_epoch), prune_start + 1)
            prune_every = max(1, steps(self._pruning.update_every))
        if self._quantization is not None:
            quantize = steps(self._quantization.start_epoch)
            # At least one batch must be seen before ranges can be frozen.
            freeze = max(steps(self._quantization.freeze_epoch), quantize + 1)
        if max(prune_end, freeze) > max_steps:
            raise RecipeError(
                f"A run of {max_steps} steps is too short for the recipe {self.recipe.name!r}: train longer."
            )
        return _Steps(prune_start, prune_end, prune_every, quantize, freeze)
