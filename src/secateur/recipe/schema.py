"""The JSON Schema of a recipe, for editors that complete and check YAML."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

from secateur.recipe.pruning_methods import METHODS
from secateur.recipe.recipe import Recipe
from secateur.recipe.stages import STAGE_TYPES, Record, SmallData, TrainingSettings

__all__ = ["recipe_schema", "recipe_schema_text"]


def recipe_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a recipe; what a key means comes from the docstring of its record."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Secateur recipe"
    _describe_(schema, Recipe)
    records: list[type[Record]] = [TrainingSettings, SmallData, *STAGE_TYPES.values()]
    for record in records:
        _describe_(schema["$defs"][record.__name__], record)
    _add_methods_(schema["$defs"]["PruningStage"])
    return dict(_plain(schema))


def recipe_schema_text() -> str:
    """Returns the JSON Schema as text, keys in a fixed order."""
    return json.dumps(recipe_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _add_methods_(schema: dict[str, Any]) -> None:
    """Adds the options of all methods to the schema of the pruning stage, and says which goes with which."""
    schema["additionalProperties"] = False
    # A list of steps has its own times, N:M its own sparsity; the parser says which is missing.
    schema["required"] = ["type"]
    rules = []
    for method, record in METHODS.items():
        own = record.model_json_schema()
        if record.model_fields:
            _describe_(own, record)
        for key, values in own["properties"].items() if record.model_fields else ():
            text = f"Of {method}: {values.pop('description')}"
            known = schema["properties"].get(key)
            if known is None:
                schema["properties"][key] = {**values, "description": text}
            else:
                known["description"] += f" {text}"
        others = {key for other in METHODS.values() for key in other.model_fields} - set(record.model_fields)
        rules.append(
            {
                "if": {"properties": {"method": {"const": method}}, "required": ["method"]},
                "then": {"properties": dict.fromkeys(sorted(others), False)},
            }
        )
    schema["allOf"] = rules


def _plain(schema: Any) -> Any:
    """Evens out what versions of pydantic write differently: choices within choices, constants as lists."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items()}
    if isinstance(plain.get("anyOf"), list):
        choices = (one["anyOf"] if set(one) == {"anyOf"} else [one] for one in plain["anyOf"])
        plain["anyOf"] = [choice for group in choices for choice in group]
    if "const" in plain:
        plain.pop("enum", None)
    return plain


def _describe_(schema: dict[str, Any], record: type[Record]) -> None:
    summary, attributes = described_keys(record)
    schema["description"] = summary
    for key, values in schema["properties"].items():
        values.pop("title", None)
        values["description"] = attributes[key].replace("None", "null")


def described_keys(record: type[Record]) -> tuple[str, dict[str, str]]:
    """Returns what a record and each of its keys mean, from its docstring.

    Args:
        record: A record whose docstring has a section `Attributes:`.
    """
    head, _, tail = inspect.cleandoc(record.__doc__ or "").partition("\nAttributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", tail, flags=re.MULTILINE)
    return " ".join(head.split()), {key: " ".join(text.split()) for key, text in found}
