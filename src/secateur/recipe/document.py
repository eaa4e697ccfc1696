"""A YAML text as plain values that remember the lines they stand in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from secateur.errors import RecipeError
from secateur.recipe.problems import Location, Problem

__all__ = ["Document"]

_MOST_PLACES = 10_000


@dataclass(frozen=True)
class Document:
    """What a YAML text says.

    Attributes:
        values: Mappings, lists and scalars.
        lines: Line of each place, from 1.
        problems: Keys that stand twice; plain YAML keeps the last without a word.
    """

    values: Any
    lines: dict[Location, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @classmethod
    def parse(cls, text: str, source: str) -> Document:
        """Reads YAML.

        Args:
            text: The text.
            source: Where it came from, for messages.

        Raises:
            RecipeError: It is no YAML.
        """
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            values = None if node is None else loader.construct_document(node)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f" in line {mark.line + 1}" if mark is not None else ""
            problem = getattr(error, "problem", None) or "not readable"
            raise RecipeError(f"{source} is not valid YAML{where}: {problem}.") from error
        finally:
            loader.dispose()
        lines: dict[Location, int] = {}
        problems: list[Problem] = []
        _walk(node, (), lines, problems, frozenset())
        return cls(values, lines, tuple(problems))

    def line(self, location: Location) -> int | None:
        """Returns the line of a place, or of what it would stand in."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location)

    def described(self, problem: Problem) -> str:
        """Spells a problem with its line."""
        line = self.line(problem.location)
        return str(problem) if line is None else f"line {line}: {problem}"


def _walk(
    node: yaml.Node | None,
    place: Location,
    lines: dict[Location, int],
    problems: list[Problem],
    above: frozenset[int],
) -> None:
    # An anchor may hold itself, and a few of them can stand for millions of places.
    if node is None or id(node) in above or len(lines) >= _MOST_PLACES:
        return
    above = above | {id(node)}
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*place, index), lines, problems, above)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                problems.append(Problem(place, f"the key {name!r} stands twice", name))
            seen[name] = line
            inner: Location = (*place, name)
            lines[inner] = line
            _walk(value, inner, lines, problems, above)
