"""Compresses in a training loop of your own: the same callback, three calls, no Trainer.

    python examples/plain_loop.py demo/dense assistant_intents my-compressed
    torchrun --nproc-per-node 2 examples/plain_loop.py demo/dense assistant_intents my-compressed

accelerate puts the model on its device and deals the rows to several processes. With the same seed and
settings the weights are those that `secateur compress` and a Trainer give.
"""

from __future__ import annotations

import copy
import math
import sys
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler

import secateur
from secateur.data import load_splits
from secateur.export import export_checkpoint
from secateur.recipe import Recipe, load_recipe
from secateur.tasks import task_of
from secateur.training.collation import padder_for, training_features
from secateur.training.encoding import Features, Padder
from secateur.training.learning_rate import learning_rate_scheduler
from secateur.training.lengths import max_tokens
from secateur.training.loading import load_network, load_tokenizer, model_task, read_config


def train_(student: Any, recipe: Recipe, rows: Features, padder: Padder, seed: int = 42) -> None:
    """Trains a dense model by a recipe, in place.

    Args:
        student: A fine-tuned model; a copy of it teaches, unless the rows bring the teacher's outputs.
        recipe: What to do; its batch size counts the rows of one process.
        rows: Encoded rows.
        padder: Makes batches of them.
        seed: Seeds dropout and the order of the rows.
    """
    set_seed(seed)
    settings = recipe.training
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    order = torch.Generator()
    sampler = LengthGroupedSampler(settings.batch_size, dataset=rows, generator=order)
    loader = accelerator.prepare(DataLoader(rows, settings.batch_size, sampler=sampler, collate_fn=padder))
    steps_per_epoch = len(loader)
    total_steps = math.ceil(settings.epochs * steps_per_epoch)

    teacher = None if rows.teacher_outputs is not None else copy.deepcopy(student)
    callback = secateur.CompressionCallback(recipe, teacher)
    callback.attach_(student, steps_per_epoch=steps_per_epoch, total_steps=total_steps)

    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in trained if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in trained if one.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    callback.group_parameters_(optimizer)
    scheduler = learning_rate_scheduler(optimizer, callback.plan)
    model = accelerator.prepare(student).train()

    step = 0
    while step < total_steps:
        order.manual_seed(seed + step // steps_per_epoch)
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step += 1
            callback.after_step(step)
            if step == total_steps:
                break
    callback.finish_()


def main(model: str, data: str, out: str, recipe: str = "balanced") -> None:
    """Trains and exports.

    Args:
        model: A fine-tuned model, for any task.
        data: What `secateur compress --data` takes.
        out: Folder to write.
        recipe: A built-in recipe or a YAML file.
    """
    task = model_task(model, task_of(read_config(model).to_dict()))
    student, tokenizer = load_network(model, task), load_tokenizer(model)
    longest = max_tokens(student, tokenizer, task)
    rows = training_features(tokenizer, task, load_splits(data, task).train, longest, student)
    resolved = load_recipe(recipe).stretched(len(rows))
    train_(student, resolved, rows, padder_for(tokenizer, task, student, rows, resolved, 42))
    if Accelerator().is_main_process:
        export_checkpoint(student, tokenizer, out, resolved.to_yaml())
        print(secateur.read_checkpoint(out).quantization)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
