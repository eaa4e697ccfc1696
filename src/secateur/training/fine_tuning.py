"""Fine-tunes a pretrained encoder to the dense teacher."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer, set_seed

from secateur.data import Splits
from secateur.distillation import SILENT, StudentHook
from secateur.errors import UnsupportedError
from secateur.sparsity.lock import SPARSE, lock_zeros_, unlock_, unlocked_sparsity
from secateur.training.arguments import LOG_EVERY, quiet_transformers, training_arguments
from secateur.training.collation import padder_for, training_features
from secateur.training.connection import count_items_
from secateur.training.evaluation import evaluate, quick_score
from secateur.training.lengths import fit_window, max_tokens
from secateur.training.loading import has_head, load_network, load_tokenizer
from secateur.training.progress import show_progress_
from secateur.training.reporting import Reporting
from secateur.training.run_folder import RunFolder, SeededOrder

__all__ = [
    "FineTuning",
    "check_model_target",
    "evaluate",
    "fine_tune",
    "save_copy",
    "save_model",
    "tuning_steps",
]

EPOCHS = 5.0
MIN_STEPS = 400  # a few hundred rows need many passes


@dataclass(frozen=True)
class FineTuning:
    """What a fine-tuning run gave.

    Attributes:
        folder: The Hugging Face folder of the fine-tuned model.
        metrics: `test` and, where there are rows, `validation` scores, `minutes`, `epochs`.
    """

    folder: Path
    metrics: dict[str, Any]


def fine_tune(
    model: str | Path,
    splits: Splits,
    out: str | Path,
    *,
    epochs: float = EPOCHS,
    min_steps: int | None = None,
    learning_rate: float = 1e-4,
    batch_size: int = 32,
    seed: int = 42,
    warmup_fraction: float = 0.1,
    weight_decay: float = 0.01,
    max_length: int | None = None,
    progress: bool = True,
    run: RunFolder | None = None,
    reporting: Reporting | None = None,
) -> FineTuning:
    """Fine-tunes a pretrained encoder for the task of the data; the zeros of a sparse one stay.

    Args:
        model: Folder of a pretrained encoder; its head, if any, is replaced, but that of a masked language
            model, which goes on learning.
        splits: The data; the labels become the model's.
        out: Folder to write.
        epochs: Passes over the training rows.
        min_steps: A run with fewer optimizer steps is stretched to this many; 400 where None.
        learning_rate: Peak of the learning rate, after a linear warm-up, before a linear decay to 0.
        batch_size: Features a step: rows, or windows of their contexts.
        seed: Seeds the new head, dropout, masks and the order of the rows.
        warmup_fraction: Part of the steps in which the learning rate rises.
        weight_decay: AdamW's.
        max_length: Most tokens of a feature; None means the task's usual limit, or all that the model can.
        progress: Shows a progress bar.
        run: Where checkpoints go, and where a killed run goes on from; None keeps none.
        reporting: Who else hears loss and learning rate; None is nobody.

    Returns:
        The folder and its scores.

    Raises:
        SecateurError: The model or the data cannot be used.
    """
    started = time.monotonic()
    check_model_target(Path(out))
    task = fit_window(splits.task, max_length)
    splits = dataclasses.replace(splits, task=task)
    if task.head == "embedding":
        raise UnsupportedError(
            "Sentence embeddings are not fine-tuned here, for their data have no labels: compress learns "
            "them from a dense model, so give that to compress."
        )
    tokenizer = load_tokenizer(model)
    set_seed(seed)
    network = load_network(model, task, new_head=task.head != "masked" or not has_head(model, type(task)))
    sparse = unlocked_sparsity(network) >= SPARSE
    if sparse:
        lock_zeros_(network)  # what was pruned before it was given to us stays pruned
    longest = max_tokens(network, tokenizer, task, max_length)
    train = training_features(tokenizer, task, splits.train, longest, network)
    least = MIN_STEPS if min_steps is None else min_steps
    epochs = max(epochs, least / -(-len(train) // batch_size))
    with (
        tempfile.TemporaryDirectory() as work,
        quiet_transformers(),
        (reporting or Reporting()).arguments("fine-tuning") as told,
    ):
        trainer = Trainer(
            model=network,
            args=training_arguments(
                Path(work) if run is None else run.stage("fine-tuning"),
                epochs=epochs,
                learning_rate=learning_rate,
                batch_size=batch_size,
                warmup_fraction=warmup_fraction,
                weight_decay=weight_decay,
                seed=seed,
                saving=None if run is None else run.arguments(),
                logging_steps=LOG_EVERY if progress or reporting else 0,
                reporting=told,
            ),
            data_collator=padder_for(tokenizer, task, network, train, None, seed),
            train_dataset=train,
        )
        hook = StudentHook(SILENT)  # computes logits of masked words only, and counts as compression does
        hook.attach_(network)
        count_items_(trainer, hook)
        show_progress_(
            trainer, "Fine-tuning" if progress else None, quick_score(network, tokenizer, splits, longest)
        )
        if run is None:
            trainer.train()
        else:
            trainer.add_callback(SeededOrder())
            run.train(trainer)
        hook.detach_()
        if sparse:
            unlock_(network)
        save_model(network, tokenizer, Path(out))
    minutes = (time.monotonic() - started) / 60
    metrics: dict[str, Any] = {"epochs": round(epochs, 2), "minutes": round(minutes, 2), "seed": seed}
    metrics |= evaluate(network, tokenizer, splits, longest)
    return FineTuning(Path(out), metrics)


def tuning_steps(features: int, batch_size: int = 32) -> int:
    """Returns how many optimizer steps `fine_tune` takes where nothing else is said."""
    return max(math.ceil(EPOCHS * -(-features // batch_size)), MIN_STEPS)


def check_model_target(out: Path) -> None:
    """Raises UnsupportedError where writing would delete something that is no model."""
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "config.json").is_file())):
        raise UnsupportedError(f"{out} exists and is no model folder; it is left alone: give another place.")


def save_model(network: Any, tokenizer: Any, out: Path) -> None:
    """Writes a Hugging Face folder beside `out`, then puts it in its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        folder = Path(work) / out.name
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if out.exists():
            os.replace(out, Path(work) / "older")
        os.replace(folder, out)


def save_copy(folder: Path, out: Path) -> None:
    """Copies a model folder beside `out`, then puts it in its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        copy = Path(work) / out.name
        shutil.copytree(folder, copy)
        if out.exists():
            os.replace(out, Path(work) / "older")
        os.replace(copy, out)
