"""What a pruning method may ask of a model and its data, whoever trains the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from secateur.modeling.structure import Projection

__all__ = ["Evidence", "Visit"]

Visit = Callable[[Projection, Tensor, Tensor], None]


class Evidence(Protocol):
    """Gradients, losses and inputs of a model as it stands, from batches that depend on seed and step only.

    Asking leaves no trace: random state, `.grad` fields, the ranges of activations, modes of modules and the
    order of the training rows are afterwards what they were before. Asked twice at one step with the same
    weights, it answers the same, bit for bit; with several processes all get the same answer, and all must
    ask alike. Matrices are counted as `find_projections` yields them.
    """

    def gradients(
        self, count: int, *, draw: int = 0, matrices: Sequence[int] | None = None
    ) -> Iterator[list[Tensor]]:
        """Yields gradients of the training loss, each the mean over one mini-batch.

        Args:
            count: How many.
            draw: Number of the draw: another one gives other batches.
            matrices: Which matrices, in ascending order; None means all. Their gradients do not depend on
                which others are asked for, and the backward pass ends at the lowest of them.

        Yields:
            One [N, K] float32 per asked matrix, with respect to the effective (masked) weight and 0 where
            that is masked. They belong to the caller.

        Raises:
            DataError: There are fewer rows than `count`.
            StructureError: A gradient is not finite; names the batch and the matrix.
        """
        ...

    def held_out_loss(self) -> float:
        """Returns the mean training loss over a few batches that are the same in the whole run."""
        ...

    def inputs(self, visit: Visit) -> None:
        """Runs the model forward over calibration batches and shows what enters each pruned matrix.

        Every process sees all batches.

        Args:
            visit: Called with a projection, its input [tokens, K] in the type that the model computes in,
                and a mask [tokens] bool that is True for real tokens. Query, key and value of a layer read
                the same input: `visit` gets one and the same tensor object three times in a row.
        """
        ...
