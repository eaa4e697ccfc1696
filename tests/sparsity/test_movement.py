"""Movement pruning: gradients by the formula, masks by the scores, the L1 term, and what is saved."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import tiny_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from secateur.errors import RecipeError, StructureError
from secateur.modeling import find_projections
from secateur.pattern import Pattern
from secateur.sparsity import MagnitudePruner, MovementPruner, SoftMovementPruner, find_mask
from secateur.sparsity.choice import choose_masks
from secateur.sparsity.mask import attach_mask_, remove_mask_
from secateur.sparsity.movement import ScoredMask

PATTERNS = ("unstructured", "block4", "block:2x2", "2:4")


def scored_linear(name: str, seed: int = 0) -> tuple[nn.Linear, ScoredMask]:
    """Returns a float64 layer whose mask keeps half at random."""
    torch.manual_seed(seed)
    pattern = Pattern.parse(name)
    linear = nn.Linear(8, 6).double()
    mask = choose_masks([torch.rand(6, 8)], pattern, 0.5)[0]
    made = attach_mask_(linear, mask, kind=lambda mask: ScoredMask(mask, pattern).double())
    assert isinstance(made, ScoredMask)
    return linear, made


def gradients_by_hand(
    x: torch.Tensor, linear: nn.Linear, mask: ScoredMask, outer: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """dL/dW_ij = M_ij sum_n g_ni x_nj;  dL/dS_b = sum over the block of W_ij sum_n g_ni x_nj."""
    weight = linear.parametrizations["weight"].original.detach()
    by_weight = torch.zeros_like(weight)
    by_score = torch.zeros_like(mask.scores)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            effective = sum(float(outer[n, i] * x[n, j]) for n in range(len(x)))
            if mask.mask[i, j]:
                by_weight[i, j] = effective
            by_score[i // mask.pattern.rows, j // mask.pattern.columns] += float(weight[i, j]) * effective
    return by_weight, by_score


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_are_those_of_the_formula(name: str, checkpointed: bool) -> None:
    linear, mask = scored_linear(name)
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    y = checkpoint(linear, x, use_reentrant=False) if checkpointed else linear(x)
    assert torch.equal(y, x @ (linear.parametrizations["weight"].original * mask.mask).T + linear.bias)
    loss = (y**3).sum()
    loss.backward()
    by_weight, by_score = gradients_by_hand(x.detach(), linear, mask, 3 * y.detach() ** 2)
    torch.testing.assert_close(
        linear.parametrizations["weight"].original.grad, by_weight, rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(mask.scores.grad, by_score, rtol=1e-10, atol=1e-10)


def test_scores_of_masked_blocks_learn_too() -> None:
    linear, mask = scored_linear("block4")
    linear(torch.randn(5, 8, dtype=torch.float64)).square().sum().backward()
    gone = ~mask.mask.unflatten(-1, (-1, 4)).any(-1)
    assert gone.any()
    assert (mask.scores.grad[gone] != 0).all()


def with_scores(pruner: MovementPruner, seed: int = 0) -> nn.Module:
    model = tiny_model("bert")
    pruner.attach_(model)
    generator = torch.Generator().manual_seed(seed)
    for mask in pruner._scored():
        mask.scores.data.copy_(torch.randn(mask.scores.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("kind", [MovementPruner, SoftMovementPruner])
def test_the_highest_scores_stay(kind: type[MovementPruner], name: str) -> None:
    pruner = kind(Pattern.parse(name))
    model = with_scores(pruner)
    pruner.step_(0.5)
    size = pruner.pattern.block_size
    scores = [pruner.pattern.expand(mask.scores.detach()) / size for mask in pruner._scored()]
    expected = choose_masks(scores, pruner.pattern, 0.5, pruner.ranking)
    for projection, wanted in zip(find_projections(model), expected, strict=True):
        assert torch.equal(find_mask(projection.linear).mask, wanted)
    assert pruner.sparsity == pytest.approx(0.5, abs=1e-3)


def test_the_hard_form_ranks_by_matrix_and_the_soft_form_globally() -> None:
    assert MovementPruner(Pattern.parse("block4")).ranking == "matrix"
    assert SoftMovementPruner(Pattern.parse("block4")).ranking == "global"


def test_weights_come_back_when_their_scores_rise() -> None:
    pruner = MovementPruner(Pattern.parse("block4"))
    model = with_scores(pruner)
    linear = next(find_projections(model)).linear
    before = linear.weight.detach().clone()
    pruner.step_(0.8)
    mask = pruner._scored()[0]
    gone = ~mask.mask
    mask.scores.data[~mask.mask.unflatten(-1, (-1, 4)).any(-1)] += 100.0
    pruner.step_(0.5)
    back = mask.mask & gone
    assert back.any()
    assert torch.equal(linear.weight[back], before[back])


@pytest.mark.parametrize("name", ["block4", "unstructured"])
def test_scores_and_hidden_weights_are_saved_and_restored(name: str) -> None:
    pruner = MovementPruner(Pattern.parse(name))
    model = with_scores(pruner)
    pruner.step_(0.6)
    other = MovementPruner(Pattern.parse(name))
    twin = with_scores(other, seed=1)
    state = copy.deepcopy(model.state_dict())
    assert any(key.endswith("query.weight_scores") for key in state)
    assert twin.load_state_dict(state).missing_keys == []
    for one, two in zip(find_projections(model), find_projections(twin), strict=True):
        first, second = (p.linear.parametrizations["weight"].original for p in (one, two))
        assert torch.equal(first, second)
        assert torch.equal(find_mask(one.linear).scores, find_mask(two.linear).scores)
    pruner.step_(0.3)
    other.step_(0.3)
    for key, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key


def test_a_plain_model_reads_the_effective_weights() -> None:
    pruner = MovementPruner(Pattern.parse("block4"))
    model = with_scores(pruner)
    pruner.step_(0.6)
    plain = tiny_model("bert", seed=3)
    result = plain.load_state_dict(model.state_dict(), strict=False)
    assert result.missing_keys == []
    for one, two in zip(find_projections(model), find_projections(plain), strict=True):
        assert torch.equal(one.linear.weight, two.linear.weight)


def test_state_of_another_method_is_refused() -> None:
    pruner = MovementPruner(Pattern.parse("block4"))
    model = with_scores(pruner)
    magnitude = tiny_model("bert", sparsity=0.5)
    with pytest.raises(RuntimeError, match="weight_scores is missing: the weights were saved by another"):
        model.load_state_dict(magnitude.state_dict())


def test_masks_of_a_stage_before_are_taken_over() -> None:
    model = tiny_model("bert")
    first = MagnitudePruner(Pattern.parse("block4"))
    first.attach_(model)
    second = MovementPruner(Pattern.parse("block4"))
    second.attach_(model)
    first.step_(0.5)  # with the masks that the second method made
    assert second.sparsity == pytest.approx(0.5, abs=1e-3)
    third = SoftMovementPruner(Pattern.parse("block4"))
    third.attach_(model)
    assert third.parameter_groups()[0]["params"][0] is second.parameter_groups()[0]["params"][0]
    with pytest.raises(StructureError, match="has scores by the pattern block4, not unstructured"):
        MovementPruner(Pattern.parse("unstructured")).attach_(model)


def test_the_l1_term_is_added_once_a_step_to_the_gradient() -> None:
    pruner = SoftMovementPruner(Pattern.parse("block4"), regularization=400.0)
    with_scores(pruner)
    scores = [mask.scores for mask in pruner._scored()]
    optimizer = torch.optim.SGD([{"params": scores, "lr": 1.0}])
    pruner.watch_(optimizer)
    pruner.watch_(optimizer)  # heard of twice, added once
    pruner.follow_(0.25)
    before = [one.detach().clone() for one in scores]
    wanted = [one.detach().double().requires_grad_() for one in scores]
    penalty = 400.0 * 0.25 * sum(one.sigmoid().mean() for one in wanted) / len(wanted)
    penalty.backward()
    for one in scores:
        one.grad = torch.ones_like(one)
    optimizer.step()
    for one, old, by_hand in zip(scores, before, wanted, strict=True):
        torch.testing.assert_close(old - one.detach(), (1.0 + by_hand.grad).float(), rtol=1e-5, atol=1e-6)


def test_a_threshold_that_is_a_number_is_on_the_sigmoid() -> None:
    pruner = SoftMovementPruner(Pattern.parse("unstructured"), threshold=0.4)
    model = with_scores(pruner)
    pruner.follow_(0.5)
    pruner.step_(0.3)
    for projection in find_projections(model):
        mask = find_mask(projection.linear)
        assert torch.equal(mask.mask, mask.scores.sigmoid() > 0.2)
    pruner.follow_(1.0)
    pruner.step_(0.6)
    assert pruner.notes()["threshold"] > 0.4
    assert torch.equal(pruner._scored()[3].mask, pruner._scored()[3].scores.sigmoid() > 0.4)


def test_scores_need_a_group_of_their_own() -> None:
    pruner = MovementPruner(Pattern.parse("block4"))
    model = with_scores(pruner)
    with pytest.raises(RecipeError, match="in the weights' optimizer group"):
        pruner.watch_(torch.optim.AdamW(model.parameters()))
    bare = [one for name, one in model.named_parameters() if not name.endswith("scores")]
    with pytest.raises(RecipeError, match="in no optimizer group"):
        pruner.watch_(torch.optim.AdamW(bare))


def test_a_group_pattern_takes_no_fixed_threshold() -> None:
    with pytest.raises(RecipeError, match="leave threshold at auto"):
        SoftMovementPruner(Pattern.parse("2:4"), threshold=0.1)


def test_scores_that_are_not_finite_are_refused() -> None:
    for threshold in ("auto", 0.1):
        pruner = SoftMovementPruner(Pattern.parse("block4"), threshold=threshold)
        with_scores(pruner)
        pruner._scored()[0].scores.data[0, 0] = float("nan")
        with pytest.raises(StructureError, match="not finite"):
            pruner.step_(0.5)


def test_removing_the_mask_leaves_a_plain_layer() -> None:
    linear, mask = scored_linear("block4")
    effective = linear.weight.detach().clone()
    remove_mask_(linear)
    assert type(linear) is nn.Linear
    assert torch.equal(linear.weight, effective)
    assert sorted(linear.state_dict()) == ["bias", "weight"]
    assert (effective == 0).sum() == (~mask.mask).sum()
