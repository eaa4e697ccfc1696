"""Ranges of a float model's tensors from calibration texts, and which observer is best for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.quantization.calibration import CalibrationTexts, Tap, find_taps
from secateur.quantization.fake_quantize import asymmetric_qparams, fake_quantize, symmetric_scale
from secateur.quantization.qat import enable_quantizers_
from secateur.quantization.ranges import Ends, least_error_ends, percentile_ends, reach_of
from secateur.sparsity.mask import unquantized_weight

__all__ = ["learn_ranges_"]

Named = Literal["minmax", "percentile", "mse"]


def learn_ranges_(
    model: nn.Module,
    texts: CalibrationTexts,
    observer: Literal["minmax", "percentile", "mse", "best"],
    percentile: float,
    mean_counts: bool,
) -> dict[str, str]:
    """Sets and freezes every range by what the float model computes on all texts together.

    Args:
        model: A model in eval mode, whose quantizers have the observer `minmax` where that is asked for, else
            histograms of all batches (`percentile` with `averaging` 0); they stay switched on.
        texts: What it reads.
        observer: Which range is taken, see `PostTraining`.
        percentile: See `PostTraining`.
        mean_counts: Whether `best` counts a mean error of an output, which bias correction would take out.

    Returns:
        Module name of every quantizer to the observer that gave its range.

    Raises:
        SecateurError: A tensor is NaN or infinite; names it.
    """
    taps = find_taps(model)
    enable_quantizers_(model, False)

    def observe(place: int, x: Tensor) -> None:
        taps[place].quantizer.observe_(x)

    texts.watch(model, [(tap.linear, tap.side) for tap in taps], observe)
    chosen: dict[str, Named] = {}
    found = {} if observer == "minmax" else _candidates(taps, percentile)
    errors = _output_errors(model, texts, taps, found, mean_counts) if observer == "best" else {}
    for tap in taps:
        if observer == "best":  # the first of equals: minmax
            chosen[tap.name] = min(found[tap.name], key=partial(_error_of, errors, tap.name))
        else:
            chosen[tap.name] = observer
        if found:
            tap.quantizer.set_range_(*found[tap.name][chosen[tap.name]])
        tap.quantizer.freeze_()
    enable_quantizers_(model)
    return dict(chosen)


def _error_of(errors: Mapping[tuple[str, str], float], tensor: str, observer: str) -> float:
    return errors[tensor, observer]


def _extremes(tap: Tap) -> Ends:
    quantizer = tap.quantizer
    if hasattr(quantizer, "extremes"):
        low, high = quantizer.extremes.tolist()
        return low, high
    return quantizer.low.item(), quantizer.high.item()


def _candidates(taps: Sequence[Tap], percentile: float) -> dict[str, dict[Named, Ends]]:
    """Returns the ranges that the observers give for each tensor."""
    found: dict[str, dict[Named, Ends]] = {}
    for tap in taps:
        quantizer, ends = tap.quantizer, _extremes(tap)
        reach = reach_of(max(abs(ends[0]), abs(ends[1])))
        found[tap.name] = {
            "minmax": ends,
            "percentile": percentile_ends(quantizer.counts, reach, ends, percentile, quantizer.symmetric),
            "mse": least_error_ends(quantizer.counts, reach, ends, quantizer.symmetric),
        }
    return found


def _output_errors(
    model: nn.Module,
    texts: CalibrationTexts,
    taps: Sequence[Tap],
    candidates: Mapping[str, Mapping[Named, Ends]],
    mean_counts: bool,
) -> dict[tuple[str, str], float]:
    """Measures how far each range moves what is computed of a tensor.

    Returns:
        (quantizer, observer) to the squared error summed over tokens and the outputs of all its readers, the
        weights unrounded; of a tensor without readers to its own squared error. Where the mean does not
        count, an output's mean error over the tokens is left out.
    """
    weights = [
        torch.cat([unquantized_weight(one.linear)[one.row_slice] for one in tap.readers])
        if tap.readers
        else None
        for tap in taps
    ]
    squares: dict[tuple[str, str], float] = {}
    sums: dict[tuple[str, str], Tensor] = {}
    tokens = sum(int(mask.sum()) for mask in texts.masks)

    def visit(place: int, x: Tensor) -> None:
        tap, weight = taps[place], weights[place]
        for name, ends in candidates[tap.name].items():
            error = _rounded(x.float(), ends, tap.quantizer.symmetric) - x.float()
            if weight is not None:
                error = error @ weight.t()
            key = tap.name, name
            squares[key] = squares.get(key, 0.0) + float(error.double().square().sum())
            if weight is not None and not mean_counts:
                total = error.double().sum(0)
                sums[key] = sums[key] + total if key in sums else total

    texts.watch(model, [(tap.linear, tap.side) for tap in taps], visit)
    return {
        key: square - (float(sums[key].square().sum()) / tokens if key in sums else 0.0)
        for key, square in squares.items()
    }


def _rounded(x: Tensor, ends: Ends, symmetric: bool) -> Tensor:
    """Returns `x` quantized by a range, in real units."""
    low, high = x.new_tensor(ends[0]), x.new_tensor(ends[1])
    if symmetric:
        scale = symmetric_scale(torch.maximum(low.abs(), high.abs()))
        return fake_quantize(x, scale, torch.zeros_like(scale), -127, 127)
    return fake_quantize(x, *asymmetric_qparams(low, high), 0, 255)
