"""From a fine-tuned model and some texts to a compressed checkpoint, without training: `one_shot`."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from secateur.checkpoint import check_target
from secateur.data import Splits, load_splits
from secateur.errors import DataError, RecipeError, UnsupportedError
from secateur.export.checkpoint import export_checkpoint
from secateur.modeling.structure import find_projections
from secateur.quantization.calibration import LEAST_ROWS
from secateur.quantization.ptq import quantize_post_training_
from secateur.sparsity import Pruner, sparsity_of
from secateur.sparsity.layer_inputs import require_varied_inputs
from secateur.tasks import task_named
from secateur.tasks.sentence_embeddings import cosines
from secateur.training.collation import padder_for, training_features
from secateur.training.encoding import Features, Padder
from secateur.training.evaluation import embeddings, evaluate
from secateur.training.lengths import fit_window, max_tokens
from secateur.training.loading import agreed_task, has_head, load_network, load_tokenizer
from secateur.training.one_shot_evidence import OneShotEvidence, calibration_batches
from secateur.training.one_shot_settings import OneShot
from secateur.training.progress import say
from secateur.training.trainer import Compression, usual_task

__all__ = ["OneShot", "Prepared", "one_shot", "prepare"]

_ROWS = 512


def one_shot(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | Splits,
    settings: OneShot,
    out: str | os.PathLike[str] = "compressed",
    *,
    task: str | None = None,
    progress: bool = True,
) -> Compression:
    """Prunes a fine-tuned model, quantizes it, or both, without training, and writes a checkpoint.

    Args:
        model: Folder of a model that was fine-tuned for the task, its labels those of the data.
        data: What `load_splits` takes, or splits. Calibration takes texts of the training rows; labels are
            used by methods that go by gradients, and for the scores.
        settings: What to do.
        out: Checkpoint folder to write; an older checkpoint there is replaced.
        task: Name of the task; None takes that of the splits, or of the model's head, or of the data.
        progress: Says on standard error what is being done.

    Returns:
        The folder and what was measured, as `compress` does; `metrics["quantization"]` says what the
        quantization found.

    Raises:
        SecateurError: Model, data or settings cannot be used; nothing is written then.
    """
    started = time.monotonic()
    check_target(out)
    kind = None if task is None else task_named(task)
    splits = data if isinstance(data, Splits) else load_splits(data, kind or usual_task(Path(model)))
    if kind is not None and kind is not type(splits.task):
        raise DataError(f"The data are rows of {splits.task.name}, and the task is {task}: load them for it.")
    tell = say if progress else _keep_quiet
    ready = prepare(model, splits, settings)
    network, splits = ready.network, ready.splits
    metrics: dict[str, Any] = {"seed": settings.seed, "task": splits.task.name}
    tell(f"Scoring the dense model on {len(splits.validation) + len(splits.test)} rows.")
    metrics["dense"], vectors = ready.scores()
    metrics["main_metric"] = splits.task.main_metric
    if ready.batches:
        metrics["calibration_rows"] = ready.rows
    if ready.pruner is not None:
        assert settings.sparsity is not None
        tell(f"Pruning {settings.sparsity:.0%} by {settings.method} ({settings.pattern}).")
        ready.prune_(settings.sparsity)
        metrics["method"] = settings.method
        metrics |= ready.pruner.notes()
    weights: Any = "f32"
    if settings.quantize is not None:
        tell(f"Quantizing ({settings.quantize.activations} activations) on {ready.rows} rows.")
        report = quantize_post_training_(network, ready.batches, settings.quantize)
        weights, metrics["quantization"] = report.weights, report.facts
    tell("Scoring the compressed model.")
    metrics["compressed"], made = ready.scores()
    for split, found in made.items():
        metrics["dense"][split]["cosine_to_dense"] = 1.0
        metrics["compressed"][split]["cosine_to_dense"] = float(cosines(vectors[split], found).mean())
    metrics["sparsity"] = sparsity_of([projection.linear for projection in find_projections(network)])
    metrics["minutes"] = round((time.monotonic() - started) / 60, 2)
    folder = export_checkpoint(
        network, ready.tokenizer, out, ready.settings.to_yaml(), metrics, weights=weights
    )
    return Compression(folder, None, metrics)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model and its data, checked and ready to be pruned and quantized.

    Attributes:
        network: The model, dense, in evaluation mode, masks attached where a method prunes.
        tokenizer: Its tokenizer.
        splits: The data, with the task as the model does it.
        settings: What was asked for, with the number of rows that calibrate.
        pruner: The method; None prunes nothing.
        batches: Calibration batches; empty where nothing needs them.
        rows: Rows in them.
        evidence: What the method may ask.
        longest: Most tokens of a feature.
    """

    network: Any
    tokenizer: Any
    splits: Splits
    settings: OneShot
    pruner: Pruner | None
    batches: list[dict[str, Any]]
    rows: int
    evidence: OneShotEvidence
    longest: int

    def prune_(self, sparsity: float) -> None:
        """Prunes the model further, up to a sparsity.

        Raises:
            SecateurError: See the method.
        """
        assert self.pruner is not None
        self.pruner.step_(sparsity, self.evidence if self.pruner.needs else None)

    def scores(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns scores by split, and vectors by split where the task is to make such."""
        given = (self.network, self.tokenizer, self.splits, self.longest)
        return evaluate(*given), embeddings(*given)


def prepare(model: str | os.PathLike[str], splits: Splits, settings: OneShot) -> Prepared:
    """Loads a model, encodes calibration rows and checks that both can be used.

    Args:
        model: See `one_shot`.
        splits: The data.
        settings: What will be done.

    Raises:
        SecateurError: Model, data or settings cannot be used.
    """
    model = Path(model)
    if not has_head(model, type(splits.task)):
        raise UnsupportedError(
            f"{model} has no head for {splits.task.name}, and one-shot compression trains none: give a model "
            "that was fine-tuned on these data, or use compress."
        )
    set_seed(settings.seed)
    task = fit_window(agreed_task(model, splits.task), settings.max_length)
    splits = dataclasses.replace(splits, task=task)
    pruner = None if settings.method is None else settings.pruner()
    needs = frozenset[str]() if pruner is None else pruner.needs
    if "gradients" in needs and task.head == "embedding":
        raise RecipeError(
            f"The method {settings.method} goes by the loss, and sentence embeddings have none: use wanda, "
            "sparsegpt or magnitude."
        )
    calibrates = "inputs" in needs or settings.quantize is not None
    chosen = _calibration_rows(splits, settings) if calibrates else []
    tokenizer = load_tokenizer(model, embeddings=task.head == "embedding")
    network = load_network(model, task)
    if torch.cuda.is_available():
        network.to("cuda")
    longest = max_tokens(network, tokenizer, task, settings.max_length)

    def encoded(rows: list[Any]) -> tuple[Features, Padder]:
        features = training_features(tokenizer, task, rows, longest, network)
        return features, padder_for(tokenizer, task, network, features, None, settings.seed)

    batches = calibration_batches(*encoded(chosen)) if chosen else []
    if pruner is not None:
        pruner.attach_(network)
    labelled = None
    if "gradients" in needs:
        _require_training_rows(splits)
        labelled = encoded(splits.train)
    evidence = OneShotEvidence(network, batches, labelled, seed=settings.seed)
    if pruner is not None and labelled is not None:
        pruner.check_rows(evidence.rows)
    if batches:
        require_varied_inputs(network, evidence)
    resolved = dataclasses.replace(settings, rows=len(chosen) or None)
    return Prepared(network, tokenizer, splits, resolved, pruner, batches, len(chosen), evidence, longest)


def _calibration_rows(splits: Splits, settings: OneShot) -> list[Any]:
    """Draws training rows.

    Raises:
        DataError: There are fewer than asked for, or too few at all.
    """
    _require_training_rows(splits)
    there = len(splits.train)
    if there < LEAST_ROWS:
        raise DataError(
            f"{splits.name} has {there} training rows, and calibration needs at least {LEAST_ROWS}, better "
            "some hundred: give more."
        )
    if settings.rows is not None and not LEAST_ROWS <= settings.rows <= there:
        raise DataError(
            f"Calibration can take {LEAST_ROWS} to {there} of the training rows of {splits.name}, asked for "
            f"{settings.rows}: give a number between, or more rows."
        )
    order = torch.randperm(there, generator=torch.Generator().manual_seed(settings.seed)).tolist()
    return [splits.train[place] for place in order[: settings.rows or _ROWS]]


def _require_training_rows(splits: Splits) -> None:
    if not splits.train:
        raise DataError(f"{splits.name} has no training rows: give data with a train file.")


def _keep_quiet(text: str) -> None:
    """Says nothing."""
