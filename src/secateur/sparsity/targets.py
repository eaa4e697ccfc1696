"""What is pruned: the matrices of the encoder, the pooler, the word table."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from secateur.checkpoint.families import FAMILIES
from secateur.checkpoint.names import embedding_names
from secateur.errors import StructureError, UnsupportedError
from secateur.modeling.structure import Projection, find_architecture, find_module, find_projections

__all__ = ["TARGETS", "TableTarget", "find_targets"]

TARGETS = ("encoder", "pooler", "embeddings")


class TableTarget(Projection):
    """An embedding table in the place of a projection: [V, H], one row a word."""

    @property
    def in_features(self) -> int:
        """Width of a row (H)."""
        return int(self.linear.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Number of rows (V)."""
        return int(self.linear.weight.shape[0])


def find_targets(model: nn.Module, names: Sequence[str] = ("encoder",)) -> list[Projection]:
    """Finds the matrices that are pruned.

    Args:
        model: A live model of a supported family.
        names: `encoder` (the six linear layers of every encoder layer), `pooler` (the linear layer between
            encoder and classifier), `embeddings` (the word table).

    Returns:
        The encoder's in order, then the others.

    Raises:
        StructureError: The model has no such part, or its word table is tied to its output layer.
        UnsupportedError: The family is not supported.
    """
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        raise StructureError(f"The target {unknown[0]!r} is not known; allowed: {', '.join(TARGETS)}.")
    found = list(find_projections(model)) if "encoder" in names else []
    if "pooler" in names:
        found.append(_pooler(model))
    if "embeddings" in names:
        found.append(_word_table(model))
    return found


def _pooler(model: nn.Module) -> Projection:
    family = FAMILIES[_family(model)]
    ending = (find_architecture(model) or type(model).__name__).removeprefix(family.class_name)
    name = family.heads[ending].dense if ending in family.heads else None
    module = None if name is None else find_module(model, name)
    if name is None or not isinstance(module, nn.Linear):
        raise StructureError(
            f"{type(model).__name__} has no linear layer between encoder and classifier to prune: leave the "
            "target 'pooler' out."
        )
    return Projection(module, slice(0, module.out_features), name)


def _word_table(model: nn.Module) -> Projection:
    name = embedding_names(_family(model)).word
    module = find_module(model, name)
    if not isinstance(module, nn.Embedding):
        raise StructureError(f"{name} is {type(module).__name__}, expected nn.Embedding.")
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if output is not None and output.weight is module.weight:
        raise StructureError(
            f"The word table of {type(model).__name__} is also the weight of its output layer, which a mask "
            "would not reach: leave the target 'embeddings' out."
        )
    return TableTarget(module, slice(0, module.num_embeddings), name)


def _family(model: nn.Module) -> str:
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in FAMILIES:
        raise UnsupportedError(f"Models of the type {kind} are not supported.")
    return str(kind)
