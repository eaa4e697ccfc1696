"""SparseGPT: column by column, what goes is made up for by what is still to come."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pattern import Pattern
from secateur.sparsity.choice import keep_highest, keep_highest_of_rows
from secateur.sparsity.hessian import InputMoments, InputSquares, compensate, refit
from secateur.sparsity.layerwise import LayerwisePruner
from secateur.sparsity.pruner import Ranking

__all__ = ["SparseGptPruner", "prune_matrix"]


class SparseGptPruner(LayerwisePruner):
    """Removes what each matrix's outputs lose least by, and lets the columns to the right make up for it.

    Args:
        pattern: What is removed together.
        ranking: `matrix` takes the same share of every matrix; `global` first compares the blocks of all
            matrices by what each alone, best made up for, would cost.
        damp: See `InputMoments.damped`.
        columns: Columns whose masks are chosen together; N:M chooses group by group.
        refit: Afterwards sets the weights that stay, those to the left too, to what is nearest to the outputs
            of the whole matrix.

    Source:
        Frantar and Alistarh, "SparseGPT" (arXiv 2301.00774), algorithm 1: B_s is `columns`, percdamp is
        `damp`. We differ: blocks are chosen by their joint saliency, masks are exact to one block over the
        matrix, inputs are seen behind each pruned matrix instead of each pruned layer, padding is left out.
    """

    def __init__(
        self,
        pattern: Pattern,
        *,
        ranking: Ranking = "matrix",
        damp: float = 0.01,
        columns: int = 128,
        refit: bool = False,
    ) -> None:
        super().__init__(pattern, ranking=ranking, statistics=InputMoments)
        self.damp = damp
        self.columns = columns
        self.refit = refit
        self._factor: Tensor | None = None

    def _prepare_(self, found: InputSquares | None) -> None:
        self._factor = found.inverse_factor(self.damp) if isinstance(found, InputMoments) else None

    def costs(self, weight: Tensor, found: InputSquares) -> Tensor:
        """Returns [N, K] float32 whose sum over a block is what removing it alone costs.

        That is w_B^T ([H^-1]_BB)^-1 w_B, with all other weights of its row free; for a weight of a row
        w^2 / [H^-1]_kk.
        """
        assert self._factor is not None
        inverse = self._factor.t() @ self._factor
        size = self.pattern.columns
        starts = torch.arange(0, weight.shape[1], size, device=weight.device)
        places = starts[:, None] + torch.arange(size, device=weight.device)
        parts = inverse[places[:, :, None], places[:, None, :]]  # [K / size, size, size]
        factors = torch.linalg.cholesky(parts)
        rows = weight.double().unflatten(1, (-1, size)).permute(1, 2, 0)  # [K / size, size, N]
        errors = torch.linalg.solve_triangular(factors, rows, upper=False)
        return errors.square().permute(2, 0, 1).flatten(1).float()

    def pruned(
        self, weight: Tensor, kept: Tensor, found: InputSquares, sparsity: float
    ) -> tuple[Tensor, Tensor]:
        """Prunes one matrix; see `LayerwisePruner.pruned`."""
        assert self._factor is not None
        new, keep = prune_matrix(
            weight,
            self._factor,
            self.pattern,
            sparsity,
            kept=kept,
            columns=self.columns,
            ranking=self.ranking,
        )
        if self.refit and isinstance(found, InputMoments):
            new = refit(weight, keep, found.damped(self.damp))
        return new, keep


def prune_matrix(
    weight: Tensor,
    factor: Tensor,
    pattern: Pattern,
    sparsity: float,
    *,
    kept: Tensor | None = None,
    columns: int = 128,
    ranking: str = "matrix",
) -> tuple[Tensor, Tensor]:
    """Prunes one matrix by SparseGPT.

    Args:
        weight: [N, K] float32.
        factor: [K, K] float64, `InputMoments.inverse_factor`.
        pattern: What is removed together.
        sparsity: Fraction of blocks to remove; N:M removes whole weights a group.
        kept: [N, K] bool, False where a weight is gone already and stays so; None keeps all so far.
        columns: Columns whose masks are chosen together.
        ranking: `row` chooses the same number in every row to one block; others choose over all rows.

    Returns:
        weight: [N, K] float32.
        keep: [N, K] bool; `round(sparsity * blocks)` blocks are False, more only where more were gone.
    """
    side = pattern.group or pattern.columns
    chunk = max(side, columns // side * side)
    rule = _Selection(weight, factor, pattern, sparsity, kept, ranking)
    new = compensate(weight, factor, rule, chunk)
    return new.to(weight.dtype), rule.keep


class _Selection:
    """Chooses what goes as the columns come up; a `ColumnRule`."""

    def __init__(
        self,
        weight: Tensor,
        factor: Tensor,
        pattern: Pattern,
        sparsity: float,
        kept: Tensor | None,
        ranking: str,
    ) -> None:
        self.keep = torch.ones_like(weight, dtype=torch.bool)
        self._factor = factor
        self._pattern = pattern
        self._sparsity = sparsity
        self._by_row = ranking == "row"
        kept = self.keep if kept is None else kept
        self._gone = pattern.block_scores((~kept).float()) == pattern.block_size  # [N / rows, K / columns]
        self._removed = 0
        self._chunk: Tensor | None = None
        self._start = 0

    def begin(self, start: int, chunk: Tensor) -> None:
        """Chooses masks of the next columns by their saliency; N:M does so group by group."""
        self._chunk, self._start = chunk, start
        pattern = self._pattern
        if pattern.is_grouped:
            return
        first, last = start // pattern.columns, (start + chunk.shape[1]) // pattern.columns
        gone = self._gone[:, first:last]
        scores = self._saliency(start, chunk).masked_fill(gone, -torch.inf)
        seen, ahead = self._gone.shape[0] * last, int(self._gone[:, last:].sum())
        total = round(self._sparsity * self._gone.numel())
        remove = round(self._sparsity * seen) - self._removed
        remove = min(remove, total - self._removed - ahead)  # what is gone further right goes in any case
        remove = min(max(remove, int(gone.sum())), scores.numel())
        keep = (keep_highest_of_rows if self._by_row else keep_highest)(scores, remove)
        keep &= ~gone
        self._removed += int((~keep).sum())
        self.keep[:, start : start + chunk.shape[1]] = pattern.expand(keep)

    def fix(self, column: int, values: Tensor) -> Tensor:
        """Returns [N] float64, 0 where the mask is False."""
        group = self._pattern.group
        if group and column % group == 0:
            assert self._chunk is not None
            place = column - self._start
            diagonal = self._factor.diagonal()[column : column + group]
            scores = (self._chunk[:, place : place + group] / diagonal).square()
            scores = scores.masked_fill(self._gone[:, column : column + group], -torch.inf)
            lowest = scores.sort(dim=1, stable=True).indices[
                :, : self._pattern.removed_of_group(self._sparsity)
            ]
            keep = ~self._gone[:, column : column + group]
            self.keep[:, column : column + group] = keep.scatter(1, lowest, False)
        return values * self.keep[:, column]

    def _saliency(self, start: int, chunk: Tensor) -> Tensor:
        """Returns [N / rows, c / columns] float64: what removing a block costs, made up for by its right.

        With U the factor, that is |w_B U_BB^-1|^2 = w_B ([H_F^-1]_BB)^-1 w_B^T with F the columns from B on.
        Removing the columns of B one after another costs as much and leads to the same weights.
        """
        size = self._pattern.columns
        places = torch.arange(start, start + chunk.shape[1], device=chunk.device).unflatten(0, (-1, size))
        factors = self._factor[places[:, :, None], places[:, None, :]]  # [c / size, size, size]
        blocks = chunk.unflatten(1, (-1, size)).transpose(0, 1)  # [c / size, N, size]
        errors = torch.linalg.solve_triangular(factors, blocks, upper=True, left=False)
        costs = errors.square().sum(2).t()  # [N, c / size]
        return costs.unflatten(0, (-1, self._pattern.rows)).sum(1)
