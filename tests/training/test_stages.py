"""Stages of a recipe on the stock Trainer: several of one type, learning rates, freezing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import tiny_config, trainer
from transformers import BertForSequenceClassification

from secateur.checkpoint import read_checkpoint
from secateur.data import Splits
from secateur.errors import RecipeError
from secateur.modeling import find_projections
from secateur.recipe import Recipe, load_recipe
from secateur.recipe.plan import StepPlan
from secateur.sparsity import sparsity_of
from secateur.training import CompressionCallback, compress
from secateur.training.freezing import find_group
from secateur.training.learning_rate import learning_rate_scheduler

FIRST = {
    "type": "pruning",
    "sparsity": 0.5,
    "start_epoch": 0,
    "end_epoch": "2 steps",
    "update_every": "1 steps",
}
SECOND = {
    "type": "pruning",
    "method": "lamp",
    "sparsity": 0.75,
    "start_epoch": "50 %",
    "end_epoch": 1.5,
    "update_every": "1 steps",
}
CYCLES = {"type": "learning_rate", "cycles": 2, "final": 0.5, "rewind": 0.5, "end_epoch": 1}


def recipe(*stages: dict[str, Any], **training: Any) -> Recipe:
    settings = {"epochs": 2, "learning_rate": 1e-3, "warmup": 0.0, **training}
    return Recipe.model_validate({"name": "test", "training": settings, "stages": stages})


def tiny_model(seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(tiny_config(num_labels=3))


class Watcher(CompressionCallback):
    """Notes what holds after every step: sparsity, learning rate, and which parameters moved."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_begin(*args, **kwargs)
        self.sparsities: list[float] = []
        self.rates: list[float] = [group_rate(kwargs["optimizer"])]
        self.moved: list[set[str]] = []
        self._before = snapshot(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = snapshot(kwargs["model"])
        self.moved.append({name for name, value in now.items() if not torch.equal(value, self._before[name])})
        super().on_step_end(args, state, control, **kwargs)
        self._before = snapshot(kwargs["model"])
        linears = [projection.linear for projection in find_projections(kwargs["model"])]
        self.sparsities.append(round(sparsity_of(linears), 2))
        self.rates.append(group_rate(kwargs["optimizer"]))
        assert kwargs["lr_scheduler"].get_last_lr() == [
            group["lr"] for group in kwargs["optimizer"].param_groups
        ]


def group_rate(optimizer: Any) -> float:
    return float(optimizer.param_groups[0]["lr"])


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_pruning_goes_on_in_a_second_leg(tmp_path: Path) -> None:
    watcher = Watcher(recipe(FIRST, SECOND))
    trainer(tmp_path, tiny_model(), watcher).train()
    assert watcher.sparsities == [0.44, 0.5, 0.5, 0.5, 0.72, 0.75, 0.75, 0.75]


def test_the_learning_rate_follows_its_cycles_and_then_the_run(tmp_path: Path) -> None:
    watcher = Watcher(recipe(CYCLES))
    run = trainer(tmp_path, tiny_model(), watcher)
    run.train()
    # Two cycles of two steps, then linear decay over the run's eight steps.
    expected = [1.0, 0.75, 0.5, 0.375, 0.5, 0.375, 0.25, 0.125, 0.0]
    assert watcher.rates == pytest.approx([1e-3 * factor for factor in expected])
    plan = StepPlan.of(recipe(CYCLES), 4, 8)
    assert watcher.rates == pytest.approx([plan.learning_rate_at(step) for step in range(9)])


def test_a_plain_loop_gets_the_same_learning_rates() -> None:
    plan = StepPlan.of(recipe(CYCLES), 4, 8)
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:], "lr": 0.1}], lr=1.0)
    scheduler = learning_rate_scheduler(optimizer, plan)
    found = []
    for _ in range(9):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    factors = [plan.learning_rate_at(step) / 1e-3 for step in range(9)]
    assert found == [pytest.approx([factor, 0.1 * factor]) for factor in factors]


