"""`secateur compress`: from a model and data to a checkpoint for the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secateur.commands.before_and_after import print_before_and_after, print_next
from secateur.commands.columns import columns_of
from secateur.commands.console import hush_libraries, note
from secateur.data import load_splits
from secateur.errors import MissingExtraError
from secateur.tasks import task_named

__all__ = ["Request", "run"]


@dataclass(frozen=True)
class Request:
    """What to compress, on what, how and where to; see `secateur.compress`.

    Attributes:
        columns: `ROLE=COLUMN` each.
        text: The column that holds the text; None for one of the usual names.
        label: The column that holds the label; None for one of the usual names.
        kind: What labels mean, where the task has several kinds; None finds out.
    """

    model: str
    data: str
    out: Path
    task: str | None
    recipe: str
    teacher: str | None
    dense_out: Path | None
    seed: int
    threads: int | None
    save_every: int = 500
    resume: bool = False
    columns: tuple[str, ...] = ()
    text: str | None = None
    label: str | None = None
    kind: str | None = None
    max_length: int | None = None
    cache: Path | None = None
    student: str | None = None
    report_to: tuple[str, ...] = ()
    logging_dir: Path | None = None
    doc_stride: int | None = None


def run(request: Request) -> None:
    """Compresses a model and prints what it cost.

    Args:
        request: What to do.

    Raises:
        SecateurError: Something that was given cannot be used; nothing is written then.
    """
    hush_libraries()
    try:
        import torch

        from secateur.training.trainer import compress, usual_task
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Compressing needs {error.name}, which is not installed: pip install 'secateur[train]'."
        ) from error
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    task = usual_task(Path(request.model)) if request.task is None else task_named(request.task)
    columns = columns_of(task, request.columns, request.text, request.label)
    splits = load_splits(request.data, task, columns, kind=request.kind, cache=request.cache)
    note(splits.describe())
    try:
        done = compress(
            request.model,
            splits,
            request.recipe,
            request.out,
            teacher=request.teacher,
            student=request.student,
            dense_out=request.dense_out,
            max_length=request.max_length,
            doc_stride=request.doc_stride,
            cache=request.cache,
            seed=request.seed,
            save_every=request.save_every,
            resume=request.resume,
            report_to=request.report_to,
            logging_dir=request.logging_dir,
        )
    except KeyboardInterrupt as error:
        if str(error):
            note(str(error))
        raise
    print_before_and_after(done.metrics, done.folder)
    print_next(request.out, splits)
