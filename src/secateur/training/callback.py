"""A recipe on the stock transformers Trainer, or on a loop of your own, as one callback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from transformers import TrainerCallback

from secateur.distillation.teacher import StudentHook
from secateur.errors import RecipeError, StructureError
from secateur.modeling.structure import find_blocks
from secateur.quantization import (
    QuantScheme,
    attach_quantizers_,
    enable_quantizers_,
    find_quantizers,
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
from secateur.training.conditions import (
    check_arguments,
    check_checkpoint,
    check_teacher,
    note_run,
    seed_length_groups_,
)

__all__ = ["CompressionCallback"]


@dataclass(frozen=True)
class _Steps:
    """A recipe's epochs as optimizer steps."""

    prune_start: int = 0
    prune_end: int = 0
    prune_every: int = 1
    quantize: int = 0
    freeze: int = 0
    goal: int = 0  # from here on a model is what the recipe promises: final sparsity, quantized
    total: int = 0


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
    `num_items_in_batch`, the labels in all batches of a step. To resume: `attach_`, load the state dict,
    `resume_(step)`.

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
        self._witness: tuple[nn.Parameter, torch.Tensor] | None = None
        self._steps = _Steps()
        self._quantize_next = False
        self._quantizing = False

    # --- a loop of your own -----------------------------------------------------------------------------------

    def attach_(self, model: nn.Module, *, steps_per_epoch: int, total_steps: int) -> None:
        """Attaches everything to a model that a loop of your own will train.

        Call it before the optimizer is made and before the model is wrapped for several processes.

        Args:
            model: A classifier of a supported family.
            steps_per_epoch: Optimizer steps an epoch.
            total_steps: Optimizer steps of the run.

        Raises:
            RecipeError: The run is shorter than the recipe.
            UnsupportedError: The model's family is not supported.
        """
        self._attach_to_(model)
        self._begin_(steps_per_epoch, total_steps, _processes() > 1)
        self._advance(0)

    def group_parameters_(self, optimizer: torch.optim.Optimizer) -> None:
        """Gives what the pruner itself learns its own groups in an optimizer.

        Call it right after the optimizer is made, before a learning rate schedule is. With methods that
        learn nothing it changes nothing. For a stock Trainer `connect_` does it.

        Args:
            optimizer: An optimizer over the model's parameters.
        """
        groups = [] if self.pruner is None else self.pruner.parameter_groups()
        own = {id(parameter) for group in groups for parameter in group["params"]}
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
        for group in groups:
            optimizer.add_param_group({"weight_decay": 0.0, **group})

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
        steps = self._steps
        self._quantize_next = self._quantization is not None and step >= steps.quantize
        if self._quantize_next and step > steps.quantize:
            self._enable()

    def finish_(self, step: int | None = None) -> None:
        """Ends the run: the ranges of the activations stay as they are from now on.

        Args:
            step: Number of optimizer steps done; None means all.

        Raises:
            RecipeError: The run ended before the model was what the recipe promises.
        """
        done = self._steps.total if step is None else step
        if done < self._steps.goal:
            raise RecipeError(
                f"The run ended after step {done}, but only from step {self._steps.goal} on the model is what "
                f"the recipe {self.recipe.name!r} promises: resume the run from its last checkpoint."
            )
        if self._quantizing:
            freeze_observers_(self._model)

    def status(self) -> dict[str, float]:
        """Returns what there is to log: `sparsity`, and `quantized` and `ranges_frozen` as 0 or 1."""
        values: dict[str, float] = {}
        if self.pruner is not None:
            values["sparsity"] = round(self.pruner.sparsity, 6)
        if self._quantization is not None:
            quantizers = find_quantizers(self._model).values()
            values["quantized"] = float(self._quantizing)
            values["ranges_frozen"] = float(all(bool(quantizer.frozen) for quantizer in quantizers))
        return values

    # --- the stock Trainer ------------------------------------------------------------------------------------

    def connect_(self, trainer: Any) -> None:
        """Ties the callback closer to a Trainer that has it; a line of its own, right after the Trainer is made.

        Reporters such as TensorBoard then see `sparsity` and `quantized` beside the loss (they come before a
        user's callbacks otherwise), what a method itself learns gets its own groups in the optimizer, and
        gradient accumulation is exact with transformers 4.57 too, whose BERT hears nothing of
        `num_items_in_batch`.

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
        trainer.model_accepts_loss_kwargs = True  # the hook strips what the model does not take
        create = trainer.create_optimizer

        def create_optimizer(*args: Any, **kwargs: Any) -> Any:
            fresh = trainer.optimizer is None
            optimizer = create(*args, **kwargs)
            if fresh:
                self.group_parameters_(optimizer)
            return optimizer

        trainer.create_optimizer = create_optimizer

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
        **kwargs: Any,
    ) -> None:
        """Turns epochs into steps; called by the Trainer.

        Raises:
            RecipeError: The run is shorter than the recipe, the Trainer made a new model since, or what it
                resumes from is not a whole checkpoint of this run.
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
        self._check_groups(optimizer)
        check_checkpoint(self._witness, self.recipe, steps_per_epoch, state, optimizer)
        note_run(self.recipe, steps_per_epoch, state, args.world_size)
        seed_length_groups_(train_dataloader, args.seed if args.data_seed is None else args.data_seed)
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

    # --- inside -----------------------------------------------------------------------------------------------

    def _attach_to_(self, model: Any) -> None:
        if self._model is not None:
            raise RecipeError(
                "This CompressionCallback belongs to another Trainer or model: make a new one for each."
            )
        if self._teacher is not None:
            check_teacher(self._teacher, model)
        blocks = find_blocks(model)
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
        model.register_forward_pre_hook(self._before_forward)
        weight = blocks[-1].ffn_norm.weight
        self._witness = (weight, weight.detach().clone())

    def _begin_(self, steps_per_epoch: int, total_steps: int, several_processes: bool) -> None:
        self._steps = self._in_steps(steps_per_epoch, total_steps)
        for quantizer in find_quantizers(self._model).values():
            quantizer.shared = several_processes

    def _before_forward(self, model: nn.Module, args: Any) -> None:
        # Not right after the step before: an evaluation in between would find ranges that saw no batch.
        if self._quantize_next and not self._quantizing and model.training:
            self._enable()

    def _enable(self) -> None:
        enable_quantizers_(self._model)
        self._quantizing = True

    def _advance(self, step: int) -> None:
        """Does what is due once `step` optimizer steps are done."""
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
                _require_equal_masks(self.pruner)
        if self._quantization is not None:
            self._quantize_next = step >= steps.quantize
            if step == steps.freeze:
                freeze_observers_(self._model)

    def _forget_early_bests(self, state: Any, step: int | None = None) -> None:
        """Forgets what the Trainer holds for its best model if that was evaluated before the goal."""
        if (state.global_step if step is None else step) < self._steps.goal:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def _check_groups(self, optimizer: Any) -> None:
        groups = [] if self.pruner is None else self.pruner.parameter_groups()
        own = {id(parameter) for group in groups for parameter in group["params"]}
        if not own or optimizer is None:
            return
        for group in optimizer.param_groups:
            members = {id(parameter) for parameter in group["params"]}
            if members & own and members - own:
                raise RecipeError(
                    f"The pruning method {self._pruning.method!r} learns parameters that need their own "  # type: ignore[union-attr]
                    "learning rate: call callback.connect_(trainer) right after the Trainer is made."
                )

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

        prune_start = prune_end = quantize = freeze = goal = 0
        prune_every = 1
        if self._pruning is not None:
            prune_start = steps(self._pruning.start_epoch)
            prune_end = max(steps(self._pruning.end_epoch), prune_start + 1)
            prune_every = max(1, steps(self._pruning.update_every))
            goal = prune_end
        if self._quantization is not None:
            quantize = steps(self._quantization.start_epoch)
            # At least one batch must be seen before ranges can be frozen.
            freeze = max(steps(self._quantization.freeze_epoch), quantize + 1)
            goal = max(goal, quantize + 1)
        if max(prune_end, freeze) > max_steps:
            raise RecipeError(
                f"A run of {max_steps} steps is too short for the recipe {self.recipe.name!r}: train longer."
            )
        return _Steps(prune_start, prune_end, prune_every, quantize, freeze, goal, max_steps)


def _processes() -> int:
    """Returns how many processes train together."""
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    return 1


def _require_equal_masks(pruner: Pruner) -> None:
    """Raises StructureError where processes that train together chose different masks."""
    if _processes() == 1:
        return
    own = pruner.fingerprint()
    extremes = torch.stack((own, -own))
    distributed.all_reduce(extremes, distributed.ReduceOp.MAX)
    if not torch.equal(extremes[0], -extremes[1]):
        raise StructureError(
            "The processes chose different masks, so their weights have drifted apart: start them from the "
            "same model, and let DistributedDataParallel (the Trainer, accelerate) average the gradients."
        )
