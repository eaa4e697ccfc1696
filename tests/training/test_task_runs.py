"""Every task from an encoder to a checkpoint whose PyTorch model gives the scores that were reported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_tasks
import torch
from tiny_models import tiny_model as family_model
from tiny_tasks import KINDS
from tiny_training import recipe, trainer
from transformers import AutoModelForTokenClassification, TrainerCallback

from secateur.data import Splits
from secateur.errors import DataError, RecipeError, UnsupportedError
from secateur.hf import load_compressed
from secateur.recipe import Recipe
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines import outputs_of
from secateur.tasks import task_of
from secateur.training import CompressionCallback, compress, fine_tune
from secateur.training.collation import training_features
from secateur.training.evaluation import evaluate, model_outputs, predict
from secateur.training.loading import load_network, load_tokenizer

STAGES = (
    {"type": "distillation", "hardness": 1.0, "temperature": 2.0},
    {"type": "pruning", "sparsity": 0.6, "start_epoch": 0, "end_epoch": 3, "update_every": 0.5},
    {"type": "quantization", "start_epoch": 4, "freeze_epoch": 7},
)
RECIPE = recipe(*STAGES, epochs=8, learning_rate=3e-3, batch_size=16, dropout=0.0)
# What a tiny dense model reaches, and what has to be left of it.
LEAST = {
    "single": ("accuracy", 0.9, 0.8),
    "pair": ("accuracy", 0.9, 0.8),
    "multi": ("micro_f1", 0.7, 0.6),
    "regression": ("pearson", 0.8, 0.7),
    "tokens": ("f1", 0.9, 0.8),
    "questions": ("f1", 0.6, 0.5),
    "masked": ("accuracy", 0.8, 0.7),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tasks.encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def dense(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Fine-tunes on demand, once a kind."""
    made: dict[str, Path] = {}

    def tuned(kind: str) -> Path:
        if kind in ("pairs", "texts"):
            return start
        if kind not in made:
            torch.set_num_threads(1)
            result = fine_tune(
                start,
                tiny_tasks.splits(kind),
                tmp_path_factory.mktemp(kind) / "dense",
                min_steps=240,
                batch_size=16,
                learning_rate=5e-3,
                progress=False,
            )
            metric, least, _ = LEAST[kind]
            assert result.metrics["test"][metric] > least, result.metrics
            made[kind] = result.folder
        return made[kind]

    return tuned


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_is_compressed_and_scored(dense: Any, tmp_path: Path, kind: str) -> None:
    splits = tiny_tasks.splits(kind)
    result = compress(dense(kind), splits, RECIPE, tmp_path / "out", progress=False)
    scores = result.metrics["compressed"]["test"]
    assert result.metrics["sparsity"] == pytest.approx(0.6, abs=1e-2)
    if kind in LEAST:
        metric, _, least = LEAST[kind]
        assert scores[metric] > least, result.metrics
    else:
        assert scores["cosine_to_dense"] > 0.9
    loaded = load_compressed(result.folder)
    task = task_of(loaded.config.to_dict()).from_config(loaded.config.to_dict())
    if kind == "pairs":
        task = dataclasses.replace(splits, task=splits.task).task
    again = evaluate(loaded, load_tokenizer(result.folder), dataclasses.replace(splits, task=task))
    for name, value in again["test"].items():
        assert scores[name] == pytest.approx(value, abs=1e-6), name
    tokens = load_tokenizer(result.folder).backend_tokenizer
    encoded = task.encode(tokens, splits.test, 32)
    pytorch = np.concatenate([one.ravel() for one in predict(loaded, task, encoded)])
    engine = outputs_of(Engine.from_pretrained(result.folder, 1), task, encoded)
    ours = np.concatenate([one.ravel() for one in engine])
    assert np.abs(pytorch - ours).mean() < 0.01 * pytorch.std()


