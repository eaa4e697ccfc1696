"""Runs whose student is smaller than its model: end to end, resumed, from plain text, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_tasks
import torch
from safetensors import safe_open
from tiny_training import TASK, recipe, tiny_config, tiny_rows, tiny_tokenizer, trainer
from tiny_training import rows as training_rows
from transformers import AutoModel, BertForSequenceClassification

from secateur.data import Splits
from secateur.errors import DataError, RecipeError, UnsupportedError
from secateur.modeling import find_blocks
from secateur.recipe import Recipe
from secateur.training import CompressionCallback, compress, make_student
from secateur.training.general import teach_student
from secateur.training.teacher_cache import TeacherCache

SPLITS = Splits("tiny", TASK, tiny_rows(96, 0), tiny_rows(12, 1), tiny_rows(12, 2))
WITHIN = {
    "type": "distillation",
    "outputs": 0.0,
    "hidden": 1.0,
    "embeddings": 1.0,
    "attention": 0.5,
    "end_epoch": 1,
}
TASK_LESSON = {"type": "distillation", "hardness": 1.0, "start_epoch": 1}
PRUNING = {"type": "pruning", "sparsity": 0.6, "start_epoch": 0.5, "end_epoch": 1.2, "update_every": 0.2}
INT8 = {"type": "quantization", "start_epoch": 1.4, "freeze_epoch": 1.9}


def small(student: dict[str, Any] | None, *stages: dict[str, Any], **training: Any) -> Recipe:
    made = recipe(*stages, **{"epochs": 2.5, "learning_rate": 2e-3, "batch_size": 16, **training})
    return Recipe.model_validate({**made.model_dump(), "student": student})


def tensors_of(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return set(file.keys())


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned classifier of four layers."""
    folder = tmp_path_factory.mktemp("deep")
    torch.manual_seed(0)
    names = dict(enumerate(TASK.labels))
    config = tiny_config(num_hidden_layers=4, id2label=names, label2id={v: k for k, v in names.items()})
    BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


SHALLOW = {"layers": 2}
NARROW = {"layers": 2, "hidden_size": 16, "intermediate_size": 32, "heads": 4}


