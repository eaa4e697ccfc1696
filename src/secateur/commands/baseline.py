"""`secateur baseline`: what a simple model, or half of a network, reaches on the same data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.baselines import baselines_of, good_enough, measure
from secateur.commands.columns import columns_of
from secateur.commands.console import hush_libraries, note, output, print_table, show_json
from secateur.data import Splits, load_splits
from secateur.errors import DataError, MissingExtraError, UnsupportedError
from secateur.tasks import task_named, task_of

__all__ = ["Request", "reached", "run"]


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        data: What `load_splits` takes.
        task: Name of the task; None finds it.
        columns: Role and column with = between them.
        model: Folder of a network: its depth is halved with `half_depth`, else its metrics are compared with.
        half_depth: Train the half-depth network, too.
        out: Where that, or the BiLSTM, goes.
        recipe: Whose training it gets.
        compare: A metrics.json, or a folder with one.
        seed: Of everything random.
        threads: Of PyTorch; None leaves its default.
        text: The column that holds the text; None for one of the usual names.
        label: The column that holds the label; None for one of the usual names.
        form: What the half-depth network learns; None is `plain`.
        bilstm: Distil the network into a BiLSTM, too.
    """

    data: str
    task: str | None
    columns: Sequence[str]
    model: Path | None
    half_depth: bool
    out: Path | None
    recipe: str
    compare: Path | None
    seed: int
    threads: int | None
    text: str | None = None
    label: str | None = None
    form: str | None = None
    bilstm: bool = False


def run(request: Request, json_file: Path | None) -> None:
    """Measures the baselines of the data's task and prints them.

    Args:
        request: What to measure.
        json_file: Where to write the same as JSON.

    Raises:
        SecateurError: Something that was given cannot be used; nothing is written then.
    """
    if request.half_depth and (request.model is None or request.out is None):
        raise DataError(
            "--half-depth needs the network to halve and a place for the half: --model and --out."
        )
    _check_networks(request)
    name = request.task or _task_of(request.model)
    task = None if name is None else task_named(name)
    columns = columns_of(task, request.columns, request.text, request.label)
    splits = load_splits(request.data, task, columns)
    note(splits.describe())
    metric = splits.task.main_metric
    compared = request.compare or _own_metrics(request)
    goal = None if compared is None else reached(compared, metric)
    found = _with_network(request, splits) if _trains_network(request) else _simple(request, splits)
    sentence = None
    if goal is not None:
        best = max(_scored(row, metric) for row in found)
        sentence = good_enough(metric, best, goal)
    results = {"data": request.data, "task": splits.task.name, "metric": metric, "seed": request.seed}
    results |= {"rows": found, "compared": goal, "sentence": sentence}
    if not show_json(json_file, results):
        _print(splits, found, metric)
        if sentence is not None:
            output().print(sentence, markup=False, highlight=False, soft_wrap=True)


def _trains_network(request: Request) -> bool:
    return request.half_depth or request.bilstm


def _check_networks(request: Request) -> None:
    """Raises DataError where the options for networks do not go together."""
    if request.half_depth and request.bilstm:
        raise DataError("--half-depth and --bilstm are two networks: ask for one after the other.")
    if request.bilstm and request.model is None:
        raise DataError("--bilstm needs the fine-tuned network that teaches it: --model.")
    if not _trains_network(request) and request.out is not None:
        raise DataError(
            "--out is where a trained network goes: give --half-depth or --bilstm with it, or leave it out."
        )
    if request.form is not None and not request.half_depth:
        raise DataError("--form is of the half-depth network: give --half-depth with it, or leave it out.")


def reached(path: Path, metric: str) -> float:
    """Reads what a checkpoint reached on its test rows.

    Args:
        path: A metrics.json that `compress` wrote, the JSON of `evaluate`, or a folder with a metrics.json.
        metric: The figure to look for.

    Raises:
        DataError: There is no such file or figure.
    """
    file = path / "metrics.json" if path.is_dir() else path
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is no JSON file of metrics ({error}): give one, or a checkpoint.") from error
    for place in (
        ("compressed", "test"),
        ("compressed", "validation"),
        ("test",),
        ("validation",),
        ("scores",),
        (),
    ):
        value: Any = metrics
        for key in (*place, metric):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    raise DataError(f"{file} says nothing of {metric}: give the metrics of a checkpoint for the same task.")


def _task_of(model: Path | None) -> str | None:
    """Returns the task of a fine-tuned model, None where nothing says one, as for a pretrained encoder."""
    if model is None:
        return None
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        task = task_of(config)
    except (OSError, ValueError, UnsupportedError):
        return None  # what is wrong with the folder is said where it is loaded
    return task.name if task.head != "embedding" or "sentence_embedding" in config else None


def _own_metrics(request: Request) -> Path | None:
    if request.model is None or _trains_network(request):
        return None
    if not (request.model / "metrics.json").is_file():
        raise DataError(
            f"{request.model} has no metrics.json to compare with: give a checkpoint, or add --half-depth or "
            "--bilstm."
        )
    return request.model


def _simple(request: Request, splits: Splits) -> list[dict[str, Any]]:
    baselines = baselines_of(splits.task, request.seed)
    try:
        return [measure(baseline, splits) for baseline in baselines]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Baselines need {error.name}, which is not installed: pip install 'secateur[train]'."
        ) from error


def _with_network(request: Request, splits: Splits) -> list[dict[str, Any]]:
    """Trains the network; the simple baselines, where the task has any, come first."""
    hush_libraries()
    assert request.model is not None
    try:
        import torch

        from secateur.baselines.bilstm import bilstm
        from secateur.baselines.half_depth import half_depth
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Training a network needs {error.name}, which is not installed: pip install 'secateur[train]'."
        ) from error
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    try:
        simple = _simple(request, splits)
    except UnsupportedError:
        simple = []
    if request.bilstm:
        return [*simple, bilstm(request.model, splits, request.out, seed=request.seed)]
    assert request.out is not None
    options: dict[str, Any] = {
        "recipe": request.recipe,
        "form": request.form or "plain",
        "seed": request.seed,
    }
    return [*simple, half_depth(request.model, splits, request.out, **options)]


def _scored(row: Mapping[str, Any], metric: str) -> float:
    return float((row.get("test") or row["validation"])[metric])


def _print(splits: Splits, rows: Sequence[Mapping[str, Any]], metric: str) -> None:
    def figure(row: Mapping[str, Any], split: str) -> str:
        return f"{row[split][metric]:.4f}" if split in row else ""

    cells = [
        (
            row["name"],
            figure(row, "validation"),
            figure(row, "test"),
            f"{row['minutes']:.1f}",
            "" if row["latency_ms"] is None else f"{row['latency_ms']:.2f}",
            f"{row['size_mb']:.1f}",
        )
        for row in rows
    ]
    columns = ("baseline", f"{metric}, validation", "test", "minutes", "ms a text", "MB")
    print_table(splits.name, columns, cells, numbers=5)