def test_every_group_of_the_optimizer_keeps_its_own_peak(tmp_path: Path) -> None:
    model = tiny_model()
    head = find_group(model, "head")
    others = [one for one in model.parameters() if all(one is not other for other in head)]
    optimizer = torch.optim.AdamW([{"params": others}, {"params": head, "lr": 1e-2}], lr=1e-3)

    class Rates(Watcher):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            super().on_train_begin(*args, **kwargs)
            self.first = [group["lr"] for group in kwargs["optimizer"].param_groups]

    stage = {**CYCLES, "peak": 0.5}
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    rates = Rates(recipe(stage))
    run = trainer(tmp_path, model, rates)
    run.optimizer, run.lr_scheduler = optimizer, scheduler
    run.train()
    assert rates.first == pytest.approx([0.5e-3, 0.5e-2])


def test_a_schedule_that_is_no_function_of_the_step_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    run = trainer(tmp_path, model, CompressionCallback(recipe(CYCLES)))
    run.optimizer = torch.optim.AdamW(model.parameters())
    run.lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(run.optimizer)
    with pytest.raises(RecipeError, match="needs a LambdaLR, but the Trainer has a ReduceLROnPlateau"):
        run.train()


def test_the_trainers_own_schedule_stays_without_a_learning_rate_stage(tmp_path: Path) -> None:
    watcher = Watcher(recipe(FIRST))
    trainer(tmp_path, tiny_model(), watcher, lr_scheduler_type="polynomial").train()
    assert watcher.rates[0] == 1e-3
    assert watcher.rates[4] == pytest.approx(0.5e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("group", "prefixes"),
    [
        ("embeddings", ("bert.embeddings.word_", "bert.embeddings.position_", "bert.embeddings.token_")),
        ("layers", ("bert.encoder.layer.",)),
        ("layers.1", ("bert.encoder.layer.1.",)),
        ("layers.0-1", ("bert.encoder.layer.0.", "bert.encoder.layer.1.")),
        ("head", ("bert.pooler.", "classifier.")),
    ],
)
def test_groups_are_what_their_names_say(group: str, prefixes: tuple[str, ...]) -> None:
    model = tiny_model()
    found = {id(parameter) for parameter in find_group(model, group)}
    assert found == {id(value) for name, value in model.named_parameters() if name.startswith(prefixes)}
    assert found


def test_a_layer_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    stage = {"type": "freezing", "groups": ["layers.0-99"]}
    with pytest.raises(RecipeError, match=r"freezes 'layers.0-99', but the model has only the layers 0 to 1"):
        trainer(tmp_path, tiny_model(), CompressionCallback(recipe(stage)))


def test_groups_stay_while_they_are_frozen_and_move_before_and_after(tmp_path: Path) -> None:
    watcher = Watcher(
        recipe(
            {"type": "freezing", "groups": ["embeddings", "layers.0"], "end_epoch": "2 steps"},
            {
                "type": "freezing",
                "groups": ["head", "layers.1"],
                "start_epoch": "3 steps",
                "end_epoch": "5 steps",
            },
            {"type": "freezing", "groups": ["embeddings"], "start_epoch": "6 steps"},
        )
    )
    trainer(tmp_path, tiny_model(), watcher, weight_decay=0.1, warmup_steps=0).train()

    def moved(part: str) -> list[bool]:
        return [any(part in name for name in names) for names in watcher.moved]

    assert moved("word_embeddings") == [False, False, True, True, True, True, False, False]
    assert moved("layer.0.") == [False, False, True, True, True, True, True, True]
    assert moved("layer.1.") == [True, True, True, False, False, True, True, True]
    assert moved("classifier") == [True, True, True, False, False, True, True, True]


def test_what_is_frozen_throughout_is_no_part_of_the_optimizer(tmp_path: Path) -> None:
    model = tiny_model()
    model.classifier.bias.requires_grad_(False)  # by somebody else: stays so
    stages = (
        {"type": "freezing", "groups": ["embeddings"]},
        {"type": "freezing", "groups": ["head"], "end_epoch": "1 steps"},
    )
    run = trainer(tmp_path, model, CompressionCallback(recipe(*stages)))
    run.train()
    held = {id(one) for group in run.optimizer.param_groups for one in group["params"]}
    assert not held & {id(one) for one in find_group(model, "embeddings")}
    assert id(model.classifier.weight) in held
    assert not model.classifier.bias.requires_grad


