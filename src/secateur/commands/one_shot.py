"""`secateur one-shot`: a checkpoint from a fine-tuned model and some texts, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.commands.before_and_after import print_before_and_after, print_next
from secateur.commands.columns import columns_of
from secateur.commands.console import hush_libraries, note, show_json
from secateur.data import load_splits
from secateur.errors import DataError, MissingExtraError
from secateur.tasks import task_named

__all__ = ["Quantization", "Request", "run"]

_BOUND = 0.02  # by which the loss may rise where --quantize auto says no other


@dataclass(frozen=True)
class Quantization:
    """How to quantize, see `secateur.quantization.scheme.PostTraining`.

    Attributes:
        form: `static`, `dynamic`, or `auto`: static, with what costs most left in float.
        rounding: `nearest` or `gptq`; None takes the default.
        max_loss_increase: Of `auto`.
    """

    form: str
    rounding: str | None = None
    max_loss_increase: float | None = None


@dataclass(frozen=True)
class Request:
    """What to compress, on what, how and where to; see `secateur.training.one_shot.OneShot`.

    Attributes:
        method: None takes SparseGPT where a sparsity or an N:M pattern is given, and prunes nothing else.
        options: `KEY=VALUE` each, of the method.
        columns: `ROLE=COLUMN` each.
        text: The column that holds the text; None for one of the usual names.
        label: The column that holds the label; None for one of the usual names.
        kind: What labels mean, where the task has several kinds; None finds out.
    """

    model: Path
    data: str
    out: Path
    method: str | None = None
    sparsity: float | None = None
    pattern: str | None = None
    ranking: str | None = None
    options: tuple[str, ...] = ()
    quantize: Quantization | None = None
    rows: int | None = None
    task: str | None = None
    columns: tuple[str, ...] = ()
    text: str | None = None
    label: str | None = None
    kind: str | None = None
    max_length: int | None = None
    seed: int = 42
    threads: int | None = None


def run(request: Request, json_file: Path | None = None) -> None:
    """Compresses a model and prints what it cost.

    Args:
        request: What to do.
        json_file: Where the measured values go as JSON, too.

    Raises:
        SecateurError: Something that was given cannot be used; nothing is written then.
    """
    hush_libraries()
    try:
        import torch

        from secateur.training.one_shot import one_shot
        from secateur.training.trainer import usual_task
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Compressing needs {error.name}, which is not installed: pip install 'secateur[train]'."
        ) from error
    settings = _settings(request)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    task = usual_task(request.model) if request.task is None else task_named(request.task)
    columns = columns_of(task, request.columns, request.text, request.label)
    splits = load_splits(request.data, task, columns, kind=request.kind)
    note(splits.describe())
    done = one_shot(request.model, splits, settings, request.out)
    if show_json(json_file, done.metrics):
        return
    print_before_and_after(done.metrics, done.folder)
    print_next(request.out, splits)


def _settings(request: Request) -> Any:
    from secateur.quantization.scheme import PostTraining
    from secateur.training.one_shot_settings import OneShot

    prunes = request.method is not None or request.sparsity is not None or request.pattern is not None
    quantize = None
    if request.quantize is not None:
        wanted = request.quantize
        values: dict[str, Any] = {"activations": "dynamic" if wanted.form == "dynamic" else "static"}
        if wanted.rounding is not None:
            values["rounding"] = wanted.rounding
        if wanted.form == "auto":
            bound = wanted.max_loss_increase
            values["max_loss_increase"] = _BOUND if bound is None else bound
        elif wanted.max_loss_increase is not None:
            raise DataError("--max-loss-increase is a bound for --quantize auto: leave it out, or give that.")
        quantize = PostTraining(**values)
    return OneShot(
        method=(request.method or "sparsegpt") if prunes else None,
        sparsity=request.sparsity,
        pattern=request.pattern or "block4",
        ranking=request.ranking,
        options=_options(request.options),
        quantize=quantize,
        rows=request.rows,
        seed=request.seed,
        max_length=request.max_length,
    )


def _options(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise DataError(f"--option {pair} is not KEY=VALUE, as in --option damp=0.01.")
        if key in found:
            raise DataError(f"--option {pair}: {key} is given twice.")
        found[key] = value
    return found