def test_an_encoder_becomes_what_the_data_ask_for(start: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("secateur.training.fine_tuning.MIN_STEPS", 12)
    short = recipe(*STAGES[:2], epochs=3, learning_rate=1e-3, batch_size=16)
    for kind in ("tokens", "questions", "masked"):
        folder = compress(start, tiny_tasks.splits(kind), short, tmp_path / kind, progress=False).folder
        assert load_compressed(folder).config.architectures[0].startswith("BertFor")


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra", "albert"])
def test_every_family_is_compressed(family: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("secateur.training.fine_tuning.MIN_STEPS", 12)
    family_model(family, "Model").save_pretrained(tmp_path / "model")
    tiny_tasks.tokenizer().save_pretrained(tmp_path / "model")
    splits = tiny_tasks.splits("tokens")
    stages = ({**STAGES[0], "hidden": 0.5}, *_timed(3)[1:])
    short = recipe(*stages, epochs=3, learning_rate=1e-3, batch_size=16)
    folder = compress(tmp_path / "model", splits, short, tmp_path / "out", progress=False).folder
    loaded, tokens = load_compressed(folder), load_tokenizer(folder).backend_tokenizer
    task = splits.task
    encoded = task.encode(tokens, splits.test, 16)
    pytorch = np.concatenate([one.ravel() for one in predict(loaded, task, encoded)])
    ours = np.concatenate(
        [one.ravel() for one in outputs_of(Engine.from_pretrained(folder, 1), task, encoded)]
    )
    assert np.abs(pytorch - ours).mean() < 0.01 * pytorch.std()


class Catch(TrainerCallback):
    """Keeps the first gradients."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for name, parameter in kwargs["model"].named_parameters():
            if parameter.grad is not None and state.global_step == 0:
                self.found[name] = parameter.grad.clone()


@pytest.mark.parametrize("kind", ["multi", "regression", "questions", "texts"])
def test_accumulation_is_exact_where_a_trainer_counts_nothing(start: Path, tmp_path: Path, kind: str) -> None:
    splits = tiny_tasks.splits(kind)
    tokens, caught = load_tokenizer(start), []
    for size, parts in ((10, 1), (4, 3)):  # batches of 4, 4 and 2 rows
        torch.manual_seed(0)
        network = load_network(start, splits.task, new_head=True)
        features = training_features(tokens, splits.task, splits.train[:10], 32, network)
        torch.manual_seed(1)
        teacher = load_network(start, splits.task, new_head=True)
        callback = CompressionCallback(recipe(STAGES[0], epochs=1, dropout=0.0), teacher)
        catch = Catch()
        run = trainer(
            *(tmp_path, network, callback, features, (catch,)),
            num_train_epochs=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=parts,
            max_grad_norm=0.0,
            seed=1,
        )
        callback.connect_(run)
        torch.manual_seed(5)
        run.train()
        caught.append(catch.found)
    assert caught[0].keys() == caught[1].keys()
    for name, gradient in caught[0].items():
        torch.testing.assert_close(gradient, caught[1][name], rtol=1e-3, atol=1e-6, msg=name)


def test_what_is_shown_changes_nothing(dense: Any, tmp_path: Path, capfd: Any) -> None:
    short = recipe(*_timed(2), epochs=2, learning_rate=1e-3, batch_size=16)
    weights = []
    for progress in (False, True):
        out = tmp_path / str(progress)
        folder = compress(dense("tokens"), tiny_tasks.splits("tokens"), short, out, progress=progress).folder
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    said = capfd.readouterr().err
    assert "block4 by magnitude" in said
    assert "This will take about" in said
    assert "Compressing: step 12 of 12" in said
    assert "sparsity 60.0%" in said
    assert "score " in said


def _timed(epochs: float) -> tuple[dict[str, Any], ...]:
    return (
        STAGES[0],
        {**STAGES[1], "end_epoch": epochs / 4, "update_every": epochs / 8},
        {**STAGES[2], "start_epoch": epochs / 2, "freeze_epoch": epochs * 0.8},
    )


def test_labels_in_another_order_are_mapped_and_others_refused(dense: Any, tmp_path: Path) -> None:
    folder = dense("tokens")
    splits = tiny_tasks.splits("tokens")
    task = type(splits.task)(splits.task.labels[::-1])
    turned = dataclasses.replace(splits, task=task)
    result = compress(
        folder, turned, recipe(STAGES[0], epochs=1, learning_rate=1e-5), tmp_path / "out", progress=False
    )
    assert result.metrics["compressed"]["test"]["f1"] > 0.8
    other = dataclasses.replace(splits, task=type(splits.task)([*splits.task.labels, "B-else"]))
    with pytest.raises(DataError, match="does not know 'B-else'"):
        compress(folder, other, RECIPE, tmp_path / "other", progress=False)
    values = tiny_tasks.splits("regression")
    with pytest.raises(DataError, match=r"of the kind 'single-label', the data of the kind 'regression'"):
        compress(dense("single"), values, RECIPE, tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


def test_a_teacher_must_be_of_the_same_kind(dense: Any, start: Path, tmp_path: Path) -> None:
    splits = tiny_tasks.splits("tokens")
    network = AutoModelForTokenClassification.from_pretrained(dense("tokens"))
    labels = [network.config.id2label[index] for index in range(network.config.num_labels)][::-1]
    network.config.id2label = dict(enumerate(labels))
    network.config.label2id = {label: index for index, label in enumerate(labels)}
    network.save_pretrained(tmp_path / "turned")
    tiny_tasks.tokenizer().save_pretrained(tmp_path / "turned")

    def refused(teacher: Path, sentence: str) -> None:
        with pytest.raises(DataError, match=sentence):
            compress(dense("tokens"), splits, RECIPE, tmp_path / "out", teacher=teacher, progress=False)
        assert not (tmp_path / "out.run").exists()

    refused(tmp_path / "turned", "has its labels in another order than the model")
    changed = tiny_tasks.tokenizer()
    changed.add_tokens(["sleet"])
    network.save_pretrained(tmp_path / "words")
    changed.save_pretrained(tmp_path / "words")
    refused(tmp_path / "words", "has another vocabulary than the model")


def test_rows_without_labels_are_refused(dense: Any, tmp_path: Path) -> None:
    for kind, change, sentence in (
        ("single", {"label": None}, "has no label"),
        ("tokens", {"tags": None}, "no tags|without tags|has no"),
        ("questions", {"answers": None}, "has no answers"),
    ):
        splits = tiny_tasks.splits(kind)
        train = [row._replace(**change) for row in splits.train]
        folder = dense(kind)
        with pytest.raises(DataError, match=sentence):
            compress(
                folder, dataclasses.replace(splits, train=train), RECIPE, tmp_path / "out", progress=False
            )
        assert not (tmp_path / "out").exists()


def test_embeddings_need_a_teacher_all_the_time(start: Path, tmp_path: Path) -> None:
    splits = tiny_tasks.splits("texts")
    for stages in (STAGES[1:], ({**STAGES[0], "hardness": 0.5},), ({**STAGES[0], "end_epoch": 4},)):
        made = recipe(*stages, epochs=8, learning_rate=1e-3)
        with pytest.raises(RecipeError, match="learn from the dense model alone"):
            compress(start, splits, made, tmp_path / "out", progress=False)
    with pytest.raises(UnsupportedError, match="not fine-tuned here"):
        fine_tune(start, splits, tmp_path / "out", progress=False)


def test_rows_are_altered_only_where_they_may_be(dense: Any, tmp_path: Path, capfd: Any) -> None:
    stages = ({**STAGES[0], "augmentation": 0.5},)
    made = recipe(*stages, epochs=1, learning_rate=1e-3, batch_size=16)
    for kind, altered in (
        ("single", True),
        ("texts", True),
        ("pair", False),
        ("tokens", False),
        ("masked", False),
    ):
        folder = compress(dense(kind), tiny_tasks.splits(kind), made, tmp_path / kind).folder
        kept = Recipe.from_yaml((folder / "recipe.yaml").read_text()).stages[0].augmentation
        assert kept == (0.5 if altered else 0.0), kind
        assert ("No rows are altered" in capfd.readouterr().err) is not altered, kind


def test_a_cache_is_found_by_a_second_run(dense: Any, tmp_path: Path, monkeypatch: Any) -> None:
    cache = tmp_path / "cache"
    short = recipe(STAGES[0], epochs=1, learning_rate=1e-3, batch_size=16)
    asked: list[Any] = []

    def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return model_outputs(*arguments)

    monkeypatch.setattr("secateur.training.teacher_cache.model_outputs", counted)
    kinds = ("single", "tokens", "questions", "texts")

    def weights(kind: str, name: str) -> bytes:
        folder = compress(
            dense(kind), tiny_tasks.splits(kind), short, tmp_path / name, cache=cache, progress=False
        ).folder
        return (folder / "model.safetensors").read_bytes()

    for number, kind in enumerate(kinds, 1):
        first = weights(kind, "one")
        assert len(asked) == len(list(cache.iterdir())) == number
        assert weights(kind, "two") == first
        assert len(asked) == number
    damaged = sorted(cache.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    for kind in kinds:
        weights(kind, "three")
    assert len(asked) == len(kinds) + 1
    assert damaged.stat().st_size > 50


def test_windows_and_lengths_follow_the_option(dense: Any, tmp_path: Path) -> None:
    splits = tiny_tasks.splits("questions")
    short = recipe(STAGES[0], epochs=1, learning_rate=1e-3, batch_size=16)
    result = compress(dense("questions"), splits, short, tmp_path / "out", max_length=12, progress=False)
    assert result.metrics["compressed"]["test"]["n"] == 24
    with pytest.raises(UnsupportedError, match="takes 8 to 32 tokens, but max_length is 33"):
        compress(dense("questions"), splits, short, tmp_path / "out", max_length=33, progress=False)


def test_outputs_come_in_the_order_of_the_features(dense: Any) -> None:
    for kind in ("single", "tokens", "questions", "masked", "texts"):
        splits: Splits = tiny_tasks.splits(kind)
        folder = dense(kind)
        network, tokens = load_network(folder, splits.task), load_tokenizer(folder)
        encoded = splits.task.encode(tokens.backend_tokenizer, splits.train, 32)
        together = predict(network.train(), splits.task, encoded, batch_size=7)
        assert network.training
        alone = predict(network, splits.task, encoded, batch_size=1)
        assert len(together) == len(encoded)
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
