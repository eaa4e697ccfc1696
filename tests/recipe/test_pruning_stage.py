"""Pruning and lock stages: methods and their keys, patterns, step lists, rewound rates, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from secateur.errors import RecipeError
from secateur.recipe import BUILTIN_RECIPES, PruningStage, Recipe, load_recipe
from secateur.recipe.plan import StepPlan
from secateur.recipe.pruning_methods import METHODS, SoftMovementOptions
from secateur.recipe.schema import recipe_schema
from secateur.recipe.timeline import timeline

PRUNING = {"type": "pruning", "sparsity": 0.8, "start_epoch": 1, "end_epoch": 5, "update_every": 1}


def recipe(*stages: dict[str, Any], small_data: Any = None, **training: Any) -> Recipe:
    settings = {"epochs": 8, "learning_rate": 1e-3, **training}
    values = {"name": "test", "training": settings, "stages": list(stages), "small_data": small_data}
    return Recipe.from_values(values)


def plan(*stages: dict[str, Any], steps: int = 10, found: float = 0.0) -> StepPlan:
    return StepPlan.of(recipe(*stages), steps, 8 * steps, found)


def wrong(*stages: dict[str, Any], **training: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(*stages, **training)
    return str(caught.value)


def pruning_stage(**keys: Any) -> PruningStage:
    stage = recipe({**PRUNING, **keys}).stage(PruningStage)
    assert stage is not None
    return stage


# --- methods and their keys ----------------------------------------


def test_a_stage_has_the_options_of_its_method_spelled_out() -> None:
    stage = pruning_stage(method="soft-movement", regularization=100)
    assert stage.options == SoftMovementOptions(regularization=100.0)
    said = recipe({**PRUNING, "method": "soft-movement", "regularization": 100}).to_yaml()
    assert "regularization: 100.0" in said
    assert "threshold: auto" in said
    assert Recipe.from_yaml(said).to_yaml() == said


@pytest.mark.parametrize("method", METHODS)
def test_only_methods_that_can_judge_them_take_other_targets(method: str) -> None:
    stage = {**PRUNING, "method": method, "targets": ["encoder", "pooler"]}
    pruners = pytest.importorskip("secateur.sparsity").PRUNERS
    assert METHODS[method].encoder_only is bool(pruners[method].needs)
    if not METHODS[method].encoder_only:
        recipe(stage)
        return
    assert f"targets: has pooler, but {method} judges the encoder's matrices alone" in wrong(stage)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_read_and_written(method: str) -> None:
    read = recipe({**PRUNING, "method": method})
    assert Recipe.from_yaml(read.to_yaml()) == read
    stage = read.stage(PruningStage)
    assert stage is not None
    assert stage.options == METHODS[method]()
    assert stage.ranking == METHODS[method].ranking


def test_a_key_of_another_method_says_whose_it_is() -> None:
    said = wrong({**PRUNING, "method": "magnitude", "regularization": 3.0})
    assert "stages[0]: has the key 'regularization' of soft-movement, but the method is magnitude" in said
    said = wrong({**PRUNING, "method": "obert", "score_learning_rate": 3.0})
    assert "has the key 'score_learning_rate' of movement and soft-movement, but the method is obert" in said


def test_the_nearest_key_and_method_are_named() -> None:
    said = wrong(
        {**PRUNING, "method": "soft-movement", "regularisation": 3.0},
        {**PRUNING, "method": "lotery-ticket", "start_epoch": 6, "end_epoch": 7},
    )
    assert "has the unknown key 'regularisation' (did you mean 'regularization'?)" in said
    assert "stages[1].method: is no method" in said
    assert "(did you mean 'lottery-ticket'?)" in said


def test_everything_wrong_is_said_at_once() -> None:
    stage = {"type": "pruning", "method": "soft-movement", "threshold": 2, "seed": 1, "sparsity": 2.0}
    said = wrong({**stage, "start_epoch": 1, "end_epoch": 3})
    for clause in ("stages[0].threshold: ", "'seed' of random", "stages[0].sparsity: "):
        assert clause in said


def test_few_rows_change_the_method_with_its_keys() -> None:
    small = {"method": "lamp", "update_every": 0.5}
    movement = {**PRUNING, "method": "movement", "score_learning_rate": 0.1}
    changed = recipe(movement, small_data=small, min_steps=10**4).stretched(10)
    stage = changed.stage(PruningStage)
    assert stage is not None
    assert (stage.method, stage.ranking, stage.model_extra) == ("lamp", "global", {})


def test_a_method_that_learns_cannot_prune_at_once() -> None:
    said = wrong({**PRUNING, "method": "movement", "start_epoch": 0, "initial_sparsity": 0.3})
    assert "stages[0].start_epoch: 0 leaves movement no time to learn before its first update" in said
    recipe({**PRUNING, "method": "movement", "start_epoch": 0})  # from 0 it removes nothing at first


def test_early_weights_are_taken_before_the_first_update() -> None:
    said = wrong({**PRUNING, "method": "lottery-ticket", "rewind_epoch": 2})
    assert "stages[0].rewind_epoch: 2 comes after the first update at start_epoch 1" in said
    found = plan({**PRUNING, "method": "lottery-ticket", "rewind_epoch": "5 %"})
    assert found.pruning[0].remember == 4
    assert plan({**PRUNING, "method": "magnitude"}).pruning[0].remember is None


def test_early_weights_are_taken_later_in_a_stretched_run() -> None:
    stretched = recipe({**PRUNING, "method": "lottery-ticket", "rewind_epoch": 0.5}, min_steps=800)
    stage = stretched.stretched(320).stage(PruningStage)
    assert stage is not None
    assert stage.model_extra == {"rewind_epoch": 5.0}


# --- patterns ----------------------------------------


def test_a_group_pattern_brings_its_sparsity() -> None:
    stage = {key: value for key, value in PRUNING.items() if key != "sparsity"}
    found = recipe({**stage, "pattern": "1:4"}).stage(PruningStage)
    assert found is not None
    assert found.sparsity == 0.75
    said = wrong({**PRUNING, "pattern": "2:4"})
    assert "stages[0].sparsity: 0.8 contradicts the pattern 2:4, which removes 0.5: leave it out" in said


def test_a_group_pattern_goes_in_whole_weights() -> None:
    stage = {key: value for key, value in PRUNING.items() if key != "sparsity"}
    found = plan({**stage, "pattern": "1:4", "schedule": "linear"})
    assert [found.sparsity(step) for step in (5, 10, 20, 30, 40, 50)] == [0.0, 0.0, 0.25, 0.5, 0.5, 0.75]


def test_patterns_that_mean_the_same_do_not_contradict() -> None:
    read = recipe(
        {**PRUNING, "pattern": "block4"},
        {**PRUNING, "pattern": "block:1x4", "start_epoch": 6, "end_epoch": 7},
    )
    assert {stage.pattern for stage in read.stages_of(PruningStage)} == {"block4"}


@pytest.mark.parametrize("pattern", ["4:4", "block:4", "blocks4", "0:4"])
def test_a_wrong_pattern_is_refused(pattern: str) -> None:
    assert f"stages[0].pattern: the pattern '{pattern}'" in wrong({**PRUNING, "pattern": pattern})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("targets", ["encoder", "pooler"], "encoder, pooler contradicts the encoder of stages[0]"),
        ("biases", True, "true contradicts the false of stages[0]"),
        ("pattern", "block:2x2", "block:2x2 contradicts the block4 of stages[0]"),
    ],
)
def test_legs_prune_alike(key: str, value: Any, said: str) -> None:
    second = {**PRUNING, "start_epoch": 6, "end_epoch": 7, key: value}
    assert f"stages[1].{key}: {said}" in wrong(PRUNING, second)


def test_frozen_tables_are_not_pruned() -> None:
    said = wrong({**PRUNING, "targets": ["embeddings"]}, freeze_embeddings=True)
    assert "stages[0].targets: has embeddings, which training.freeze_embeddings freezes" in said
    assert "names no target, or one twice" in wrong({**PRUNING, "targets": []})


# --- schedules ----------------------------------------

STEPS = {"type": "pruning", "schedule": [[1, 0.3], ["20 steps", 0.5], ["50 %", 0.8]]}


def test_a_list_of_steps_holds_from_step_to_step() -> None:
    found = plan(STEPS)
    assert [found.sparsity(step) for step in (0, 9, 10, 19, 20, 39, 40, 80)] == [
        *(0.0, 0.0, 0.3, 0.3, 0.5, 0.5, 0.8, 0.8)
    ]
    assert [step for step in range(81) if found.at(step).update] == [10, 20, 40]
    stage = found.recipe.stage(PruningStage)
    assert stage is not None
    assert (stage.sparsity, stage.initial_sparsity, stage.start_epoch, stage.end_epoch) == (
        *(0.8, 0.3, 1.0, "50 %"),
    )
    assert Recipe.from_yaml(found.recipe.to_yaml()) == found.recipe


def test_a_list_of_steps_is_stretched_with_the_run() -> None:
    stage = recipe(STEPS, min_steps=160).stretched(320).stage(PruningStage)
    assert stage is not None
    assert stage.steps == ((2.0, 0.3), ("20 steps", 0.5), ("50 %", 0.8))
    assert stage.start_epoch == 2.0


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"schedule": [[2, 0.3], [1, 0.5]]}, "schedule[1][0]: 1 must be later than 2"),
        ({"schedule": [[1, 0.5], [2, 0.3]]}, "schedule[1][1]: 0.3 is below the 0.5 of the step before"),
        ({"schedule": [[1, 0.5], [2, 0.7]], "sparsity": 0.8}, "sparsity: 0.8 contradicts the list of steps"),
        ({"schedule": [[1, 0.5]], "update_every": 1}, "update_every: has no use beside a list of steps"),
        ({"schedule": [[1, 0.5], [2, 0.7]], "end_epoch": 3}, "end_epoch: 3 contradicts the list of steps"),
    ],
)
def test_a_wrong_list_of_steps_is_refused(keys: dict[str, Any], said: str) -> None:
    assert f"stages[0].{said}" in wrong({"type": "pruning", **keys})


def test_an_empty_list_of_steps_is_refused() -> None:
    assert "stages[0]: lacks the key 'sparsity'" in wrong({"type": "pruning", "schedule": []})


def test_a_constant_schedule_prunes_once() -> None:
    found = plan({"type": "pruning", "schedule": "constant", "sparsity": 0.6, "start_epoch": 2})
    assert [step for step in range(81) if found.at(step).update] == [20]
    assert [found.sparsity(step) for step in (19, 20, 80)] == [0.0, 0.6, 0.6]
    again = {"type": "pruning", "schedule": "constant", "sparsity": 0.6, "start_epoch": 2, "end_epoch": 4}
    found = plan({**again, "update_every": 1})
    assert [step for step in range(81) if found.at(step).update] == [20, 30, 40]
    said = wrong({**again, "initial_sparsity": 0.3})
    assert "stages[0].initial_sparsity: 0.3 contradicts the constant schedule, which starts at 0.6" in said


def test_only_a_constant_schedule_does_without_updates() -> None:
    said = wrong({**PRUNING, "update_every": None})
    assert "stages[0].update_every: must be a time with the schedule cubic" in said


def test_a_geometric_schedule_takes_equal_parts_of_what_is_left() -> None:
    found = plan({**PRUNING, "schedule": "geometric", "initial_sparsity": 1 - 0.2**0.2})
    left = [1 - found.sparsity(step) for step in (10, 20, 30, 40, 50)]
    assert left == pytest.approx([0.2 ** (k / 5) for k in range(1, 6)])


# --- learning rates rewound with the pruning ----------------------------------------

RATE = {"type": "learning_rate", "cycles": "pruning", "final": 0.1, "rewind": 0.5}


def test_a_cycle_begins_with_every_update() -> None:
    found = plan({**PRUNING, "update_every": 2}, RATE)
    span = found.learning_rate[0]
    assert span.starts == (0, 10, 30, 50)
    assert [span.factor(step) for step in (0, 10, 30, 50)] == [1.0, 0.5, 0.25, 0.125]
    assert span.factor(5) == pytest.approx(0.55)
    assert span.factor(20) == pytest.approx(0.5 * 0.55)
    assert span.factor(79) == pytest.approx(0.125 * (0.1 + 0.9 / 30))


def test_a_cycle_rises_from_where_the_one_before_ended() -> None:
    span = plan({**PRUNING, "update_every": 2}, {**RATE, "warmup": 0.5, "rewind": 1.0}).learning_rate[0]
    assert span.factor(0) == 0.0
    assert span.factor(10) == pytest.approx(0.1)
    assert span.factor(20) == pytest.approx(1.0)


def test_cycles_by_the_pruning_need_some() -> None:
    assert "stages[0].cycles: is pruning, but no stage prunes: write a number" in wrong(RATE)


def test_no_update_within_the_stage_is_one_cycle() -> None:
    span = plan(PRUNING, {**RATE, "start_epoch": 6}).learning_rate[0]
    assert span.starts == (60,)


# --- locks, time line, schema, recipes of the package ----------------------------------------


def test_one_lock_is_enough() -> None:
    assert "is one of several stages of the type lock" in wrong({"type": "lock"}, {"type": "lock"})
    assert recipe({"type": "lock"}).stages[0].model_dump() == {"type": "lock", "targets": ("encoder",)}


def test_the_time_line_tells_all_of_it() -> None:
    stage = {**PRUNING, "method": "movement", "targets": ["encoder", "pooler"], "biases": True}
    rows = timeline(plan({**stage, "score_learning_rate": 0.02}, RATE, {"type": "lock"}))
    said = [f"{row.kind}: {row.what}" for row in rows]
    assert "lock: zeros of encoder stay" in said
    assert (
        "pruning: block4 by movement in each matrix of encoder, pooler with biases, cubic, 5 updates, one "
        "every 1 epochs, score_learning_rate 0.02" in said
    )
    assert any(row.startswith("learning rate: 6 linear cycles, one from each pruning on") for row in said)
    assert any("2:4 by magnitude, 1 step" in row.what for row in timeline(plan(GROUPS)))


GROUPS = {"type": "pruning", "pattern": "2:4", "schedule": [[2, 0.5]]}


def test_the_schema_knows_which_key_is_whose() -> None:
    stage = recipe_schema()["$defs"]["PruningStage"]
    for record in METHODS.values():
        assert set(record.model_fields) <= set(stage["properties"])
    rules = {
        rule["if"]["properties"]["method"]["const"]: rule["then"]["properties"] for rule in stage["allOf"]
    }
    assert rules["magnitude"]["num_grads"] is False
    assert "num_grads" not in rules["obert"]
    assert stage["additionalProperties"] is False
    assert stage["properties"]["num_grads"]["description"].startswith("Of obert: ")


@pytest.mark.parametrize("name", [name for name in BUILTIN_RECIPES if name != "general"])  # it teaches only
def test_recipes_of_the_package_reach_what_they_say(name: str) -> None:
    read = load_recipe(name)
    found = StepPlan.for_rows(read.stretched(15000), 15000)
    assert found.sparsity(found.total_steps) == 0.8
    assert found.at(found.total_steps).quantizing
    assert read.description.endswith(".")
    few = read.stretched(60)
    assert StepPlan.for_rows(few, 60).sparsity(10**9) == 0.8
