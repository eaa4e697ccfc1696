"""The empirical Fisher information of one matrix, in blocks: its inverse, saliencies, and the best update.

Two forms hold the same matrix. With as many gradients as a block has weights, or more, their outer products
are summed, a batch of gradients at a time, and the damped sum is factored once. With fewer, the gradients
themselves are kept and the inverse goes through their Gram matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import StructureError
from secateur.pattern import Pattern

__all__ = ["BlockLayout", "FisherBlocks", "bytes_needed"]

BATCH = 32  # gradients that are gathered before they enter the sum
_PART = 64  # blocks that are factored at once: their float64 copies stay in the cache


@dataclass(frozen=True)
class BlockLayout:
    """How the weights of a matrix lie in Fisher blocks.

    Row after row, cut into pieces of one length; where a pattern's block has several rows, block after block,
    so that no block of the pattern lies in two Fisher blocks. The last Fisher block is filled up with zeros.

    Attributes:
        pattern: What is removed together.
        shape: [N, K] of the matrix.
        size: Weights of a Fisher block, a multiple of the pattern's blocks and groups.
    """

    pattern: Pattern
    shape: tuple[int, int]
    size: int

    @property
    def blocks(self) -> int:
        """Number of Fisher blocks."""
        return -(-self.shape[0] * self.shape[1] // self.size)

    def cut(self, matrix: Tensor) -> Tensor:
        """Returns [N, K] as [blocks, size]."""
        if self.pattern.rows > 1:
            rows, columns = self.pattern.rows, self.pattern.columns
            matrix = matrix.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).transpose(1, 2)
        flat = matrix.reshape(-1)
        missing = self.blocks * self.size - flat.numel()
        if missing:
            flat = torch.nn.functional.pad(flat, (0, missing))
        return flat.view(self.blocks, self.size)

    def join(self, blocks: Tensor) -> Tensor:
        """Returns [blocks, size] as [N, K]."""
        flat = blocks.reshape(-1)[: self.shape[0] * self.shape[1]]
        if self.pattern.rows == 1:
            return flat.view(self.shape)
        rows, columns = self.pattern.rows, self.pattern.columns
        grid = flat.view(self.shape[0] // rows, self.shape[1] // columns, rows, columns)
        return grid.transpose(1, 2).reshape(self.shape)


class FisherBlocks:
    """F = damp * I + 1/m * sum of g g^T over m gradients g, block by block along the diagonal.

    What the mask has removed has no gradient: its rows and columns are those of damp * I, and move nothing.

    Args:
        layout: How the matrix lies in blocks.
        count: Number of gradients that will come (m).
        dtype: Type that is summed in; blocks are factored in float64.
        device: Where the sums lie.

    Source:
        Kurtic et al., "The Optimal BERT Surgeon" (arXiv 2203.07259): equation 3 is the Fisher matrix F-hat
        (lambda is our damp, m the number of gradients), section 3.2 its blocks of width B. They update the
        inverse by a rank-one Woodbury step per gradient (equation 4), which reads and writes all P * B
        entries m times and is bound by memory: 12 * P * B bytes a gradient. We sum F by matrix products over
        32 gradients, (8 * B / 32 + 8) * P bytes a gradient, and factor it once, P * B^2 / 3 products; the
        inverse is the same one. With m < B the identity of Woodbury is used in its rank-m form, which holds
        P * m numbers instead of P * B.
    """

    def __init__(
        self,
        layout: BlockLayout,
        count: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.layout = layout
        self.count = count
        self._seen = 0
        blocks, size = layout.blocks, layout.size
        self._by_gram = count < size
        kept = count if self._by_gram else min(BATCH, count)
        self._gradients = torch.zeros(blocks, kept, size, dtype=dtype, device=device)
        self._sums = None if self._by_gram else torch.zeros(blocks, size, size, dtype=dtype, device=device)

    def add_(self, gradient: Tensor) -> None:
        """Adds one gradient, [N, K] of any floating type, 0 where the mask is False."""
        if self._seen == self.count:
            raise StructureError(f"The Fisher matrix was made for {self.count} gradients, and has them.")
        place = self._seen % self._gradients.shape[1]
        self._gradients[:, place] = self.layout.cut(gradient)
        self._seen += 1
        if self._sums is not None and (place + 1 == self._gradients.shape[1] or self._seen == self.count):
            part = self._gradients[:, : place + 1]
            torch.baddbmm(self._sums, part.transpose(1, 2), part, out=self._sums)

    def inverse(self, damp: float) -> Tensor:
        """Returns the inverse of every damped block, [blocks, size, size] float64.

        Raises:
            StructureError: A block is not positive definite in float64.
        """
        size = self.layout.size
        return torch.cat([self._corners(part, damp, size).squeeze(1) for part in self._parts()])

    def saliencies(self, weight: Tensor, damp: float, group: int) -> Tensor:
        """Returns what the loss grows by, to second order, where a group of weights goes and others adapt.

        Args:
            weight: [N, K], the masked weight.
            damp: Added to the diagonal.
            group: Neighbouring weights in the layout that go together; divides the block size.

        Returns:
            [N, K] float32: the saliency of a group, shared evenly by its weights.

        Raises:
            StructureError: A block is not positive definite in float64.

        Source:
            Kurtic et al., equation 6: 1/2 w_Q^T ([F^-1]_QQ)^-1 w_Q; for one weight w^2 / (2 [F^-1]_qq),
            equation 2.
        """
        cut = self.layout.cut(weight.double())
        scores = torch.empty_like(cut)
        for part in self._parts():
            own = cut[part].unflatten(1, (-1, group))  # [blocks, groups, group]
            corners = self._corners(part, damp, group)
            if group == 1:
                score = own.square() / (2.0 * corners.squeeze(-1))
            else:
                solved = torch.linalg.solve(corners, own.unsqueeze(-1)).squeeze(-1)
                score = (own * solved).sum(-1, keepdim=True).mul(0.5 / group).expand_as(own)
            scores[part] = score.flatten(1)
        return self.layout.join(scores).float()

    def update(self, weight: Tensor, keep: Tensor, damp: float) -> tuple[Tensor, float]:
        """Moves the weights that stay to where the loss is least without the others.

        Args:
            weight: [N, K], the masked weight.
            keep: [N, K] bool; what goes, and what is gone.
            damp: Added to the diagonal.

        Returns:
            The new weight, [N, K] in the type of `weight`, 0 where `keep` is False; and what the loss grows
            by, to second order, without the damping.

        Raises:
            StructureError: A block is not positive definite in float64.

        Source:
            Kurtic et al., equation 5: -F^-1 E_Q ([F^-1]_QQ)^-1 w_Q. We take Q to be all that goes of a block,
            where they add up the updates of single weights as if they did not touch each other: with
            K what stays, F_KK d_K = F_KQ w_Q, solved without the inverse.
        """
        cut, stays = self.layout.cut(weight.double()), self.layout.cut(keep)
        moved = torch.empty_like(cut)
        growth = torch.zeros((), dtype=torch.float64, device=cut.device)
        for part in self._parts():
            gone = torch.where(stays[part], 0.0, cut[part])
            step = self._step(part, gone, stays[part].double(), damp)
            moved[part] = torch.where(stays[part], cut[part] + step, 0.0)
            change = step - gone
            growth += 0.5 * (change * self._times(part, change)).sum()
        return self.layout.join(moved).to(weight.dtype), float(growth)

    def _step(self, part: slice, gone: Tensor, stays: Tensor, damp: float) -> Tensor:
        """Returns how the weights that stay move, [blocks, size], 0 elsewhere."""
        if self._sums is None:
            rows = self._gradients[part].double()
            kept = rows * stays.unsqueeze(1)
            gram = kept @ kept.transpose(1, 2)
            gram.diagonal(dim1=1, dim2=2).add_(damp * self.count)
            pull = rows @ gone.unsqueeze(-1)
            return (kept.transpose(1, 2) @ torch.cholesky_solve(pull, self._factor(gram, damp))).squeeze(-1)
        fisher = self._sums[part].to(torch.float64, copy=True).div_(self.count)
        pull = (fisher @ gone.unsqueeze(-1)) * stays.unsqueeze(-1)
        fisher *= stays.unsqueeze(1) * stays.unsqueeze(2)
        # What goes is cut loose: 1 on its diagonal keeps the factor well conditioned and the step 0.
        fisher.diagonal(dim1=1, dim2=2).add_(torch.where(stays != 0, damp, 1.0))
        return torch.cholesky_solve(pull, self._factor(fisher, damp)).squeeze(-1) * stays

    def _times(self, part: slice, vector: Tensor) -> Tensor:
        """Returns the undamped F times [blocks, size]."""
        if self._sums is not None:
            product = self._sums[part].double() @ vector.unsqueeze(-1)
        else:
            rows = self._gradients[part].double()
            product = rows.transpose(1, 2) @ (rows @ vector.unsqueeze(-1))
        return product.squeeze(-1) / self.count

    def _corners(self, part: slice, damp: float, group: int) -> Tensor:
        """Returns the blocks of F^-1 along its diagonal, [blocks, groups, group, group]."""
        if self._sums is None:  # F^-1 = (I - G^T (m damp I + G G^T)^-1 G) / damp
            rows = self._gradients[part].double()
            gram = rows @ rows.transpose(1, 2)
            gram.diagonal(dim1=1, dim2=2).add_(damp * self.count)
            half = torch.linalg.solve_triangular(self._factor(gram, damp), rows, upper=False)
            eye = torch.eye(group, dtype=torch.float64, device=half.device)
            return (eye - _products(half, group)) / damp
        fisher = self._sums[part].to(torch.float64, copy=True).div_(self.count)
        fisher.diagonal(dim1=1, dim2=2).add_(damp)
        inverse = torch.cholesky_inverse(self._factor(fisher, damp))
        corners = inverse.unflatten(2, (-1, group)).unflatten(1, (-1, group)).diagonal(dim1=1, dim2=3)
        return corners.permute(0, 3, 1, 2)

    def _factor(self, matrices: Tensor, damp: float) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(matrices)
        if failed.any():
            raise StructureError(
                f"The Fisher matrix cannot be inverted with damp {damp:.3g}: give a larger damp, or auto."
            )
        return factor

    def _parts(self) -> Iterator[slice]:
        if self._seen != self.count:
            raise StructureError(f"The Fisher matrix needs {self.count} gradients and has {self._seen}.")
        for start in range(0, self.layout.blocks, _PART):
            yield slice(start, start + _PART)


def _products(x: Tensor, group: int) -> Tensor:
    """Returns the blocks of X^T X along its diagonal, [blocks, groups, group, group].

    Args:
        x: [blocks, rows, size] float64.
        group: Their width.
    """
    columns = x.unflatten(-1, (-1, group)).permute(0, 2, 3, 1)  # [blocks, groups, group, rows]
    return columns @ columns.transpose(-1, -2)


def bytes_needed(layout: BlockLayout, count: int) -> int:
    """Returns the bytes of a matrix's `FisherBlocks` in float32.

    Args:
        layout: How it lies in blocks.
        count: Number of gradients.
    """
    each = count if count < layout.size else layout.size + min(BATCH, count)
    return 4 * layout.blocks * layout.size * each
