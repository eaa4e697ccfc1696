"""Fine-tunes a pretrained encoder to the dense teacher."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer, set_seed

from secateur.data import Splits
from secateur.errors import UnsupportedError
from secateur.training.arguments import quiet_transformers, training_arguments
from secateur.training.encoding import EncodedRows, Padder, encode_rows
from secateur.training.evaluation import predict_logits
from secateur.training.loading import load_classifier, load_tokenizer
from secateur.training.progress import show_progress_
from secateur.training.run_folder import RunFolder, SeededOrder

__all__ = ["FineTuning", "check_model_target", "evaluate", "fine_tune", "max_tokens", "save_copy"]

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
    epochs: float = 5,
    min_steps: int | None = None,
    learning_rate: float = 1e-4,
    batch_size: int = 32,
    seed: int = 42,
    warmup_fraction: float = 0.1,
    weight_decay: float = 0.01,
    progress: bool = True,
    run: RunFolder | None = None,
) -> FineTuning:
    """Fine-tunes a pretrained encoder for classification.

    Args:
        model: Folder of a pretrained encoder; its head, if any, is replaced.
        splits: The data; the labels become the model's.
        out: Folder to write.
        epochs: Passes over the training rows.
        min_steps: A run with fewer optimizer steps is stretched to this many; 400 where None.
        learning_rate: Peak of the learning rate, after a linear warm-up, before a linear decay to 0.
        batch_size: Rows a step.
        seed: Seeds the new head, dropout and the order of the rows.
        warmup_fraction: Part of the steps in which the learning rate rises.
        weight_decay: AdamW's.
        progress: Shows a progress bar.
        run: Where checkpoints go, and where a killed run goes on from; None keeps none.

    Returns:
        The folder and its scores.

    Raises:
        SecateurError: The model or the data cannot be used.
    """
    started = time.monotonic()
    check_model_target(Path(out))
    tokenizer = load_tokenizer(model)
    set_seed(seed)
    network = load_classifier(model, labels=splits.labels)
    train = encode_rows(tokenizer, splits.train, splits.labels, max_tokens(network))
    steps = MIN_STEPS if min_steps is None else min_steps
    epochs = max(epochs, steps / -(-len(train) // batch_size))
    with tempfile.TemporaryDirectory() as work, quiet_transformers():
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
            ),
            data_collator=Padder(tokenizer.pad_token_id),
            train_dataset=train,
        )
        show_progress_(trainer, "Fine-tuning" if progress else None)
        if run is None:
            trainer.train()
        else:
            trainer.add_callback(SeededOrder())
            run.train(trainer)
        _save(network, tokenizer, Path(out))
    minutes = (time.monotonic() - started) / 60
    metrics: dict[str, Any] = {"epochs": round(epochs, 2), "minutes": round(minutes, 2), "seed": seed}
    metrics |= evaluate(network, tokenizer, splits)
    return FineTuning(Path(out), metrics)


def evaluate(network: Any, tokenizer: Any, splits: Splits) -> dict[str, Any]:
    """Scores a model on the validation and test rows, where there are any.

    Args:
        network: A transformers sequence classifier whose labels are those of the data, in the same order.
        tokenizer: Its tokenizer.
        splits: The data.

    Returns:
        `validation` and `test`, as the task's `score` gives them.
    """
    result = {}
    for name, rows in (("validation", splits.validation), ("test", splits.test)):
        if not rows:
            continue
        given = [*rows, *splits.out_of_scope] if name == "test" else rows
        encoded = splits.task.encode(tokenizer.backend_tokenizer, given, max_tokens(network))
        features = EncodedRows(encoded.input_ids, [0] * len(encoded))
        logits = predict_logits(network, features, pad_token_id=tokenizer.pad_token_id)
        result[name] = splits.task.score(given, encoded, list(logits.numpy()))
    return result


def check_model_target(out: Path) -> None:
    """Raises UnsupportedError where writing would delete something that is no model."""
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "config.json").is_file())):
        raise UnsupportedError(f"{out} exists and is no model folder; it is left alone: give another place.")


def _save(network: Any, tokenizer: Any, out: Path) -> None:
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


def max_tokens(network: Any) -> int:
    """Returns the most tokens a text may have."""
    return int(network.config.max_position_embeddings)
