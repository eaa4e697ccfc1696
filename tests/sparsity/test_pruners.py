"""What every pruner promises beside the contracts: attaching, doing a step twice, what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pruning_evidence import evidence_for, made
from tiny_models import tiny_model

from secateur.errors import RecipeError, StructureError
from secateur.modeling import find_projections
from secateur.sparsity import PRUNERS, Pruner, sparsity_of


@pytest.fixture
def model() -> Any:
    return tiny_model("bert")


@pytest.fixture(params=sorted(PRUNERS))
def pruner(request: pytest.FixtureRequest) -> Pruner:
    return made(request.param)


def linears(model: Any) -> list[torch.nn.Linear]:
    return [projection.linear for projection in find_projections(model)]


def test_attaching_changes_no_output(model: Any, pruner: Pruner) -> None:
    ids = torch.randint(6, 20, (2, 7))
    before = model(input_ids=ids).logits
    pruner.attach_(model)
    assert pruner.sparsity == 0.0
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_step_done_twice_changes_nothing(model: Any, pruner: Pruner) -> None:
    pruner.attach_(model)
    pruner.step_(0.7, evidence_for(model))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    pruner.step_(0.7, evidence_for(model))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


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
