"""LAMP scores against their formula."""

from __future__ import annotations

import pytest
import torch

from secateur.sparsity import LampPruner, Pattern


@pytest.mark.parametrize("name", ["unstructured", "block4"])
def test_the_score_is_the_share_of_what_is_not_smaller(name: str) -> None:
    pattern = Pattern.parse(name)
    torch.manual_seed(0)
    weight = torch.randn(5, 8)
    weight[0] = 0.0
    scores = pattern.block_scores(LampPruner(pattern).score(weight))
    energies = pattern.block_scores(weight.square())
    for place in energies.nonzero().tolist():
        own = energies[tuple(place)]
        expected = own / energies[energies >= own].sum()
        assert scores[tuple(place)].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (scores[energies == 0] == 0).all()
    assert scores.max() == 1.0


def test_a_matrix_of_small_weights_is_not_thinned_out() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 8)
    pruner = LampPruner(Pattern.parse("block4"))
    assert torch.allclose(pruner.score(weight), pruner.score(weight * 0.01), rtol=1e-4)
    assert (pruner.score(torch.zeros(4, 8)) == 0).all()
