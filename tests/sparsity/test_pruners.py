"""What every pruner promises, on tiny models of every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pruning_evidence import evidence_for, made
from tiny_models import FAMILY_ROWS, tiny_model

from secateur.errors import RecipeError, StructureError
from secateur.modeling import find_projections
from secateur.sparsity import PRUNERS, Pruner, find_mask, sparsity_of

FAMILIES = sorted(FAMILY_ROWS)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param)


@pytest.fixture(params=sorted(PRUNERS))
def pruner(request: pytest.FixtureRequest) -> Pruner:
    return made(request.param)


def linears(model: Any) -> list[torch.nn.Linear]:
    return [projection.linear for projection in find_projections(model)]


def masks(model: Any) -> list[torch.Tensor]:
    return [find_mask(linear).mask.clone() for linear in linears(model)]


def blocks_gone(model: Any) -> tuple[int, int]:
    kept = [mask.unflatten(-1, (-1, 4)) for mask in masks(model)]
    assert all(torch.equal(one.any(-1), one.all(-1)) for one in kept)
    return sum(int((~one.all(-1)).sum()) for one in kept), sum(one[..., 0].numel() for one in kept)


def test_attaching_changes_no_output(model: Any, pruner: Pruner) -> None:
    ids = torch.randint(6, 20, (2, 7))
    before = model(input_ids=ids).logits
    pruner.attach_(model)
    assert pruner.sparsity == 0.0
    assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.8, 1.0])
def test_the_sparsity_is_reached_to_one_block(model: Any, pruner: Pruner, sparsity: float) -> None:
    pruner.attach_(model)
    pruner.step_(sparsity, evidence_for(model))
    gone, blocks = blocks_gone(model)
    assert gone == round(sparsity * blocks)
    assert sparsity_of(linears(model)) == pytest.approx(sparsity, abs=1e-3)


@pytest.mark.parametrize("pattern", ["unstructured", "block4", "block:2x4", "2:4"])
@pytest.mark.parametrize("method", sorted(PRUNERS))
def test_every_pattern_is_kept_by_either_ranking(method: str, pattern: str) -> None:
    for ranking in ("global", "matrix"):
        model = tiny_model("bert")
        pruner = made(method, pattern, ranking=ranking)
        pruner.attach_(model)
        pruner.step_(0.5, evidence_for(model))
        for mask in masks(model):
            if ranking == "matrix" or pattern == "2:4":
                assert int(mask.sum()) == mask.numel() // 2
            if pattern == "2:4":
                assert torch.equal(
                    mask.unflatten(-1, (-1, 4)).sum(-1), torch.full((len(mask), mask.shape[1] // 4), 2)
                )
            if pattern == "block:2x4":
                blocks = mask.unflatten(-1, (-1, 4)).unflatten(0, (-1, 2))
                assert torch.equal(blocks.amax((1, 3)), blocks.amin((1, 3)))
        assert pruner.sparsity == pytest.approx(0.5, abs=1e-3)


def test_what_is_gone_stays_gone(model: Any, pruner: Pruner) -> None:
    pruner.attach_(model)
    pruner.step_(0.4, evidence_for(model))
    first = masks(model)
    with torch.no_grad():
        for linear in linears(model):  # as an optimizer with momentum would
            linear.parametrizations.weight.original.add_(torch.randn_like(linear.weight))
    pruner.step_(0.6, evidence_for(model, seed=1))
    for now, before in zip(masks(model), first, strict=True):
        assert not (now & ~before).any()


def test_a_step_done_twice_changes_nothing(model: Any, pruner: Pruner) -> None:
    pruner.attach_(model)
    pruner.step_(0.7, evidence_for(model))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    pruner.step_(0.7, evidence_for(model))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_loaded_state_goes_on_bit_for_bit(model: Any, pruner: Pruner) -> None:
    pruner.attach_(model)
    pruner.step_(0.4, evidence_for(model))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    pruner.step_(0.7, evidence_for(model))
    again = tiny_model(model.config.model_type, seed=5)
    method = next(name for name, kind in PRUNERS.items() if type(pruner) is kind)
    resumed = made(method)
    resumed.attach_(again)
    again.load_state_dict(state)
    assert resumed.sparsity == pytest.approx(0.4, abs=1e-3)
    resumed.step_(0.7, evidence_for(again))
    expected = model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())


def test_attaching_again_takes_the_masks_that_are_there(model: Any, pruner: Pruner) -> None:
    pruner.attach_(model)
    pruner.step_(0.5, evidence_for(model))
    again = type(pruner)(pruner.pattern)
    again.attach_(model)
    assert again.sparsity == pruner.sparsity


def test_finalize_leaves_a_plain_model(model: Any, pruner: Pruner) -> None:
    keys = sorted(model.state_dict())
    pruner.attach_(model)
    pruner.step_(0.8, evidence_for(model))
    pruner.finalize_()
    assert sorted(model.state_dict()) == keys
    assert sparsity_of(linears(model)) == pytest.approx(0.8, abs=1e-3)
    with pytest.raises(StructureError, match="attach_"):
        pruner.step_(0.9, evidence_for(model))


@pytest.mark.parametrize("method", sorted(name for name, kind in PRUNERS.items() if kind.needs))
def test_a_method_without_its_evidence_says_what_it_needs(method: str) -> None:
    pruner = made(method)
    pruner.attach_(tiny_model("bert"))
    with pytest.raises(StructureError, match=f"learns from .*{min(pruner.needs)}.*: give step_"):
        pruner.step_(0.5)


@pytest.mark.parametrize("method", sorted(PRUNERS))
def test_bad_arguments_are_one_sentence(method: str) -> None:
    with pytest.raises(RecipeError, match="ranking 'layer' is not known; allowed: global, matrix"):
        made(method, ranking="layer")
    pruner = made(method)
    model = tiny_model("bert")
    pruner.attach_(model)
    with pytest.raises(RecipeError, match=r"sparsity 1\.5 is no fraction"):
        pruner.step_(1.5, evidence_for(model))
