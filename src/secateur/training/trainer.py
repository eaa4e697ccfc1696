"""From a model folder and data to a compressed checkpoint: `compress`."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer, set_seed

from secateur.checkpoint import check_target
from secateur.data import Splits, load_splits
from secateur.errors import DataError, RecipeError
from secateur.export.checkpoint import export_checkpoint
from secateur.modeling.structure import find_projections
from secateur.recipe.plan import StepPlan
from secateur.recipe.recipe import DistillationStage, Recipe, load_recipe
from secateur.sparsity.mask import sparsity_of
from secateur.tasks import Task, task_named, task_of
from secateur.tasks.sentence_embeddings import cosines
from secateur.training.announcement import announce
from secateur.training.arguments import LOG_EVERY, quiet_transformers, training_arguments
from secateur.training.callback import CompressionCallback
from secateur.training.chance import chance_note
from secateur.training.collation import (
    alters_rows,
    can_be_altered,
    padder_for,
    training_features,
    without_altered_rows,
)
from secateur.training.conditions import check_teacher, pruning_record
from secateur.training.encoding import Features
from secateur.training.evaluation import embeddings, evaluate, quick_score
from secateur.training.fine_tuning import FineTuning, check_model_target, fine_tune, save_copy, tuning_steps
from secateur.training.lengths import fit_window, max_tokens
from secateur.training.loading import (
    agreed_task,
    has_head,
    load_network,
    load_tokenizer,
    read_config,
)
from secateur.training.progress import say, show_progress_
from secateur.training.pruning import check_zeros
from secateur.training.reporting import Reporting
from secateur.training.run_folder import RunFolder, fingerprint, weights_fingerprint
from secateur.training.students import check_student_folder, load_student, make_student
from secateur.training.teacher_cache import TeacherCache, check_folder

__all__ = ["Compression", "FineTuning", "compress", "fine_tune", "usual_task"]


@dataclass(frozen=True)
class Compression:
    """What a compression gave.

    Attributes:
        folder: The checkpoint.
        dense_folder: The dense teacher, where it was fine-tuned on the way and kept.
        metrics: `dense` and `compressed` scores by split (the compressed model with fake quantization on, in
            PyTorch), `main_metric` among them, `sparsity` achieved, `minutes` (of the last part of a resumed
            run), `estimated_minutes` where they were said, `seed`, and `pruning`, what every update chose,
            where the method has something to say.
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
    task: str | None = None,
    teacher: str | os.PathLike[str] | None = None,
    student: str | os.PathLike[str] | None = None,
    dense_out: str | os.PathLike[str] | None = None,
    max_length: int | None = None,
    doc_stride: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    seed: int = 42,
    save_every: int = 500,
    resume: bool = False,
    progress: bool = True,
    report_to: Sequence[str] = (),
    logging_dir: str | os.PathLike[str] | None = None,
) -> Compression:
    """Compresses a model for a task and writes a checkpoint for the engine.

    Args:
        model: Folder of a model that was fine-tuned for the task, its labels those of the data (a masked
            language model, or a model of sentence embeddings, as it is); or of a pretrained encoder without
            the task's head, which is then fine-tuned first.
        data: What `load_splits` takes, or splits.
        recipe: Name or path of a recipe, or a recipe. Rows are altered (`augmentation`) only where each is
            one text that stands for itself; elsewhere that part of the recipe is left out, and said so.
        out: Checkpoint folder to write; an older checkpoint there is replaced.
        task: Name of the task; None takes that of the splits, or else of the model's head, or else what the
            columns of the data are for.
        teacher: Folder of another dense model to learn from, with the same tokenizer and labels; None learns
            from the model itself.
        student: Folder of a smaller model to start from, with the model's tokenizer; None starts from what
            the recipe's `student` makes of the model, or from a copy of it.
        dense_out: Where to keep the dense model, if it is fine-tuned on the way; None keeps it nowhere.
        max_length: Most tokens of a text, or of a window of a long context; None means 384 for question
            answering, otherwise all that the model can: what is shorter costs no more.
        doc_stride: Tokens that neighbouring windows of a long context share; None means 128.
        cache: Folder in which the teacher's outputs are kept for other runs; None keeps them for this one.
        seed: Seeds everything that is random.
        save_every: Optimizer steps between two checkpoints of the run, which lie in `<out>.run` until it has
            succeeded; 0 saves none, except on Ctrl-C.
        resume: Goes on with the run that lies in `<out>.run`, to the weights it would have had.
        progress: Prints what will happen and an estimate of the time, then shows progress bars.
        report_to: Who else hears loss, learning rate and sparsity, by the Trainer's names: `tensorboard`,
            `mlflow`, `wandb` and the like.
        logging_dir: Where TensorBoard's files go; None is `<out>.logs`.

    Returns:
        The folder and what was measured.

    Raises:
        SecateurError: Model, data or recipe cannot be used; nothing is written then.
        KeyboardInterrupt: Ctrl-C; says how to resume where there is something to resume.
    """
    started = time.monotonic()
    kind = None if task is None else task_named(task)
    resolved = load_recipe(recipe if isinstance(recipe, Recipe) else os.fspath(recipe))
    check_target(out)
    splits = data if isinstance(data, Splits) else load_splits(data, kind or usual_task(Path(model)))
    if kind is not None and kind is not type(splits.task):
        raise DataError(f"The data are rows of {splits.task.name}, and the task is {task}: load them for it.")
    splits = dataclasses.replace(splits, task=fit_window(splits.task, max_length, doc_stride))
    if not splits.train:
        raise DataError(f"{splits.name} has no training rows: give data with a train file.")
    notes: tuple[str, ...] = ()
    if alters_rows(resolved) and not can_be_altered(splits.task, splits.train):
        resolved = without_altered_rows(resolved)
        notes = ("No rows are altered (augmentation): only texts that stand for themselves can be.",)
    # a recipe that does not fit is refused now, not after minutes of fine-tuning
    StepPlan.for_rows(resolved.stretched(len(splits.train)), len(splits.train))
    if dense_out is not None:
        check_model_target(Path(dense_out))
    request = {
        "model": os.fspath(Path(model).resolve()),
        "task": splits.task.name,
        "recipe": resolved.model_dump(mode="json"),
        "rows": fingerprint(splits.train),
        "labels": splits.task.config(),  # their order is that of the logits
        "teacher": None if teacher is None else os.fspath(Path(teacher).resolve()),
        "max_length": max_length,
        "doc_stride": doc_stride,
        "seed": seed,
    }
    logs = Path(f"{os.fspath(out)}.logs" if logging_dir is None else logging_dir)
    reporting = Reporting.to(report_to, logs)
    ready = has_head(Path(model), type(splits.task))
    if teacher is not None:
        read_config(Path(teacher))  # transformers would look for a folder that is not there on the hub
    for role, given in (("model", model), ("teacher", teacher), ("student", student)):
        request[f"{role} weights"] = None if given is None else weights_fingerprint(Path(given))
    if cache is not None:
        check_folder(Path(cache))
    run = RunFolder(Path(out), request, resume=resume, save_every=save_every)
    folder = run.path / "teacher" if cache is None else Path(cache)
    job = _Job(
        model=Path(model),
        ready=ready,
        splits=splits,
        recipe=resolved,
        out=Path(out),
        teacher=None if teacher is None else Path(teacher),
        student=None if student is None else Path(student),
        dense_out=None if dense_out is None else Path(dense_out),
        max_length=max_length,
        cache=TeacherCache(folder),
        seed=seed,
        progress=progress,
        run=run,
        started=started,
        notes=notes,
        reporting=reporting,
    )
    try:
        done = job.run_()
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


