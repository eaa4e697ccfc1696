"""Layer-wise rounding of weights to int8 from calibration texts: later columns make up for earlier ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.affine import S8_MAX, S8_MIN
from secateur.modeling.structure import find_blocks
from secateur.quantization.fake_quantize import row_scales
from secateur.sparsity.hessian import (
    ROW_WORK,
    InputMoments,
    compensate,
    kept_moments,
    reconstruction_error,
)
from secateur.sparsity.layer_inputs import InputSource, LayerInputs, inputs_by_layer
from secateur.sparsity.mask import find_mask, set_weight_, unquantized_weight

__all__ = ["RoundingError", "round_matrix", "round_weights_"]


@dataclass(frozen=True)
class RoundingError:
    """How far the outputs of one matrix are off, a token, squared: E |(W - V) x|^2.

    Attributes:
        nearest: With every weight rounded to the nearest integer.
        gptq: With what `round_matrix` gives.
    """

    nearest: float
    gptq: float


def round_weights_(
    model: nn.Module,
    source: InputSource | Sequence[Mapping[str, Any]],
    *,
    damp: float = 0.01,
    act_order: bool = True,
) -> dict[str, RoundingError]:
    """Rounds the six matrices of every encoder layer, in the order in which they run, in place.

    A matrix sees the inputs that the rounded ones before it give. The weights stay float32 and lie on the
    grid that the numeric law derives from them: quantizing them later changes nothing. Masked weights stay 0.

    Args:
        model: A live model of a supported family, with or without masks.
        source: Batches of calibration texts, as arguments of `model.forward`; or what runs them.
        damp: See `InputMoments.damped`.
        act_order: See `round_matrix`.

    Returns:
        Name of the projection to its errors.

    Raises:
        DataError: There is no batch, or inputs are not finite; names the layer.
    """
    runs = LayerInputs(model, source) if isinstance(source, Sequence) else source
    errors = {}
    for group, moments in inputs_by_layer(find_blocks(model), runs, InputMoments):
        for projection in group:
            weight = unquantized_weight(projection.linear)
            mask = find_mask(projection.linear)
            keep = weight != 0 if mask is None else mask.mask
            rounded = round_matrix(weight, moments, keep, damp=damp, act_order=act_order)
            errors[projection.name] = RoundingError(
                reconstruction_error(weight, round_nearest(weight), moments),
                reconstruction_error(weight, rounded, moments),
            )
            set_weight_(projection.linear, rounded)
    return errors


def round_nearest(weight: Tensor) -> Tensor:
    """Returns [N, K] float32, each weight on the nearest point of its row's grid."""
    scale = row_scales(weight)[:, None]
    return torch.mul(weight, 1.0 / scale).round_() * scale


def round_matrix(
    weight: Tensor,
    moments: InputMoments,
    keep: Tensor | None = None,
    *,
    damp: float = 0.01,
    act_order: bool = True,
    row_work: float = ROW_WORK,
) -> Tensor:
    """Rounds one matrix so that its outputs change little.

    The grid of a row is that of the numeric law: -127..127 times the largest absolute weight / 127, rounded
    half to even. That largest weight keeps its 127, whatever the others would have it make up for, so that
    the law finds the same grid in the rounded row again.

    Args:
        weight: [N, K] float32.
        moments: Of its input.
        keep: [N, K] bool, False where a weight is 0 and stays so; None keeps all.
        damp: See `InputMoments.damped`.
        act_order: Goes through the columns by falling mean square of the input instead of as they stand: what
            matters most is rounded first, while most others can still make up for it.
        row_work: A sparse matrix is rounded row by row, each with the moments of what it keeps, where that
            takes at most so many multiplications; else with one factor for all rows, in which weights that
            are 0 count as free until their column comes, and less is made up for.

    Returns:
        [N, K] float32.

    Raises:
        DataError: There are no tokens, or the damping is too small for so few.

    Source:
        Frantar et al., "GPTQ" (arXiv 2210.17323), algorithm 1, with the activation order of its later
        code. We differ: one symmetric grid a row, fixed beforehand; its largest weight is held; masked
        weights are held at 0, with one factor as in the joint form of SparseGPT (arXiv 2301.00774, section
        3.5), or exactly, row by row.
    """
    keep = torch.ones_like(weight, dtype=torch.bool) if keep is None else keep
    weight = weight * keep
    scale = row_scales(weight)
    order = torch.arange(weight.shape[1], device=weight.device)
    if act_order:
        order = moments.mean_squares().argsort(descending=True, stable=True)
    ordered, kept = weight[:, order], keep[:, order]
    grid = _Grid(ordered, scale)
    counts = kept.sum(1)
    if counts.min() < weight.shape[1] and float(counts.double().pow(3).sum()) / 3 <= row_work:
        integers = _round_rows(ordered, kept, moments.damped(damp)[order][:, order], grid)
    else:
        rule = _Masked(grid, kept)
        integers = (compensate(ordered, moments.inverse_factor(damp, order), rule) / scale[:, None]).round_()
    # What the numeric law makes of these integers, bit for bit.
    rounded = integers.float() * scale[:, None]
    return torch.empty_like(rounded).scatter_(1, order.expand_as(rounded), rounded)


