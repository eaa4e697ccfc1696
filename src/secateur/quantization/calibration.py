"""The calibration texts: batches that are read several times, and what passes through a model meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.modeling.structure import Projection, find_blocks
from secateur.quantization.observer import ActivationQuantizer
from secateur.quantization.qat import attention_quantizer, find_quantizers, input_quantizer

__all__ = ["LEAST_ROWS", "CalibrationTexts", "Side", "Tap", "find_taps"]

LEAST_ROWS = 16
_TARGETS = ("labels", "start_positions", "end_positions")
Side = Literal["input", "output"]


@dataclass(frozen=True)
class Tap:
    """Where a quantized tensor can be seen while the float model runs.

    Attributes:
        name: The quantizer's module name.
        quantizer: What will quantize it.
        linear: The layer that reads it, or makes it.
        side: Which of the two.
        readers: The projections that multiply it; none for query, key and value, which attention reads.
    """

    name: str
    quantizer: ActivationQuantizer
    linear: nn.Linear
    side: Side
    readers: tuple[Projection, ...]


def find_taps(model: nn.Module) -> list[Tap]:
    """Returns every tensor with a range, in the order in which the layers compute.

    Args:
        model: A model with quantizers.
    """
    names = {id(quantizer): name for name, quantizer in find_quantizers(model).items()}
    taps = []
    for block in find_blocks(model):
        groups = ((block.q, block.k, block.v), (block.attn_out,), (block.ffn_in,), (block.ffn_out,))
        for group in groups:
            readers = tuple(one for one in group if isinstance(input_quantizer(one), ActivationQuantizer))
            if readers:
                quantizer = input_quantizer(readers[0])
                assert quantizer is not None
                taps.append(Tap(names[id(quantizer)], quantizer, readers[0].linear, "input", readers))
            attention = attention_quantizer(model, block) if len(group) == 3 else None
            if attention is not None:
                made = zip(group, (attention.query, attention.key, attention.value), strict=True)
                taps += [Tap(names[id(one)], one, part.linear, "output", ()) for part, one in made]
    return taps


class CalibrationTexts:
    """Batches of texts without labels, or with; padding counts nowhere.

    Args:
        batches: Keyword arguments of `model.forward`, as tensors: `input_ids` or `inputs_embeds`, and
            `attention_mask` where texts are padded.
        device: Where the model is.

    Raises:
        DataError: There are fewer than `LEAST_ROWS` rows.
    """

    def __init__(self, batches: Iterable[Mapping[str, Any]], device: torch.device) -> None:
        self._batches = [{name: _moved(value, device) for name, value in one.items()} for one in batches]
        self.masks = [_real_tokens(batch) for batch in self._batches]
        self.rows = sum(len(mask) for mask in self.masks)
        if self.rows < LEAST_ROWS:
            texts = "no text" if not self.rows else f"{self.rows} text{'s' if self.rows > 1 else ''} only"
            raise DataError(
                f"Calibration was given {texts} and needs at least {LEAST_ROWS}, better some hundred: "
                "ranges of so few do not hold for others."
            )

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The batches without targets."""
        return [
            {name: value for name, value in batch.items() if name not in _TARGETS} for batch in self._batches
        ]

    def has(self, names: Iterable[str]) -> bool:
        """Says whether every batch brings these."""
        return all(batch.get(name) is not None for batch in self._batches for name in names)

    def run(self, model: nn.Module, *, targets: bool = False) -> Iterator[tuple[Any, dict[str, Any], Tensor]]:
        """Runs a model over the batches, without gradients, in the mode it is in.

        Args:
            model: The model.
            targets: Whether it is given labels, too.

        Yields:
            Its output, the batch, and [B, S] bool, which tokens are real.
        """
        given = self._batches if targets else self.inputs
        for batch, mask in zip(given, self.masks, strict=True):
            with torch.no_grad():
                output = model(**batch)
            yield output, batch, mask

    def watch(
        self,
        model: nn.Module,
        places: Iterable[tuple[nn.Module, Side]],
        visit: Callable[[int, Tensor], None],
    ) -> None:
        """Shows the tensors at some places, while a model runs over all batches.

        Args:
            model: The model.
            places: Modules, and which of their tensors.
            visit: Takes the number of the place, and [tokens, width] of the batch's real tokens.
        """
        # The mask of the batch that runs just now; `run` is lazy and has one at a time.
        masks = iter(self.masks)
        current = [next(masks)]
        with _hooks(places, lambda place, x: visit(place, x.detach()[current[0]])):
            for _ in self.run(model):
                current[0] = next(masks, current[0])


@contextmanager
def _hooks(places: Iterable[tuple[nn.Module, Side]], visit: Callable[[int, Tensor], None]) -> Iterator[None]:
    handles = []

    def on_input(place: int) -> Callable[..., None]:
        return lambda module, args: visit(place, args[0])

    def on_output(place: int) -> Callable[..., None]:
        return lambda module, args, output: visit(place, output)

    try:
        for place, (module, side) in enumerate(places):
            if side == "input":
                handles.append(module.register_forward_pre_hook(on_input(place)))
            else:
                handles.append(module.register_forward_hook(on_output(place)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _real_tokens(batch: Mapping[str, Any]) -> Tensor:
    """Returns [B, S] bool."""
    mask = batch.get("attention_mask")
    if mask is not None:
        return torch.as_tensor(mask != 0)
    tokens = batch.get("input_ids")
    shown = batch["inputs_embeds"] if tokens is None else tokens
    return torch.ones(shown.shape[:2], dtype=torch.bool, device=shown.device)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
