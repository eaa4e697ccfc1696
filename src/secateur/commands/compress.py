"""`secateur compress`: from a model and data to a checkpoint for the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.commands.console import hush_libraries, note, output, print_table
from secateur.commands.evaluate import named_columns
from secateur.data import load_splits
from secateur.errors import MissingExtraError

__all__ = ["Request", "run"]


@dataclass(frozen=True)
class Request:
    """What to compress, on what, how and where to; see `secateur.compress`."""

    model: str
    data: str
    out: Path
    task: str
    recipe: str
    teacher: str | None
    dense_out: Path | None
    seed: int
    threads: int | None
    save_every: int = 500
    resume: bool = False


def run(request: Request, text: str | None, label: str | None) -> None:
    """Compresses a model and prints what it cost.

    Args:
        request: What to do.
        text: The column that holds the text; None for one of the usual names.
        label: The column that holds the label; None for one of the usual names.

    Raises:
        SecateurError: Something that was given cannot be used; nothing is written then.
    """
    splits = load_splits(request.data, request.task, named_columns(text, label))
    hush_libraries()
    try:
        import torch

        from secateur.training.trainer import compress
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Compressing needs {error.name}, which is not installed: pip install 'secateur[train]'."
        ) from error
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    note(splits.describe())
    try:
        done = compress(
            request.model,
            splits,
            request.recipe,
            request.out,
            task=request.task,
            teacher=request.teacher,
            dense_out=request.dense_out,
            seed=request.seed,
            save_every=request.save_every,
            resume=request.resume,
        )
    except KeyboardInterrupt as error:
        if str(error):
            note(str(error))
        raise
    _print(done.metrics, done.folder)
    output().print(f"Try next: secateur predict {request.out} 'some text'", markup=False, soft_wrap=True)


def _print(metrics: Mapping[str, Any], folder: Path) -> None:
    split = "test" if "test" in metrics["compressed"] else "validation"
    dense, compressed = metrics["dense"][split], metrics["compressed"][split]
    named = {
        "accuracy": "accuracy",
        "macro_f1": "macro F1",
        "oos_recall": "recall of out-of-scope rows",
        "oos_auroc": "AUROC in scope against out of scope",
    }
    rows = [
        (title, f"{dense[key]:.4f}", f"{compressed[key]:.4f}")
        for key, title in named.items()
        if dense.get(key) is not None and compressed.get(key) is not None
    ]
    size = (folder / "model.safetensors").stat().st_size / 1e6
    rows += [
        ("zeros in the encoder", "", f"{metrics['sparsity']:.1%}"),
        ("weight file", "", f"{size:.1f} MB"),
        ("minutes", "", f"{metrics['minutes']:.1f}"),
    ]
    print_table(f"{folder} ({split} rows, in PyTorch)", ("what", "dense", "compressed"), rows, numbers=2)
