"""What all records of a recipe share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from secateur.recipe.problems import InconsistentError, Problem
from secateur.recipe.times import Clock, Time, shown

__all__ = ["Duration", "Fraction", "Record", "StageRecord"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


def _some(time: float | str) -> float | str:
    if time == 0 or (isinstance(time, str) and float(time.split()[0]) == 0):
        raise ValueError("must be more than 0")
    return time


Duration = Annotated[Time, AfterValidator(_some)]


class Record(BaseModel):
    """What all records share: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StageRecord(Record):
    """What all stages share: what ends ends after its start."""

    @model_validator(mode="after")
    def _ordered(self) -> Any:
        problems = self.order_problems(Clock())
        if problems:
            raise InconsistentError(problems)
        return self

    def order_problems(self, clock: Clock) -> list[Problem]:
        """Says what within the stage stands in an impossible order, as far as the clock knows.

        Args:
            clock: Without numbers it compares only times of the same unit.

        Returns:
            Problems whose places are relative to the stage.
        """
        problems = []
        start = getattr(self, "start_epoch", 0.0)
        for key in ("end_epoch", "freeze_epoch"):
            time = getattr(self, key, None)
            if time is not None and clock.order(time, start) in (-1, 0):
                text = f"{shown(time)} must be later than start_epoch {shown(start)}"
                problems.append(Problem((key,), text))
        return problems
