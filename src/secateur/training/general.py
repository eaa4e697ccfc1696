"""The general stage: a student taught on plain text, before it learns a task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import Trainer, set_seed

from secateur.data import Splits, load_splits
from secateur.errors import DataError, RecipeError
from secateur.recipe.plan import StepPlan
from secateur.recipe.recipe import DistillationStage, Recipe, load_recipe
from secateur.tasks import FillMask, SentenceEmbeddings, Task
from secateur.training.arguments import LOG_EVERY, quiet_transformers, training_arguments
from secateur.training.callback import CompressionCallback
from secateur.training.collation import padder_for, training_features
from secateur.training.fine_tuning import check_model_target, save_model
from secateur.training.lengths import fit_window, max_tokens
from secateur.training.loading import agreed_task, has_head, load_network, load_tokenizer
from secateur.training.progress import show_progress_
from secateur.training.run_folder import RunFolder, fingerprint
from secateur.training.students import make_student

__all__ = ["teach_student"]


def teach_student(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | Splits,
    out: str | os.PathLike[str],
    recipe: str | os.PathLike[str] | Recipe = "general",
    *,
    max_length: int | None = None,
    seed: int = 42,
    save_every: int = 500,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Makes a smaller student of a model and teaches it on plain text, which has no labels.

    The model teaches. What comes out is a folder in Hugging Face form, for `compress(..., student=out)`: the
    task's head is new there, whatever the model here has.

    Args:
        model: Folder of an encoder, or of a masked language model, whose words are then masked in the texts.
        data: Texts: what `load_splits` takes, or splits.
        out: Folder to write; an older model there is replaced.
        recipe: What the student is and how it learns; pruning and quantization belong to the task.
        max_length: Most tokens of a text; None means all that the model can.
        seed: Seeds everything that is random.
        save_every: Optimizer steps between two checkpoints of the run, which lie in `<out>.run`.
        resume: Goes on with the run that lies there, to the weights it would have had.
        progress: Shows progress bars.

    Returns:
        The folder.

    Raises:
        SecateurError: Model, data or recipe cannot be used; nothing is written then.

    Source:
        Jiao et al., "TinyBERT" (2020), section 3.2, general distillation: hidden states, embeddings and
        attention on plain text, no outputs.
    """
    resolved = load_recipe(recipe if isinstance(recipe, Recipe) else os.fspath(recipe))
    _check_recipe(resolved)
    check_model_target(Path(out))
    masked = has_head(Path(model), FillMask)
    splits = (
        data if isinstance(data, Splits) else load_splits(data, FillMask if masked else SentenceEmbeddings)
    )
    if not splits.train:
        raise DataError(f"{splits.name} has no training rows: give texts to learn from.")
    task = _task(Path(model), fit_window(splits.task, max_length))
    request = {
        "model": os.fspath(Path(model).resolve()),
        "task": task.name,
        "recipe": resolved.model_dump(mode="json"),
        "rows": fingerprint(splits.train),
        "max_length": max_length,
        "seed": seed,
    }
    tokenizer = load_tokenizer(Path(model), embeddings=task.head == "embedding")
    teacher = load_network(Path(model), task)
    set_seed(seed)
    student = make_student(teacher, resolved)
    if student is teacher:
        student = load_network(Path(model), task)
    longest = max_tokens(teacher, tokenizer, task, max_length)
    train = training_features(tokenizer, task, splits.train, longest, teacher)
    plan = StepPlan.for_rows(resolved.stretched(len(train)), len(train))
    run = RunFolder(Path(out), request, resume=resume, save_every=save_every)
    try:
        _train(student, teacher, tokenizer, task, train, plan.recipe, run, seed, progress)
        save_model(student, tokenizer, Path(out))
    except KeyboardInterrupt as error:
        kept = run.discard_if_empty()
        raise KeyboardInterrupt(
            str(error) or (f"Interrupted. {run.how_to_resume()}" if kept else "")
        ) from None
    except BaseException:
        run.discard_if_empty()
        raise
    run.discard()
    return Path(out)


def _train(
    student: Any,
    teacher: Any,
    tokenizer: Any,
    task: Task,
    train: Any,
    recipe: Recipe,
    run: RunFolder,
    seed: int,
    progress: bool,
) -> None:
    settings = recipe.training
    set_seed(seed)
    with quiet_transformers():
        callback = CompressionCallback(recipe, teacher)
        trainer = Trainer(
            model=student,
            args=training_arguments(
                run.stage("compression"),
                epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                batch_size=settings.batch_size,
                warmup_fraction=settings.warmup,
                weight_decay=settings.weight_decay,
                seed=seed,
                schedule=settings.schedule,
                saving=run.arguments(),
                logging_steps=LOG_EVERY if progress else 0,
            ),
            data_collator=padder_for(tokenizer, task, student, train, recipe, seed),
            train_dataset=train,
            callbacks=[callback],
        )
        callback.connect_(trainer)
        show_progress_(trainer, "Teaching" if progress else None, None)
        run.train(trainer)


def _task(model: Path, task: Task) -> Task:
    agreed = agreed_task(model, task)
    if task.head not in ("masked", "embedding"):
        raise DataError(f"The general stage learns from plain texts, and these are rows of {task.name}.")
    return agreed


def _check_recipe(recipe: Recipe) -> None:
    others = [stage.type for stage in recipe.stages if stage.type in ("pruning", "quantization")]
    if others:
        raise RecipeError(
            f"The recipe {recipe.name!r} has a stage of the type {others[0]}, and the general stage writes a "
            "dense model: leave it to the recipe of the task."
        )
    if not recipe.stages_of(DistillationStage):
        raise RecipeError(f"The recipe {recipe.name!r} has no distillation stage, by which a student learns.")
