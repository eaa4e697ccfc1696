"""The half-depth network: every second layer of a model, with the training that a compressed one gets."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from secateur.baselines.baseline import timed_calls
from secateur.checkpoint import check_target
from secateur.data import Splits
from secateur.errors import SecateurError
from secateur.export.checkpoint import export_checkpoint
from secateur.modeling import half_depth_layers, keep_layers_
from secateur.recipe.recipe import Recipe, load_recipe
from secateur.tasks import Task
from secateur.training.arguments import quiet_transformers
from secateur.training.loading import agreed_task, has_head, load_network, load_tokenizer
from secateur.training.trainer import compress, fine_tune

__all__ = ["distillation_only", "half_depth"]

_COMPRESSING = ("pruning", "quantization")
_SMALL_DATA = ("batch_size", "steps", "learning_rate", "augmentation")


def half_depth(
    model: str | Path,
    splits: Splits,
    out: str | Path,
    *,
    recipe: str | Recipe = "balanced",
    max_length: int | None = None,
    seed: int = 42,
    progress: bool = True,
) -> dict[str, Any]:
    """Takes every second layer out of a model, trains what is left, and writes it for the engine.

    A fine-tuned model teaches its own half, which gets the training that a recipe gives a compressed model,
    without pruning and quantization. Half of a pretrained encoder is fine-tuned.

    Args:
        model: Folder of a fine-tuned model whose labels are those of the data, or of a pretrained encoder.
        splits: The data.
        out: Checkpoint folder to write, float32.
        recipe: Whose training a fine-tuned model's half gets.
        max_length: Most tokens of a feature, see `compress`.
        seed: Of everything random.
        progress: Shows progress bars.

    Returns:
        `name`, `validation` and `test` (as `compress` scores them, in PyTorch), `minutes`, `latency_ms`
        (median of one text in the engine, tokenizing included; None where the engine is not built),
        `size_mb`, `layers` (numbers of those kept) and `taught` (whether the dense model was the teacher).

    Raises:
        SecateurError: Model, data or recipe cannot be used; nothing is written then.
    """
    started = time.monotonic()
    check_target(out)
    plain = distillation_only(load_recipe(recipe))
    task = splits.task
    taught = has_head(model, type(task))
    with tempfile.TemporaryDirectory() as work:
        halved = Path(work) / "half"
        layers, whole = _write_half(Path(model), task, taught, halved)
        options: dict[str, Any] = {"max_length": max_length, "seed": seed, "progress": progress}
        if taught:
            done = compress(halved, splits, plain, out, task=task.name, teacher=model, **options)
            metrics = done.metrics["compressed"]
        else:
            tuned = Path(work) / "tuned"
            metrics = fine_tune(halved, splits, tuned, **options).metrics
            network = load_network(tuned, task)
            export_checkpoint(network, load_tokenizer(tuned), out, None, {"compressed": metrics})
    scores = {split: metrics[split] for split in ("validation", "test") if split in metrics}
    return {
        "name": f"half depth, {len(layers)} of {whole} layers" + (", distilled" if taught else ""),
        **scores,
        "minutes": round((time.monotonic() - started) / 60, 3),
        "latency_ms": _latency(Path(out), splits),
        "size_mb": round((Path(out) / "model.safetensors").stat().st_size / 1e6, 3),
        "layers": layers,
        "taught": taught,
    }


def distillation_only(recipe: Recipe) -> Recipe:
    """Returns a recipe without its pruning and quantization: the same training, all of it for learning.

    Hidden states are not compared, because the teacher has other layers.
    """
    values = recipe.model_dump(mode="json")
    stages = [stage for stage in values["stages"] if stage["type"] not in _COMPRESSING]
    if not any(stage["type"] == "distillation" for stage in stages):
        stages.append({"type": "distillation"})
    for stage in stages:
        if stage["type"] == "distillation":
            stage["hidden"] = 0.0
    small = values.get("small_data") or {}
    small = {key: small[key] for key in _SMALL_DATA if small.get(key) is not None}
    values |= {"name": f"{recipe.name}-half-depth", "stages": stages, "small_data": small or None}
    return Recipe.from_values({key: value for key, value in values.items() if value is not None})


def _write_half(model: Path, task: Task, taught: bool, out: Path) -> tuple[list[int], int]:
    """Returns the numbers of the layers that are kept, and how many there were."""
    network = load_network(model, agreed_task(model, task) if taught else task, new_head=not taught)
    whole = int(network.config.num_hidden_layers)
    layers = half_depth_layers(whole)
    keep_layers_(network, layers)
    tokenizer = load_tokenizer(model, embeddings=task.head == "embedding")
    with quiet_transformers():
        network.save_pretrained(out)
        tokenizer.save_pretrained(out)
    return layers, whole


def _latency(checkpoint: Path, splits: Splits) -> float | None:
    rows = splits.test or splits.validation or splits.train
    try:
        from secateur.runtime.engine import Engine
        from secateur.runtime.pipelines.outputs import outputs_of

        engine = Engine.from_pretrained(checkpoint)
    except (ImportError, SecateurError):
        return None
    tokenizer = load_tokenizer(checkpoint).backend_tokenizer

    def answer(row: Any) -> None:
        outputs_of(engine, splits.task, splits.task.encode(tokenizer, [row], engine.max_length))

    return round(timed_calls(answer, rows), 4)
