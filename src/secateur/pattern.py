"""Patterns: which weights of a matrix stay or go together. Pure: no PyTorch is imported to read one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.errors import RecipeError, StructureError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PATTERN_SPELLING", "Pattern"]

PATTERN_SPELLING = r"unstructured|block4|block:[1-9]\d*x[1-9]\d*|[1-9]\d*:[1-9]\d*"
_BLOCK = re.compile(r"block:(\d+)x(\d+)")
_GROUP = re.compile(r"(\d+):(\d+)")
_LARGEST = 4096  # sides of a block, weights of a group: beyond any matrix that is pruned


@dataclass(frozen=True)
class Pattern:
    """The shape of what is kept or removed together.

    Blocks lie on a grid from the first weight of the matrix on. An N:M pattern keeps N single weights of
    every M that follow one another in a row, so its sparsity is 1 - N/M in every group; on the way there N
    falls from M.

    Attributes:
        name: `unstructured`, `block4` (four neighbours in a row), `block:RxC`, or `N:M` such as `2:4`.
        rows: Rows of a block (R).
        columns: Columns of a block (C).
        group: Weights of a group of N:M (M); 0 for the other patterns.
        keep: Weights of a group that stay at the end (N); 0 for the other patterns.
    """

    name: str
    rows: int = 1
    columns: int = 1
    group: int = 0
    keep: int = 0

    @classmethod
    def parse(cls, name: str) -> Pattern:
        """Returns the pattern of this name.

        Args:
            name: As in `name`; `block:1x4` is `block4`, `block:1x1` is `unstructured`.

        Raises:
            RecipeError: There is no such pattern.
        """
        known = "write unstructured, block4, block:RxC such as block:4x4, or N:M such as 2:4"
        if name == "unstructured":
            return cls(name)
        if name == "block4":
            return cls(name, columns=4)
        if re.fullmatch(PATTERN_SPELLING, name) is None:
            raise RecipeError(f"The pattern {name!r} is not known; {known}.")
        block, group = _BLOCK.fullmatch(name), _GROUP.fullmatch(name)
        first, second = (int(number) for number in (block or group).groups())  # type: ignore[union-attr]
        if max(first, second) > _LARGEST:
            raise RecipeError(f"The pattern {name!r} is larger than any matrix; {known}.")
        if group:
            if first >= second:
                raise RecipeError(
                    f"The pattern {name!r} keeps {first} of every {second} weights and so removes none: N "
                    "must be below M, as in 2:4."
                )
            return cls(name, group=second, keep=first)
        plain = {(1, 1): "unstructured", (1, 4): "block4"}
        return cls(plain.get((first, second), name), rows=first, columns=second)

    @property
    def block_size(self) -> int:
        """Weights that share one mask bit."""
        return self.rows * self.columns

    @property
    def is_grouped(self) -> bool:
        """Whether this is an N:M pattern."""
        return self.group > 0

    @property
    def limit(self) -> float:
        """The largest sparsity that the pattern can have."""
        return 1.0 - self.keep / self.group if self.is_grouped else 1.0

    def removed_of_group(self, sparsity: float) -> int:
        """Returns how many of the M weights of every group go at a sparsity, at most M - N.

        Args:
            sparsity: Fraction of zeros, 0-1; the nearest that whole weights can give is taken, half goes up.
        """
        return min(self.group - self.keep, int(sparsity * self.group + 0.5 + 1e-9))

    def reachable(self, sparsity: float) -> float:
        """Returns the sparsity that the pattern gives where this one is asked for: N:M goes in steps."""
        return self.removed_of_group(sparsity) / self.group if self.is_grouped else sparsity

    def block_scores(self, scores: Tensor) -> Tensor:
        """Sums the scores of each block.

        Args:
            scores: [N, K] float32, one per weight; rows and columns divide into blocks.

        Returns:
            [N / rows, K / columns] float32.
        """
        if self.rows == 1:
            return scores if self.columns == 1 else scores.unflatten(-1, (-1, self.columns)).sum(-1)
        return scores.unflatten(-1, (-1, self.columns)).unflatten(0, (-1, self.rows)).sum((1, 3))

    def expand(self, blocks: Tensor) -> Tensor:
        """Repeats what each block has over its weights.

        Args:
            blocks: [N / rows, K / columns] of any type.

        Returns:
            [N, K] of the same type.
        """
        wide = blocks if self.columns == 1 else blocks.repeat_interleave(self.columns, dim=-1)
        return wide if self.rows == 1 else wide.repeat_interleave(self.rows, dim=0)

    def check(self, name: str, in_features: int, out_features: int | None = None) -> None:
        """Checks that a matrix divides into blocks or groups.

        Args:
            name: What the matrix is called.
            in_features: Its columns (K).
            out_features: Its rows (N); None checks the columns alone.

        Raises:
            StructureError: It does not.
        """
        parts = f"groups of {self.group}" if self.is_grouped else f"blocks of {self.columns}"
        if in_features % (self.group or self.columns):
            raise StructureError(
                f"{name} has {in_features} inputs, which do not divide into {parts}; "
                "use the pattern 'unstructured' for this model."
            )
        if out_features is not None and out_features % self.rows:
            raise StructureError(
                f"{name} has {out_features} outputs, which do not divide into blocks of {self.rows} rows; "
                "use the pattern 'unstructured' for this model."
            )
