"""The options of each pruning method, with the defaults of its authors. Pure, without PyTorch.

A method's keys stand directly in its pruning stage. To add a method: a record here whose docstring says what
each key means, a line in `METHODS`, and a class of the same name in `secateur.sparsity.PRUNERS`, which takes
the keys as keyword arguments.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from secateur.recipe.problems import Problem
from secateur.recipe.record import Record
from secateur.recipe.times import Time

__all__ = [
    "METHODS",
    "LampOptions",
    "LotteryTicketOptions",
    "MagnitudeOptions",
    "MethodOptions",
    "MovementOptions",
    "ObertOptions",
    "RandomOptions",
    "SoftMovementOptions",
    "SparseGptOptions",
    "TaylorOptions",
    "WandaOptions",
    "option_problems",
    "owners_of",
]


class MethodOptions(Record):
    """What a method has beside the keys that all pruning stages share.

    Attributes of the class:
        ranking: Where a method's blocks are ranked when the recipe does not say: `global` or `matrix`.
        learns: Whether it learns scores in the run, so that it knows nothing at the start.
        encoder_only: Whether it judges no matrices but the encoder's, by their gradients or inputs.
    """

    ranking: ClassVar[Literal["global", "matrix", "row"]] = "global"
    learns: ClassVar[bool] = False
    encoder_only: ClassVar[bool] = False

    def keywords(self) -> dict[str, Any]:
        """Returns what the method's class is made with; times are the plan's."""
        return {key: value for key, value in self.model_dump().items() if not key.endswith("_epoch")}


class MagnitudeOptions(MethodOptions):
    """Magnitude: small weights go. It has no options."""


class LampOptions(MethodOptions):
    """LAMP: weights go that are small beside the rest of their own matrix. It has no options."""


class RandomOptions(MethodOptions):
    """Random: a control for the other methods.

    Attributes:
        seed: Of the random numbers.
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class LotteryTicketOptions(MethodOptions):
    """Lottery ticket: small weights go, and what stays is set back to what it was early in the run.

    Attributes:
        rewind_epoch: When the early weights are taken, not after the first update; 0 is what the run starts
            with.
    """

    rewind_epoch: Time = 0.0


class MovementOptions(MethodOptions):
    """Movement, hard: weights go that training moves towards zero.

    Attributes:
        score_learning_rate: Peak learning rate of the scores.
    """

    ranking: ClassVar[Literal["global", "matrix", "row"]] = "matrix"
    learns: ClassVar[bool] = True
    score_learning_rate: Annotated[float, Field(gt=0.0)] = 1.0e-2


class SoftMovementOptions(MethodOptions):
    """Movement, soft: as movement, with one threshold for all matrices and scores held down by an L1 term.

    Attributes:
        score_learning_rate: Peak learning rate of the scores.
        regularization: Weight of the mean sigmoid of the scores in the loss once the last update has come;
            before, it grows with the sparsity.
        threshold: `auto` finds at every update the threshold that gives the sparsity of the schedule. A
            number is the authors' form: the threshold on the sigmoid of the scores at the end, 0.1 with them,
            to which it grows as the schedule does; the sparsity then is what `regularization` makes of it.
    """

    learns: ClassVar[bool] = True
    score_learning_rate: Annotated[float, Field(gt=0.0)] = 1.0e-2
    regularization: Annotated[float, Field(ge=0.0)] = 400.0
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] | Literal["auto"] = "auto"


class WandaOptions(MethodOptions):
    """Wanda: weights go that are small and whose input is, on calibration batches; no labels are needed.

    Attributes:
        refit: Sets the weights that stay so that each matrix gives about what it gave before.
        damp: Holds that back: share of the mean square of the inputs that is added to each.
    """

    encoder_only: ClassVar[bool] = True
    ranking: ClassVar[Literal["global", "matrix", "row"]] = "row"
    refit: bool = False
    damp: Annotated[float, Field(ge=0.0)] = 0.01


