"""What ties a stock Trainer closer to a callback than transformers' own events do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from secateur.distillation.teacher import StudentHook

__all__ = ["count_items_", "group_own_parameters_"]


def count_items_(trainer: Any, hook: StudentHook) -> None:
    """Lets a Trainer count the items of a step as the loss does.

    By itself it counts `labels` that are not -100, and nothing where a batch has no `labels`, as for question
    answering and sentence embeddings: the batches of a step then weigh alike, however short the last one is.

    Args:
        trainer: A stock Trainer.
        hook: The hook on its model.
    """
    trainer.model_accepts_loss_kwargs = True  # the hook strips what the model does not take
    take = trainer.get_batch_samples

    def get_batch_samples(*args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        batches, counted = take(*args, **kwargs)
        own = hook.count(trainer.model, batches)
        if own is None:
            return batches, counted
        own = own.to(trainer.args.device)
        if trainer.args.average_tokens_across_devices and trainer.args.world_size > 1:
            own = trainer.accelerator.gather(own).sum()
        return batches, own

    trainer.get_batch_samples = get_batch_samples


def group_own_parameters_(trainer: Any, group_: Callable[[torch.optim.Optimizer], None]) -> None:
    """Lets what a method itself learns have its own groups in a Trainer's optimizer.

    Args:
        trainer: A stock Trainer whose optimizer is not made yet.
        group_: Called with the optimizer right after it is made.
    """
    create = trainer.create_optimizer

    def create_optimizer(*args: Any, **kwargs: Any) -> Any:
        fresh = trainer.optimizer is None
        optimizer = create(*args, **kwargs)
        if fresh:
            group_(optimizer)
        return optimizer

    trainer.create_optimizer = create_optimizer
