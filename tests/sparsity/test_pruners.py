"""What every pruner promises, on tiny models."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from secateur.errors import StructureError
from secateur.modeling import find_projections
from secateur.sparsity import PRUNERS, Pattern, Pruner, find_mask, sparsity_of


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=20,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=16,
        )
    )


@pytest.fixture(params=sorted(PRUNERS))
def pruner(request: pytest.FixtureRequest) -> Pruner:
    return PRUNERS[request.param](Pattern.parse("block4"))


def linears(model: BertForSequenceClassification) -> list[torch.nn.Linear]:
    return [projection.linear for projection in find_projections(model)]


def test_attaching_changes_no_output(model: BertForSequenceClassification, pruner: Pruner) -> None:
    model.eval()
    ids = torch.randint(0, 20, (2, 7))
    before = model(input_ids=ids).logits
    pruner.attach_(model)
    assert pruner.sparsity == 0.0
    assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.8, 1.0])
def test_the_sparsity_is_reached_in_whole_blocks(
    model: BertForSequenceClassification, pruner: Pruner, sparsity: float
) -> None:
    pruner.attach_(model)
    pruner.step_(sparsity)
    assert pruner.sparsity == pytest.approx(sparsity, abs=1e-3)
    assert sparsity_of(linears(model)) == pytest.approx(sparsity, abs=1e-3)
    for linear in linears(model):
        blocks = find_mask(linear).mask.unflatten(-1, (-1, 4))
        assert torch.equal(blocks.any(-1), blocks.all(-1))


def test_what_is_gone_stays_gone(model: BertForSequenceClassification, pruner: Pruner) -> None:
    pruner.attach_(model)
    pruner.step_(0.4)
    first = [find_mask(linear).mask.clone() for linear in linears(model)]
    with torch.no_grad():
        for linear in linears(model):  # as an optimizer with momentum would
            linear.parametrizations.weight.original.add_(torch.randn_like(linear.weight))
    pruner.step_(0.6)
    for linear, before in zip(linears(model), first, strict=True):
        assert not (find_mask(linear).mask & ~before).any()


def test_a_step_done_twice_changes_nothing(model: BertForSequenceClassification, pruner: Pruner) -> None:
    pruner.attach_(model)
    pruner.step_(0.7)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    pruner.step_(0.7)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_attaching_again_takes_the_masks_that_are_there(
    model: BertForSequenceClassification, pruner: Pruner
) -> None:
    pruner.attach_(model)
    pruner.step_(0.5)
    again = type(pruner)(pruner.pattern)
    again.attach_(model)
    assert again.sparsity == pruner.sparsity


def test_finalize_leaves_a_plain_model(model: BertForSequenceClassification, pruner: Pruner) -> None:
    keys = sorted(model.state_dict())
    pruner.attach_(model)
    pruner.step_(0.8)
    pruner.finalize_()
    assert sorted(model.state_dict()) == keys
    assert sparsity_of(linears(model)) == pytest.approx(0.8, abs=1e-3)
    with pytest.raises(StructureError, match="attach_"):
        pruner.step_(0.9)
