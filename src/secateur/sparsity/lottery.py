"""Lottery ticket: small weights go, those that stay are set back to what they were early in the run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.errors import StructureError
from secateur.pattern import Pattern
from secateur.sparsity.magnitude import MagnitudePruner
from secateur.sparsity.mask import MaskParametrization, unmasked_weight
from secateur.sparsity.pruner import Ranking

__all__ = ["LotteryTicketPruner"]

_EARLY = "_early"


class LotteryTicketPruner(MagnitudePruner):
    """Iterative magnitude pruning that rewinds all trained weights after every update.

    An update ranks the weights as trained since the last one, removes the smallest, and sets every trained
    parameter of the model (norms, biases and head, too) back to its early value, the removed ones staying 0;
    what the optimizer gathered of them is set to 0. Early values are buffers of the model, `weight_early`
    beside `weight`, so that they are saved and resumed with it. Rewind the learning rate with a stage
    `learning_rate` whose `cycles` are `pruning`.

    Args:
        pattern: What is removed together.
        ranking: See `Pruner`.

    Source:
        Frankle et al., "Stabilizing the lottery ticket hypothesis" (2019), algorithm 1: theta_k are the early
        values, k is `rewind_epoch`; with k = 0 on a pretrained model, Chen et al., "The lottery ticket
        hypothesis for pre-trained BERT networks" (2020), algorithm 1. We rank blocks by their sum of squares,
        and go on in the order of the data instead of seeing the first batches again.
    """

    def __init__(self, pattern: Pattern, *, ranking: Ranking = "global") -> None:
        super().__init__(pattern, ranking=ranking)
        self._model: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None

    def attach_(self, model: nn.Module) -> None:
        """Attaches masks, and the values of now as early ones; see `Pruner.attach_`."""
        super().attach_(model)
        self._model = model
        for owner, name, parameter in self._parameters():
            # What is frozen now is so for the whole run: a freezing stage comes later.
            if parameter.requires_grad and not hasattr(owner, name + _EARLY):
                owner.register_buffer(name + _EARLY, parameter.detach().clone())

    def remember_(self) -> None:
        """Takes the values of now as the early ones."""
        with torch.no_grad():
            for owner, name, parameter in self._trained():
                getattr(owner, name + _EARLY).copy_(parameter)

    def watch_(self, optimizer: torch.optim.Optimizer) -> None:
        """Keeps the optimizer, whose state is rewound, too."""
        self._optimizer = optimizer

    def set_masks_(self, chosen: list[Tensor]) -> None:
        """Puts new masks in place, sets what stays back to its early values, and forgets the moments."""
        super().set_masks_(chosen)
        with torch.no_grad():
            for owner, name, parameter in self._trained():
                parameter.copy_(getattr(owner, name + _EARLY))
                state = {} if self._optimizer is None else self._optimizer.state.get(parameter, {})
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()  # not deleted: a checkpoint without state could not be resumed
        self.enforce_()

    def finalize_(self) -> None:
        """Takes masks and early values off; the zeros stay in the plain weights."""
        for owner, name, _ in list(self._trained()):
            delattr(owner, name + _EARLY)
        super().finalize_()

    def _trained(self) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
        """Yields every parameter that has an early value: where that lies, under which name, and itself."""
        return (found for found in self._parameters() if hasattr(found[0], found[1] + _EARLY))

    def _parameters(self) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
        if self._model is None:
            raise StructureError("The pruner has no masks: call attach_(model) first.")
        seen = set()
        for module in self._model.modules():
            if isinstance(module, (parametrize.ParametrizationList, MaskParametrization)):
                continue
            own = dict(module.named_parameters(recurse=False))
            if parametrize.is_parametrized(module):
                own |= {name: unmasked_weight(module, name) for name in module.parametrizations}
            for name, parameter in own.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield module, name, parameter
