"""One-shot compression of tiny fine-tuned models of every task, from a folder to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_tasks
import torch
from tiny_tasks import KINDS

from secateur.checkpoint import read_checkpoint
from secateur.data import Splits
from secateur.errors import CheckpointError, DataError, RecipeError, SecateurError, UnsupportedError
from secateur.hf import load_compressed
from secateur.modeling import find_blocks, find_projections
from secateur.quantization.scheme import PostTraining
from secateur.runtime.engine import Engine
from secateur.runtime.pipelines import outputs_of
from secateur.sparsity.mask import unquantized_weight
from secateur.training import fine_tune
from secateur.training.evaluation import predict
from secateur.training.loading import load_network, load_tokenizer
from secateur.training.one_shot import OneShot, one_shot, prepare
from secateur.training.one_shot_settings import ONE_SHOT_METHODS

OPTIONS: dict[str, dict[str, Any]] = {
    "obert": {"num_grads": 32, "fisher_block_size": 16, "damp": 1e-6},
    "taylor": {"num_grads": 8},
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
            made[kind] = fine_tune(
                start,
                tiny_tasks.splits(kind),
                tmp_path_factory.mktemp(kind) / "dense",
                min_steps=240,
                batch_size=16,
                learning_rate=5e-3,
                progress=False,
            ).folder
        return made[kind]

    return tuned


def shot(**changes: Any) -> OneShot:
    """Returns settings with the tiny options of the method."""
    values: dict[str, Any] = {"sparsity": 0.5, "rows": 64, **changes}
    method = values.get("method", "sparsegpt")
    return OneShot(**{"options": OPTIONS.get(method, {}), **values})


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_keeps_most_of_its_score(kind: str, dense: Any, tmp_path: Path) -> None:
    splits = tiny_tasks.splits(kind)
    done = one_shot(
        dense(kind), splits, shot(sparsity=0.3, quantize=PostTraining()), tmp_path / "out", progress=False
    )
    metrics = done.metrics
    assert json.loads((done.folder / "metrics.json").read_text())["compressed"] == metrics["compressed"]
    assert "method: sparsegpt" in (done.folder / "recipe.yaml").read_text()
    assert metrics["sparsity"] == pytest.approx(0.3, abs=5e-3)
    assert metrics["calibration_rows"] == 64
    main = metrics["main_metric"]
    if main:
        before, after = (metrics[model]["test"][main] for model in ("dense", "compressed"))
        assert after > 0.8 * before
    if splits.task.head == "embedding":
        assert metrics["compressed"]["test"]["cosine_to_dense"] > 0.8
    checkpoint = read_checkpoint(done.folder)
    assert checkpoint.quantization.sparsity == pytest.approx(0.3, abs=5e-3)
    assert checkpoint.quantization.numbers == "int8"


@pytest.mark.parametrize("pattern", ["unstructured", "block4"])
@pytest.mark.parametrize("method", ONE_SHOT_METHODS)
def test_every_method_prunes_to_the_target(method: str, pattern: str, dense: Any, tmp_path: Path) -> None:
    splits = tiny_tasks.splits("single")
    settings = shot(method=method, pattern=pattern)
    done = one_shot(dense("single"), splits, settings, tmp_path / "out", progress=False)
    assert done.metrics["sparsity"] == pytest.approx(0.5, abs=5e-3)
    assert done.metrics["method"] == method
    assert done.metrics["compressed"]["test"]["accuracy"] >= (0.2 if method == "random" else 0.6)
    assert ("calibration_rows" in done.metrics) == (method in ("sparsegpt", "wanda"))
    assert read_checkpoint(done.folder).quantization.numbers == "float32"


def test_the_engine_answers_as_reported(dense: Any, tmp_path: Path) -> None:
    splits = tiny_tasks.splits("single")
    settings = shot(quantize=PostTraining(rounding="gptq"))
    done = one_shot(dense("single"), splits, settings, tmp_path / "out", progress=False)
    task = splits.task
    encoded = task.encode(load_tokenizer(done.folder).backend_tokenizer, splits.test, 24)
    reported = done.metrics["compressed"]["test"]
    engine = Engine.from_pretrained(done.folder)
    assert (
        task.score(splits.test, encoded, outputs_of(engine, task, encoded))["accuracy"]
        == reported["accuracy"]
    )
    again = predict(load_compressed(done.folder), task, encoded)
    assert task.score(splits.test, encoded, again) == reported


def test_the_same_seed_gives_the_same_file_and_another_one_other_rows(dense: Any, tmp_path: Path) -> None:
    splits = tiny_tasks.splits("single")
    files = []
    for number, seed in enumerate((1, 1, 2)):
        settings = shot(seed=seed, quantize=PostTraining(rounding="gptq"))
        folder = one_shot(dense("single"), splits, settings, tmp_path / str(number), progress=False).folder
        files.append((folder / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_nothing_is_pruned_without_a_method(dense: Any, tmp_path: Path) -> None:
    settings = OneShot(method=None, quantize=PostTraining(smoothing=None))
    done = one_shot(dense("single"), tiny_tasks.splits("single"), settings, tmp_path / "out", progress=False)
    assert done.metrics["sparsity"] < 0.01
    assert "method" not in done.metrics
    assert "pruning" not in (done.folder / "recipe.yaml").read_text()


def test_labels_are_not_looked_at_by_layerwise_methods(dense: Any) -> None:
    splits = tiny_tasks.splits("single")
    ready = prepare(dense("single"), splits, shot(method="sparsegpt"))
    ready.prune_(0.5)
    turned = tiny_tasks.splits("single")
    names = sorted(turned.task.labels)
    other = dict(zip(names, names[1:] + names[:1], strict=True))
    turned.train[:] = [row._replace(label=other[row.label]) for row in turned.train]
    again = prepare(dense("single"), turned, shot(method="sparsegpt"))
    again.prune_(0.5)
    for one, two in zip(find_projections(ready.network), find_projections(again.network), strict=True):
        assert torch.equal(unquantized_weight(one.linear), unquantized_weight(two.linear))


def test_one_trajectory_goes_on_from_sparsity_to_sparsity(dense: Any) -> None:
    ready = prepare(dense("single"), tiny_tasks.splits("single"), shot(method="wanda"))
    before = None
    for sparsity in (0.3, 0.6, 0.9):
        ready.prune_(sparsity)
        masks = [unquantized_weight(one.linear) != 0 for one in find_projections(ready.network)]
        zeros = 1 - np.concatenate([mask.numpy().ravel() for mask in masks]).mean()
        assert zeros == pytest.approx(sparsity, abs=5e-3)
        assert before is None or not any((new & ~old).any() for new, old in zip(masks, before, strict=True))
        before = masks


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sparsity": 1.2}, "sparsity is 1.2, and must be 0 to below 1"),
        ({"sparsity": -0.1}, "sparsity is -0.1, and must be 0 to below 1"),
        ({"sparsity": None}, "How sparse shall the model become"),
        ({"method": None}, "nothing to do"),
        ({"method": None, "quantize": PostTraining()}, "Without a pruning method sparsity"),
        ({"method": "movement"}, "movement learns from training steps: use compress"),
        ({"method": "guess"}, "'guess' is not known; allowed: "),
        ({"pattern": "2:4", "sparsity": 0.7}, "contradicts the pattern 2:4, which removes 0.5"),
        ({"pattern": "stripes"}, "'stripes' is not known"),
        ({"ranking": "column"}, "ranking is 'column', and must be one of global, matrix, row"),
        ({"options": {"dump": 1}}, "unknown key 'dump' (did you mean 'damp'?)"),
        ({"options": {"num_grads": 5}}, "key 'num_grads' of obert"),
        ({"options": {"damp": "much"}}, "damp: input should be a valid number"),
        ({"rows": 0}, "at least 1 row"),
    ],
)
def test_settings_that_are_impossible(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError) as caught:
        OneShot(**{"sparsity": 0.5, **changes})
    assert sentence in str(caught.value)


def test_a_grouped_pattern_has_its_own_sparsity(dense: Any, tmp_path: Path) -> None:
    done = one_shot(
        dense("single"),
        tiny_tasks.splits("single"),
        shot(pattern="2:4", sparsity=None),
        tmp_path / "out",
        progress=False,
    )
    assert done.metrics["sparsity"] == pytest.approx(0.5)
    assert "sparsity: 0.5" in (done.folder / "recipe.yaml").read_text()


def with_rows(count: int) -> Splits:
    """Returns splits with so many training rows."""
    splits = tiny_tasks.splits("single")
    del splits.train[count:]
    return splits


def broken(folder: Path, out: Path, kind: str) -> Path:
    """Saves a model with weights that are no good."""
    network = load_network(folder, tiny_tasks.splits("single").task)
    linear = find_blocks(network)[1].ffn_in.linear
    with torch.no_grad():
        if kind == "nan":
            linear.weight[3, 4] = float("nan")
        else:
            linear.weight.zero_()
    network.save_pretrained(out)
    load_tokenizer(folder).save_pretrained(out)
    return out


def test_bad_input_is_one_sentence_and_nothing_is_written(dense: Any, start: Path, tmp_path: Path) -> None:
    model, out, splits = dense("single"), tmp_path / "out" / "deep", tiny_tasks.splits("single")

    def refused(kind: type[SecateurError], sentence: str, *given: Any) -> None:
        with pytest.raises(kind) as caught:
            one_shot(*given, out, progress=False)
        assert sentence in str(caught.value)
        assert not out.parent.exists()

    refused(UnsupportedError, "has no head for text-classification", start, splits, shot())
    refused(
        DataError, "has 10 training rows, and calibration needs at least 16", model, with_rows(10), shot()
    )
    refused(DataError, "16 to 40 of the training rows", model, with_rows(40), shot(rows=41))
    refused(DataError, "has no training rows", model, with_rows(0), shot())
    refused(
        DataError,
        "asks for num_grads 5000",
        model,
        splits,
        shot(method="taylor", options={"num_grads": 5000}),
    )
    embeds = tiny_tasks.splits("texts")
    refused(RecipeError, "sentence embeddings have none", start, embeds, shot(method="taylor"))
    refused(SecateurError, "do not divide into blocks of 5", model, splits, shot(pattern="block:1x5"))
    nan = broken(model, tmp_path / "nan", "nan")
    refused(DataError, "layer.1.output.dense holds NaN", nan, splits, shot())
    same = broken(model, tmp_path / "same", "zero")
    refused(DataError, "input of bert.encoder.layer.1.output.dense is the same for all", same, splits, shot())
    refused(
        UnsupportedError, "takes 8 to 32 tokens, but max_length is 99", model, splits, shot(max_length=99)
    )


def test_another_folder_is_left_alone(dense: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError):
        one_shot(dense("single"), tiny_tasks.splits("single"), shot(), tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_ctrl_c_leaves_nothing_behind(dense: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.training.one_shot.quantize_post_training_", stop)
    with pytest.raises(KeyboardInterrupt):
        one_shot(
            dense("single"),
            tiny_tasks.splits("single"),
            shot(quantize=PostTraining()),
            tmp_path / "out",
            progress=False,
        )
    assert not list(tmp_path.iterdir())
