"""Gradients, losses and inputs of a model in the middle of its training, taken without a trace."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from secateur.errors import DataError, RecipeError, StructureError
from secateur.modeling.structure import ATTENTION_DROPOUT, Projection, find_projections
from secateur.quantization import find_quantizers
from secateur.sparsity.evidence import Visit
from secateur.training.conditions import processes

__all__ = ["Batches", "TrainingEvidence", "TrainingRows"]

Batches = Callable[[], Iterable[Mapping[str, Any]]]
_HELD_OUT = 8  # batches
_CALIBRATION = 32  # batches


class TrainingRows:
    """Batches of a Trainer's rows in an order of their own, which leaves that of the training alone.

    A tenth of the rows, at most eight batches, is held out of the gradients; the training sees them.

    Args:
        loader: The Trainer's train_dataloader: its rows, its collator, its batch size in one process.
        seed: Seeds which rows are held out.

    Raises:
        RecipeError: The rows cannot be asked for by number.
    """

    def __init__(self, loader: Any, seed: int) -> None:
        self._rows = loader.dataset
        self._collate = loader.collate_fn
        size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
        if not hasattr(self._rows, "__getitem__") or size is None:
            raise RecipeError(
                "The pruning method draws batches of its own, but the training rows cannot be asked for by "
                "number: give the Trainer a dataset with __getitem__ and __len__."
            )
        self._size = int(size)
        order = torch.randperm(len(self._rows), generator=torch.Generator().manual_seed(seed)).tolist()
        held = min(_HELD_OUT * self._size, len(order) // 10)
        self._held, self._shown = order[:held] or order, order[held:]

    def __len__(self) -> int:
        """Rows that gradients are taken of."""
        return len(self._shown)

    def shuffled(self) -> Iterator[Mapping[str, Any]]:
        """Yields the batches of one pass in an order drawn from PyTorch's random numbers."""
        order = torch.randperm(len(self._shown)).tolist()
        return self._batches([self._shown[place] for place in order])

    def held_out(self) -> Iterator[Mapping[str, Any]]:
        """Yields the held-out batches, always the same."""
        return self._batches(self._held)

    def _batches(self, order: list[int]) -> Iterator[Mapping[str, Any]]:
        for start in range(0, len(order), self._size):
            yield self._collate([self._rows[place] for place in order[start : start + self._size]])


