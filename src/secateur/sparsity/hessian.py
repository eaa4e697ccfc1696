"""Second moments of what a matrix reads: the Hessian of its reconstruction error, and the elimination on it.

A matrix W [N, K] gives W x for an input x [K]. Changing it to V costs E |(W - V) x|^2, a sum over rows of
d H d^T with d a row of W - V and H = E x x^T [K, K], the same for every row: `InputMoments`. SparseGPT prunes
and GPTQ rounds by that one matrix: `compensate`, going through the columns from left to right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from secateur.errors import DataError, StructureError

__all__ = [
    "ROW_WORK",
    "ColumnRule",
    "InputMoments",
    "InputSquares",
    "compensate",
    "kept_moments",
    "reconstruction_error",
    "refit",
]

# Multiplications up to which each row of a matrix gets a factor of its own: some ten seconds on one core.
ROW_WORK = 1e11

_CHUNK_TOKENS = 1024  # tokens in one float32 product
_CHUNK_COLUMNS = 128
_CHUNK_BYTES = 1 << 26  # of the matrices of rows that are worked on together


class InputSquares:
    """Mean squares of what a matrix reads, column by column, over real tokens.

    Args:
        name: What is read, for messages.
        in_features: K.

    Attributes:
        tokens: How many were seen.
    """

    def __init__(self, name: str, in_features: int) -> None:
        self.name = name
        self.in_features = in_features
        self.tokens = 0
        self._first: Tensor | None = None
        self._varies = False
        self._squares = torch.zeros(in_features, dtype=torch.float64)

    def add_(self, x: Tensor, real: Tensor | None = None) -> None:
        """Takes in some tokens.

        Args:
            x: [tokens, K] any floating type.
            real: [tokens] bool or integer, 0 for padding; None where all are real.

        Raises:
            DataError: A value is NaN or infinite.
            StructureError: The width is another one.
        """
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise StructureError(
                f"{self.name} was given inputs of the shape {tuple(x.shape)}, expected [tokens, "
                f"{self.in_features}]."
            )
        if real is not None:
            x = x[real.to(x.device).bool()]
        if not len(x):
            return
        x = x.detach() if x.dtype == torch.float64 else x.detach().float()
        if not torch.isfinite(x).all():
            raise DataError(
                f"The input of {self.name} holds NaN or infinity on the calibration texts: the model has "
                "diverged, or its file is damaged; give another one."
            )
        if self._first is None:
            self._first = x[0].clone()
        self._varies = self._varies or bool((x != self._first).any())
        self.tokens += len(x)
        with torch.autocast(x.device.type, enabled=False):
            for part in x.split(_CHUNK_TOKENS):
                self._add_part_(part)

    def _add_part_(self, x: Tensor) -> None:
        self._squares = self._squares.to(x.device)
        self._squares += x.double().square().sum(0)

    @property
    def varies(self) -> bool:
        """Whether two tokens differed; False says that the model or the texts are not what was meant."""
        return self._varies

    def check(self) -> None:
        """Raises DataError where no token was seen."""
        if not self.tokens:
            raise DataError(f"No token reached {self.name}: give calibration texts that are not empty.")

    def mean_squares(self) -> Tensor:
        """Returns [K] float64, E x_k^2; 0 for a column that nothing reaches.

        Raises:
            DataError: See `check`.
        """
        self.check()
        return self._squares / self.tokens


class InputMoments(InputSquares):
    """Second moments of what a matrix reads, over real tokens; query, key and value share theirs.

    Products of at most 1,024 tokens are made in float32 and summed in float64. An entry ij is then off by at
    most 2^-14 sqrt(H_ii H_jj), typically a thirtieth of that; a damping of a hundredth hides it. Float64
    inputs are multiplied in float64. Memory: 8 K^2 bytes, 24 K^2 while factors are made.
    """

    def __init__(self, name: str, in_features: int) -> None:
        super().__init__(name, in_features)
        self._sums = torch.zeros(in_features, in_features, dtype=torch.float64)

    def _add_part_(self, x: Tensor) -> None:
        self._sums = self._sums.to(x.device)
        self._sums += x.t() @ x

    def mean_squares(self) -> Tensor:
        """Returns [K] float64, E x_k^2; 0 for a column that nothing reaches.

        Raises:
            DataError: See `check`.
        """
        self.check()
        return self._sums.diagonal() / self.tokens

    def matrix(self) -> Tensor:
        """Returns H = E x x^T, [K, K] float64, symmetric.

        Raises:
            DataError: See `check`.
        """
        self.check()
        return (self._sums + self._sums.t()) / (2 * self.tokens)

    def damped(self, damp: float = 0.01) -> Tensor:
        """Returns H + damp * mean(diag H) * I, [K, K] float64.

        A dead column, which is 0 for every token, is coupled to nothing, and what stands in it costs next to
        nothing: it goes first. Without damping it gets a millionth of the mean, so that nothing is divided
        by 0.

        Args:
            damp: Share of the mean over columns that are not dead.

        Raises:
            DataError: See `check`.
        """
        matrix = self.matrix()
        diagonal = matrix.diagonal()  # a view
        live = diagonal > 0
        mean = diagonal[live].mean() if live.any() else torch.ones_like(diagonal[0])
        added = torch.full_like(diagonal, damp)
        added[~live] = damp or 1e-6
        diagonal += added * mean
        return matrix

    def inverse(self, damp: float = 0.01) -> Tensor:
        """Returns the inverse of `damped`, [K, K] float64.

        Raises:
            DataError: See `check`; or the damping is too small for so few tokens.
        """
        return torch.cholesky_inverse(self._cholesky(self.damped(damp), damp))

    def inverse_factor(self, damp: float = 0.01, order: Tensor | None = None) -> Tensor:
        """Returns U, [K, K] float64 upper triangular, with `inverse` = U^T U.

        The rows and columns of U from j on are the factor of the inverse of what is left of `damped` without
        the first j rows and columns: one factor serves every step of `compensate`.

        Args:
            damp: See `damped`.
            order: [K] int64, the order in which columns are gone through; None: as they stand.

        Raises:
            DataError: See `inverse`.
        """
        damped = self.damped(damp)
        if order is not None:
            damped = damped[order][:, order]
        inverse = torch.cholesky_inverse(self._cholesky(damped, damp))
        return torch.linalg.cholesky(inverse, upper=True)

    def _cholesky(self, matrix: Tensor, damp: float) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed.item():
            raise DataError(
                f"The second moments of the input of {self.name} cannot be inverted with damp {damp:g} and "
                f"{self.tokens} tokens: give more calibration texts or a larger damp, such as 0.01."
            )
        return factor


class ColumnRule(Protocol):
    """Says what becomes of each column, as `compensate` comes to it."""

    def begin(self, start: int, chunk: Tensor) -> None:
        """Looks at the next columns before the first of them is fixed.

        Args:
            start: Number of the first.
            chunk: [N, c] float64, as compensated so far; it changes in place as its columns are fixed.
        """

    def fix(self, column: int, values: Tensor) -> Tensor:
        """Returns what a column shall be.

        Args:
            column: Its number.
            values: [N] float64, as compensated so far.

        Returns:
            [N] float64.
        """


def compensate(weight: Tensor, factor: Tensor, rule: ColumnRule, chunk: int = _CHUNK_COLUMNS) -> Tensor:
    """Fixes the columns of a matrix one after another; those to the right make up for each change.

    A change of -e U_jj in column j, best made up for, moves column k > j by -e U_jk. Within a chunk that
    happens column by column, to the columns behind it once a chunk (lazy batches).

    Args:
        weight: [N, K] float32 or float64.
        factor: [K, K] float64 upper triangular, `InputMoments.inverse_factor`.
        rule: What each column becomes.
        chunk: Columns that are fixed between two updates of the rest.

    Returns:
        [N, K] float64, what the rule said.

    Source:
        Frantar and Alistarh, "SparseGPT" (arXiv 2301.00774), algorithm 1; Frantar et al., "GPTQ"
        (arXiv 2210.17323), algorithm 1. Their H^-1 after Cholesky is our `factor`. We go through it in
        float64 throughout.
    """
    rest = weight.detach().to(torch.float64, copy=True)
    columns = rest.shape[1]
    for start in range(0, columns, chunk):
        end = min(start + chunk, columns)
        part = rest[:, start:end].clone()
        errors = torch.zeros_like(part)
        rule.begin(start, part)
        for index in range(end - start):
            column = start + index
            fixed = rule.fix(column, part[:, index])
            errors[:, index] = (part[:, index] - fixed) / factor[column, column]
            part[:, index + 1 :] -= torch.outer(errors[:, index], factor[column, column + 1 : end])
            part[:, index] = fixed
        rest[:, start:end] = part
        rest[:, end:] -= errors @ factor[start:end, end:]
    return rest


def reconstruction_error(before: Tensor, after: Tensor, moments: InputMoments) -> float:
    """Returns E |(before - after) x|^2: how far a changed matrix's outputs are off, a token, squared.

    Args:
        before: [N, K].
        after: [N, K].
        moments: Of its input.
    """
    difference = before.detach().double() - after.detach().double()
    return float(((difference @ moments.matrix()) * difference).sum())


def kept_moments(keep: Tensor, matrix: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yields, for a few rows at a time, the part of a Hessian that belongs to the weights they keep.

    Args:
        keep: [N, K] bool.
        matrix: [K, K] float64, positive definite.

    Yields:
        rows: Which.
        places: [rows, k] int64, the columns that each keeps, ascending, filled up with others.
        real: [rows, k] bool, False where it is filled up.
        matrices: [rows, k, k] float64; where it is filled up, those of the identity.
    """
    counts = keep.sum(1)
    start = 0
    while start < len(keep):
        width = max(1, int(counts[start:].max()))
        end = start + max(1, _CHUNK_BYTES // (8 * width * width))
        rows = slice(start, min(end, len(keep)))
        width = max(1, int(counts[rows].max()))
        places = (~keep[rows]).byte().argsort(dim=1, stable=True)[:, :width]
        real = torch.arange(width, device=keep.device) < counts[rows, None]
        matrices = matrix[places[:, :, None], places[:, None, :]]
        both = real[:, :, None] & real[:, None, :]
        identity = torch.eye(width, dtype=matrix.dtype, device=matrix.device)
        yield rows, places, real, torch.where(both, matrices, identity)
        start = rows.stop


def refit(weight: Tensor, keep: Tensor, damped: Tensor) -> Tensor:
    """Returns the weights under a mask whose outputs are nearest to those of the whole matrix.

    Each row solves H_kk v_k = (H w)_k over the columns k that it keeps; about a third of the sum of the
    cubes of their numbers in multiplications.

    Args:
        weight: [N, K] float32.
        keep: [N, K] bool.
        damped: [K, K] float64, `InputMoments.damped`: large steps are held back as it says.

    Returns:
        [N, K] float32, 0 where not kept.
    """
    products = weight.double() @ damped
    result = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    for rows, places, real, matrices in kept_moments(keep, damped):
        wanted = (products[rows].gather(1, places) * real)[:, :, None]
        values = torch.cholesky_solve(wanted, torch.linalg.cholesky(matrices))[:, :, 0]
        result[rows].scatter_add_(1, places, values * real)
    return result.to(weight.dtype)
