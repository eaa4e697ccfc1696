"""`secateur compress`: from a model and data to a checkpoint for the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.commands.columns import columns_of
from secateur.commands.console import hush_libraries, note, output, print_table
from secateur.data import Splits, load_splits
from secateur.errors import MissingExtraError
from secateur.tasks import task_named

__all__ = ["Request", "run"]

_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
_TITLES = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "f1": "F1",
    "oos_recall": "recall of out-of-scope rows",
    "oos_auroc": "AUROC in scope against out of scope",
    "mrr": "mean reciprocal rank",
    "rmse": "root mean squared error",
    "cosine_to_dense": "cosine to the dense model's vectors",
}


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
            cache=request.cache,
            seed=request.seed,
            save_every=request.save_every,
            resume=request.resume,
        )
    except KeyboardInterrupt as error:
        if str(error):
            note(str(error))
        raise
    _print(done.metrics, done.folder)
    output().print(f"Try next: secateur predict {request.out} {_example(splits)}", **_PLAIN)


def _print(metrics: Mapping[str, Any], folder: Path) -> None:
    split = "test" if "test" in metrics["compressed"] else "validation"
    dense, compressed = (metrics[model].get(split, {}) for model in ("dense", "compressed"))
    rows = [
        (_TITLES.get(name, name.replace("_", " ")), f"{dense[name]:.4f}", f"{value:.4f}")
        for name, value in compressed.items()
        if isinstance(value, float) and isinstance(dense.get(name), float)
    ]
    size = (folder / "model.safetensors").stat().st_size / 1e6
    rows += [
        ("zeros in the encoder", "", f"{metrics['sparsity']:.1%}"),
        ("weight file", "", f"{size:.1f} MB"),
        ("minutes", "", f"{metrics['minutes']:.1f}"),
    ]
    print_table(f"{folder} ({split} rows, in PyTorch)", ("what", "dense", "compressed"), rows, numbers=2)


def _example(splits: Splits) -> str:
    if splits.task.name == "question-answering":
        return "--question 'who came' --context 'Ann came.'"
    if splits.task.name == "text-classification" and "text_pair" in splits.columns:
        return """'{"text": "some text", "text_pair": "another"}'"""
    return "'some [MASK] text'" if splits.task.name == "fill-mask" else "'some text'"
