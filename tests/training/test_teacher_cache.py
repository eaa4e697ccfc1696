"""The teacher's outputs on disk: files that are damaged or cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_tasks import splits, tokenizer, untrained
from torch import Tensor
from transformers import AutoModelForTokenClassification

from secateur.errors import CheckpointError
from secateur.tasks import Task
from secateur.training.collation import training_features
from secateur.training.encoding import Features
from secateur.training.teacher_cache import TeacherCache

Taught = tuple[Any, Task, Features]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    data = splits("tokens")
    model = AutoModelForTokenClassification.from_pretrained(
        untrained("tokens", tmp_path_factory.mktemp("model"))
    ).eval()
    return model, data.task, training_features(tokenizer(), data.task, data.train[:8], 32, model)


@pytest.mark.parametrize(
    "damage",
    [
        lambda flat: flat[:-1].clone(),
        lambda flat: flat[:, :1].contiguous(),
        lambda flat: flat.half(),
        lambda flat: flat.reshape(-1, 1)[: len(flat)].clone(),
        lambda flat: torch.full_like(flat, float("nan")),
        lambda flat: torch.tensor(1.0),
    ],
)
def test_a_file_that_is_not_what_was_written_is_made_again(
    taught: Taught, tmp_path: Path, damage: Any
) -> None:
    model, task, features = taught
    cache = TeacherCache(tmp_path / "cache")
    right: list[Tensor] = list(cache.outputs(model, task, features))
    (file,) = (tmp_path / "cache").iterdir()
    save_file({"outputs": damage(load_file(file)["outputs"])}, file)
    for one, other in zip(cache.outputs(model, task, features), right, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(load_file(file)["outputs"], torch.cat(right))


def test_a_folder_that_cannot_be_made_is_refused_before_the_teacher_runs(
    taught: Taught, tmp_path: Path
) -> None:
    _, task, features = taught
    (tmp_path / "file").write_text("mine")
    dead = torch.nn.Module()
    dead.config = taught[0].config
    with pytest.raises(CheckpointError, match="for the teacher's outputs cannot be made"):
        TeacherCache(tmp_path / "file" / "cache").outputs(dead, task, features)
    assert (tmp_path / "file").read_text() == "mine"
