"""The range of one activation, learnt while training, and its quantization by that range."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributed, nn

from secateur import affine
from secateur.affine import S8_MAX, S8_MIN, U8_MAX, U8_MIN
from secateur.errors import SecateurError
from secateur.quantization.fake_quantize import asymmetric_qparams, compute_dtype, quantize, symmetric_scale
from secateur.quantization.ranges import (
    BINS,
    count_values,
    least_error_ends,
    percentile_ends,
    reach_of,
    widened,
)
from secateur.quantization.scheme import Observer

__all__ = ["ActivationQuantizer"]


class ActivationQuantizer(nn.Module):  # type: ignore[misc]
    """The range of one tensor as its batches pass, and fake quantization by it.

    In training mode every batch moves the range, then is quantized by it; in eval mode the stored range is
    used. All state is buffers, so that it is saved and resumed with the model. A histogram of all batches is
    one of them, where the observer needs it and `averaging` is 0; else that of a batch is forgotten at once.

    Attributes:
        tensor: What is observed, for messages.
        symmetric: True for int8 without a zero point, False for uint8 with one.
        averaging: Weight of the newest batch; 0 takes all batches as one.
        observer: See `QuantScheme`.
        percentile: See `QuantScheme`.
        enabled: False lets the float model run as if nothing were attached.
        observing: True lets ranges move in eval mode too (calibration).
        shared: True takes the extremes over all processes of torch.distributed, as one process with all
            their rows would; every process must then run the same number of forward passes.
        low: [] float32.
        high: [] float32.
        scale: [] float32, follows from the range.
        zero_point: [] float32, an integer, follows from the range.
        batches: [] int64, how many were seen.
        frozen: [] bool, True when the range no longer moves.
        counts: [BINS] int64, the histogram of all batches; see `secateur.quantization.ranges`.
        extremes: [2] float64, of all batches; only with a histogram.
    """

    low: Tensor
    high: Tensor
    scale: Tensor
    zero_point: Tensor
    batches: Tensor
    frozen: Tensor
    counts: Tensor
    extremes: Tensor

    def __init__(
        self,
        tensor: str,
        symmetric: bool,
        averaging: float,
        observer: Observer = "moving_average",
        percentile: float = 99.99,
    ) -> None:
        super().__init__()
        self.tensor = tensor
        self.symmetric = symmetric
        self.averaging = 0.0 if observer == "minmax" else averaging
        self.observer = observer
        self.percentile = percentile
        self.enabled = True
        self.observing = False
        self.shared = False
        self.register_buffer("low", torch.zeros((), dtype=torch.float32))
        self.register_buffer("high", torch.zeros((), dtype=torch.float32))
        self.register_buffer("scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.float32))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))
        if self._has_histogram and self.averaging == 0.0:
            self.register_buffer("counts", torch.zeros(BINS, dtype=torch.int64))
            self.register_buffer("extremes", torch.zeros(2, dtype=torch.float64))
        # Mirrors of the last two buffers: asking a tensor on a GPU would stall it in every forward.
        self._seen = 0
        self._is_frozen = False

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Observes `x` where ranges may move, then quantizes it.

        Args:
            x: [...] any floating type.
            dtype: Type of the integers; None takes what the surrounding autocast wants.

        Returns:
            q: [...] centred integers.
            scale: [] float32, what one unit of `q` is worth.

        Raises:
            SecateurError: If no batch was ever seen, or `x` holds NaN or infinity.
        """
        span = None
        if (self.training or self.observing) and not self._is_frozen and not _is_recomputing():
            span = self.observe_(x.detach())
        scale, zero_point = self.qparams()
        if self.training:  # a layer that is shared moves them again before this pass goes backward
            scale, zero_point = scale.clone(), zero_point.clone()
        limits = (S8_MIN, S8_MAX) if self.symmetric else (U8_MIN, U8_MAX)
        q = quantize(x, scale, zero_point, *limits, dtype or compute_dtype(x.device.type), span)
        return q, scale

    def qparams(self) -> tuple[Tensor, Tensor]:
        """Returns scale and zero point, both [] float32, of the range as it stands.

        Raises:
            SecateurError: If no batch was ever seen.
        """
        if not self._seen:
            raise SecateurError(
                f"The range of {self.tensor} was never observed: train the model with its quantizers "
                f"enabled, or run secateur.quantization.calibrate_ on a few batches, before using it."
            )
        return self.scale, self.zero_point

    def freeze_(self) -> None:
        """Stops the range from moving.

        Raises:
            SecateurError: If no batch was ever seen, or the range is not finite.
        """
        self.qparams()
        self._check_finite()
        self.frozen.fill_(True)
        self._is_frozen = True

    def set_qparams_(self, scale: float, zero_point: int) -> None:
        """Sets exactly these, as if observed, and freezes them.

        Args:
            scale: Positive.
            zero_point: 0 where `symmetric`, else 0 to 255.
        """
        quant_min, quant_max = (S8_MIN, S8_MAX) if self.symmetric else (U8_MIN, U8_MAX)
        self.low.fill_((quant_min - zero_point) * scale)
        self.high.fill_((quant_max - zero_point) * scale)
        self.scale.fill_(scale)
        self.zero_point.fill_(zero_point)
        self._seen = 1
        self.batches.fill_(1)
        self.freeze_()

    def set_range_(self, low: float, high: float) -> None:
        """Replaces the range of what was observed.

        Args:
            low: Smallest value that is not clipped.
            high: Largest one.
        """
        self.low.fill_(low)
        self.high.fill_(high)
        self._set_scale(self._check_finite())

    def observe_(self, x: Tensor) -> tuple[float, float] | None:
        """Moves the range by a batch.

        Args:
            x: [...] any floating type, detached.

        Returns:
            The extremes of `x` where asking for them stalls nothing.

        Raises:
            SecateurError: If `x` holds NaN or infinity.
        """
        low, high = (extreme.float() for extreme in x.aminmax())
        span = (low.item(), high.item()) if x.device.type == "cpu" else None
        if self.shared:
            extremes = torch.stack((-low, high))
            distributed.all_reduce(extremes, distributed.ReduceOp.MAX)
            low, high = -extremes[0], extremes[1]
        if self._has_histogram:
            ends = self._without_rare(x, low.item(), high.item())
            low, high = low.new_tensor(ends[0]), high.new_tensor(ends[1])
        if self._seen == 0 or (self._has_histogram and self.averaging == 0.0):
            self.low.copy_(low)
            self.high.copy_(high)
        elif self.averaging == 0.0:
            torch.minimum(self.low, low, out=self.low)
            torch.maximum(self.high, high, out=self.high)
        else:
            weight = max(self.averaging, 1.0 / (self._seen + 1))
            self.low.lerp_(low, weight)
            self.high.lerp_(high, weight)
        self._seen += 1
        self.batches += 1
        if span is None:  # a look at the range would stall the device; `freeze_` finds what is not finite
            if self.symmetric:
                self.scale.copy_(symmetric_scale(torch.maximum(self.low.abs(), self.high.abs())))
            else:
                scale, zero_point = asymmetric_qparams(self.low, self.high)
                self.scale.copy_(scale)
                self.zero_point.copy_(zero_point)
            return None
        self._set_scale(self._check_finite())
        return span

    def _set_scale(self, ends: tuple[float, float]) -> None:
        # In numpy: the same law, and a third of the time for single numbers.
        if self.symmetric:
            self.scale.fill_(affine.symmetric_scale(max(map(abs, ends))).item())
        else:
            fixed = affine.asymmetric_qparams(*ends)
            self.scale.fill_(fixed[0].item())
            self.zero_point.fill_(fixed[1].item())

    @property
    def _has_histogram(self) -> bool:
        return self.observer in ("percentile", "mse")

    def _without_rare(self, x: Tensor, low: float, high: float) -> tuple[float, float]:
        """Returns the ends of a batch's range, or of all batches' where `averaging` is 0."""
        self._check_ends(low, high)
        reach = reach_of(max(-low, high, 0.0))
        if self.averaging == 0.0 and self._seen:
            before = reach_of(self.extremes.abs().max().item())
            low, high = min(low, self.extremes[0].item()), max(high, self.extremes[1].item())
            reach = max(reach, before)
            self.counts.copy_(widened(self.counts, before, reach))
        counts = count_values(x, reach)
        if self.shared:
            distributed.all_reduce(counts, distributed.ReduceOp.SUM)
        if self.averaging == 0.0:
            self.extremes.copy_(torch.tensor([low, high], dtype=torch.float64))
            counts = self.counts.add_(counts)
        if self.observer == "percentile":
            return percentile_ends(counts, reach, (low, high), self.percentile, self.symmetric)
        return least_error_ends(counts, reach, (low, high), self.symmetric)

    def _check_finite(self) -> tuple[float, float]:
        low, high = self.low.item(), self.high.item()
        self._check_ends(low, high)
        return low, high

    def _check_ends(self, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):
            raise SecateurError(
                f"{self.tensor} holds NaN or infinity (its range is {low} to {high}): the training has "
                f"diverged; lower the learning rate, or check the input."
            )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._seen = int(self.batches)
        self._is_frozen = bool(self.frozen)


def _is_recomputing() -> bool:
    """Says whether this forward pass runs inside a backward pass, for the second time on the same batch.

    Gradient checkpointing does that. The range has moved by this batch already, and must stand as it stood
    when the batch passed first.
    """
    return bool(torch._C._current_graph_task_id() != -1)
