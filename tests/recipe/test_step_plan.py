"""The plan over steps: what holds at every step, the same whenever it is asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from secateur.errors import RecipeError
from secateur.recipe import Recipe, load_recipe
from secateur.recipe.plan import StepPlan
from secateur.recipe.timeline import timeline


def recipe(*stages: dict[str, object], **training: object) -> Recipe:
    settings = {"epochs": 10, "learning_rate": 1.0, "warmup": 0.1, **training}
    return Recipe.model_validate({"name": "test", "training": settings, "stages": stages})


FIRST = {"type": "pruning", "sparsity": 0.5, "start_epoch": 1, "end_epoch": 3, "update_every": "10 steps"}
SECOND = {
    "type": "pruning",
    "method": "lamp",
    "sparsity": 0.9,
    "schedule": "linear",
    "start_epoch": 3,
    "end_epoch": "50 %",
    "update_every": 1,
}


def test_two_legs_meet_where_they_touch() -> None:
    plan = StepPlan.of(recipe(FIRST, SECOND), 20, 200)
    assert [(span.start, span.end, span.update_every, span.initial) for span in plan.pruning] == [
        (20, 60, 10, 0.0),
        (60, 100, 20, 0.5),
    ]
    updates = [step for step in range(201) if plan.at(step).update is not None]
    assert updates == [20, 30, 40, 50, 60, 80, 100]
    # Where one leg ends and the next begins, the next one chooses, at the sparsity that both agree on.
    assert plan.at(60).update is plan.pruning[1]
    assert [round(plan.sparsity(step), 4) for step in (0, 20, 59, 60, 80, 99, 100, 200)] == [
        *(0.0, 0.0, round(0.5 * (1 - 0.25**3), 4), 0.5, 0.7, 0.7, 0.9, 0.9)
    ]


def test_sparsity_never_falls() -> None:
    plan = StepPlan.of(recipe(FIRST, SECOND), 20, 200, found_sparsity=0.3)
    values = [plan.sparsity(step) for step in range(201)]
    assert values == sorted(values)
    assert values[0] == 0.3
    assert plan.at(20).sparsity == 0.3


def test_a_sparsity_below_what_the_model_has_is_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"stages\[0\].sparsity: 0.5 is below the 0.75 that the model already has"
    ):
        StepPlan.of(recipe(FIRST, SECOND), 20, 200, found_sparsity=0.75)
    assert StepPlan.of(recipe(FIRST), 20, 200, found_sparsity=0.0004).pruning[0].initial == 0.0


def test_steps_that_turn_the_order_around_are_found_when_the_run_is_known() -> None:
    late = {"type": "quantization", "start_epoch": 2, "freeze_epoch": "50 steps"}
    written = recipe(FIRST, late)
    StepPlan.of(written, 15, 150)
    with pytest.raises(RecipeError, match="2 problems") as caught:
        StepPlan.of(written, 40, 400)
    assert "stages[0].end_epoch: 3 prunes after stages[1] froze" in str(caught.value)
    assert "stages[1].freeze_epoch: 50 steps must be later than start_epoch 2" in str(caught.value)


def test_stages_that_end_after_the_run_are_all_named() -> None:
    late = {"type": "quantization", "start_epoch": 4, "freeze_epoch": 9}
    with pytest.raises(RecipeError, match="does not fit a run of 40 steps, which ends at epoch 2") as caught:
        StepPlan.of(recipe(FIRST, late), 20, 40)
    assert str(caught.value).count("lies after the end of the run, epoch 2") == 3


@pytest.mark.parametrize(
    "stage",
    [
        {"type": "pruning", "sparsity": 0.5, "start_epoch": 9.9, "end_epoch": 10},
        {"type": "quantization", "start_epoch": 9.9, "freeze_epoch": 10},
        {"type": "learning_rate", "cycles": 11},
    ],
)
def test_a_run_with_too_few_steps_is_refused(stage: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="A run of 10 steps is too short"):
        StepPlan.of(recipe(stage), 1, 10)


def test_quantization_distillation_and_freezing_hold_in_their_steps() -> None:
    plan = StepPlan.of(
        recipe(
            {"type": "distillation", "hardness": 0.5, "end_epoch": "20 %"},
            {"type": "distillation", "hardness": 1.0, "start_epoch": 4},
            {"type": "freezing", "groups": ["embeddings"], "end_epoch": 1},
            {"type": "freezing", "groups": ["layers.0", "head"], "start_epoch": 9},
            {"type": "quantization", "start_epoch": 5, "freeze_epoch": "180 steps"},
        ),
        20,
        200,
    )
    hardness = [
        None if (one := plan.at(step).distillation) is None else one.hardness
        for step in (0, 39, 40, 79, 80, 200)
    ]
    assert hardness == [0.5, 0.5, None, None, 1.0, 1.0]
    assert [sorted(plan.at(step).frozen) for step in (0, 19, 20, 179, 180, 200)] == [
        *(["embeddings"], ["embeddings"], [], [], ["head", "layers.0"], ["head", "layers.0"])
    ]
    assert [plan.at(step).quantizing for step in (99, 100, 200)] == [False, True, True]
    assert [plan.at(step).ranges_frozen for step in (179, 180, 200)] == [False, True, True]


def test_learning_rate_stages_rule_their_steps_and_the_run_the_rest() -> None:
    stage = {
        "type": "learning_rate", "cycles": 2, "rewind": 0.5, "final": 0.2, "warmup": 0.25,
        "start_epoch": 1, "end_epoch": 5,
    }  # fmt: skip
    plan = StepPlan.of(recipe(stage), 20, 200)
    assert plan.at(19).learning_rate is None
    assert plan.at(100).learning_rate is None
    # (start) rises to 1, falls to 0.2; rises from there to 0.5, falls to 0.1.
    found = [plan.at(step).learning_rate for step in (20, 25, 30, 45, 59, 60, 65, 70, 99)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 0.6, 0.2 + 0.8 / 30, 0.2, 0.35, 0.5, 0.1 + 0.4 / 30])
    # 20 steps of warm-up, then linear to 0 at 200.
    assert [plan.learning_rate_at(step) for step in (0, 10, 19)] == pytest.approx([0.0, 0.5, 0.95])
    assert [plan.learning_rate_at(step) for step in (100, 200)] == pytest.approx([100 / 180, 0.0])


def test_the_built_in_recipe_is_laid_out_as_it_always_was() -> None:
    plan = StepPlan.of(load_recipe("balanced"), 469, 4690)
    (pruning,) = plan.pruning
    assert (pruning.start, pruning.end, pruning.update_every, pruning.initial) == (94, 2580, 47, 0.3)
    assert (plan.quantize_step, plan.freeze_step) == (3283, 4456)
    assert plan.learning_rate == ()


def test_the_time_line_covers_the_run() -> None:
    stage = {"type": "learning_rate", "cycles": 3, "start_epoch": 2, "end_epoch": 6}
    events = timeline(StepPlan.of(recipe(FIRST, SECOND, stage, freeze_embeddings=True), 20, 200))
    rates = [
        (event.start, event.end, event.before, event.after)
        for event in events
        if event.kind == "learning rate"
    ]
    assert rates == [(0, 20, "0", "1"), (20, 40, "1", "0.889"), (40, 120, "1", "1"), (120, 200, "0.444", "0")]
    prunings = [
        (event.start, event.end, event.before, event.after) for event in events if event.kind == "pruning"
    ]
    assert prunings == [(20, 60, "0 %", "50 %"), (60, 100, "50 %", "90 %"), (100, 200, "90 %", "90 %")]
    assert [event.what for event in events if event.kind == "pruning"][1] == (
        "block4 by lamp, linear, 3 updates, one every 1 epochs"
    )
    assert [event.start for event in events] == sorted(event.start for event in events)


@pytest.mark.parametrize(("every", "count"), [("10 steps", 5), ("15 steps", 4), ("100 steps", 2)])
def test_the_time_line_counts_the_updates_that_happen(every: str, count: int) -> None:
    plan = StepPlan.of(recipe({**FIRST, "update_every": every}), 20, 200)
    assert sum(plan.at(step).update is not None for step in range(201)) == count
    assert f" {count} updates" in next(event.what for event in timeline(plan) if event.kind == "pruning")


def test_plan_and_time_line_need_no_torch() -> None:
    code = "import sys, secateur.commands.recipe; sys.exit('torch' in sys.modules or 'plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