class SparseGptOptions(MethodOptions):
    """SparseGPT: weights go that a matrix's outputs can spare on calibration batches; others make up for it.

    Attributes:
        damp: Share of the mean square of the inputs that is added to each.
        columns: Columns whose masks are chosen together.
        refit: Afterwards sets the weights that stay so that each matrix gives about what it gave before.
    """

    encoder_only: ClassVar[bool] = True
    ranking: ClassVar[Literal["global", "matrix", "row"]] = "matrix"
    damp: Annotated[float, Field(ge=0.0)] = 0.01
    columns: Annotated[int, Field(gt=0)] = 128
    refit: bool = False


class ObertOptions(MethodOptions):
    """oBERT: weights go that the loss misses least by its curvature; what stays makes up for them.

    Attributes:
        num_grads: Mini-batch gradients that the curvature is estimated from, anew at every update.
        damp: Added to the curvature. `auto` tries five values around the mean square of the gradients and
            takes the one with the lowest held-out loss after pruning.
        fisher_block_size: Weights whose influence on each other counts; a multiple of the pattern's. None
            takes 50 for single weights and about as many for others, 32 for block4.
        recomputations: Into how many parts every update is cut, each with gradients of its own.
        max_memory_gb: Memory for it, in 10^9 bytes; with less, the gradients are computed several times.
    """

    encoder_only: ClassVar[bool] = True
    num_grads: Annotated[int, Field(ge=1)] = 1024
    damp: Annotated[float, Field(gt=0.0)] | Literal["auto"] = 1.0e-7
    fisher_block_size: Annotated[int, Field(ge=1)] | None = None
    recomputations: Annotated[int, Field(ge=1)] = 1
    max_memory_gb: Annotated[float, Field(gt=0.0)] = 4.0


class TaylorOptions(MethodOptions):
    """First-order Taylor: weights go whose product with their gradient is small.

    Attributes:
        num_grads: Mini-batch gradients, anew at every update.
    """

    encoder_only: ClassVar[bool] = True
    num_grads: Annotated[int, Field(ge=1)] = 64


METHODS: dict[str, type[MethodOptions]] = {
    "lamp": LampOptions,
    "lottery-ticket": LotteryTicketOptions,
    "magnitude": MagnitudeOptions,
    "movement": MovementOptions,
    "obert": ObertOptions,
    "random": RandomOptions,
    "soft-movement": SoftMovementOptions,
    "sparsegpt": SparseGptOptions,
    "wanda": WandaOptions,
    "taylor": TaylorOptions,
}


def owners_of(key: str) -> list[str]:
    """Returns the methods that have an option of this name."""
    return [method for method, record in METHODS.items() if key in record.model_fields]


def option_problems(method: str, options: dict[str, Any], shared: list[str]) -> list[Problem]:
    """Says what is wrong with the options of a pruning stage.

    Args:
        method: A key of `METHODS`.
        options: The stage's keys that not all pruning stages have, with their values.
        shared: The keys that all pruning stages have, for naming the nearest one.

    Returns:
        Problems whose places are relative to the stage.
    """
    record = METHODS[method]
    own = list(record.model_fields)
    problems = []
    for key in options:
        if key in own:
            continue
        owners = owners_of(key)
        if owners:
            text = f"has the key {key!r} of {' and '.join(owners)}, but the method is {method}"
        else:
            near = get_close_matches(key, [*own, *shared], 1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join([*shared, *own])}"
            text = f"has the unknown key {key!r} ({hint})"
        problems.append(Problem((), text, key))
    try:
        record.model_validate({key: value for key, value in options.items() if key in own})
    except ValidationError as error:
        found: dict[str, list[dict[str, Any]]] = {}
        for one in error.errors():
            found.setdefault(str(one["loc"][0]), []).append(dict(one))
        for key, several in found.items():
            clauses = [one["msg"].removeprefix("Value error, ") for one in several]
            text = " or ".join(f"{clause[:1].lower()}{clause[1:]}" for clause in dict.fromkeys(clauses))
            problems.append(Problem((key,), f"{text}, but is {options[key]!r}"))
    return problems
