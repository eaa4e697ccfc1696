"""Turns what pydantic says of a recipe into clauses, and finds what it stops short of."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from secateur.recipe.consistency import inconsistencies
from secateur.recipe.problems import InconsistentError, Location, Problem
from secateur.recipe.pruning_methods import METHODS, option_problems
from secateur.recipe.stages import STAGE_TYPES, PruningStage, Record, SmallData, Stage, TrainingSettings
from secateur.recipe.times import Clock

__all__ = ["find_problems"]

_STAGE: TypeAdapter[Any] = TypeAdapter(Stage)


def find_problems(error: ValidationError, values: dict[Any, Any], recipe: type[BaseModel]) -> list[Problem]:
    """Returns everything that is wrong with a recipe's values.

    pydantic stops at a record that is wrong by itself; what the sound ones say against each other is added,
    so that nobody meets the second half of the mistakes after mending the first.

    Args:
        error: What validation gave.
        values: What was validated.
        recipe: The record that was validated.
    """
    problems = [problem for one in error.errors() for problem in _described(dict(one), recipe)]
    known = {(problem.place, problem.text) for problem in problems}
    for problem in _of_the_sound(values):
        if (problem.place, problem.text) not in known:
            known.add((problem.place, problem.text))
            problems.append(problem)
    return problems


def _of_the_sound(values: dict[Any, Any]) -> list[Problem]:
    """Returns what the records that are right, but for unknown keys, say wrong together."""
    training = None
    with suppress(ValidationError):
        training = TrainingSettings.model_validate(_stripped(values.get("training"), TrainingSettings))
    given = values.get("stages")
    sound: list[tuple[int, Record]] = []
    problems: list[Problem] = []
    for index, stage in enumerate(given if isinstance(given, (list, tuple)) else ()):
        kind = stage.get("type") if isinstance(stage, dict) else None
        if not isinstance(kind, str) or kind not in STAGE_TYPES:
            continue
        try:
            sound.append((index, _STAGE.validate_python(_stripped(stage, STAGE_TYPES[kind]))))
        except ValidationError as error:
            problems += _of_the_options(index, stage)
            for one in error.errors():
                carried = one.get("ctx", {}).get("error")
                if isinstance(carried, InconsistentError):
                    problems += [
                        Problem(("stages", index, *problem.place), problem.text)
                        for problem in carried.problems
                    ]
    clock = Clock(None if training is None else training.epochs)
    return problems + inconsistencies(training, sound, clock)


def _of_the_options(index: int, stage: dict[Any, Any]) -> list[Problem]:
    """Says what is wrong with the method's own keys of a pruning stage that has other faults."""
    method = stage.get("method", PruningStage.model_fields["method"].default)
    if stage["type"] != "pruning" or not isinstance(method, str) or method not in METHODS:
        return []
    shared = list(PruningStage.model_fields)
    own = {str(key): value for key, value in stage.items() if key not in shared}
    return [
        Problem(("stages", index, *problem.place), problem.text, problem.key)
        for problem in option_problems(method, own, shared)
    ]


def _stripped(values: Any, record: type[Record]) -> Any:
    """Returns values without the keys that the record does not know."""
    if not isinstance(values, dict):
        return values
    return {key: value for key, value in values.items() if key in record.model_fields}


def _described(problem: dict[str, Any], recipe: type[BaseModel]) -> list[Problem]:
    """Turns one of pydantic's errors into clauses with their places."""
    place = _without_tags(tuple(problem["loc"]))
    carried = problem.get("ctx", {}).get("error")
    if isinstance(carried, InconsistentError):
        return [Problem((*place, *one.place), one.text, one.key) for one in carried.problems]
    kind = problem["type"]
    if kind in ("extra_forbidden", "invalid_key"):
        key = str(place[-1])
        known = list(_record_at(tuple(problem["loc"])[:-1], recipe).model_fields)
        return [Problem(place[:-1], f"has the unknown key {key!r} ({_hint(key, known, 'keys')})", key)]
    if kind == "missing":
        return [Problem(place[:-1], f"lacks the key {place[-1]!r}")]
    if kind == "union_tag_invalid":
        given = str(problem["ctx"]["tag"])
        return [
            Problem(place, f"has the unknown type {given!r} ({_hint(given, STAGE_TYPES, 'types')})", "type")
        ]
    if kind == "union_tag_not_found":
        return [Problem(place, f"lacks the key 'type'; known types: {', '.join(STAGE_TYPES)}")]
    message = problem["msg"].removeprefix("Value error, ")
    text = f"{message[:1].lower()}{message[1:]}"
    value = problem.get("input")
    if isinstance(value, (str, int, float)):
        text += f", but is {value!r}"
    choices = _choices(problem["ctx"]["expected"]) if kind == "literal_error" else []
    if place and place[-1] == "method":
        choices = list(METHODS)
    if choices and isinstance(value, str):
        near = get_close_matches(value, choices, 1, cutoff=0.5)
        text += f" (did you mean {near[0]!r}?)" if near else ""
    return [Problem(place, text)]


def _hint(word: str, known: Iterable[str], what: str) -> str:
    near = get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known {what}: {', '.join(known)}"


def _choices(expected: str) -> list[str]:
    """Returns the words of pydantic's `'a', 'b' or 'c'`."""
    return expected.split("'")[1::2]


def _without_tags(location: Location) -> Location:
    """Leaves out the stage's type, which pydantic puts after its position and which is no key."""
    if len(location) > 2 and location[0] == "stages" and location[2] in STAGE_TYPES:
        return (*location[:2], *location[3:])
    return location


def _record_at(location: Location, recipe: type[BaseModel]) -> type[BaseModel]:
    records: dict[int | str, type[BaseModel]] = {"training": TrainingSettings, "small_data": SmallData}
    records.update(STAGE_TYPES)
    named = [part for part in location if part in records]
    return records[named[-1]] if named else recipe
