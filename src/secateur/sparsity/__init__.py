"""Masks, schedules and pruning methods."""

from secateur.pattern import Pattern
from secateur.schedule import cubic_sparsity, linear_sparsity, scheduled_sparsity
from secateur.sparsity.lamp import LampPruner
from secateur.sparsity.lock import lock_zeros_
from secateur.sparsity.lottery import LotteryTicketPruner
from secateur.sparsity.magnitude import MagnitudePruner
from secateur.sparsity.mask import MaskParametrization, attach_mask_, find_mask, sparsity_of
from secateur.sparsity.movement import MovementPruner, SoftMovementPruner
from secateur.sparsity.obert import ObertPruner
from secateur.sparsity.pruner import Pruner
from secateur.sparsity.random import RandomPruner
from secateur.sparsity.taylor import TaylorPruner

__all__ = [
    "PRUNERS",
    "LampPruner",
    "LotteryTicketPruner",
    "MagnitudePruner",
    "MaskParametrization",
    "MovementPruner",
    "ObertPruner",
    "Pattern",
    "Pruner",
    "RandomPruner",
    "SoftMovementPruner",
    "TaylorPruner",
    "attach_mask_",
    "cubic_sparsity",
    "find_mask",
    "linear_sparsity",
    "lock_zeros_",
    "scheduled_sparsity",
    "sparsity_of",
]

PRUNERS: dict[str, type[Pruner]] = {
    "lamp": LampPruner,
    "lottery-ticket": LotteryTicketPruner,
    "magnitude": MagnitudePruner,
    "movement": MovementPruner,
    "obert": ObertPruner,
    "random": RandomPruner,
    "soft-movement": SoftMovementPruner,
    "taylor": TaylorPruner,
}
