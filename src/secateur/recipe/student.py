"""The record of a recipe that says how small its student is."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from secateur.recipe.problems import InconsistentError, Problem
from secateur.recipe.stages import Record

__all__ = ["StudentShape"]

_Size = Annotated[int, Field(ge=1)]


def _ascending(layers: int | str | tuple[int, ...]) -> int | str | tuple[int, ...]:
    if isinstance(layers, tuple):
        if not layers:
            raise ValueError("names no layer")
        if any(later <= earlier for earlier, later in pairwise(layers)):
            raise ValueError("must name layers in ascending order, each once")
    return layers


class StudentShape(Record):
    """A student that is smaller than its model before anything is pruned; what is None stays as it is.

    Attributes:
        layers: How many encoder layers are kept, spread from the first to the last; `half`; or their numbers
            from 0.
        hidden_size: Width of the hidden states, a multiple of four times `heads`.
        intermediate_size: Neurons of each feed-forward part.
        heads: Attention heads of each layer.
        weights: `teacher` cuts the student's weights out of the model's, `random` starts afresh.
    """

    layers: (
        Annotated[
            _Size | Literal["half"] | tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(_ascending)
        ]
        | None
    ) = None
    hidden_size: _Size | None = None
    intermediate_size: _Size | None = None
    heads: _Size | None = None
    weights: Literal["teacher", "random"] = "teacher"

    @model_validator(mode="after")
    def _smaller(self) -> StudentShape:
        sizes = (self.layers, self.hidden_size, self.intermediate_size, self.heads)
        if all(size is None for size in sizes):
            text = "makes no student: give layers, hidden_size, intermediate_size or heads"
            raise InconsistentError([Problem((), text)])
        if self.hidden_size and self.heads and self.hidden_size % (4 * self.heads):
            text = f"{self.hidden_size} is no multiple of four times the {self.heads} heads"
            raise InconsistentError([Problem(("hidden_size",), text)])
        return self
