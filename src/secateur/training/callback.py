"""A recipe on the stock transformers Trainer, or on a loop of your own, as one callback."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from secateur.distillation import SILENT, Lesson, StudentHook
from secateur.errors import RecipeError, StructureError
from secateur.modeling.structure import ATTENTION_DROPOUT, find_blocks
from secateur.quantization import (
    enable_quantizers_,
    find_quantizers,
    freeze_observers_,
)
from secateur.quantization.qat import find_embeddings
from secateur.recipe.plan import StepPlan
from secateur.recipe.recipe import (
    DistillationStage,
    QuantizationStage,
    Recipe,
    load_recipe,
)
from secateur.sparsity import Pruner
from secateur.training.conditions import (
    check_arguments,
    check_checkpoint,
    check_groups,
    check_lessons,
    check_student,
    check_teacher,
    note_run,
    processes,
    seed_length_groups_,
)
from secateur.training.connection import count_items_, group_own_parameters_
from secateur.training.evidence import Batches
from secateur.training.freezing import Freezer
from secateur.training.learning_rate import steer_
from secateur.training.pruning import StagePruners
from secateur.training.quantization_stage import attach_stage_

__all__ = ["CompressionCallback"]


class CompressionCallback(TrainerCallback):  # type: ignore[misc]
    """Prunes, distils and quantizes the model of a stock Trainer by a recipe.

    Masks, quantizers (switched off) and the distillation hook are attached when the Trainer is made, so that
    a resumed run finds every saved tensor in its place. Then the recipe advances after every optimizer step,
    before the Trainer saves or evaluates. The recipe's `training` record is for `compress`; of it only
    `freeze_embeddings` and `dropout` matter here.

    One rule for evaluations: until the model has the recipe's final sparsity, and is quantized where the
    recipe quantizes, no evaluation counts, neither for `load_best_model_at_end` nor for early stopping; and
    a run that ends before that is an error.

    In a loop of your own, the same object takes three calls (examples/plain_loop.py):

        callback.attach_(model, steps_per_epoch=..., total_steps=...)   before the optimizer is made
        callback.after_step(step)       after every optimizer step; `step` counts them from 1
        callback.finish_()              after the last one

    There the model's own `loss` is the one to minimize; with gradient accumulation, give the model
    `num_items_in_batch`, the items in all batches of a step (secateur.distillation.objectives says what they
    are). To resume: `attach_`, load the state dict,
    `resume_(step)`.

    Args:
        recipe: A recipe, the name of one, or the path of one.
        teacher: The dense model to learn from. None is fine where the recipe does not distil, or where every
            batch brings `teacher_logits`; such a column needs `remove_unused_columns=False`.
        teacher_device: Where the teacher runs; None is where the student does.
    """

    def __init__(
        self, recipe: Recipe | str, teacher: nn.Module | None = None, teacher_device: Any = None
    ) -> None:
        self.recipe = load_recipe(recipe)
        self._pruning = StagePruners(self.recipe)
        self._quantization = self.recipe.stage(QuantizationStage)
        lessons = [Lesson.of(stage) for stage in self.recipe.stages_of(DistillationStage)]
        self._hook = StudentHook(SILENT, teacher, later=lessons, teacher_device=teacher_device)
        self._teacher = teacher
        self._model: Any = None
        self._plan: StepPlan | None = None
        self._goal = 0  # from this step on a model is what the recipe promises: at final sparsity, quantized
        self._freezer: Freezer | None = None
        self._found_sparsity = 0.0
        self._witness: tuple[nn.Parameter, torch.Tensor] | None = None
        self._quantize_next = False
        self._quantizing = False

    # --- a loop of your own ----------------------------------------

    def attach_(
        self,
        model: nn.Module,
        *,
        steps_per_epoch: int,
        total_steps: int,
        batches: Batches | None = None,
        seed: int = 0,
    ) -> None:
        """Attaches everything to a model that a loop of your own will train.

        The learning rate is the loop's; `learning_rate_scheduler(optimizer, callback.plan)` follows the
        recipe.
        Call `attach_` before the optimizer is made and before the model is wrapped for several processes.

        Args:
            model: A model of a supported family, with any of the heads in `secateur.distillation`.
            steps_per_epoch: Optimizer steps an epoch.
            total_steps: Optimizer steps of the run.
            batches: Called for one pass over the rows by methods that learn from gradients or inputs: yields
                batches, shuffled by the global random numbers, which are seeded before and put back after.
            seed: Seeds what those methods draw.

        Raises:
            RecipeError: The run is shorter than the recipe, or a method lacks its batches.
            UnsupportedError: The model's family is not supported.
        """
        self._attach_to_(model)
        self._begin_(steps_per_epoch, total_steps, processes() > 1)
        self._pruning.take_batches_(batches, seed)
        self._advance(0)

    @property
    def pruner(self) -> Pruner | None:
        """The pruner of the current or next pruning stage."""
        return self._pruning.current

    @property
    def plan(self) -> StepPlan:
        """The recipe on the run, known once the run is."""
        if self._plan is None:
            raise StructureError(
                "The callback knows no run yet: call attach_, or train with the Trainer, first."
            )
        return self._plan

    def group_parameters_(self, optimizer: torch.optim.Optimizer) -> None:
        """Gives what the pruner itself learns its own groups in an optimizer.

        Call it right after the optimizer is made, before a learning rate schedule is. With methods that
        learn nothing it changes nothing. For a stock Trainer `connect_` does it.

        Args:
            optimizer: An optimizer over the model's parameters.
        """
        groups = self._own_groups()
        own = {id(parameter) for group in groups for parameter in group["params"]}
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
        for group in groups:
            optimizer.add_param_group({"weight_decay": 0.0, **group})
        self._pruning.watch_(optimizer)

    def after_step(self, step: int) -> None:
        """Advances the recipe.

        Args:
            step: Number of optimizer steps done.
        """
        self._advance(step)

    def resume_(self, step: int) -> None:
        """Takes up a run whose state the model has just loaded.

        Args:
            step: Number of optimizer steps that were done when the state was saved.
        """
        self._advance(step, resumed=True)
        if self._quantize_next and self.plan.quantize_step is not None and step > self.plan.quantize_step:
            self._enable()

    def finish_(self, step: int | None = None) -> None:
        """Ends the run: the ranges of the activations stay as they are from now on.

        Args:
            step: Number of optimizer steps done; None means all.

        Raises:
            RecipeError: The run ended before the model was what the recipe promises.
        """
        done = self.plan.total_steps if step is None else step
        if done < self._goal:
            raise RecipeError(
                f"The run ended after step {done}, but only from step {self._goal} on the model is what "
                f"the recipe {self.recipe.name!r} promises: resume the run from its last checkpoint."
            )
        if self._quantizing:
            freeze_observers_(self._model)
        self._hook.finish_()

    def status(self) -> dict[str, float]:
        """Returns what there is to log.

        `sparsity` and what the pruning method notes of its last step, as `damp`; `quantized` and
        `ranges_frozen` as 0 or 1.
        """
        values = self._pruning.status()
        if self._quantization is not None:
            quantizers = find_quantizers(self._model).values()
            values["quantized"] = float(self._quantizing)
            values["ranges_frozen"] = float(all(bool(quantizer.frozen) for quantizer in quantizers))
        return values

    # --- the stock Trainer ----------------------------------------

    def connect_(self, trainer: Any) -> None:
        """Ties the callback closer to a Trainer that has it: a line right after the Trainer is made.

        Reporters such as TensorBoard then see `sparsity` and `quantized` beside the loss (they come before a
        user's callbacks otherwise), what a method itself learns gets its own groups in the optimizer, and
        gradient accumulation is exact with every head and both versions of transformers: a Trainer counts
        nothing where batches have no `labels`, and with 4.57 BERT hears nothing of `num_items_in_batch`.

        Args:
            trainer: A stock Trainer that was given this callback.
        """
        callbacks = trainer.callback_handler.callbacks
        if self not in callbacks:
            raise RecipeError(
                "The Trainer does not have this callback: give it with callbacks=[...], then connect_ it."
            )
        callbacks.remove(self)
        callbacks.insert(0, self)
        count_items_(trainer, self._hook)
        group_own_parameters_(trainer, self.group_parameters_)

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Attaches everything to the model; called by the Trainer.

        Raises:
            RecipeError: The Trainer is set up so that the recipe would silently do something else.
            UnsupportedError: The model's family is not supported.
        """
        check_arguments(args)
        self._attach_to_(model)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        train_dataloader: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **kwargs: Any,
    ) -> None:
        """Turns epochs into steps; called by the Trainer.

        Raises:
            RecipeError: The recipe does not fit the run or the model, the Trainer made a new model since, or
                what it resumes from is not a whole checkpoint of this run.
        """
        if model is not self._model:
            raise RecipeError(
                "The Trainer made a new model after the recipe was attached, as model_init does: "
                "give it a model instead."
            )
        try:
            batches = len(train_dataloader)
        except TypeError as error:
            raise RecipeError(
                "The training rows have no length, so that epochs cannot be turned into steps: "
                "give the Trainer a dataset with a length."
            ) from error
        steps_per_epoch = -(-batches // args.gradient_accumulation_steps)
        self._begin_(steps_per_epoch, state.max_steps, args.world_size > 1)
        if self.plan.learning_rate:
            steer_(lr_scheduler, self.plan)
        check_groups(self.recipe, self._own_groups(), optimizer)
        if optimizer is not None:
            self._pruning.watch_(optimizer)
        check_checkpoint(self._witness, self.recipe, steps_per_epoch, state, optimizer)
        self._pruning.record = note_run(self.recipe, steps_per_epoch, state, args.world_size)
        seed = args.seed if args.data_seed is None else args.data_seed
        seed_length_groups_(train_dataloader, seed)
        self._pruning.take_rows_(train_dataloader, seed)
        if state.global_step == 0:
            self._advance(0)
        else:
            self.resume_(state.global_step)
        self._forget_early_bests(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advances the recipe; called by the Trainer after every optimizer step, before it saves."""
        self._advance(state.global_step)
        self._forget_early_bests(state, state.global_step - 1)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps early stopping from counting evaluations before the goal; called by the Trainer."""
        self._forget_early_bests(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forgets a best model from before the goal; called by the Trainer."""
        self._forget_early_bests(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Adds `status` to what the Trainer logs of a training step; called by the Trainer."""
        if logs is None or "loss" not in logs:
            return
        status = self.status()
        logs.update(status)
        if state.log_history:
            state.log_history[-1].update(status)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Freezes the ranges; called by the Trainer.

        Raises:
            RecipeError: Something stopped the run before the model was what the recipe promises.
        """
        self.finish_(state.global_step)

    def take_ended_(self, args: Any, state: Any, *, model: Any, train_dataloader: Any) -> None:
        """Takes up a run that has ended, its weights loaded already, as `compress` does when it resumes."""
        self._begin_(-(-len(train_dataloader) // args.gradient_accumulation_steps), state.max_steps, False)
        self.resume_(state.global_step)
        self.finish_(state.global_step)

    # --- inside ----------------------------------------

    def _attach_to_(self, model: Any) -> None:
        if self._model is not None:
            raise RecipeError(
                "This CompressionCallback belongs to another Trainer or model: make a new one for each."
            )
        if self._teacher is not None:
            check_teacher(self._teacher, model, self.recipe)
        blocks = find_blocks(model)
        check_student(self.recipe, model)
        self._model = model
        if self.recipe.training.freeze_embeddings:
            for table in find_embeddings(model).values():
                table.requires_grad_(False)
        self._found_sparsity = self._pruning.attach_(model)
        if self._quantization is not None:
            attach_stage_(model, self._quantization)
        if self.recipe.training.dropout is not None:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = self.recipe.training.dropout
                if hasattr(module, ATTENTION_DROPOUT):
                    setattr(module, ATTENTION_DROPOUT, self.recipe.training.dropout)
        self._freezer = Freezer(self.recipe, model)
        self._hook.attach_(model)
        model.register_forward_pre_hook(self._before_forward)
        weight = blocks[-1].ffn_norm.weight
        self._witness = (weight, weight.detach().clone())

    def _begin_(self, steps_per_epoch: int, total_steps: int, several_processes: bool) -> None:
        plan = StepPlan.of(self.recipe, steps_per_epoch, total_steps, self._found_sparsity)
        check_lessons(plan, self._model)
        quantized = 0 if plan.quantize_step is None else plan.quantize_step + 1
        self._plan, self._goal = plan, max(quantized, *(span.end for span in plan.pruning), 0)
        for quantizer in find_quantizers(self._model).values():
            quantizer.shared = several_processes

    def _before_forward(self, model: nn.Module, args: Any) -> None:
        # Not right after the step before: an evaluation in between would find ranges that saw no batch.
        if self._quantize_next and not self._quantizing and model.training:
            self._enable()

    def _enable(self) -> None:
        enable_quantizers_(self._model)
        self._quantizing = True

    def _advance(self, step: int, resumed: bool = False) -> None:
        """Does what is due once `step` optimizer steps are done; after resuming, without what was saved."""
        now = self.plan.at(step)
        self._pruning.follow_(self.plan.pruning, step, resumed)
        if now.update is not None and not resumed:
            self._pruning.step_(now.update, step, now.sparsity)
        self._quantize_next = now.quantizing
        if step == self.plan.freeze_step and not resumed:
            freeze_observers_(self._model)
        if self._freezer is not None:
            self._freezer.freeze_(now.frozen)
        lesson = now.distillation
        self._hook.follow_(SILENT if lesson is None else Lesson.of(lesson))

    def _forget_early_bests(self, state: Any, step: int | None = None) -> None:
        """Forgets what the Trainer holds for its best model if that was evaluated before the goal."""
        if (state.global_step if step is None else step) < self._goal:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def _own_groups(self) -> list[dict[str, Any]]:
        return [*self._pruning.parameter_groups(), *self._hook.parameter_groups()]
