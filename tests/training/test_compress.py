"""`fine_tune` and `compress` from folder to checkpoint, on tiny models."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from secateur.checkpoint import read_checkpoint
from secateur.data import Row, Splits
from secateur.errors import CheckpointError, DataError, UnsupportedError
from secateur.hf import load_compressed
from secateur.recipe import Recipe
from secateur.tasks import TextClassification
from secateur.training import compress, fine_tune
from secateur.training.evaluation import evaluate
from secateur.training.loading import load_tokenizer

RECIPE = {
    "name": "tiny",
    "training": {"epochs": 4, "learning_rate": 2e-3, "batch_size": 16, "freeze_embeddings": True},
    "stages": [
        {"type": "distillation", "hardness": 0.9, "temperature": 2.0},
        {"type": "pruning", "sparsity": 0.8, "start_epoch": 0, "end_epoch": 2},
        {"type": "quantization", "start_epoch": 2.5, "freeze_epoch": 3.5},
    ],
}


def recipe(**training: object) -> Recipe:
    return Recipe.model_validate({**RECIPE, "training": {**RECIPE["training"], **training}})


def test_an_encoder_is_fine_tuned_first_and_the_compressed_model_still_answers(
    encoder_folder: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    tuned = fine_tune(
        encoder_folder,
        tiny_splits,
        tmp_path / "dense",
        epochs=20,
        min_steps=0,
        learning_rate=3e-3,
        progress=False,
    )
    assert tuned.metrics["test"]["accuracy"] > 0.9

    result = compress(tuned.folder, tiny_splits, recipe(), tmp_path / "out", progress=False)

    assert result.metrics["dense"]["test"] == tuned.metrics["test"]
    assert result.metrics["compressed"]["test"]["accuracy"] > 0.8
    assert result.metrics["sparsity"] == pytest.approx(0.8, abs=1e-3)
    checkpoint = read_checkpoint(result.folder)
    assert checkpoint.labels == tiny_splits.labels
    assert checkpoint.quantization.pattern == "block4"
    saved = Recipe.from_yaml((result.folder / "recipe.yaml").read_text())
    assert saved == recipe()
    embeddings = checkpoint.tensors["bert.embeddings.word_embeddings.weight"]
    dense = BertForSequenceClassification.from_pretrained(tuned.folder)
    scale = checkpoint.tensors["bert.embeddings.word_embeddings.weight_scale"]
    restored = embeddings.astype(np.float32) * scale[:, None]
    assert (
        np.abs(restored - dense.bert.embeddings.word_embeddings.weight.detach().numpy()).max() < scale.max()
    )


@pytest.mark.parametrize("pattern", ["unstructured", "block4", None])
def test_a_recipe_without_quantization_gives_a_float_checkpoint(
    classifier_folder: Path, tiny_splits: Splits, tmp_path: Path, pattern: str | None
) -> None:
    path = tmp_path / "float.yaml"
    pruning = f"""
  - {{type: pruning, sparsity: 0.6, pattern: {pattern}, start_epoch: 0, end_epoch: 1}}"""
    path.write_text(f"""
name: float
training: {{epochs: 2, learning_rate: 2.0e-3, batch_size: 16}}
stages:
  - {{type: distillation}}{pruning if pattern else ""}