class _Grid:
    """The points that the weights of each row may take.

    Args:
        weight: [N, K] float32.
        scale: [N] float32.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self.scale = scale.double()
        largest = weight.abs().max(dim=1)
        self.held = torch.where(largest.values > 0, largest.indices, -1)  # [N] the column that keeps its 127
        self.ends = S8_MAX * weight.gather(1, largest.indices[:, None])[:, 0].sign().double()

    def integers(self, columns: Tensor | int, values: Tensor, rows: slice = slice(None)) -> Tensor:
        """Rounds one weight a row.

        Args:
            columns: [rows] int64, or one for all: where these weights stand.
            values: [rows] float64.
            rows: Which.

        Returns:
            [rows] float64.
        """
        rounded = (values / self.scale[rows]).round_().clamp_(S8_MIN, S8_MAX)
        return torch.where(self.held[rows] == columns, self.ends[rows], rounded)


class _Masked:
    """Rounds columns, and holds masked weights at 0; a `ColumnRule`."""

    def __init__(self, grid: _Grid, keep: Tensor) -> None:
        self._grid = grid
        self._keep = keep

    def begin(self, start: int, chunk: Tensor) -> None:
        """Needs to see nothing beforehand."""

    def fix(self, column: int, values: Tensor) -> Tensor:
        """Returns [N] float64 on the grid, 0 where masked."""
        return self._grid.integers(column, values) * self._grid.scale * self._keep[:, column]


def _round_rows(weight: Tensor, keep: Tensor, hessian: Tensor, grid: _Grid) -> Tensor:
    """Rounds each row with the moments of the inputs that it keeps, [N, K] float64 integers.

    With H = R R^T, R upper triangular, a row's error is |e R|^2 for e = w - v. Its term j is
    e_j R_jj + sum over i < j of e_i R_ij: each weight is rounded so that its own term is smallest, which is
    what eliminating column after column comes to, without an inverse.
    """
    result = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    for rows, places, real, matrices in kept_moments(keep, hessian):
        # The Cholesky factor of the matrix turned around, turned around.
        factor = torch.linalg.cholesky(matrices.flip(1, 2)).flip(1, 2)  # [rows, k, k] upper triangular
        values = weight[rows].double().gather(1, places)
        errors = torch.zeros_like(values)
        for j in range(values.shape[1]):
            drift = (errors[:, None, :j] @ factor[:, :j, j, None])[:, 0, 0] / factor[:, j, j]
            integers = grid.integers(places[:, j], values[:, j] + drift, rows)
            integers = torch.where(real[:, j], integers, 0.0)
            errors[:, j] = torch.where(real[:, j], values[:, j] - integers * grid.scale[rows], 0.0)
            result[rows].scatter_add_(1, places[:, j, None], integers[:, None])
    return result
