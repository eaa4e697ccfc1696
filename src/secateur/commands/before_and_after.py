"""What a command prints that compressed a model: scores before and after, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.commands.console import output, print_table
from secateur.data import Splits

__all__ = ["example_of", "print_before_and_after", "print_next"]

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


def print_before_and_after(metrics: Mapping[str, Any], folder: Path) -> None:
    """Prints the scores of the dense and the compressed model, and what else a checkpoint is judged by.

    Args:
        metrics: As `Compression.metrics`.
        folder: The checkpoint.
    """
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


def example_of(splits: Splits) -> str:
    """Returns what `secateur predict` may be asked about such data, quoted for a shell."""
    if splits.task.name == "question-answering":
        return "--question 'who came' --context 'Ann came.'"
    if splits.task.name == "text-classification" and "text_pair" in splits.columns:
        return """'{"text": "some text", "text_pair": "another"}'"""
    return "'some [MASK] text'" if splits.task.name == "fill-mask" else "'some text'"


def print_next(folder: Path, splits: Splits) -> None:
    """Prints a command that the checkpoint understands."""
    output().print(f"Try next: secateur predict {folder} {example_of(splits)}", **_PLAIN)
