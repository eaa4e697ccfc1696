"""Everything that is wrong with a recipe is said at once, each with its line."""

from __future__ import annotations

import pytest

from secateur.errors import RecipeError
from secateur.recipe import Recipe

HEAD = "name: mine\ntraining: {epochs: 10, learning_rate: 1e-4}\nstages:\n"
PRUNING = "  - {type: pruning, sparsity: 0.5, start_epoch: 1, end_epoch: 3}\n"  # line 4


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(text, "The recipe")
    return str(caught.value)


def stage(text: str) -> str:
    return f"  - {{{text}}}\n"


@pytest.mark.parametrize(
    ("second", "answer"),
    [
        (
            "type: pruning, sparsity: 0.8, start_epoch: 2, end_epoch: 4",
            "line 5: stages[1].start_epoch: 2 overlaps the pruning of stages[0], which goes on until 3",
        ),
        (
            "type: pruning, sparsity: 0.8, start_epoch: 29 %, end_epoch: 4",
            "line 5: stages[1].start_epoch: 29 % overlaps the pruning of stages[0], which goes on until 3",
        ),
        (
            "type: pruning, sparsity: 0.8, start_epoch: 0, end_epoch: 1",
            "line 5: stages[1].start_epoch: 0 comes before stages[0]: write them in the order of the run",
        ),
        (
            "type: pruning, sparsity: 0.4, start_epoch: 4, end_epoch: 5",
            "line 5: stages[1].sparsity: 0.4 is below the 0.5 that stages[0] reaches",
        ),
        (
            "type: pruning, sparsity: 0.8, initial_sparsity: 0.2, start_epoch: 4, end_epoch: 5",
            "line 5: stages[1].initial_sparsity: 0.2 is below the 0.5 that stages[0] reaches",
        ),
        (
            "type: pruning, sparsity: 0.8, pattern: unstructured, start_epoch: 4, end_epoch: 5",
            "line 5: stages[1].pattern: unstructured contradicts the block4 of stages[0]",
        ),
        (
            "type: pruning, sparsity: 0.8, initial_sparsity: 0.9, start_epoch: 4, end_epoch: 5",
            "line 5: stages[1].initial_sparsity: 0.9 must not be above sparsity 0.8",
        ),
        (
            "type: quantization, start_epoch: 1, freeze_epoch: 2.5",
            "line 4: stages[0].end_epoch: 3 prunes after stages[1] froze the ranges of the activations at "
            "2.5, which then no longer fit",
        ),
        (
            "type: quantization, start_epoch: 1, freeze_epoch: 29 %",
            "line 4: stages[0].end_epoch: 3 prunes after stages[1] froze the ranges of the activations at "
            "29 %, which then no longer fit",
        ),
        (
            "type: freezing, groups: [layers.0-1]",
            "line 5: stages[1].groups: freezes layers.0-1 while stages[0] prunes there",
        ),
        (
            "type: freezing, groups: [embeddings, layers, head], start_epoch: 4",
            "line 5: stages[1].groups: leaves nothing to train",
        ),
        (
            "type: freezing, groups: [layer.0]",
            "line 5: stages[1].groups[0]: is no group: write embeddings, head, layers, layers.3 or "
            "layers.0-3, but is 'layer.0'",
        ),
        ("type: freezing, groups: [layers.3-1]", "line 5: stages[1].groups[0]: ends before it starts"),
        ("type: freezing, groups: []", "line 5: stages[1].groups: names no group"),
        (
            "type: learning_rate, start_epoch: 40 %, end_epoch: 20 %",
            "line 5: stages[1].end_epoch: 20 % must be later than start_epoch 40 %",
        ),
        (
            "type: learning_rate, start_epoch: 5, end_epoch: 20 %",
            "line 5: stages[1].end_epoch: 20 % must be later than start_epoch 5",
        ),
        (
            "type: learning_rate, cycle: 3",
            "line 5: stages[1]: has the unknown key 'cycle' (did you mean 'cycles'?)",
        ),
        ("type: freeze", "line 5: stages[1]: has the unknown type 'freeze' (did you mean 'freezing'?)"),
        (
            "type: distillation, augmentation: 0.5, end_epoch: 5",
            "line 5: stages[1].augmentation: needs a teacher over the whole run",
        ),
        (
            "type: pruning, sparsity: 0.8, method: magnitde, start_epoch: 4, end_epoch: 5",
            "(did you mean 'magnitude'?)",
        ),
        (
            "type: pruning, sparsity: 0.8, start_epoch: 4, end_epoch: 5, update_every: 0 steps",
            "line 5: stages[1].update_every: must be more than 0, but is '0 steps'",
        ),
        (
            "type: pruning, sparsity: 0.8, start_epoch: later, end_epoch: 5",
            "line 5: stages[1].start_epoch: is no time: write 2.5 for epochs, '500 steps', or '30 %' of the "
            "run, but is 'later'",
        ),
        (
            "type: distillation, start_epoch: 11",
            "stages[1].start_epoch: 11 lies after the end of the run, epoch 10",
        ),
    ],
)
def test_what_a_second_stage_may_not_say(second: str, answer: str) -> None:
    message = refused(HEAD + PRUNING + stage(second))
    assert message.startswith("The recipe: line ")
    assert answer in message


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [
        (
            "type: distillation",
            "type: distillation, start_epoch: 3",
            "overlaps the distillation of stages[0], which goes on until the end of the run",
        ),
        (
            "type: learning_rate, end_epoch: 500 steps",
            "type: learning_rate, start_epoch: 400 steps",
            "overlaps the learning_rate of stages[0], which goes on until 500 steps",
        ),
        (
            "type: freezing, groups: [layers.0-3], end_epoch: 2",
            "type: freezing, groups: [layers.3], end_epoch: 1",
            "freezes layers.3, which stages[0] freezes at the same time",
        ),
        (
            "type: freezing, groups: [embeddings, head], end_epoch: 2",
            "type: freezing, groups: [layers], start_epoch: 1",
            "line 5: stages[1].groups: leaves nothing to train",
        ),
    ],
)
def test_what_two_stages_may_not_say(first: str, second: str, answer: str) -> None:
    assert answer in refused(HEAD + stage(first) + stage(second))


