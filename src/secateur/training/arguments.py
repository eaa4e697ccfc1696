"""Training arguments for the stock Trainer that mean the same in transformers 4.57 and 5."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import TrainingArguments

__all__ = ["LOG_EVERY", "cpu_has_bf16", "grouped_by_length", "quiet_transformers", "training_arguments"]

LOG_EVERY = 10  # steps between two losses that a progress bar shows


def training_arguments(
    output_dir: Path,
    *,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    warmup_fraction: float,
    weight_decay: float,
    seed: int,
    schedule: str = "linear",
    saving: Mapping[str, Any] | None = None,
    logging_steps: int = 0,
    reporting: Mapping[str, Any] | None = None,
) -> TrainingArguments:
    """Returns the arguments of a run.

    Args:
        output_dir: Working folder of the Trainer.
        epochs: Length of the run.
        learning_rate: Peak of the learning rate.
        batch_size: Rows a step.
        warmup_fraction: Part of the steps in which the learning rate rises.
        weight_decay: AdamW's, not on biases and norms.
        seed: Seeds weights, dropout and the order of the rows.
        schedule: Name of transformers' learning rate schedule.
        saving: Arguments that say when to save; None saves nothing.
        logging_steps: Steps between two logs, which callbacks hear; 0 logs nothing.
        reporting: Arguments that say who else hears them, see `Reporting`; None tells nobody.
    """
    known = {field.name for field in fields(TrainingArguments)}
    values: dict[str, Any] = {
        "output_dir": str(output_dir),
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "lr_scheduler_type": schedule,
        "weight_decay": weight_decay,
        "per_device_train_batch_size": batch_size,
        "optim": "adamw_torch_fused",
        "seed": seed,
        **({"save_strategy": "no"} if saving is None else saving),
        "logging_strategy": "steps" if logging_steps else "no",
        "logging_steps": logging_steps or 500,
        **({"report_to": "none"} if reporting is None else reporting),
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available() or cpu_has_bf16(),
    }
    values["warmup_steps" if "train_sampling_strategy" in known else "warmup_ratio"] = warmup_fraction
    return TrainingArguments(**values, **grouped_by_length())


def grouped_by_length() -> dict[str, Any]:
    """Returns the argument that puts rows of about one length into a batch."""
    if "train_sampling_strategy" in {field.name for field in fields(TrainingArguments)}:
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def cpu_has_bf16() -> bool:
    """Says whether this CPU multiplies bfloat16 in hardware; without, autocast only costs."""
    try:
        features = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    line = next((line for line in features.splitlines() if line.startswith("flags")), "")
    return bool({"avx512_bf16", "amx_bf16"} & set(line.split()))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers to errors, and from drawing bars over ours."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    accelerate = logging.getLogger("accelerate")
    level = accelerate.level
    accelerate.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
        accelerate.setLevel(level)