def test_distillation_comes_and_goes(tmp_path: Path) -> None:
    seen: list[tuple[float, float, float]] = []

    class Lessons(CompressionCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_step_end(*args, **kwargs)
            lesson = self._hook.lesson
            seen.append((lesson.hardness, lesson.temperature, lesson.hidden))

    stages = (
        {
            "type": "distillation",
            "hardness": 0.5,
            "temperature": 3,
            "start_epoch": "2 steps",
            "end_epoch": "4 steps",
        },
        {"type": "distillation", "hardness": 1.0, "hidden": 2.0, "start_epoch": "5 steps"},
    )
    trainer(tmp_path, tiny_model(), Lessons(recipe(*stages), tiny_model(1))).train()
    none, first, second = (0.0, 1.0, 0.0), (0.5, 3.0, 0.0), (1.0, 2.0, 2.0)
    assert seen == [none, first, first, none, second, second, second, second]


def test_a_resumed_run_ends_bit_for_bit_where_the_whole_run_does(tmp_path: Path) -> None:
    stages = recipe(
        FIRST,
        SECOND,
        CYCLES,
        {"type": "learning_rate", "schedule": "cosine", "peak": 0.7, "warmup": 0.5, "start_epoch": "5 steps"},
        {"type": "distillation", "hardness": 0.5, "start_epoch": "3 steps"},
        {"type": "freezing", "groups": ["embeddings"], "end_epoch": "3 steps"},
        {"type": "freezing", "groups": ["head"], "start_epoch": "5 steps", "end_epoch": "7 steps"},
        {"type": "quantization", "start_epoch": "6 steps", "freeze_epoch": "7 steps"},
    )
    whole = tiny_model()
    trainer(
        tmp_path / "run",
        whole,
        CompressionCallback(stages, tiny_model(1)),
        save_strategy="steps",
        save_steps=1,
    ).train()
    expected = whole.state_dict()
    for step in (1, 4, 6):
        again = tiny_model(5)
        run = trainer(tmp_path / "run", again, CompressionCallback(stages, tiny_model(1)))
        run.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        state = again.state_dict()
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(value, state[name]), (step, name)


def test_a_model_with_more_zeros_than_the_recipe_wants_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        for projection in find_projections(model):
            projection.linear.weight[:, : projection.in_features * 3 // 4] = 0
    run = trainer(tmp_path, model, CompressionCallback(recipe(FIRST)))
    with pytest.raises(RecipeError, match=r"0.5 is below the 0.75 that the model already has"):
        run.train()


def test_pruning_goes_on_from_the_zeros_that_the_model_has(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        for projection in find_projections(model):
            projection.linear.weight[:, : projection.in_features // 2] = 0
    watcher = Watcher(recipe({**FIRST, "sparsity": 0.8, "end_epoch": 1, "initial_sparsity": 0.1}))
    trainer(tmp_path, model, watcher).train()
    assert watcher.sparsities[0] >= 0.5
    assert watcher.sparsities == sorted(watcher.sparsities)
    assert watcher.sparsities[-1] == 0.8


def test_compress_carries_all_of_it_out_and_saves_the_recipe(
    classifier_folder: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    stages = recipe(
        FIRST,
        SECOND,
        CYCLES,
        {"type": "distillation", "start_epoch": "3 steps"},
        {"type": "freezing", "groups": ["embeddings"], "end_epoch": "3 steps"},
        {"type": "quantization", "start_epoch": "75 %", "freeze_epoch": "90 %"},
        batch_size=8,
    )
    done = compress(classifier_folder, tiny_splits, stages, tmp_path / "out", progress=False)
    assert done.metrics["sparsity"] == pytest.approx(0.75, abs=2e-3)
    saved = load_recipe(done.folder / "recipe.yaml")
    assert saved == stages
    assert read_checkpoint(done.folder).labels == ["weather", "travel", "music"]
