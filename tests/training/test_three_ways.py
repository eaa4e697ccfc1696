"""The command, a Trainer script and a plain loop give the same weights for the same seed."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_tasks
import torch
from tiny_training import recipe
from transformers import Trainer, TrainingArguments, set_seed

from secateur.data import Splits
from secateur.export import export_checkpoint
from secateur.training import CompressionCallback, compress
from secateur.training.arguments import grouped_by_length
from secateur.training.collation import padder_for, training_features
from secateur.training.loading import load_network, load_tokenizer, model_task

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from plain_loop import train_

SEED = 7
STAGES = (
    {"type": "distillation", "hardness": 0.9, "temperature": 2.0, "hidden": 0.5},
    {"type": "pruning", "sparsity": 0.6, "start_epoch": 0, "end_epoch": 1.2, "update_every": 0.2},
    {"type": "quantization", "start_epoch": 1.4, "freeze_epoch": 1.9},
)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("steered", [False, True])
def test_the_three_ways_give_the_same_weights(
    classifier_folder: Path,
    tiny_splits: Splits,
    tmp_path: Path,
    steered: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three_ways(classifier_folder, tiny_splits, tmp_path, steered, monkeypatch)


@pytest.mark.parametrize("kind", ["tokens", "masked"])
def test_the_three_ways_agree_on_other_tasks(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_tasks.untrained(kind, tmp_path / "model")
    three_ways(model, tiny_tasks.splits(kind), tmp_path, False, monkeypatch)


def three_ways(
    folder: Path, splits: Splits, tmp_path: Path, steered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.training.arguments.cpu_has_bf16", lambda: False)
    rate = {"type": "learning_rate", "schedule": "cosine", "start_epoch": 0.5, "end_epoch": 1.5, "cycles": 2}
    stages = (*STAGES, rate) if steered else STAGES
    settings: dict[str, Any] = {"epochs": 2.5, "learning_rate": 2e-3, "batch_size": 16, "warmup": 0.25}
    made = recipe(*stages, **settings, weight_decay=0.01, dropout=0.0, freeze_embeddings=True)
    tokenizer = load_tokenizer(folder)

    command = compress(folder, splits, made, tmp_path / "command", seed=SEED, progress=False).folder

    task = model_task(folder, type(splits.task))
    student = load_network(folder, task)
    rows = training_features(tokenizer, task, splits.train, 24, student)
    padder = padder_for(tokenizer, task, student, rows, made, SEED)
    set_seed(SEED)
    known = TrainingArguments.__dataclass_fields__
    own = Trainer(
        model=student,
        args=TrainingArguments(
            str(tmp_path / "run"),
            num_train_epochs=2.5,
            learning_rate=2e-3,
            per_device_train_batch_size=16,
            weight_decay=0.01,
            seed=SEED,
            optim="adamw_torch_fused",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **{"warmup_steps" if "train_sampling_strategy" in known else "warmup_ratio": 0.25},
            **grouped_by_length(),
        ),
        train_dataset=rows,
        data_collator=padder,
        callbacks=[CompressionCallback(made, teacher=copy.deepcopy(student))],
    )
    own.train()
    script = export_checkpoint(student, tokenizer, tmp_path / "script", made.to_yaml())

    student = load_network(folder, task)
    train_(student, made, rows, padder, SEED)
    loop = export_checkpoint(student, tokenizer, tmp_path / "loop", made.to_yaml())

    assert weights(command) == weights(script)
    assert weights(script) == weights(loop)
