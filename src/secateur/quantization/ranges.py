"""Ranges from histograms: what to clip so that the rest is rounded more finely. Pure, on counts.

A histogram has `BINS` bins of one width from -reach to reach, and reach is a power of two: where a larger
value comes, it doubles and neighbouring bins merge. So the counts depend on the values alone, not on how they
were cut into batches, in which order these came, or on which process.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur import affine
from secateur.affine import S8_MAX, S8_MIN, U8_MAX, U8_MIN

__all__ = [
    "BINS",
    "count_values",
    "least_error_ends",
    "percentile_ends",
    "reach_of",
    "squared_errors",
    "widened",
]

BINS = 4096
Ends = tuple[float, float]
Floats = NDArray[np.floating[Any]]

_HALF = BINS // 2
_SMALLEST_REACH = 2.0**-100  # what lies below it is as good as 0, and the bins' width stays a normal number
_FACTORS: Floats = np.linspace(1.0, 0.025, 40)  # of an end; 1 first, so that of equal errors it wins


def reach_of(largest: float) -> float:
    """Returns the smallest power of two above a value that is finite and not negative."""
    return max(_SMALLEST_REACH, math.ldexp(1.0, math.frexp(largest)[1]) if largest else 0.0)


def count_values(x: Tensor, reach: float) -> Tensor:
    """Counts the values in each bin.

    Args:
        x: [...] finite, any floating type, taken as float32; magnitudes below `reach`.
        reach: A power of two.

    Returns:
        [BINS] int64, on the device of `x`; bin i holds the values from (i - BINS / 2) * width until before
        the next bin, where width is 2 * reach / BINS.
    """
    # The factor is a power of two: no product is rounded, so each value falls into the bin that holds it.
    places = x.detach().reshape(-1).float().mul(_HALF / reach).floor_().long().add_(_HALF)
    return torch.bincount(places.clamp_(0, BINS - 1), minlength=BINS)


def widened(counts: Tensor, reach: float, wanted: float) -> Tensor:
    """Returns the counts of the same values for a larger reach.

    Args:
        counts: [BINS] int64.
        reach: Their reach.
        wanted: Another power of two, at least `reach`.
    """
    while reach < wanted:
        merged = torch.zeros_like(counts)
        merged[_HALF // 2 : _HALF + _HALF // 2] = counts.view(-1, 2).sum(1)
        counts, reach = merged, reach * 2.0
    return counts


def percentile_ends(counts: Tensor, reach: float, ends: Ends, percentile: float, symmetric: bool) -> Ends:
    """Returns the range that leaves out the rarest values at both ends.

    Args:
        counts: [BINS] int64.
        reach: Their reach.
        ends: Smallest and largest value.
        percentile: At most 100 minus this per cent of all values lie above the range, and as many below;
            where `symmetric`, of the magnitudes.
        symmetric: Whether the range has 0 in its middle.

    Returns:
        The outer edges of the bins in which the last values lie that are kept; never beyond `ends`.
    """
    found = counts.cpu().numpy()
    width = reach / _HALF
    most = int(found.sum() * (1.0 - percentile / 100.0))
    upper, lower = found[_HALF:], found[:_HALF][::-1]
    if symmetric:
        end = min(_outer_edge(upper + lower, most) * width, max(-ends[0], ends[1]))
        return -end, end
    # The law needs 0 in the range, also where all values lie on one side of it.
    low = max(-_outer_edge(lower, most) * width, min(ends[0], 0.0))
    return low, min(_outer_edge(upper, most) * width, max(ends[1], 0.0))


def least_error_ends(counts: Tensor, reach: float, ends: Ends, symmetric: bool) -> Ends:
    """Returns the range whose rounding and clipping together err least, in the mean of the squares.

    Both ends are tried at 40 parts of the extremes together, then each alone.

    Args:
        counts: [BINS] int64; each value stands in the middle of its bin.
        reach: Their reach.
        ends: Smallest and largest value.
        symmetric: Whether the range has 0 in its middle.

    Source:
        Nagel et al., "A White Paper on Neural Network Quantization" (arXiv 2106.08295), section 3.1, equation
        11; the search over a grid on a histogram is ours.
    """
    found = counts.cpu().numpy()
    full = np.flatnonzero(found)
    values = (full - _HALF + 0.5) * (reach / _HALF)
    weights = found[full].astype(np.float64)
    if symmetric:
        largest = max(-ends[0], ends[1])
        best = float(
            _FACTORS[np.argmin(_errors(values, weights, -largest * _FACTORS, largest * _FACTORS, True))]
        )
        return -largest * best, largest * best
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    place = np.argmin(_errors(values, weights, low * _FACTORS, high * _FACTORS, False))
    lows, highs = low * _FACTORS, high * _FACTORS
    low_end, high_end = lows[place], highs[place]
    if high > 0.0:
        high_end = highs[np.argmin(_errors(values, weights, np.full_like(highs, low_end), highs, False))]
    if low < 0.0:
        low_end = lows[np.argmin(_errors(values, weights, lows, np.full_like(lows, high_end), False))]
    return float(low_end), float(high_end)


def squared_errors(values: Floats, lows: Floats, highs: Floats, symmetric: bool) -> Floats:
    """Returns the squared error of every value in every range: [ranges, values] float64."""
    if symmetric:
        scale, limits = affine.symmetric_scale(np.maximum(-lows, highs))[:, None], (S8_MIN, S8_MAX)
        return _squares(values - affine.fake_quantize(values, scale, 0, *limits))
    scales, zero_points = affine.asymmetric_qparams(lows, highs)
    limits = (U8_MIN, U8_MAX)
    return _squares(values - affine.fake_quantize(values, scales[:, None], zero_points[:, None], *limits))


def _squares(errors: Floats) -> Floats:
    result: Floats = np.square(errors, dtype=np.float64)
    return result


def _errors(values: Floats, weights: Floats, lows: Floats, highs: Floats, symmetric: bool) -> Floats:
    result: Floats = squared_errors(values, lows, highs, symmetric) @ weights
    return result


def _outer_edge(counts: NDArray[np.int64], most: int) -> int:
    """Returns the outer edge, in bins from 0, of the outermost bin with over `most` values from there on."""
    beyond = np.flatnonzero(np.cumsum(counts[::-1]) > most)
    return 0 if not len(beyond) else len(counts) - int(beyond[0])
