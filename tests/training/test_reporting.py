"""Reporters of the stock Trainer hear of a compression."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from secateur.data import Splits
from secateur.errors import MissingExtraError, UnsupportedError
from secateur.recipe import Recipe
from secateur.training import compress
from secateur.training import reporting as module

RECIPE = Recipe.model_validate(
    {
        "name": "tiny",
        "training": {"epochs": 2, "learning_rate": 2e-3, "batch_size": 16},
        "stages": [
            {"type": "pruning", "sparsity": 0.5, "start_epoch": 0, "end_epoch": 1},
            {"type": "quantization", "start_epoch": 1, "freeze_epoch": 1.5},
        ],
    }
)


class Listener(TrainerCallback):
    heard: list[dict[str, Any]]
    folders: list[str]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        known = getattr(args, "logging_dir", None) or os.environ.get("TENSORBOARD_LOGGING_DIR")
        type(self).folders.append(str(known))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        type(self).heard.append(dict(logs))


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> type[Listener]:
    Listener.heard, Listener.folders = [], []
    monkeypatch.setitem(module.INTEGRATION_TO_CALLBACK, "tensorboard", Listener)
    monkeypatch.setattr(module, "get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    return Listener


def test_reporters_hear_loss_and_sparsity_of_both_stages(
    encoder_folder: Path, tiny_splits: Splits, tmp_path: Path, listener: type[Listener]
) -> None:
    compress(
        *(encoder_folder, tiny_splits, RECIPE, tmp_path / "out"),
        progress=False,
        report_to=["tensorboard"],
    )
    logs = tmp_path / "out.logs"
    assert listener.folders == [str(logs / "fine-tuning"), str(logs / "compression")]
    steps = [heard for heard in listener.heard if "loss" in heard]
    assert {"learning_rate", "loss"} <= steps[0].keys()
    assert "sparsity" not in steps[0]
    assert steps[-1]["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert steps[-1]["quantized"] == 1.0
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_the_folder_can_be_chosen(
    classifier_folder: Path, tiny_splits: Splits, tmp_path: Path, listener: type[Listener]
) -> None:
    compress(
        *(classifier_folder, tiny_splits, RECIPE, tmp_path / "out"),
        progress=False,
        report_to=["tensorboard"],
        logging_dir=tmp_path / "elsewhere",
    )
    assert listener.folders == [str(tmp_path / "elsewhere" / "compression")]


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [("tensorbord", UnsupportedError, "tensorboard"), ("mlflow", MissingExtraError, "pip install mlflow")],
)
def test_what_is_unknown_or_not_installed_is_said_before_anything_is_done(
    classifier_folder: Path,
    tiny_splits: Splits,
    tmp_path: Path,
    listener: type[Listener],
    name: str,
    kind: type[Exception],
    words: str,
) -> None:
    with pytest.raises(kind, match=words):
        compress(classifier_folder, tiny_splits, RECIPE, tmp_path / "out", progress=False, report_to=[name])
    assert not (tmp_path / "out.run").exists()
