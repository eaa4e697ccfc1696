"""Recipes: what is said wrong is answered with its place and the nearest right word."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.errors import RecipeError
from secateur.recipe import (
    BUILTIN_RECIPES,
    DistillationStage,
    PruningStage,
    QuantizationStage,
    Recipe,
    load_recipe,
)

TEXT = """
name: mine
training: {epochs: 4, learning_rate: 1e-4}
stages:
  - {type: pruning, sparsity: 0.8, start_epoch: 0, end_epoch: 2}
  - {type: quantization, start_epoch: 3, freeze_epoch: 3.5}
"""


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(text, "The recipe mine.yaml")
    return str(caught.value)


def test_balanced_is_what_the_documentation_says() -> None:
    assert "balanced" in BUILTIN_RECIPES
    recipe = load_recipe("balanced")
    pruning = recipe.stage(PruningStage)
    assert (pruning.method, pruning.pattern, pruning.schedule, pruning.sparsity) == (
        "magnitude",
        "block4",
        "cubic",
        0.8,
    )
    quantization = recipe.stage(QuantizationStage)
    assert pruning.end_epoch < quantization.start_epoch < quantization.freeze_epoch < recipe.training.epochs


@pytest.mark.parametrize("name", BUILTIN_RECIPES)
def test_every_recipe_survives_its_own_spelling(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_a_file_is_read_and_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    recipe = load_recipe(path)
    assert recipe.training.learning_rate == 1e-4
    assert load_recipe(recipe) is recipe


@pytest.mark.parametrize(
    ("wrong", "right", "answer"),
    [
        ("epochs: 4", "epoch: 4", "training: has the unknown key 'epoch' (did you mean 'epochs'?)"),
        (
            "sparsity: 0.8",
            "sparsitty: 0.8",
            "stages[0]: has the unknown key 'sparsitty' (did you mean 'sparsity'?)",
        ),
        ("sparsity: 0.8, ", "", "stages[0]: lacks the key 'sparsity'"),
        ("name: mine", "name: mine\nstage: []", "has the unknown key 'stage' (did you mean 'stages'?)"),
        ("type: pruning", "type: prune", "stages[0]: has the unknown type 'prune' (did you mean 'pruning'?)"),
        ("type: pruning, ", "", "stages[0]: lacks the key 'type'"),
        ("0.8", "80", "stages[0].sparsity: input should be less than 1, but is 80"),
        ("end_epoch: 2", "end_epoch: 0", "line 5: stages[0].end_epoch: 0 must be later than start_epoch 0"),
        (
            "freeze_epoch: 3.5",
            "freeze_epoch: 5",
            "line 6: stages[1].freeze_epoch: 5 lies after the end of the run, epoch 4",
        ),
        (
            "stages:",
            "stages:\n  - {type: quantization, start_epoch: 1, freeze_epoch: 2}",
            "line 7: stages[2]: is one of several stages of the type quantization",
        ),
        (
            "stages:",
            "stages:\n  - {type: distillation, hardness: 0.9, augmentation: 0.5}",
            "line 5: stages[0].augmentation: needs hardness 1",
        ),
        ("1e-4", "fast", "training.learning_rate: input should be a valid number"),
    ],
)
def test_mistakes_are_named_with_their_place(wrong: str, right: str, answer: str) -> None:
    assert wrong in TEXT
    message = refused(TEXT.replace(wrong, right, 1))
    assert message.startswith("The recipe mine.yaml: ")
    assert answer in message


def test_all_mistakes_are_named_at_once() -> None:
    message = refused(TEXT.replace("epochs: 4", "epochs: 4, colour: red").replace("0.8", "-1"))
    assert "2 problems" in message
    assert "'colour' (known keys: epochs, " in message
    assert "stages[0].sparsity" in message


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("name: [", "not valid YAML in line"),
        ("name: a\nname: b", "the key 'name' stands twice"),
        ("- a", "must be a mapping with the keys name, description, student, training, stages"),
        ("", "must be a mapping"),
    ],
)
def test_text_that_is_no_recipe_is_refused(text: str, answer: str) -> None:
    assert answer in refused(text)


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"There is no recipe 'balancd'.*Did you mean 'balanced'"):
        load_recipe("balancd")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "binary.yaml")


def test_a_short_run_is_stretched_as_a_whole() -> None:
    recipe = Recipe.from_yaml(TEXT.replace("epochs: 4", "epochs: 4, batch_size: 10, min_steps: 80"))
    assert recipe.stretched(1000) is recipe
    longer = recipe.stretched(95)  # 10 steps an epoch, 40 in all
    assert longer.training.epochs == 8
    assert longer.stage(PruningStage).end_epoch == 4
    assert longer.stage(QuantizationStage).freeze_epoch == 7
    assert longer.stretched(95) == longer


def test_small_data_may_have_their_own_batches_and_length() -> None:
    text = TEXT.replace("epochs: 4", "epochs: 4, batch_size: 10, min_steps: 80").replace(
        "stages:", "small_data: {batch_size: 5, steps: 60, end_epoch: 1.5}\nstages:"
    )
    small = Recipe.from_yaml(text).stretched(95)  # 19 steps an epoch, 76 in all
    assert small.training.batch_size == 5
    assert small.training.min_steps == 60
    assert small.training.epochs == pytest.approx(4 * 60 / 76, abs=1e-4)
    assert small.stage(PruningStage).end_epoch == pytest.approx(1.5 * 60 / 76, abs=1e-4)
    assert small.stage(QuantizationStage).freeze_epoch == pytest.approx(3.5 * 60 / 76, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("end_epoch: 0", "with it, stages[0].end_epoch: 0 must be later than start_epoch"),
        ("end_epoch: 9", "with it, stages[0].end_epoch: 9 lies after the end of the run"),
    ],
)
def test_small_data_that_make_no_sense_are_refused_at_once(change: str, message: str) -> None:
    text = TEXT.replace("stages:", f"small_data: {{{change}}}\nstages:")
    found = refused(text)
    assert "line 4: small_data: " in found
    assert message in found


def test_small_data_change_the_stretched_recipe_only() -> None:
    text = TEXT.replace("epochs: 4", "epochs: 4, batch_size: 10, min_steps: 80").replace(
        "stages:",
        "small_data: {learning_rate: 1e-3, hidden: 5, augmentation: 0.7, method: lamp}\n"
        "stages:\n  - {type: distillation, temperature: 3}",
    )
    recipe = Recipe.from_yaml(text)
    assert recipe.stretched(1000) is recipe
    small = recipe.stretched(95)
    assert small.small_data is None
    assert small.training.learning_rate == 1e-3
    distillation = small.stage(DistillationStage)
    assert (distillation.hidden, distillation.augmentation, distillation.temperature) == (5, 0.7, 3)
    assert small.stage(PruningStage).method == "lamp"
    assert "(did you mean 'hidden'?)" in refused(text.replace("hidden: 5", "hiden: 5"))
