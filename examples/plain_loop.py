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
from secateur.training.encoding import EncodedRows, Padder, encode_rows
from secateur.training.learning_rate import learning_rate_scheduler
from secateur.training.loading import labels_of, load_classifier, load_tokenizer


def train_(student: Any, recipe: Recipe, rows: EncodedRows, pad_token_id: int, seed: int = 42) -> None:
    """Trains a dense model by a recipe, in place.

    Args:
        student: A fine-tuned classifier; a copy of it teaches, unless the rows have teacher_logits.
        recipe: What to do; its batch size counts the rows of one process.
        rows: Encoded rows.
        pad_token_id: The id to pad with.
        seed: Seeds dropout and the order of the rows.
    """
    set_seed(seed)
    settings = recipe.training
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    order = torch.Generator()
    sampler = LengthGroupedSampler(settings.batch_size, dataset=rows, generator=order)
    loader = accelerator.prepare(
        DataLoader(rows, settings.batch_size, sampler=sampler, collate_fn=Padder(pad_token_id))
    )
    steps_per_epoch = len(loader)
    total_steps = math.ceil(settings.epochs * steps_per_epoch)

    teacher = None if rows.teacher_logits is not None else copy.deepcopy(student)
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
        model: A fine-tuned classifier.
        data: What `secateur compress --data` takes.
        out: Folder to write.
        recipe: A built-in recipe or a YAML file.
    """
    student, tokenizer = load_classifier(model), load_tokenizer(model)
    labels, train = labels_of(student.config), load_splits(data).train
    resolved = load_recipe(recipe).stretched(len(train))
    rows = encode_rows(tokenizer, train, labels, student.config.max_position_embeddings)
    train_(student, resolved, rows, tokenizer.pad_token_id)
    if Accelerator().is_main_process:
        export_checkpoint(student, tokenizer, out, resolved.to_yaml())
        print(secateur.read_checkpoint(out).quantization)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
