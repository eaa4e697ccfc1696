"""Masks: the choice against brute force, and the round trip through state dicts."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import RecipeError, StructureError
from secateur.sparsity import Pattern, attach_mask_, find_mask, sparsity_of
from secateur.sparsity.choice import choose_masks
from secateur.sparsity.mask import remove_mask_, unquantized_weight

BLOCK4 = Pattern.parse("block4")
UNSTRUCTURED = Pattern.parse("unstructured")


def brute_force(scores: list[Tensor], block_size: int, sparsity: float) -> list[Tensor]:
    """Sorts every block of every matrix; the lowest go, of equal ones the earlier."""
    entries = []
    for matrix, score in enumerate(scores):
        for row in range(score.shape[0]):
            for block in range(score.shape[1] // block_size):
                values = score[row, block * block_size : (block + 1) * block_size]
                entries.append((float(values.sum()), len(entries), matrix, row, block))
    masks = [torch.ones_like(score, dtype=torch.bool) for score in scores]
    for _, _, matrix, row, block in sorted(entries)[: round(sparsity * len(entries))]:
        masks[matrix][row, block * block_size : (block + 1) * block_size] = False
    return masks


@pytest.mark.parametrize(
    ("pattern", "sparsity", "levels"),
    list(itertools.product((BLOCK4, UNSTRUCTURED), (0.0, 0.3, 0.5, 0.8, 1.0), (3, 10**6))),
)
def test_the_choice_is_the_brute_force_choice(pattern: Pattern, sparsity: float, levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Whole numbers sum exactly; with three levels most blocks tie.
    scores = [
        torch.randint(0, levels, shape, generator=generator).float() for shape in ((6, 8), (4, 16), (5, 4))
    ]
    expected = brute_force(scores, pattern.block_size, sparsity)
    for mask, wanted in zip(choose_masks(scores, pattern, sparsity), expected, strict=True):
        assert torch.equal(mask, wanted)


def test_the_ranking_is_global() -> None:
    small, large = torch.full((4, 8), 0.1), torch.full((4, 8), 10.0)
    masks = choose_masks([small, large], BLOCK4, 0.5)
    assert not masks[0].any()
    assert masks[1].all()


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(StructureError, match="not finite"):
        choose_masks([torch.tensor([[1.0, float("nan")]])], UNSTRUCTURED, 0.5)


def test_unknown_patterns_and_widths_are_refused() -> None:
    with pytest.raises(RecipeError, match="'block5' is not known; write unstructured, block4, block:RxC"):
        Pattern.parse("block5")
    with pytest.raises(StructureError, match="30 inputs"):
        BLOCK4.check("a.b", 30)


def masked_linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    linear = nn.Linear(8, 6)
    attach_mask_(linear, choose_masks([linear.weight.detach().square()], BLOCK4, 0.5)[0])
    return linear


def test_masked_weights_get_no_gradient_and_no_output() -> None:
    linear = masked_linear()
    mask = find_mask(linear).mask
    assert torch.equal(linear.weight != 0, mask)
    linear(torch.randn(3, 8)).square().sum().backward()
    gradient = linear.parametrizations.weight.original.grad
    assert torch.equal(gradient != 0, mask)


def test_saved_keys_are_plain_and_a_plain_layer_misses_none() -> None:
    linear = masked_linear()
    state = linear.state_dict()
    assert sorted(state) == ["bias", "weight", "weight_mask"]
    plain = nn.Linear(8, 6)
    result = plain.load_state_dict(state, strict=False)
    assert result.missing_keys == []
    assert torch.equal(plain.weight, linear.weight)


def test_a_masked_layer_is_restored_bit_for_bit() -> None:
    linear = masked_linear()
    with torch.no_grad():  # what an optimizer's momentum leaves behind a mask must not be saved
        linear.parametrizations.weight.original.add_(0.25)
    other = masked_linear(seed=1)
    other.load_state_dict(linear.state_dict())
    assert torch.equal(other.weight, linear.weight)
    assert torch.equal(find_mask(other).mask, find_mask(linear).mask)
    x = torch.randn(2, 8)
    assert torch.equal(other(x), linear(x))
    for key, value in linear.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


def test_a_masked_layer_refuses_weights_without_a_mask() -> None:
    linear = masked_linear()
    with pytest.raises(RuntimeError, match="weight_mask is missing"):
        linear.load_state_dict(nn.Linear(8, 6).state_dict())


def test_a_copy_is_independent() -> None:
    linear = masked_linear()
    twin = copy.deepcopy(linear)
    find_mask(linear).mask.fill_(False)
    assert sorted(twin.state_dict()) == ["bias", "weight", "weight_mask"]
    assert torch.equal(twin.state_dict()["weight"] != 0, find_mask(twin).mask)
    assert (twin.weight != 0).any()


def test_the_zeros_stay_when_the_mask_goes() -> None:
    linear = masked_linear()
    effective = linear.weight.detach().clone()
    remove_mask_(linear)
    assert type(linear) is nn.Linear
    assert torch.equal(linear.weight, effective)
    assert sorted(linear.state_dict()) == ["bias", "weight"]
    assert sparsity_of([linear]) == 0.5


def test_a_mask_is_attached_once_and_must_fit() -> None:
    linear = masked_linear()
    with pytest.raises(StructureError, match="parametrized already"):
        attach_mask_(linear)
    with pytest.raises(StructureError, match="must be bool and shaped like"):
        attach_mask_(nn.Linear(8, 6), torch.ones(6, 8))


def test_the_unquantized_weight_is_the_masked_one() -> None:
    linear = masked_linear()
    assert torch.equal(unquantized_weight(linear), linear.weight)
    plain = nn.Linear(4, 4)
    assert torch.equal(unquantized_weight(plain), plain.weight)