@pytest.mark.parametrize("student", [SHALLOW, NARROW])
def test_a_smaller_student_is_pruned_quantized_and_run(
    deep: Path, tmp_path: Path, student: dict[str, Any]
) -> None:
    from secateur import pipeline

    made = small(student, WITHIN, TASK_LESSON, PRUNING, INT8)
    done = compress(deep, SPLITS, made, tmp_path / "out", seed=3, progress=False)
    config = json.loads((done.folder / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert config["hidden_size"] == student.get("hidden_size", 32)
    assert done.metrics["sparsity"] == pytest.approx(0.6, abs=0.02)
    assert not [name for name in tensors_of(done.folder) if "distillation" in name]
    assert "student:\n  layers: 2\n" in (done.folder / "recipe.yaml").read_text()
    ask = pipeline(done.folder)
    right = [ask(row.text)[0]["label"] == row.label for row in SPLITS.test]
    assert np.mean(right) == pytest.approx(done.metrics["compressed"]["test"]["accuracy"])


class Killed(Exception):
    """What stops a run in its middle."""


@pytest.mark.parametrize("student", [SHALLOW, {**NARROW, "weights": "random"}])
def test_a_resumed_run_ends_with_the_same_bytes(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: dict[str, Any]
) -> None:
    made = small(student, WITHIN, TASK_LESSON, PRUNING, INT8)

    def run(name: str, resume: bool = False) -> bytes:
        options: dict[str, Any] = {"seed": 3, "save_every": 2, "resume": resume, "progress": False}
        return (
            compress(deep, SPLITS, made, tmp_path / name, **options).folder / "model.safetensors"
        ).read_bytes()

    expected = run("whole")
    for count in (4, 11):  # while it learns from within, and afterwards
        left = [count]
        real = torch.optim.AdamW.step

        def step(self: Any, *args: Any, left: list[int] = left, real: Any = real, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return real(self, *args, **kwargs)

        name = f"killed-{count}"
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", step)
            with pytest.raises(Killed):
                run(name)
        checkpoints = sorted((tmp_path / f"{name}.run").glob("compression/checkpoint-*"))
        assert checkpoints
        learnt = {one for one in tensors_of(checkpoints[-1]) if one.startswith("distillation_projections.")}
        assert len(learnt) == (2 if student is not SHALLOW else 0)
        assert run(name, resume=True) == expected


def test_projections_learn_in_a_group_of_their_own(deep: Path, tmp_path: Path) -> None:
    teacher = BertForSequenceClassification.from_pretrained(deep)
    made = small(NARROW, WITHIN)
    student = make_student(teacher, made)
    callback = CompressionCallback(made, teacher)
    run = trainer(tmp_path, student, callback, num_train_epochs=2.5)
    before = {name: one.clone() for name, one in student.distillation_projections.state_dict().items()}
    seen: dict[str, Any] = {}
    after_step = callback.on_step_end

    def on_step_end(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seen.update({n: one.clone() for n, one in student.distillation_projections.state_dict().items()})
        after_step(args, state, control, **kwargs)

    callback.on_step_end = on_step_end
    callback.connect_(run)
    run.train()
    (own,) = [
        group
        for group in run.optimizer.param_groups
        if len(group["params"]) == 2 and group["weight_decay"] == 0
    ]
    assert {tuple(one.shape) for one in own["params"]} == {(32, 16)}
    assert all(not torch.equal(seen[name], before[name]) for name in before)
    assert not hasattr(student, "distillation_projections")
    stranger = trainer(tmp_path, make_student(teacher, made), CompressionCallback(made, _copy(deep)))
    with pytest.raises(RecipeError, match=r"call callback\.connect_"):
        stranger.train()


def _copy(folder: Path) -> Any:
    return BertForSequenceClassification.from_pretrained(folder)


def test_the_model_of_a_recipe_with_a_student_must_be_that_student(deep: Path, tmp_path: Path) -> None:
    callback = CompressionCallback(small(SHALLOW, TASK_LESSON), _copy(deep))
    with pytest.raises(RecipeError, match=r"student of layers 2, but this model has 4: .*make_student"):
        trainer(tmp_path, _copy(deep), callback)


@pytest.mark.parametrize("head", ["encoder", "masked"])
def test_plain_text_first_and_the_task_afterwards(tmp_path: Path, head: str) -> None:
    if head == "masked":
        model = tiny_tasks.untrained("masked", tmp_path / "model")
    else:
        model = tiny_tasks.encoder(tmp_path / "model")
    texts = tiny_tasks.splits("masked" if head == "masked" else "texts")
    student = {"layers": 1, "hidden_size": 16}
    general = small(student, {**WITHIN, "end_epoch": None}, epochs=2)
    folder = teach_student(model, texts, tmp_path / "taught", general, seed=3, progress=False)
    assert not (tmp_path / "taught.run").exists()
    taught = AutoModel.from_pretrained(folder)
    assert (len(find_blocks(taught)), taught.config.hidden_size) == (1, 16)
    assert not [name for name in tensors_of(folder) if "distillation" in name]
    untaught = make_student(AutoModel.from_pretrained(model), general)
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(taught.state_dict()[name], untaught.state_dict()[name])
    task = small(None, {**WITHIN}, TASK_LESSON, epochs=2.5)
    data = tiny_tasks.splits("single")
    encoder = model if head == "encoder" else tiny_tasks.encoder(tmp_path / "other")
    done = compress(encoder, data, task, tmp_path / "out", student=folder, seed=3, progress=False)
    config = json.loads((done.folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (1, 16)
    assert done.metrics["compressed"]["test"]["n"] == 24


def test_plain_text_teaches_what_lies_within(tmp_path: Path) -> None:
    """After the general stage the student's hidden states are nearer to the model's than before."""
    model = tiny_tasks.encoder(tmp_path / "model")
    texts = tiny_tasks.splits("texts")
    lesson = {"type": "distillation", "outputs": 0, "hidden": 1}
    general = small({"layers": 1, "weights": "random"}, lesson, epochs=10)
    folder = teach_student(model, texts, tmp_path / "taught", general, seed=3, progress=False)
    teacher, taught = AutoModel.from_pretrained(model).eval(), AutoModel.from_pretrained(folder).eval()
    torch.manual_seed(3)
    untaught = make_student(teacher, general)
    batch = tiny_tasks.tokenizer()([row.text for row in texts.test], padding=True, return_tensors="pt")
    apart = []
    for one in (untaught, taught):
        with torch.no_grad():
            states = [each(**batch).last_hidden_state for each in (one, teacher)]
        apart.append(float((states[0] - states[1]).square()[batch["attention_mask"].bool()].mean()))
    assert apart[1] < 0.5 * apart[0]


def test_a_narrower_student_of_sentence_embeddings(tmp_path: Path) -> None:
    model = tiny_tasks.encoder(tmp_path / "model")
    lesson = {"type": "distillation", "vectors": "similarity"}
    made = small({"hidden_size": 16}, lesson, epochs=1)
    done = compress(model, tiny_tasks.splits("pairs"), made, tmp_path / "out", progress=False)
    assert json.loads((done.folder / "config.json").read_text())["hidden_size"] == 16
    assert "cosine_to_dense" not in done.metrics["compressed"]["test"]
    with pytest.raises(
        RecipeError, match=r"embeddings are 32 wide, the student's 16: .* or compare vectors by"
    ):
        compress(
            model,
            tiny_tasks.splits("pairs"),
            small({"hidden_size": 16}, {"type": "distillation", "hidden": 1}, epochs=1),
            tmp_path / "other",
            progress=False,
        )


def test_students_that_do_not_fit_are_refused(deep: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"progress": False}
    with pytest.raises(UnsupportedError, match="The model has 4 layers, of which 5 cannot be kept"):
        compress(deep, SPLITS, small({"layers": 5}, TASK_LESSON), tmp_path / "out", **options)
    with pytest.raises(DataError, match=r"makes its student of the model, and .* is another"):
        compress(deep, SPLITS, small(SHALLOW, TASK_LESSON), tmp_path / "out", student=deep, **options)
    stranger = tiny_tasks.encoder(tmp_path / "stranger")
    with pytest.raises(DataError, match="has another vocabulary than the model"):
        compress(deep, SPLITS, small(None, TASK_LESSON), tmp_path / "out", student=stranger, **options)
    few = small({"layers": 2, "heads": 2, "hidden_size": 16}, {"type": "distillation", "attention": 1})
    with pytest.raises(RecipeError, match="has 2 heads and layer 1 of the teacher 4"):
        compress(deep, SPLITS, few, tmp_path / "out", **options)
    with pytest.raises(
        RecipeError, match="a stage of the type pruning, and the general stage writes a dense"
    ):
        teach_student(deep, SPLITS, tmp_path / "out", small(SHALLOW, TASK_LESSON, PRUNING), **options)
    with pytest.raises(RecipeError, match="has no distillation stage"):
        teach_student(deep, SPLITS, tmp_path / "out", small(SHALLOW), **options)
    assert not list(tmp_path.glob("out*"))


def test_cached_logits_train_as_live_ones_do(deep: Path, tmp_path: Path) -> None:
    """Weights after a run with dropout, pruning and accumulated batches, bit for bit."""
    weights = []
    for kind in ("live", "cached"):
        torch.manual_seed(0)
        student, teacher = make_student(_copy(deep), small(SHALLOW)), _copy(deep).eval()
        train = training_rows(32)
        if kind == "cached":
            train.teacher_outputs, teacher = (
                TeacherCache(tmp_path / "cache").outputs(teacher, TASK, train),
                None,
            )
        callback = CompressionCallback(small(SHALLOW, {**TASK_LESSON, "start_epoch": 0}, PRUNING), teacher)
        run = trainer(
            tmp_path / kind, student, callback, train, num_train_epochs=2.5, gradient_accumulation_steps=2
        )
        callback.connect_(run)
        run.train()
        weights.append(torch.nn.utils.parameters_to_vector(student.parameters()))
    assert torch.equal(*weights)
