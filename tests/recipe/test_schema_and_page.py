"""The JSON Schema and the recipe page say what the parser reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from secateur.recipe import BUILTIN_RECIPES, Recipe, load_recipe
from secateur.recipe.pruning_methods import METHODS
from secateur.recipe.schema import described_keys, recipe_schema, recipe_schema_text
from secateur.recipe.stages import STAGE_TYPES, SmallData, TrainingSettings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
OPTIONS = {key for record in METHODS.values() for key in record.model_fields}
RECORDS = [TrainingSettings, SmallData, *STAGE_TYPES.values()]


def test_the_committed_schema_is_the_parsers() -> None:
    """`secateur recipe schema > docs/recipe.schema.json` mends it."""
    assert (DOCS / "recipe.schema.json").read_text(encoding="utf-8") == recipe_schema_text()


@pytest.mark.parametrize("record", [Recipe, *RECORDS, *METHODS.values()])
def test_every_key_is_described_where_it_is_defined(record: Any) -> None:
    summary, attributes = described_keys(record)
    assert summary
    assert list(attributes) == list(record.model_fields)


def test_the_schema_knows_every_stage() -> None:
    schema = json.loads(recipe_schema_text())
    tags = schema["properties"]["stages"]["items"]["discriminator"]["mapping"]
    assert set(tags) == set(STAGE_TYPES)
    assert schema["additionalProperties"] is False
    assert recipe_schema()["$defs"]["PruningStage"]["properties"]["sparsity"]["exclusiveMaximum"] == 1.0


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_every_example_of_the_page_is_a_recipe(block: str) -> None:
    recipe = Recipe.from_yaml(block)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_the_page_has_the_whole_vocabulary() -> None:
    assert len(BLOCKS) >= 5
    used: dict[str, set[str]] = {}
    for block in BLOCKS:
        recipe = Recipe.from_yaml(block)
        for record in (recipe, recipe.training, recipe.small_data, *recipe.stages):
            if record is not None:
                used.setdefault(type(record).__name__, set()).update(record.model_fields_set)
    for record in (Recipe, *RECORDS):
        assert used[record.__name__] - OPTIONS == set(record.model_fields), record.__name__
        for field in record.model_fields.values():
            for word in get_args(field.annotation):
                if isinstance(word, str):
                    assert word in PAGE


@pytest.mark.parametrize("method", METHODS)
def test_the_page_has_every_method_with_its_keys(method: str) -> None:
    *_, row = (line for line in PAGE.splitlines() if line.startswith(f"| `{method}` |"))
    for key, field in METHODS[method].model_fields.items():
        assert f"`{key}" in row
        default = re.search(rf"`{key}: ([^`]+)`", row)
        if default is not None:
            assert default[1].lower() == str(field.default).lower() or float(default[1]) == field.default


def test_the_page_shows_balanced_as_it_is() -> None:
    first = Recipe.from_yaml(BLOCKS[0])
    balanced = load_recipe("balanced")
    assert "balanced" in BUILTIN_RECIPES
    assert first.model_copy(update={"name": balanced.name, "description": balanced.description}) == balanced


def test_what_the_page_says_of_a_wrong_recipe_is_what_is_said() -> None:
    from secateur.errors import RecipeError

    text = (
        "name: wrong\ntraining:\n  epochs: 10\n  learning_rate: 1e-4\nstages:\n"
        "  - {type: pruning, sparsitty: 0.8, start_epoch: 0, end_epoch: 2}\n"
        "  - {type: quantization, start_epoch: 3, freeze_epoch: 12}\n"
    )
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(text, "The recipe wrong.yaml")
    assert f"secateur: {caught.value}\n" in PAGE
