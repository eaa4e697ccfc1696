"""From a model folder and data to a compressed checkpoint: `compress`."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, set_seed

from secateur.checkpoint import check_target
from secateur.data import Splits, load_splits
from secateur.errors import DataError, UnsupportedError
from secateur.export.checkpoint import export_checkpoint
from secateur.modeling.structure import find_projections
from secateur.recipe.plan import StepPlan
from secateur.recipe.recipe import DistillationStage, Recipe, load_recipe
from secateur.sparsity.mask import sparsity_of
from secateur.tasks import TextClassification
from secateur.training.arguments import quiet_transformers, training_arguments
from secateur.training.augmentation import AugmentingPadder
from secateur.training.callback import CompressionCallback
from secateur.training.encoding import EncodedRows, Padder, encode_rows
from secateur.training.evaluation import predict_logits
from secateur.training.fine_tuning import (
    FineTuning,
    check_model_target,
    evaluate,
    fine_tune,
    max_tokens,
    save_copy,
)
from secateur.training.loading import (
    has_classifier,
    labels_of,
    load_classifier,
    load_tokenizer,
    require_labels,
)
from secateur.training.progress import show_progress_
from secateur.training.run_folder import RunFolder, fingerprint

__all__ = ["Compression", "FineTuning", "compress", "fine_tune"]

TASKS = ("text-classification",)


@dataclass(frozen=True)
class Compression:
    """What a compression gave.

    Attributes:
        folder: The checkpoint.
        dense_folder: The dense teacher, where it was fine-tuned on the way and kept.
        metrics: `dense` and `compressed` scores by split (the compressed model with fake quantization on, in
            PyTorch), `sparsity` achieved, `minutes` and `seed`.
    """

    folder: Path
    dense_folder: Path | None
    metrics: dict[str, Any]


def compress(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | Splits,
    recipe: str | os.PathLike[str] | Recipe = "balanced",
    out: str | os.PathLike[str] = "compressed",
    *,
    task: str = "text-classification",
    teacher: str | os.PathLike[str] | None = None,
    dense_out: str | os.PathLike[str] | None = None,
    seed: int = 42,
    save_every: int = 500,
    resume: bool = False,
    progress: bool = True,
) -> Compression:
    """Compresses a model for a task and writes a checkpoint for the engine.

    Args:
        model: Folder of a fine-tuned classifier whose labels are those of the data; or of a pretrained
            encoder without a head, which is then fine-tuned first.
        data: What `load_splits` takes, or splits.
        recipe: Name or path of a recipe, or a recipe.
        out: Checkpoint folder to write; an older checkpoint there is replaced.
        task: Only `text-classification` so far.
        teacher: Folder of another dense classifier to learn from; None learns from the model itself.
        dense_out: Where to keep the dense model, if it is fine-tuned on the way; None keeps it nowhere.
        seed: Seeds everything that is random.
        save_every: Optimizer steps between two checkpoints of the run, which lie in `<out>.run` until it has
            succeeded; 0 saves none, except on Ctrl-C.
        resume: Goes on with the run that lies in `<out>.run`, to the weights it would have had.
        progress: Shows progress bars.

    Returns:
        The folder and what was measured.

    Raises:
        SecateurError: Model, data or recipe cannot be used; nothing is written then.
        KeyboardInterrupt: Ctrl-C; says how to resume where there is something to resume.
    """
    started = time.monotonic()
    if task not in TASKS:
        raise UnsupportedError(f"The task {task!r} is not known; supported: {', '.join(TASKS)}.")
    resolved = load_recipe(recipe if isinstance(recipe, Recipe) else os.fspath(recipe))
    check_target(out)
    splits = data if isinstance(data, Splits) else load_splits(data, task)
    if not splits.train:
        raise DataError(f"{splits.name} has no training rows: give data with a train file.")
    # a recipe that does not fit is refused now, not after minutes of fine-tuning
    StepPlan.for_rows(resolved.stretched(len(splits.train)), len(splits.train))
    if dense_out is not None:
        check_model_target(Path(dense_out))
    request = {
        "model": os.fspath(Path(model).resolve()),
        "task": task,
        "recipe": resolved.model_dump(mode="json"),
        "rows": fingerprint(splits.train),
        "teacher": None if teacher is None else os.fspath(Path(teacher).resolve()),
        "seed": seed,
    }
    has_head = has_classifier(Path(model))
    run = RunFolder(Path(out), request, resume=resume, save_every=save_every)
    try:
        done = _compress(
            Path(model),
            has_head,
            splits,
            resolved,
            Path(out),
            teacher,
            dense_out,
            seed,
            progress,
            run,
            started,
        )
    except KeyboardInterrupt as error:
        kept = run.discard_if_empty()
        raise KeyboardInterrupt(
            str(error) or (f"Interrupted. {run.how_to_resume()}" if kept else "")
        ) from None
    except BaseException:
        run.discard_if_empty()
        raise
    run.discard()
    return done


def _compress(
    model: Path,
    has_head: bool,
    splits: Splits,
    resolved: Recipe,
    out: Path,
    teacher: str | os.PathLike[str] | None,
    dense_out: str | os.PathLike[str] | None,
    seed: int,
    progress: bool,
    run: RunFolder,
    started: float,
) -> Compression:
    metrics: dict[str, Any] = {"seed": seed}
    folder = model
    if not has_head:
        folder = run.path / "dense"
        if not folder.is_dir():
            tuned = fine_tune(model, splits, folder, seed=seed, progress=progress, run=run)
            metrics["fine_tuning_minutes"] = tuned.metrics["minutes"]
        if dense_out is not None:
            save_copy(folder, Path(dense_out))
    dense = load_classifier(folder)
    tokenizer = load_tokenizer(folder)
    require_labels(folder, dense.config, splits.labels)
    splits = dataclasses.replace(splits, task=TextClassification.from_config(dense.config.to_dict()))
    metrics["dense"] = evaluate(dense, tokenizer, splits)

    resolved = resolved.stretched(len(splits.train))
    train = encode_rows(tokenizer, splits.train, splits.labels, max_tokens(dense))
    distillations = resolved.stages_of(DistillationStage)
    live: Any = None
    if any(stage.hidden > 0.0 or stage.augmentation > 0.0 for stage in distillations):
        live = _live_teacher(folder if teacher is None else Path(teacher), dense, tokenizer)
    elif distillations:
        train.teacher_logits = run.tensor("teacher_logits")
        if train.teacher_logits is None:
            train.teacher_logits = _teacher_logits(dense, tokenizer, train, splits, teacher)
            run.store("teacher_logits", train.teacher_logits)
    student = dense  # nothing else reads the dense weights from here on
    _train(student, live, tokenizer, train, resolved, seed, run, progress)

    metrics["compressed"] = evaluate(student, tokenizer, splits)
    metrics["sparsity"] = sparsity_of([projection.linear for projection in find_projections(student)])
    metrics["minutes"] = round((time.monotonic() - started) / 60, 2)
    folder = export_checkpoint(student, tokenizer, out, resolved.to_yaml(), metrics)
    kept = Path(dense_out) if dense_out is not None and not has_head else None
    return Compression(folder, kept, metrics)


def _train(
    student: Any,
    teacher: Any,
    tokenizer: Any,
    train: EncodedRows,
    recipe: Recipe,
    seed: int,
    run: RunFolder,
    progress: bool,
) -> None:
    """Trains the student by the recipe, in place."""
    settings = recipe.training
    distillation = recipe.stage(DistillationStage)
    padder = Padder(tokenizer.pad_token_id)
    if distillation is not None and distillation.augmentation > 0.0:
        padder = AugmentingPadder(
            tokenizer.pad_token_id,
            train,
            sorted(place for token, place in tokenizer.get_vocab().items() if token.isalpha()),
            tokenizer.all_special_ids,
            distillation.augmentation,
            seed,
        )
    set_seed(seed)
    with quiet_transformers():
        arguments = training_arguments(
            run.stage("compression"),
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            warmup_fraction=settings.warmup,
            weight_decay=settings.weight_decay,
            seed=seed,
            schedule=settings.schedule,
            saving=run.arguments(),
        )
        callback = CompressionCallback(recipe, teacher)
        trainer = Trainer(
            model=student,
            args=arguments,
            data_collator=padder,
            train_dataset=train,
            callbacks=[callback],
        )
        callback.connect_(trainer)
        show_progress_(trainer, "Compressing" if progress else None)
        run.train(trainer)


def _live_teacher(folder: Path, student: Any, tokenizer: Any) -> Any:
    """Loads a teacher that hears the student's batches; vocabulary and order of labels must agree."""
    network = load_classifier(folder)
    if labels_of(network.config) != labels_of(student.config):
        raise DataError(
            f"The teacher {folder} has its labels in another order than the model: fine-tune it alike."
        )
    if load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise DataError(f"The teacher {folder} has another vocabulary than the model: give one of its kind.")
    return network


def _teacher_logits(
    dense: Any, tokenizer: Any, train: EncodedRows, splits: Splits, teacher: str | os.PathLike[str] | None
) -> Tensor:
    """Returns (rows, labels) float32: one teacher forward for the whole run, in the student's label order."""
    if teacher is None:
        return predict_logits(dense, train, pad_token_id=tokenizer.pad_token_id)
    folder = Path(teacher)
    network = load_classifier(folder)
    require_labels(folder, network.config, splits.labels)
    own = load_tokenizer(folder)
    rows = encode_rows(own, splits.train, splits.labels, max_tokens(network))
    logits = predict_logits(network, rows, pad_token_id=own.pad_token_id)
    places = {label: index for index, label in enumerate(labels_of(network.config))}
    return logits[:, torch.tensor([places[label] for label in splits.labels])]