""")
    result = compress(classifier_folder, tiny_splits, path, tmp_path / "out", progress=False)
    checkpoint = read_checkpoint(result.folder)
    quantization = checkpoint.quantization
    assert (quantization.format_version, quantization.numbers) == (2, "float32")
    assert quantization.pattern == ("unstructured" if pattern else "dense")
    assert quantization.sparsity == result.metrics["sparsity"]
    assert quantization.sparsity == pytest.approx(0.6 if pattern else 0.0, abs=1e-3)
    loaded = load_compressed(result.folder)
    tokenizer = load_tokenizer(result.folder)
    splits = dataclasses.replace(tiny_splits, task=TextClassification(checkpoint.labels))
    assert evaluate(loaded, tokenizer, splits) == result.metrics["compressed"]


def test_the_dense_model_made_on_the_way_can_be_kept(
    encoder_folder: Path, tiny_splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.training.fine_tuning.MIN_STEPS", 6)
    result = compress(
        encoder_folder, tiny_splits, recipe(), tmp_path / "out", dense_out=tmp_path / "dense", progress=False
    )
    assert result.dense_folder == tmp_path / "dense"
    kept = BertForSequenceClassification.from_pretrained(tmp_path / "dense")
    assert kept.config.id2label == dict(enumerate(tiny_splits.labels))
    assert result.metrics["fine_tuning_minutes"] >= 0


def test_fine_tuning_writes_over_nothing_but_a_model(
    encoder_folder: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UnsupportedError, match="no model folder"):
        fine_tune(encoder_folder, tiny_splits, tmp_path, epochs=1, min_steps=0, progress=False)
    for _ in range(2):
        fine_tune(encoder_folder, tiny_splits, tmp_path / "dense", epochs=0.1, min_steps=0, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "thesis.txt"]


def test_the_same_seed_gives_the_same_checkpoint(
    classifier_folder: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    short = Recipe.model_validate(
        {
            **RECIPE,
            "training": {**RECIPE["training"], "epochs": 1},
            "stages": [
                RECIPE["stages"][0],
                {"type": "pruning", "sparsity": 0.5, "start_epoch": 0, "end_epoch": 0.5},
                {"type": "quantization", "start_epoch": 0.5, "freeze_epoch": 0.9},
            ],
        }
    )
    weights = []
    for name in ("first", "second"):
        folder = compress(
            classifier_folder, tiny_splits, short, tmp_path / name, seed=7, progress=False
        ).folder
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_labels_keep_the_order_of_the_models_head(
    classifier_folder: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    folder = compress(
        classifier_folder, tiny_splits, recipe(), tmp_path / "out", teacher=classifier_folder, progress=False
    ).folder
    assert read_checkpoint(folder).labels == ["weather", "travel", "music"]


def test_hidden_states_and_altered_rows_need_a_teacher_of_the_same_kind(
    encoder_folder: Path, classifier_folder: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    values = recipe().model_dump() | {
        "stages": [
            {"type": "distillation", "hardness": 1.0, "hidden": 1.0, "augmentation": 0.5},
            {"type": "pruning", "sparsity": 0.5, "start_epoch": 0, "end_epoch": 0.5},
            {"type": "quantization", "start_epoch": 0.5, "freeze_epoch": 0.9},
        ]
    }
    rich = Recipe.model_validate(values)
    result = compress(classifier_folder, tiny_splits, rich, tmp_path / "out", progress=False)
    assert result.metrics["sparsity"] == pytest.approx(0.5, abs=1e-3)
    other = fine_tune(
        encoder_folder, tiny_splits, tmp_path / "other", epochs=0.1, min_steps=0, progress=False
    ).folder
    with pytest.raises(DataError, match="labels in another order"):
        compress(classifier_folder, tiny_splits, rich, tmp_path / "out", teacher=other, progress=False)


def test_labels_that_differ_are_refused_in_one_sentence(
    classifier_folder: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    other = [Row(row.text, row.label.replace("music", "concert")) for row in tiny_splits.train]
    splits = dataclasses.replace(
        tiny_splits,
        train=other,
        validation=[],
        test=[],
        task=TextClassification(["concert", "travel", "weather"]),
    )
    with pytest.raises(DataError, match=r"does not know 'concert'; the data have no rows for 'music'"):
        compress(classifier_folder, splits, recipe(), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_an_unknown_task_is_refused(classifier_folder: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="'summarization' is not known"):
        compress(classifier_folder, tiny_splits, recipe(), tmp_path, task="summarization")


def test_a_classifier_with_lost_weights_is_refused(
    classifier_folder: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    folder.mkdir()
    for file in classifier_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Exception, match=r"1 weights are missing.*layer\.1\.output\.dense\.weight"):
        compress(folder, tiny_splits, recipe(), tmp_path / "out", progress=False)


def test_a_missing_folder_is_refused(tiny_splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="is not a folder"):
        compress(tmp_path / "nowhere", tiny_splits, recipe(), tmp_path / "out")


def test_out_of_scope_rows_are_scored_apart(
    classifier_folder: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    splits = dataclasses.replace(tiny_splits, out_of_scope=[Row("find me a a", "out_of_scope")] * 3)
    result = compress(classifier_folder, splits, recipe(), tmp_path / "out", progress=False)
    assert result.metrics["compressed"]["test"]["n_oos"] == 3
    assert torch.is_grad_enabled()


def test_folders_that_are_none_are_refused_before_any_training(
    classifier_folder: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    """A teacher that is not there must not be looked for on the hub."""
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UnsupportedError, match="nowhere is not a folder"):
        compress(
            classifier_folder, tiny_splits, recipe(), tmp_path / "out", teacher="nowhere", progress=False
        )
    for cache in (file, file / "cache"):
        with pytest.raises(CheckpointError, match="file is not a folder: give another place"):
            compress(classifier_folder, tiny_splits, recipe(), tmp_path / "out", cache=cache, progress=False)
    assert list(tmp_path.iterdir()) == [file]
