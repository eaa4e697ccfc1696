"""The pattern lock: a sparse model keeps its zeros."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from secateur.sparsity.mask import attach_mask_, find_mask, remove_mask_, sparsity_of
from secateur.sparsity.targets import find_targets

__all__ = ["SPARSE", "lock_zeros_", "unlock_", "unlocked_sparsity"]

SPARSE = 0.1  # zeros of a model that was pruned; a dense one that was in int8 has up to a few percent


def lock_zeros_(model: nn.Module, targets: Sequence[str] = ("encoder",)) -> float:
    """Masks every weight that is 0 now, so that it stays 0 through training, saving and resuming.

    Masks that are there already stay as they are.

    Args:
        model: A live model of a supported family, its weights loaded.
        targets: Where, see `find_targets`.

    Returns:
        Fraction of zeros that are kept.

    Source:
        "Pattern lock" of Zafrir et al., "Prune once for all: sparse pre-trained language models" (2021),
        section 3.2.
    """
    modules = [target.linear for target in find_targets(model, targets)]
    for module in modules:
        if find_mask(module) is None:
            attach_mask_(module, module.weight.detach() != 0)
    return sparsity_of(modules)


def unlock_(model: nn.Module, targets: Sequence[str] = ("encoder",)) -> None:
    """Takes the masks off; the zeros stay in the plain weights until somebody trains them.

    Args:
        model: A live model of a supported family.
        targets: Where, see `find_targets`.
    """
    for target in find_targets(model, targets):
        remove_mask_(target.linear)


def unlocked_sparsity(model: nn.Module) -> float:
    """Returns the fraction of zeros among the encoder's weights that no mask keeps; 0 where all have masks.

    Args:
        model: A live model of a supported family.
    """
    free = [target.linear for target in find_targets(model) if find_mask(target.linear) is None]
    return sparsity_of(free) if free else 0.0
