"""Groups of parameters that a recipe leaves as they are for a while."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from secateur.errors import RecipeError
from secateur.modeling.structure import find_blocks
from secateur.quantization.qat import find_embeddings
from secateur.recipe.recipe import FreezingStage, Recipe

__all__ = ["Freezer", "find_group"]


class Freezer:
    """Freezes and releases the groups of a recipe's freezing stages.

    A frozen parameter asks for no gradient and has none, so an optimizer passes it over: neither its moments
    nor weight decay move it. What is frozen from the first step to the last is frozen here already, before
    an optimizer is made.

    Args:
        recipe: The recipe.
        model: A live model of a supported family.

    Raises:
        RecipeError: The model has no such group.
    """

    def __init__(self, recipe: Recipe, model: nn.Module) -> None:
        stages = recipe.stages_of(FreezingStage)
        # What asks for no gradient today was frozen by somebody else, and is not ours to release.
        self._groups = {
            name: [one for one in find_group(model, name) if one.requires_grad]
            for stage in stages
            for name in stage.groups
        }
        self._frozen: frozenset[str] = frozenset()
        self.freeze_(
            name
            for stage in stages
            if stage.start_epoch == 0.0 and stage.end_epoch is None
            for name in stage.groups
        )

    def freeze_(self, groups: Iterable[str]) -> None:
        """Freezes these groups and releases the others.

        Args:
            groups: Names from the recipe.
        """
        wanted = frozenset(groups)
        if wanted == self._frozen:
            return
        kept = {id(parameter) for name in wanted for parameter in self._groups[name]}
        for parameters in self._groups.values():
            for parameter in parameters:
                parameter.requires_grad_(id(parameter) not in kept)
                if id(parameter) in kept:
                    parameter.grad = None
        self._frozen = wanted


def find_group(model: nn.Module, name: str) -> list[nn.Parameter]:
    """Returns the parameters of a group.

    Args:
        model: A live model of a supported family.
        name: `embeddings`, `layers`, `layers.3`, `layers.0-3` or `head`, as in `FreezingStage`.

    Raises:
        RecipeError: The model has no such group.
    """
    tables = [table.weight for table in find_embeddings(model).values()]
    if name == "embeddings":
        return tables
    layers = [list(model.get_submodule(block.prefix).parameters()) for block in find_blocks(model)]
    if name == "head":
        # Norms and biases of the embeddings stand before the first layer in every family.
        order = [id(parameter) for parameter in model.parameters()]
        last = max(order.index(id(parameter)) for parameter in layers[-1])
        inner = {id(parameter) for layer in layers for parameter in layer} | {id(table) for table in tables}
        found = [one for one in list(model.parameters())[last + 1 :] if id(one) not in inner]
    else:
        numbers = [int(number) for number in re.findall(r"\d+", name)]
        first, end = (numbers[0], numbers[-1] + 1) if numbers else (0, len(layers))
        if end > len(layers):
            raise RecipeError(
                f"The recipe freezes {name!r}, but the model has only the layers 0 to {len(layers) - 1}."
            )
        found = [parameter for layer in layers[first:end] for parameter in layer]
    if not found:
        raise RecipeError(f"The recipe freezes {name!r}, but the model has no parameters there.")
    return found
