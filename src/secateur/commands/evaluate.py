"""`secateur evaluate`: a model's scores on data of its task, on our engine or on PyTorch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.commands.columns import columns_of, named_columns
from secateur.commands.console import hush_libraries, note, print_table, show_json
from secateur.data import Splits, load_splits
from secateur.errors import DataError, MissingExtraError, UnsupportedError
from secateur.runtime.pipelines import outputs_of, pipeline
from secateur.tasks import FillMask, QuestionAnswering, Task, task_named, task_of

__all__ = ["Request", "named_columns", "run"]

_TITLES = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "subset_accuracy": "rows with all labels right",
    "spearman": "Spearman correlation",
    "pearson": "Pearson correlation",
    "rmse": "root mean squared error",
    "oos_recall": "recall of out-of-scope rows",
    "oos_auroc": "AUROC in scope against out of scope",
    "f1": "F1",
    "f1_by_type": "F1",
    "mrr": "mean reciprocal rank",
    "n": "rows",
    "n_oos": "out-of-scope rows",
    "n_no_answer": "questions without an answer",
}


@dataclass(frozen=True)
class Request:
    """What to measure, and how.

    Attributes:
        model: A checkpoint's folder; on PyTorch also that of an uncompressed model.
        data: See `load_splits`.
        split: train, validation or test.
        engine: secateur or pytorch.
        task: The task's name; None for that of the model.
        columns: `ROLE=COLUMN` each.
        text: The column that holds the text; None for one of the usual names.
        label: The column that holds the label; None for one of the usual names.
        max_length: Most tokens of a text, or of a window; None for what the model takes.
        options: What the task itself can be told, as `doc_stride`; None means its default.
        threads: Threads to use; None for all.
        isa: An instruction set to force; None for the best.
    """

    model: Path
    data: str
    split: str = "test"
    engine: str = "secateur"
    task: str | None = None
    columns: tuple[str, ...] = ()
    text: str | None = None
    label: str | None = None
    max_length: int | None = None
    options: Mapping[str, Any] | None = None
    threads: int | None = None
    isa: str | None = None


def run(request: Request, json_file: Path | None) -> None:
    """Scores a model and prints the result.

    Args:
        request: What to measure.
        json_file: Where to write the result as JSON.

    Raises:
        SecateurError: The model or the data cannot be used.
    """
    start = time.perf_counter()
    measured = _on_pytorch if request.engine == "pytorch" else _on_engine
    task, splits, scores = measured(request)
    results: dict[str, Any] = {
        "model": str(request.model),
        "data": request.data,
        "split": request.split,
        "engine": request.engine,
        "task": task.name,
        "columns": splits.columns,
        **scores,
        "seconds": round(time.perf_counter() - start, 2),
    }
    if not show_json(json_file, results):
        note(f"columns: {', '.join(f'{role} {column!r}' for role, column in splits.columns.items())}")
        _print(results, scores)


def _on_engine(request: Request) -> tuple[Task, Splits, dict[str, Any]]:
    run = pipeline(request.model, request.task, num_threads=request.threads, isa=request.isa)
    task = _told(run.task, request)
    splits, rows = _rows(request, task)
    longest = _length(request, run.max_length)
    encoded = run.encode_rows(rows, longest, task=task)
    return task, splits, task.score(rows, encoded, outputs_of(run.engine, task, encoded))


def _on_pytorch(request: Request) -> tuple[Task, Splits, dict[str, Any]]:
    config = _read_config(request.model)
    found = task_of(config) if request.task is None else task_named(request.task)
    hush_libraries()
    try:
        import torch

        from secateur.hf import load_compressed
        from secateur.training.evaluation import predict
        from secateur.training.lengths import max_tokens
        from secateur.training.loading import load_network, load_tokenizer, model_task
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"--engine pytorch needs {error.name}, which is not installed: pip install 'secateur[train]'."
        ) from error
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    network: Any
    if config.get("quantization_config") is not None:
        network = load_compressed(request.model)
        task = _told(_same_task(request, config, found).from_config(config), request)
    else:
        task = _told(model_task(request.model, found), request)
        network = load_network(request.model, task)
    splits, rows = _rows(request, task)
    tokenizer = load_tokenizer(request.model, embeddings=task.head == "embedding")
    longest = max_tokens(network, tokenizer, task, request.max_length)
    encoded = task.encode(tokenizer.backend_tokenizer, rows, longest)
    return task, splits, task.score(rows, encoded, predict(network, task, encoded))


def _rows(request: Request, task: Task) -> tuple[Splits, list[Any]]:
    """Returns the data, and the rows to score: of the test split also those that are out of scope."""
    columns = columns_of(type(task), request.columns, request.text, request.label)
    # Without labels it is the rows that say what is to be done with them, as pairs of texts
    splits = load_splits(request.data, task if task.labels else type(task), columns)
    by_name = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if request.split not in by_name:
        raise DataError(f"There is no split {request.split!r}: give one of {', '.join(by_name)}.")
    rows = by_name[request.split]
    if not rows:
        raise DataError(f"The split {request.split} has no rows: give another --split.")
    return splits, [*rows, *splits.out_of_scope] if request.split == "test" else rows


def _told(task: Task, request: Request) -> Task:
    """Returns the task with what the command line tells it."""
    options = {name: value for name, value in (request.options or {}).items() if value is not None}
    if isinstance(task, QuestionAnswering):
        if request.max_length is not None:
            options["window"] = request.max_length
        allowed: tuple[str, ...] = ("doc_stride", "window", "max_answer_tokens", "null_threshold")
    else:
        allowed = ("share",) if isinstance(task, FillMask) else ()
    for name in options:
        if name not in allowed:
            raise DataError(f"{_OPTIONS[name]} is of no use to {task.name}: leave it out.")
    if not options:
        return task
    return QuestionAnswering(**options) if isinstance(task, QuestionAnswering) else FillMask(**options)


_OPTIONS = {
    "doc_stride": "--doc-stride",
    "max_answer_tokens": "--max-answer-len",
    "null_threshold": "--null-threshold",
    "share": "--mask-share",
}


def _length(request: Request, longest: int) -> int:
    if request.max_length is not None and request.max_length > longest:
        raise DataError(f"--max-seq-len is {request.max_length}, but the model takes {longest} tokens.")
    return request.max_length or longest


def _same_task(request: Request, config: Mapping[str, Any], wanted: type[Task]) -> type[Task]:
    if task_of(config) is not wanted:
        raise UnsupportedError(
            f"{request.model} holds a model for {task_of(config).name}, not {wanted.name}."
        )
    return wanted


def _read_config(model: Path) -> dict[str, Any]:
    if not model.is_dir():
        raise DataError(f"{model} is not a folder; give a model folder in Hugging Face form.")
    try:
        config = json.loads((model / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{model}/config.json cannot be read ({error}): give a model folder.") from None
    if not isinstance(config, dict):
        raise DataError(f"{model}/config.json holds no settings: give a model folder.")
    return config


def _print(results: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
    rows: list[tuple[str, str]] = []
    for name, value in scores.items():
        title = _TITLES.get(name, name.replace("_", " "))
        if isinstance(value, Mapping):
            rows += [
                (f"{title.removesuffix(' by type')} of {key}", _shown(one)) for key, one in value.items()
            ]
        elif value is not None:
            rows.append((title, _shown(value)))
    rows.append(("seconds, loading included", f"{results['seconds']:.2f}"))
    title = (
        f"{results['model']} on {results['data']} ({results['split']}): {results['task']}, "
        f"engine {results['engine']}"
    )
    print_table(title, ("what", "measured"), rows, numbers=1)


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