@pytest.mark.parametrize(
    "stages",
    [
        PRUNING + stage("type: pruning, sparsity: 0.8, start_epoch: 3, end_epoch: 4"),
        PRUNING + stage("type: pruning, sparsity: 0.8, start_epoch: 30 %, end_epoch: 900 steps"),
        PRUNING + stage("type: quantization, start_epoch: 1, freeze_epoch: 3"),
        PRUNING + stage("type: freezing, groups: [layers], end_epoch: 1"),
        PRUNING + stage("type: freezing, groups: [embeddings, head]"),
        stage("type: freezing, groups: [layers.0-3]") + stage("type: freezing, groups: [layers.4]"),
        stage("type: distillation, end_epoch: 3") + stage("type: distillation, start_epoch: 3"),
    ],
)
def test_what_stages_may_say(stages: str) -> None:
    recipe = Recipe.from_yaml(HEAD + stages)
    assert len(recipe.stages) == 2
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_embeddings_are_frozen_in_one_place() -> None:
    text = HEAD.replace("1e-4}", "1e-4, freeze_embeddings: true}") + stage(
        "type: freezing, groups: [embeddings]"
    )
    assert "which training.freeze_embeddings freezes for the whole run" in refused(text)


def test_mistakes_behind_the_first_wrong_record_are_named_too() -> None:
    text = (
        "name: mine\n"
        "training: {epochs: 10, learning_rate: 1e-4, colour: red}\n"
        "stages:\n"
        "  - {type: pruning, sparsity: 0.8, start_epoch: 1, end_epoch: 3, end_epoc: 4}\n"
        "  - {type: pruning, sparsity: 0.5, start_epoch: 2, end_epoch: 12}\n"
        "  - {type: distillation, hardness: 2}\n"
        "  - {type: quantization, start_epoch: 3, freeze_epoch: 2, averging: 1}\n"
        "  - {type: prunning}\n"
    )
    lines = refused(text).splitlines()
    assert lines[0] == "The recipe: 9 problems:"
    assert [line.removeprefix("  - ").split(": ")[:2] for line in lines[1:]] == [
        ["line 2", "training"],
        ["line 4", "stages[0]"],
        ["line 5", "stages[1].end_epoch"],
        ["line 5", "stages[1].sparsity"],
        ["line 5", "stages[1].start_epoch"],
        ["line 6", "stages[2].hardness"],
        ["line 7", "stages[3]"],
        ["line 7", "stages[3].freeze_epoch"],
        ["line 8", "stages[4]"],
    ]


def test_lines_are_those_of_the_keys() -> None:
    text = (
        "name: mine\ntraining:\n  epochs: 10\n  learning_rate: -1\n\n"
        "# why\nstages:\n  - type: distillation\n    hardnes: 1\n"
    )
    message = refused(text)
    assert "line 4: training.learning_rate" in message
    assert "line 9: stages[0]: has the unknown key 'hardnes'" in message


def test_keys_that_stand_twice_are_named_with_the_rest() -> None:
    message = refused("name: a\nname: b\ntraining: {epochs: 1, epochs: 2}\n")
    assert "line 2: the key 'name' stands twice" in message
    assert "line 3: training: the key 'epochs' stands twice" in message
    assert "lacks the key 'learning_rate'" in message


@pytest.mark.parametrize(
    "text",
    [
        "1: 2\n",
        "name: mine\ntraining: 3\nstages: 4\n",
        "name: mine\ntraining: {epochs: 1, learning_rate: 1}\nstages: [3, [], {type: [1]}, {type: 7}]\n",
        "name: &a [*a]\ntraining: *a\n",
        "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
    ],
)
def test_odd_values_are_refused_with_a_sentence(text: str) -> None:
    assert refused(text).startswith("The recipe: ")


def test_small_data_change_the_last_pruning_stage() -> None:
    stages = PRUNING + stage("type: pruning, sparsity: 0.8, start_epoch: 4, end_epoch: 6")
    text = HEAD.replace("stages:", "small_data: {end_epoch: 5, method: lamp}\nstages:").replace(
        "1e-4}", "1e-4, min_steps: 1000}"
    )
    small = Recipe.from_yaml(text + stages).stretched(320)
    assert [one.end_epoch for one in small.stages] == [30, 50]
    assert [one.method for one in small.stages] == ["lamp", "lamp"]
