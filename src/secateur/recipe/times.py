"""Times of a recipe: epochs, optimizer steps or a part of the run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

__all__ = ["Clock", "Time", "counts_steps", "shown", "stretched_time"]

_SPELLING = re.compile(r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*(epochs?|steps?|%)?")


def _read(value: Any) -> float | str:
    """Returns epochs as a number, steps as `500 steps`, a part of the run as `30 %`."""
    wrong = ValueError("is no time: write 2.5 for epochs, '500 steps', or '30 %' of the run")
    if isinstance(value, bool):
        raise wrong
    if isinstance(value, (int, float)):
        if not math.isfinite(value) or value < 0:
            raise ValueError("a time must be a number of at least 0")
        return float(value)
    match = _SPELLING.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise wrong
    number, unit = float(match[1]), match[2] or "epochs"
    if not math.isfinite(number):
        raise wrong
    if unit.startswith("epoch"):
        return number
    if unit == "%":
        if number > 100:
            raise ValueError("a part of the run is 0 to 100 %")
        return f"{number:.10g} %"
    if not number.is_integer():
        raise ValueError("steps are whole numbers")
    return f"{int(number)} steps"


class _TimeSchema:
    """Says in JSON Schema what `_read` takes; anew for each key, because pydantic writes defaults into it."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        word = r"^\s*[0-9.]+([eE][+-]?[0-9]+)?\s*(epochs?|steps?|%)?\s*$"
        return {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": word}]}


Time = Annotated[float | str, BeforeValidator(_read), _TimeSchema()]


@dataclass(frozen=True)
class Clock:
    """Says when a time is, as far as the length of the run and of its epochs is known.

    Attributes:
        epochs: Length of the run; None where it is not known.
        steps_per_epoch: Optimizer steps an epoch; None where the data are not known yet.
        total_steps: Length of the run in optimizer steps; None as before.
    """

    epochs: float | None = None
    steps_per_epoch: int | None = None
    total_steps: int | None = None

    def epoch(self, time: float | str) -> float | None:
        """Returns a time in epochs, or None where that takes what is not known."""
        number, unit = _parts(time)
        if unit == "epochs":
            return number
        if unit == "%":
            return None if self.epochs is None else number / 100 * self.epochs
        return None if self.steps_per_epoch is None else number / self.steps_per_epoch

    def step(self, time: float | str) -> int:
        """Returns a time in optimizer steps, not past the end of the run.

        Args:
            time: A time.

        Raises:
            ValueError: The clock does not know the run's steps.
        """
        if self.steps_per_epoch is None or self.total_steps is None:
            raise ValueError("The clock knows no steps.")
        number, unit = _parts(time)
        if unit == "steps":
            exact = number
        else:
            exact = number * self.steps_per_epoch if unit == "epochs" else number / 100 * self.total_steps
        return min(round(exact), self.total_steps)

    def order(self, time: float | str, other: float | str) -> int | None:
        """Returns -1, 0 or 1 as a time is before, at or after another; None where nobody can know yet."""
        (number, unit), (bound, other_unit) = _parts(time), _parts(other)
        if unit != other_unit:
            epoch, bound_epoch = self.epoch(time), self.epoch(other)
            if epoch is None or bound_epoch is None:
                return None
            number, bound = epoch, bound_epoch
        if abs(number - bound) < 1e-6:
            return 0
        return 1 if number > bound else -1

    def is_later(self, time: float | str, other: float | str) -> bool:
        """Says whether a time certainly comes after another."""
        return self.order(time, other) == 1

    def is_after_end(self, time: float | str) -> bool:
        """Says whether a time certainly comes after the end of the run."""
        epoch = self.epoch(time)
        return self.epochs is not None and epoch is not None and epoch > self.epochs + 1e-6


def counts_steps(time: float | str | None) -> bool:
    """Says whether a time is spelled in steps, so that only the data tell when it is."""
    return time is not None and _parts(time)[1] == "steps"


def shown(time: float | str) -> str:
    """Spells a time for a message, as one writes it in a recipe."""
    return time if isinstance(time, str) else f"{time:g}"


def stretched_time(time: float | str, factor: float) -> float | str:
    """Returns a time in a run that was made longer: epochs grow, steps and parts of the run stay as said."""
    return time if isinstance(time, str) else round(time * factor, 4)


def _parts(time: float | str) -> tuple[float, str]:
    if isinstance(time, str):
        number, unit = time.split()
        return float(number), unit
    return time, "epochs"
