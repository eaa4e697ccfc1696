"""Masks, schedules and pruning methods."""

from secateur.pattern import Pattern
from secateur.schedule import cubic_sparsity, linear_sparsity, scheduled_sparsity
from secateur.sparsity.lamp import LampPruner
from secateur.sparsity.magnitude import MagnitudePruner
from secateur.sparsity.mask import MaskParametrization, attach_mask_, find_mask, sparsity_of
from secateur.sparsity.obert import ObertPruner
from secateur.sparsity.pruner import Pruner
from secateur.sparsity.sparsegpt import SparseGptPruner
from secateur.sparsity.taylor import TaylorPruner
from secateur.sparsity.wanda import WandaPruner

__all__ = [
    "PRUNERS",
    "LampPruner",
    "MagnitudePruner",
    "MaskParametrization",
    "ObertPruner",
    "Pattern",
    "Pruner",
    "SparseGptPruner",
    "TaylorPruner",
    "WandaPruner",
    "attach_mask_",
    "cubic_sparsity",
    "find_mask",
    "linear_sparsity",
    "scheduled_sparsity",
    "sparsity_of",
]

PRUNERS: dict[str, type[Pruner]] = {
    "lamp": LampPruner,
    "magnitude": MagnitudePruner,
    "sparsegpt": SparseGptPruner,
    "wanda": WandaPruner,
    "obert": ObertPruner,
    "taylor": TaylorPruner,
}
