"""What the matrices of a live model read, layer by layer, so that later ones see what earlier ones became."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from secateur.checkpoint.families import FAMILIES
from secateur.errors import DataError, StructureError, problem_list
from secateur.modeling.structure import EncoderBlock, Projection, find_blocks
from secateur.sparsity.evidence import Visit
from secateur.sparsity.hessian import InputSquares

__all__ = ["InputSource", "LayerInputs", "inputs_by_layer", "require_varied_inputs"]

_Statistics = TypeVar("_Statistics", bound=InputSquares)


class InputSource(Protocol):
    """Whatever can show what matrices read: `LayerInputs`, or any `Evidence`."""

    def inputs(self, visit: Visit, wanted: Collection[str] | None = None) -> None:
        """See `Evidence.inputs`."""


def inputs_by_layer(
    blocks: Sequence[EncoderBlock], source: InputSource, make: Callable[[str, int], _Statistics]
) -> Iterator[tuple[tuple[Projection, ...], _Statistics]]:
    """Yields matrices that share an input, with the statistics of it, in the order in which they run.

    Each is measured after the caller is done with the one before: what the caller changes there, later
    matrices see. One set of statistics is alive at a time.

    Args:
        blocks: The layers.
        source: Runs the model.
        make: `InputSquares` or `InputMoments`: name and width to empty statistics.

    Yields:
        Query, key and value together, or one projection; and statistics of at least one token.

    Raises:
        DataError: There are no tokens, or inputs are not finite; names the layer.
    """
    for block in blocks:
        for group in ((block.q, block.k, block.v), (block.attn_out,), (block.ffn_in,), (block.ffn_out,)):
            first = group[0]
            statistics = make(first.name, first.in_features)

            def visit(
                projection: Projection,
                x: Tensor,
                real: Tensor,
                name: str = first.name,
                into: InputSquares = statistics,
            ) -> None:
                if projection.name == name:
                    into.add_(x, real)

            source.inputs(visit, {first.name})
            statistics.check()
            yield group, statistics


def require_varied_inputs(model: nn.Module, source: InputSource) -> None:
    """Checks that calibration texts reach every matrix of a model, and that what reaches it varies.

    For a model before anything is pruned: behind a matrix that is pruned away inputs are always the same.

    Args:
        model: A live model of a supported family.
        source: Runs it.

    Raises:
        DataError: An input is NaN or infinite, always the same, or there is none; names the layers.
    """
    found: dict[str, InputSquares] = {}

    def visit(projection: Projection, x: Tensor, real: Tensor) -> None:
        name = projection.name
        if name not in found:
            found[name] = InputSquares(name, projection.in_features)
        found[name].add_(x, real)

    groups = [(block.q, block.attn_out, block.ffn_in, block.ffn_out) for block in find_blocks(model)]
    source.inputs(visit, {projection.name for group in groups for projection in group})
    for one in found.values():
        one.check()
    same = [
        f"the input of {name} is the same for all {one.tokens} tokens"
        for name, one in found.items()
        if not one.varies
    ]
    if same:
        raise DataError(
            problem_list(
                "These calibration texts teach nothing: check that the model and the texts are what you "
                "meant, or give more texts",
                same,
            )
        )


class LayerInputs:
    """Runs a live model over batches in eval mode, no further than asked, and from where it stood last.

    Hidden states in front of the layer at hand are kept, so that going through all layers in order costs
    about three forward passes. That holds while what lies in front of a layer does not change after the
    layer was asked for; asking for an earlier layer starts over. A family that runs a stored layer more than
    once (ALBERT) is run whole each time, and a layer's inputs are those of all its runs. Memory: all tokens
    times the hidden size times 4 bytes.

    Args:
        model: A live model of a supported family; its training mode is restored after each run.
        batches: Arguments of `model.forward` as tensors, with `attention_mask` where there is padding.

    Raises:
        DataError: There is no batch.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        if not batches:
            raise DataError("Calibration needs at least one batch of texts, but got none.")
        self._model = model
        self._batches = list(batches)
        self._blocks = find_blocks(model)
        self._modules = [model.get_submodule(block.prefix) for block in self._blocks]
        self._runs_once = FAMILIES[model.config.model_type].inner_layers is None
        self._kept: list[Any] = []  # for each batch, what the layer before `_depth` gave
        self._depth = 0

    def inputs(self, visit: Visit, wanted: Collection[str] | None = None) -> None:
        """Shows what matrices read; see `Evidence.inputs`.

        Raises:
            StructureError: A name in `wanted` is no projection of the model.
        """
        projections = {
            projection.name: (index, projection)
            for index, block in enumerate(self._blocks)
            for projection in block.projections()
        }
        names = set(projections) if wanted is None else set(wanted)
        unknown = sorted(names - set(projections))
        if unknown:
            raise StructureError(f"The model has no projection {unknown[0]!r}.")
        if not names:
            return
        chosen = [projections[name] for name in projections if name in names]
        if self._runs_once:
            self._advance_to(min(index for index, _ in chosen))
        left: set[str] = set()

        def watch(projection: Projection) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                x: Tensor = args[0]
                real = self._real.to(x.device)
                if x.shape[:-1] != real.shape:
                    raise StructureError(
                        f"{projection.name} reads {tuple(x.shape[:-1])} tokens where the batch has "
                        f"{tuple(real.shape)}: switch off what cuts the batch, such as "
                        "chunk_size_feed_forward."
                    )
                visit(projection, x.reshape(-1, x.shape[-1]), real.reshape(-1))
                left.discard(projection.name)
                if not left and self._runs_once:
                    raise _EnoughError

            return hook

        with ExitStack() as stack:
            for _, projection in chosen:
                hooked = projection.linear.register_forward_pre_hook(watch(projection))
                stack.callback(hooked.remove)
            for number in range(len(self._batches)):
                left |= names
                self._run(number)

    def _advance_to(self, depth: int) -> None:
        """Keeps, for each batch, what the layer before this one gives now."""
        if depth < self._depth:
            self._kept, self._depth = [], 0
        if depth == self._depth:
            return
        kept: list[Any] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            kept.append(output)
            raise _EnoughError

        handle = self._modules[depth - 1].register_forward_hook(keep)
        try:
            for number in range(len(self._batches)):
                self._run(number)
                if self._kept:
                    self._kept[number] = None  # old and new states need not all fit at once
        except BaseException:
            self._kept, self._depth = [], 0
            raise
        finally:
            handle.remove()
        self._kept, self._depth = kept, depth

    def _run(self, number: int) -> None:
        """Runs one batch; layers whose outcome is kept give it without running."""
        model, batch = self._model, self._batches[number]
        device = next(model.parameters()).device
        given = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()
        }
        mask = given.get("attention_mask")
        self._real = torch.ones(given["input_ids"].shape, dtype=torch.bool) if mask is None else mask.bool()
        was_training = model.training
        model.eval()
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                for module in self._modules[: self._depth]:
                    stack.enter_context(_giving(module, self._kept[number]))
                model(**given)
        except _EnoughError:
            pass
        finally:
            model.train(was_training)


class _EnoughError(Exception):
    """Ends a forward pass that has shown what was asked for."""


@contextmanager
def _giving(module: nn.Module, output: Any) -> Iterator[None]:
    """Lets a module give this instead of running."""
    missing = object()
    before = module.__dict__.get("forward", missing)
    module.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        if before is missing:
            del module.forward
        else:
            module.forward = before
