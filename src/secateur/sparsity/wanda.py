"""Wanda: a weight matters as much as it is large and its input is."""

from __future__ import annotations

from torch import Tensor

from secateur.pattern import Pattern
from secateur.sparsity.choice import choose_masks
from secateur.sparsity.hessian import InputMoments, InputSquares, refit
from secateur.sparsity.layerwise import LayerwisePruner
from secateur.sparsity.pruner import Ranking

__all__ = ["WandaPruner"]


class WandaPruner(LayerwisePruner):
    """Ranks a weight by its size times the norm of its input over calibration tokens.

    The score is the square of that, w_nk^2 E x_k^2: what leaving out this weight alone does to the mean
    square of its output. Squares leave the order of single weights as it is, and may be added up over a
    block: without correlations between inputs, which the method leaves out of account, squared errors add,
    while sums of |w| |x| would be no error of anything.

    Args:
        pattern: What is removed together.
        ranking: `row` compares within each output row, as the authors do, `matrix` within a matrix, `global`
            over all matrices.
        refit: Sets the weights that stay to what is nearest to the outputs of the whole matrix; Wanda itself
            changes none.
        damp: Holds `refit` back, see `InputMoments.damped`.

    Source:
        Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (arXiv 2306.11695),
        equation 1, with the comparison groups of its section 3. We differ: inputs are seen behind each pruned
        matrix instead of each pruned layer, padding is left out, and a block's score is the sum of squares.
    """

    def __init__(
        self, pattern: Pattern, *, ranking: Ranking = "row", refit: bool = False, damp: float = 0.01
    ) -> None:
        super().__init__(pattern, ranking=ranking, statistics=InputMoments if refit else InputSquares)
        self.refit = refit
        self.damp = damp

    def costs(self, weight: Tensor, found: InputSquares) -> Tensor:
        """Returns [N, K] float32, w^2 E x^2."""
        return (weight.double().square() * found.mean_squares().to(weight.device)).float()

    def pruned(
        self, weight: Tensor, kept: Tensor, found: InputSquares, sparsity: float
    ) -> tuple[Tensor, Tensor]:
        """Prunes one matrix; see `LayerwisePruner.pruned`."""
        ranking = "matrix" if self.ranking == "global" else self.ranking
        scores = self.costs(weight, found)
        keep = choose_masks([scores], self.pattern, sparsity, ranking, [kept])[0] & kept
        if self.refit and isinstance(found, InputMoments):
            return refit(weight, keep, found.damped(self.damp)), keep
        return weight * keep, keep