@dataclass(frozen=True)
class _Job:
    """One compression, everything that was asked for at hand."""

    model: Path
    ready: bool
    splits: Splits
    recipe: Recipe
    out: Path
    teacher: Path | None
    student: Path | None
    dense_out: Path | None
    max_length: int | None
    cache: TeacherCache
    seed: int
    progress: bool
    run: RunFolder
    started: float
    notes: tuple[str, ...]
    reporting: Reporting

    def run_(self) -> Compression:
        """Fine-tunes where needed, teaches, trains, scores and writes."""
        metrics: dict[str, Any] = {"seed": self.seed, "task": self.splits.task.name}
        tokenizer = self._tokenizer(self.model)
        task = self._task(self.model) if self.ready else self.splits.task
        network = load_network(self.model, task, new_head=not self.ready)
        if self.student is not None:
            check_student_folder(self.student, tokenizer, self.recipe)
        student = self._student(network, task)
        check_zeros(self.recipe, student)
        longest = min(max_tokens(one, tokenizer, task, self.max_length) for one in (network, student))
        train = training_features(tokenizer, task, self.splits.train, longest, network)
        recipe = self.recipe.stretched(len(train))
        plan = StepPlan.for_rows(recipe, len(train))
        teacher = self._other_teacher(task, network, tokenizer)
        live = task.head == "masked" or any(
            stage.needs_live_teacher for stage in recipe.stages_of(DistillationStage)
        )
        if self.progress:
            foreseen = announce(
                plan,
                network,
                train,
                padder_for(tokenizer, task, network, train, recipe, self.seed),
                tuning_steps=0 if self.ready else tuning_steps(len(train)),
                student=student,
                live_teacher=live,
                scored_rows=len(self.splits.validation) + len(self.splits.test),
                notes=self.notes,
            )
            metrics["estimated_minutes"] = round(foreseen.minutes, 2)
        if not self.ready:
            network = self._fine_tuned(metrics)
        splits = dataclasses.replace(self.splits, task=task)
        metrics["dense"] = evaluate(network, tokenizer, splits, longest)
        warning = chance_note(splits, metrics["dense"])
        if warning is not None and self.progress:
            say(warning)
        vectors = embeddings(network, tokenizer, splits, longest)
        metrics["main_metric"] = task.main_metric
        if recipe.stages_of(DistillationStage) and not live:
            dense = network if teacher is None else teacher
            train.teacher_outputs, teacher = self.cache.outputs(dense, task, train), None
        student = self._student(network, task)
        if live and teacher is None:
            copied = student is network  # nothing else reads the dense weights from here on
            teacher = load_network(self.model if self.ready else self._dense(), task) if copied else network
        record = self._train(student, teacher, tokenizer, splits, train, recipe, longest)
        if any(update.keys() - {"step", "sparsity"} for update in record):
            metrics["pruning"] = record
        metrics["compressed"] = evaluate(student, tokenizer, splits, longest)
        for split, made in embeddings(student, tokenizer, splits, longest).items():
            if made.shape == vectors[split].shape:
                metrics["dense"][split]["cosine_to_dense"] = 1.0
                metrics["compressed"][split]["cosine_to_dense"] = float(cosines(vectors[split], made).mean())
        metrics["sparsity"] = sparsity_of([projection.linear for projection in find_projections(student)])
        metrics["minutes"] = round((time.monotonic() - self.started) / 60, 2)
        folder = export_checkpoint(student, tokenizer, self.out, recipe.to_yaml(), metrics)
        return Compression(folder, None if self.ready else self.dense_out, metrics)

    def _train(
        self,
        student: Any,
        teacher: Any,
        tokenizer: Any,
        splits: Splits,
        train: Features,
        recipe: Recipe,
        longest: int,
    ) -> list[dict[str, float]]:
        """Trains the student by the recipe, in place; returns what the updates of pruning chose."""
        settings = recipe.training
        padder = padder_for(tokenizer, splits.task, student, train, recipe, self.seed)
        set_seed(self.seed)
        with quiet_transformers(), self.reporting.arguments("compression") as told:
            arguments = training_arguments(
                self.run.stage("compression"),
                epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                batch_size=settings.batch_size,
                warmup_fraction=settings.warmup,
                weight_decay=settings.weight_decay,
                seed=self.seed,
                schedule=settings.schedule,
                saving=self.run.arguments(),
                logging_steps=LOG_EVERY if self.progress or self.reporting.names else 0,
                reporting=told,
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
            score = quick_score(student, tokenizer, splits, longest) if self.progress else None
            show_progress_(trainer, "Compressing" if self.progress else None, score)
            self.run.train(trainer)
        return pruning_record(trainer.state)

    def _student(self, network: Any, task: Task) -> Any:
        """Returns who will be trained: the model itself, or a smaller one; the same whenever it is asked."""
        if self.student is not None:
            return load_student(self.student, task, self.seed)
        set_seed(self.seed)
        return make_student(network, self.recipe)

    def _dense(self) -> Path:
        return self.run.path / "dense"

    def _fine_tuned(self, metrics: dict[str, Any]) -> Any:
        """Returns the dense model, fine-tuned now or before the run was interrupted."""
        folder = self._dense()
        if not folder.is_dir():
            tuned = fine_tune(
                self.model,
                self.splits,
                folder,
                seed=self.seed,
                max_length=self.max_length,
                progress=self.progress,
                run=self.run,
                reporting=self.reporting,
            )
            metrics["fine_tuning_minutes"] = tuned.metrics["minutes"]
        if self.dense_out is not None:
            save_copy(folder, self.dense_out)
        return load_network(folder, self.splits.task)

    def _tokenizer(self, folder: Path) -> Any:
        return load_tokenizer(folder, embeddings=self.splits.task.head == "embedding")

    def _task(self, folder: Path) -> Task:
        return agreed_task(folder, self.splits.task)

    def _other_teacher(self, task: Task, network: Any, tokenizer: Any) -> Any:
        """Loads the teacher that was asked for, where it can speak to the student.

        Raises:
            DataError: It has another tokenizer, other labels or kind of labels, or them in another order.
        """
        if self.teacher is None or not self.recipe.stages_of(DistillationStage):
            return None
        if self._tokenizer(self.teacher).get_vocab() != tokenizer.get_vocab():
            raise DataError(
                f"The teacher {self.teacher} has another vocabulary than the model: give one with its "
                "tokenizer."
            )
        own = agreed_task(self.teacher, task, "the model")
        if own.labels != task.labels:
            differ = "in another order than" if sorted(own.labels) == sorted(task.labels) else "not those of"
            raise DataError(
                f"The teacher {self.teacher} has its labels {differ} the model: fine-tune it alike."
            )
        teacher = load_network(self.teacher, own)
        try:
            check_teacher(teacher, network, self.recipe)
        except RecipeError as error:
            raise DataError(f"The teacher {self.teacher} cannot be learnt from. {error}") from None
        return teacher


def usual_task(model: Path) -> type[Task] | None:
    """Returns the task of a model's head; None for an encoder, which can become anything.

    Raises:
        UnsupportedError: See `read_config`.
    """
    config = read_config(model).to_dict()
    found = task_of(config) if config.get("architectures") else None
    return None if found is None or found.head == "embedding" else found