class TrainingEvidence:
    """`Evidence` from a model on the stock Trainer, or in a loop of your own.

    The loss is the one that trains: the student hook's, with the teacher in it, under the autocast that
    accelerate put on the model. Dropout is off: what is pruned is the model without it, its noise would be
    taken for curvature, and the training's random numbers need not be touched for it. Quantizers quantize by
    their ranges as they stand.

    Args:
        model: The bare model, with masks attached; not as wrapped for several processes.
        batches: Called for one pass over the rows: yields batches, shuffled by the global random numbers,
            which are seeded before. In every process the same.
        held_out: Called for batches of the held-out loss; None takes the first eight of `batches`.
        seed: The run's.
        step: Optimizer steps done.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        held_out: Batches | None = None,
        *,
        seed: int = 0,
        step: int = 0,
    ) -> None:
        self.step = step
        self._model = model
        self._seed = seed
        self._shuffled = batches
        self._held_out = held_out or batches
        self._projections: list[Projection] = list(find_projections(model))

    def gradients(
        self, count: int, *, draw: int = 0, matrices: Sequence[int] | None = None
    ) -> Iterator[list[Tensor]]:
        """See `Evidence.gradients`. With several processes each computes every other gradient, for all.

        Raises:
            DataError: There are fewer rows than `count`.
            StructureError: A gradient is not finite.
        """
        chosen = [
            self._projections[i] for i in (range(len(self._projections)) if matrices is None else matrices)
        ]
        weights = [_leaf(projection.linear) for projection in chosen]
        world = processes()
        rank = distributed.get_rank() if world > 1 else 0
        drawn = _Numbers(self._seed, "gradients", self.step, draw)
        stream = self._stream(count)
        for first in range(0, count, world):
            own: list[Tensor] = []
            for number in range(first, min(first + world, count)):
                with drawn.in_use():
                    batch = next(stream)
                    if number % world == rank:
                        own = self._gradient(batch, weights)
            for number in range(first, min(first + world, count)):
                got = own if number % world == rank else [torch.empty_like(weight) for weight in weights]
                if world > 1:
                    for tensor in got:
                        distributed.broadcast(tensor, src=number % world)
                for tensor, projection in zip(got, chosen, strict=True):
                    if not torch.isfinite(tensor.sum()):
                        raise StructureError(
                            f"The gradient of {projection.name} is not finite in mini-batch {number} of the "
                            f"{count} drawn after step {self.step}: lower the learning rate, or look for a "
                            "row that gives an infinite loss."
                        )
                yield got

    def held_out_loss(self) -> float:
        """See `Evidence.held_out_loss`.

        Raises:
            StructureError: There is no batch.
        """
        drawn = _Numbers(self._seed, "held out")
        losses = []
        with drawn.in_use(), self._undisturbed(), torch.no_grad():
            for number, batch in zip(range(_HELD_OUT), self._held_out(), strict=False):
                mine = processes() == 1 or number % processes() == distributed.get_rank()
                losses.append(self._loss(batch).detach().double() if mine else None)
        if not losses:
            raise StructureError("The batches of the held-out loss are none: give some rows.")
        nothing = torch.zeros((), dtype=torch.float64, device=self._device())
        found = torch.stack([nothing if loss is None else loss for loss in losses])
        if processes() > 1:
            distributed.all_reduce(found)
        return float(found.mean())

    def inputs(self, visit: Visit, wanted: Collection[str] | None = None) -> None:
        """See `Evidence.inputs`."""
        drawn = _Numbers(self._seed, "inputs", self.step)
        last: list[tuple[Tensor, Tensor]] = []
        real: list[Tensor] = []

        def hook(projection: Projection) -> Callable[[nn.Module, Any], None]:
            def see(module: nn.Module, args: Any) -> None:
                if not last or last[0][0] is not args[0]:
                    last[:] = [(args[0], args[0].detach().flatten(0, -2))]
                visit(projection, last[0][1], real[0])

            return see

        shown = [one for one in self._projections if wanted is None or one.name in wanted]
        handles = [one.linear.register_forward_pre_hook(hook(one)) for one in shown]
        try:
            with drawn.in_use(), self._undisturbed() as undo, torch.no_grad():
                _set(undo, self._model, "training", False)  # the hook then asks no teacher
                for _, batch in zip(range(_CALIBRATION), self._shuffled(), strict=False):
                    there = batch.get("attention_mask")
                    if there is None:
                        there = torch.ones_like(batch["input_ids"])
                    real[:] = [there.to(self._device()).flatten() != 0]
                    self._run(batch)
                    last.clear()
        finally:
            for handle in handles:
                handle.remove()

    def _stream(self, count: int) -> Iterator[Mapping[str, Any]]:
        """Yields batches, pass after pass."""
        while True:
            rows = 0
            for batch in self._shuffled():
                rows += len(next(iter(batch.values())))
                yield batch
            if rows < count:
                raise DataError(
                    f"The pruning method asks for {count} gradients, and there are only {rows} rows: lower "
                    "num_grads, or give more rows."
                )

    def _gradient(self, batch: Mapping[str, Any], weights: list[Tensor]) -> list[Tensor]:
        with self._undisturbed(weights), torch.enable_grad():
            found = torch.autograd.grad(self._loss(batch), weights)
        return [gradient.float() for gradient in found]

    def _loss(self, batch: Mapping[str, Any]) -> Tensor:
        output = self._run(batch)
        loss: Tensor = output["loss"] if isinstance(output, dict) else output[0]
        return loss

    def _run(self, batch: Mapping[str, Any]) -> Any:
        return self._model(**send_to_device(dict(batch), self._device()))

    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    @contextmanager
    def _undisturbed(self, weights: Sequence[Tensor] = ()) -> Iterator[ExitStack]:
        """Lets the model run as in training, but without dropout and without learning anything by it."""
        with ExitStack() as undo:
            for module in self._model.modules():
                _set(undo, module, "training", True)
                if isinstance(module, nn.Dropout):
                    _set(undo, module, "p", 0.0)
                if hasattr(module, ATTENTION_DROPOUT):
                    _set(undo, module, ATTENTION_DROPOUT, 0.0)
                if getattr(module, "gradient_checkpointing", False):
                    # The reentrant kind knows .backward() only, and that would write into .grad.
                    plain = functools.partial(checkpoint, use_reentrant=False)
                    _set(undo, module, "_gradient_checkpointing_func", plain)
            for quantizer in find_quantizers(self._model).values():
                _set(undo, quantizer, "_is_frozen", True)
            asked = {id(weight) for weight in weights}
            for parameter in self._model.parameters():
                wanted = id(parameter) in asked
                if parameter.requires_grad is not wanted:
                    undo.callback(parameter.requires_grad_, parameter.requires_grad)
                    parameter.requires_grad_(wanted)
            yield undo


class _Numbers:
    """Random numbers of one draw, apart from those of the training.

    The state stays here between uses: who draws batch by batch goes on where it was.
    """

    def __init__(self, *what: object) -> None:
        digest = hashlib.blake2b(repr(what).encode(), digest_size=4).digest()
        self._seed = int.from_bytes(digest, "little")
        self._state: Any = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Puts these numbers in the place of the global ones."""
        outer = _random_state()
        if self._state is None:
            torch.manual_seed(self._seed)
            np.random.seed(self._seed)
            random.seed(self._seed)
        else:
            _set_random_state(self._state)
        try:
            yield
        finally:
            self._state = _random_state()
            _set_random_state(outer)


def _random_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _set_random_state(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
    np.random.set_state(state[2])
    random.setstate(state[3])


def _leaf(linear: nn.Linear) -> Tensor:
    """Returns the parameter behind a weight; the mask multiplies its gradient, as it does the weight."""
    leaf: Tensor = (
        linear.parametrizations["weight"].original if hasattr(linear, "parametrizations") else linear.weight
    )
    return leaf


def _set(undo: ExitStack, module: nn.Module, name: str, value: Any) -> None:
    before = getattr(module, name)
    if before is not value:
        undo.callback(setattr, module, name, before)
        setattr(module, name, value)
