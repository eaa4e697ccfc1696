"""What is wrong with a recipe: clauses, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["InconsistentError", "Location", "Problem", "spelled"]

Location = tuple[int | str, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        place: Keys and positions down to the value, for example `("stages", 0, "sparsity")`.
        text: A clause without a full stop.
        key: The key of that place that the clause is about, where the value has keys.
    """

    place: Location
    text: str
    key: str | None = None

    @property
    def location(self) -> Location:
        """Where the line of the file is to be looked up."""
        return self.place if self.key is None else (*self.place, self.key)

    def __str__(self) -> str:
        place = spelled(self.place)
        return f"{place}: {self.text}" if place else self.text


class InconsistentError(ValueError):
    """Carries several problems through pydantic, which knows one for each validator.

    Args:
        problems: At least one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def spelled(place: Location) -> str:
    """Spells a place as the author of the YAML sees it: `stages[0].sparsity`."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text
