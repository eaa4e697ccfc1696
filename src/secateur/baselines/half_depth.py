"""The half-depth network: every second layer of a model, with the training that a compressed one gets."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from secateur.baselines.baseline import timed_calls
from secateur.checkpoint import check_target
from secateur.data import Splits
from secateur.errors import DataError, RecipeError, SecateurError
from secateur.export.checkpoint import export_checkpoint
from secateur.modeling import half_depth_layers, keep_layers_
from secateur.recipe.recipe import Recipe, load_recipe
from secateur.tasks import Task
from secateur.training.arguments import quiet_transformers
from secateur.training.loading import agreed_task, has_head, load_network, load_tokenizer
from secateur.training.trainer import compress, fine_tune

__all__ = ["FORMS", "Form", "distillation_only", "half_depth"]

Form = Literal["plain", "distilbert", "tinybert"]
FORMS: tuple[str, ...] = get_args(Form)

_TAUGHT = {
    "plain": ", distilled",
    "distilbert": ", distilled in DistilBERT's form",
    "tinybert": ", distilled in TinyBERT's form",
}
_COMPRESSING = ("pruning", "quantization")
_SMALL_DATA = ("batch_size", "steps", "learning_rate", "augmentation")


def half_depth(
    model: str | Path,
    splits: Splits,
    out: str | Path,
    *,
    recipe: str | Recipe = "balanced",
    form: Form = "plain",
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
        form: What it learns: `plain` the outputs; `distilbert` also the direction of the last hidden states;
            `tinybert` first hidden states, embeddings and attention maps, then the outputs.
        max_length: Most tokens of a feature, see `compress`.
        seed: Of everything random.
        progress: Shows progress bars.

    Returns:
        `name`, `validation` and `test` (as `compress` scores them, in PyTorch), `minutes`, `latency_ms`
        (median of one text in the engine, tokenizing included; None where the engine is not built),
        `size_mb`, `layers` (numbers of those kept), `taught` (whether the dense model was the teacher) and
        `form`.

    Raises:
        SecateurError: Model, data or recipe cannot be used; nothing is written then.
    """
    started = time.monotonic()
    check_target(out)
    if form not in FORMS:
        raise RecipeError(f"There is no form {form!r} of a half: give one of {', '.join(FORMS)}.")
    task = splits.task
    taught = has_head(model, type(task))
    if form != "plain" and not taught:
        raise DataError(
            f"{model} is not fine-tuned and cannot teach its half, as the form {form} needs: fine-tune it, "
            "or give the form plain."
        )
    with tempfile.TemporaryDirectory() as work:
        halved = Path(work) / "half"
        layers, whole = _write_half(Path(model), task, taught, halved)
        plain = distillation_only(load_recipe(recipe), form, layers if taught else (), whole)
        options: dict[str, Any] = {"max_length": max_length, "seed": seed, "progress": progress}
        if taught:
            done = compress(model, splits, plain, out, task=task.name, **options)
            metrics = done.metrics["compressed"]
        else:
            tuned = Path(work) / "tuned"
            metrics = fine_tune(halved, splits, tuned, **options).metrics
            network = load_network(tuned, task)
            export_checkpoint(network, load_tokenizer(tuned), out, None, {"compressed": metrics})
    scores = {split: metrics[split] for split in ("validation", "test") if split in metrics}
    return {
        "name": f"half depth, {len(layers)} of {whole} layers" + _TAUGHT[form] * taught,
        **scores,
        "minutes": round((time.monotonic() - started) / 60, 3),
        "latency_ms": _latency(Path(out), splits),
        "size_mb": round((Path(out) / "model.safetensors").stat().st_size / 1e6, 3),
        "layers": layers,
        "taught": taught,
        "form": form,
    }


def distillation_only(
    recipe: Recipe, form: Form = "plain", layers: Sequence[int] = (), teacher_layers: int = 0
) -> Recipe:
    """Returns a recipe without its pruning and quantization: the same training, all of it for learning.

    Args:
        recipe: Any recipe.
        form: See `half_depth`.
        layers: The layers that the student keeps; empty where it is made already.
        teacher_layers: How many the teacher has; `distilbert` compares its last.

    Source:
        Sanh et al., "DistilBERT" (2019), section 2, and Jiao et al., "TinyBERT" (2020), section 3.2: first
        what lies within, then the outputs. Both teach on plain text first, here the task's rows do.
    """
    values = recipe.model_dump(mode="json")
    stages = [stage for stage in values["stages"] if stage["type"] not in _COMPRESSING]
    taught = [stage for stage in stages if stage["type"] == "distillation"]
    if form == "plain":
        stages += [] if taught else [{"type": "distillation"}]
        for stage in taught:
            stage |= {
                "hidden": 0.0,
                "embeddings": 0.0,
                "attention": 0.0,
                "outputs": 1.0,
                "layer_map": "uniform",
            }
    else:
        first = taught[0] if taught else {}
        common = {"type": "distillation"} | {
            key: first[key] for key in ("hardness", "temperature") if key in first
        }
        stages = [stage for stage in stages if stage["type"] != "distillation"] + _lessons(
            form, common, len(layers), teacher_layers
        )
    small = values.get("small_data") or {}
    kept = _SMALL_DATA if form != "tinybert" else tuple(key for key in _SMALL_DATA if key != "augmentation")
    small = {key: small[key] for key in kept if small.get(key) is not None}
    name = f"{recipe.name}-half-depth" if form == "plain" else f"{recipe.name}-{form}"
    values |= {"name": name, "stages": stages, "small_data": small or None}
    values["student"] = {"layers": list(layers)} if layers else None
    return Recipe.from_values({key: value for key, value in values.items() if value is not None})


def _lessons(form: Form, common: dict[str, Any], layers: int, teacher_layers: int) -> list[dict[str, Any]]:
    if form == "distilbert":
        last = [None] * (layers - 1) + [teacher_layers - 1]
        return [{**common, "hidden": 1.0, "hidden_distance": "cosine", "layer_map": last}]
    within = {"outputs": 0.0, "hidden": 1.0, "embeddings": 1.0, "attention": 1.0, "end_epoch": "50 %"}
    return [{**common, **within}, {**common, "start_epoch": "50 %"}]


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
