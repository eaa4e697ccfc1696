"""A recipe on the stock transformers Trainer, as one callback."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback

from secateur.distillation.teacher import StudentHook
from secateur.errors import RecipeError
from secateur.modeling.structure import find_blocks, find_projections
from secateur.quantization import (
    QuantScheme,
    attach_quantizers_,
    enable_quantizers_,
    freeze_observers_,
)
from secateur.quantization.qat import find_embeddings
from secateur.recipe.plan import StepPlan
from secateur.recipe.recipe import (
    DistillationStage,
    PruningStage,
    QuantizationStage,
    Recipe,
    load_recipe,
)
from secateur.sparsity import PRUNERS, Pattern, Pruner, sparsity_of
from secateur.training.freezing import Freezer
from secateur.training.learning_rate import steer_

__all__ = ["CompressionCallback"]


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
        self._pruners: list[Pruner] = []
        self._quantization = self.recipe.stage(QuantizationStage)
        hidden = max((stage.hidden for stage in self.recipe.stages_of(DistillationStage)), default=0.0)
        self._hook = StudentHook(0.0, 1.0, teacher, hidden)
        self._teacher = teacher
        self._model: Any = None
        self._plan: StepPlan | None = None
        self._freezer: Freezer | None = None
        self._found_sparsity = 0.0
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
        self._found_sparsity = sparsity_of([projection.linear for projection in find_projections(model)])
        for stage in self.recipe.stages_of(PruningStage):
            self.pruner = PRUNERS[stage.method](Pattern.parse(stage.pattern))
            self.pruner.attach_(model)
            self._pruners.append(self.pruner)
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
        self._freezer = Freezer(self.recipe, model)
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
            RecipeError: The recipe does not fit the run or the model, or the Trainer made a new model since.
        """
        if model is not self._model:
            raise RecipeError(
                "The Trainer made a new model after the recipe was attached, as model_init does: "
                "give it a model instead."
            )
        steps_per_epoch = -(-len(train_dataloader) // args.gradient_accumulation_steps)
        self._plan = StepPlan.of(self.recipe, steps_per_epoch, state.max_steps, self._found_sparsity)
        if self._plan.learning_rate:
            steer_(kwargs.get("lr_scheduler"), self._plan)
        self._advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advances the recipe; called by the Trainer after every optimizer step, before it saves."""
        self._advance(state.global_step)

    def _advance(self, step: int) -> None:
        """Does what is due once `step` optimizer steps are done. Doing it twice changes nothing."""
        if self._plan is None or self._freezer is None:
            return
        now = self._plan.at(step)
        if now.update is not None:
            self.pruner = self._pruners[now.update.position]
            self.pruner.step_(now.sparsity)
        if now.quantizing and not self._quantizing:
            enable_quantizers_(self._model)
            self._quantizing = True
        if now.ranges_frozen and not self._frozen:
            freeze_observers_(self._model)
            self._frozen = True
        self._freezer.freeze_(now.frozen)
        lesson = now.distillation
        if lesson is None:
            self._hook.follow_(hardness=0.0, temperature=1.0, hidden=0.0)
        else:
            self._hook.follow_(lesson.hardness, lesson.temperature, lesson.hidden)
