"""Takes whole encoder layers out of a live model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from secateur.errors import StructureError, UnsupportedError
from secateur.modeling.structure import find_blocks

__all__ = ["half_depth_layers", "keep_layers_", "num_passes", "spread_layers"]


def spread_layers(num_layers: int, kept: int) -> list[int]:
    """Returns layers to keep, spread from the first to the last; of one, the first.

    Args:
        num_layers: Of the whole model.
        kept: How many to keep.

    Raises:
        UnsupportedError: The model has not so many.
    """
    if not 1 <= kept <= num_layers:
        raise UnsupportedError(
            f"The model has {num_layers} layers, of which {kept} cannot be kept: give 1 to {num_layers}."
        )
    if kept == 1:
        return [0]
    return [round(index * (num_layers - 1) / (kept - 1)) for index in range(kept)]


def half_depth_layers(num_layers: int) -> list[int]:
    """Returns every second layer, spread from the first to the last.

    Of 12 layers these are 0, 2, 4, 7, 9, 11, of 6 they are 0, 2, 5.

    Args:
        num_layers: Of the whole model.

    Raises:
        UnsupportedError: There is only one layer.

    Source: the layers that the authors of DistilBERT took from BERT (Sanh et al. 2019, section 3, and their
        published script).
    """
    kept = num_layers // 2
    if kept < 1:
        raise UnsupportedError(f"A model with {num_layers} layer has no half: give one with two or more.")
    return spread_layers(num_layers, kept)


def keep_layers_(model: nn.Module, layers: Sequence[int]) -> None:
    """Takes all encoder layers but some out of a model, and says so in its config.

    The kept layers are the same modules as before, in the order given by their numbers; embeddings and head
    stay. In a model that shares its layers (ALBERT), a layer is one pass through a group: the number of
    passes changes, and a group that is used no more is taken out.

    Args:
        model: A live model of a supported family, with or without a task head. It is left as it was where
            an error is raised.
        layers: Numbers of the layers to keep, ascending, counted from 0.

    Raises:
        UnsupportedError: The family is not supported, or a model with several groups of shared layers cannot
            be written with these layers alone.
        StructureError: No layers, numbers twice, out of order or out of range.
    """
    blocks = find_blocks(model)
    grouped = getattr(model.config, "num_hidden_groups", None) is not None
    num_layers = num_passes(model)
    kept = list(layers)
    if not kept or sorted(set(kept)) != kept or not 0 <= kept[0] <= kept[-1] < num_layers:
        raise StructureError(
            f"The layers to keep are {kept}: give ascending numbers from 0 to {num_layers - 1}, "
            f"each once, at least one."
        )
    if grouped:
        _keep_groups_(model, kept, num_layers)
    else:
        _keep_modules_(model, kept, blocks[0].prefix.rpartition(".")[0])
    for config in _configs(model):
        config.num_hidden_layers = len(kept)  # DistilBERT's config knows it as another name of n_layers


def num_passes(model: nn.Module) -> int:
    """Returns how many layers can be kept: those of the encoder, or passes through a group of shared ones."""
    grouped = getattr(model.config, "num_hidden_groups", None) is not None
    return int(model.config.num_hidden_layers) if grouped else len(find_blocks(model))


def _keep_modules_(model: nn.Module, kept: Sequence[int], path: str) -> None:
    owner_path, _, name = path.rpartition(".")
    owner = model.get_submodule(owner_path)
    layers = nn.ModuleList(owner.get_submodule(name)[index] for index in kept)
    setattr(owner, name, layers.train(owner.training))
    if hasattr(owner, "n_layers"):
        owner.n_layers = len(kept)
    for place, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = place
    for config in _configs(model):
        pruned = getattr(config, "pruned_heads", None)
        if pruned:
            heads = {int(layer): found for layer, found in pruned.items()}
            config.pruned_heads = {
                place: heads[index] for place, index in enumerate(kept) if heads.get(index)
            }


def _keep_groups_(model: nn.Module, kept: Sequence[int], num_layers: int) -> None:
    """Layer i is a pass through group i * groups // layers; the kept ones have to read so again."""
    config = model.config
    group_of = [index * config.num_hidden_groups // num_layers for index in kept]
    groups = sorted(set(group_of))
    if [groups[place * len(groups) // len(kept)] for place in range(len(kept))] != group_of:
        raise UnsupportedError(
            f"The kept layers would use the groups {group_of} of this {config.model_type} model, which its "
            f"config cannot say: keep as many layers of each group."
        )
    lists = [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if name == "albert_layer_groups" and isinstance(child, nn.ModuleList)
    ]
    if len(lists) != 1:
        raise StructureError(f"Expected one list 'albert_layer_groups' in the model, found {len(lists)}.")
    owner, name = lists[0]
    chosen = nn.ModuleList(owner.get_submodule(name)[group] for group in groups)
    setattr(owner, name, chosen.train(owner.training))
    for config in _configs(model):
        config.num_hidden_groups = len(groups)


def _configs(model: nn.Module) -> list[Any]:
    """Returns every config object that some part of the model reads; usually it is one."""
    model_type = model.config.model_type
    found: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "model_type", None) == model_type:
            found[id(config)] = config
    return list(found.values())
