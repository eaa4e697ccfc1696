"""The pattern lock: zeros that a model brings along stay, or the recipe is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import FAMILY_ROWS, tiny_model
from torch import nn

from secateur.errors import RecipeError, StructureError
from secateur.modeling import find_projections
from secateur.pattern import Pattern
from secateur.recipe import Recipe
from secateur.sparsity import MagnitudePruner, find_mask, lock_zeros_, sparsity_of
from secateur.sparsity.lock import unlock_, unlocked_sparsity
from secateur.sparsity.targets import find_targets
from secateur.training import CompressionCallback


def linears(model: nn.Module) -> list[nn.Linear]:
    return [projection.linear for projection in find_projections(model)]


def sparse_model(sparsity: float = 0.5, pattern: str = "unstructured", seed: int = 0) -> Any:
    """Returns a model with plain zeros, as read from a folder."""
    model = tiny_model("bert", seed=seed)
    pruner = MagnitudePruner(Pattern.parse(pattern))
    pruner.attach_(model)
    pruner.step_(sparsity)
    pruner.finalize_()
    return model


def recipe(*stages: dict[str, Any], **training: Any) -> Recipe:
    settings = {"epochs": 2, "learning_rate": 1e-2, **training}
    return Recipe.model_validate({"name": "test", "training": settings, "stages": stages})


def train(model: Any, callback: CompressionCallback, steps: int = 8) -> None:
    callback.attach_(model, steps_per_epoch=4, total_steps=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    callback.group_parameters_(optimizer)
    model.train()
    torch.manual_seed(0)
    for step in range(1, steps + 1):
        ids = torch.randint(0, 50, (4, 7))
        model(input_ids=ids, labels=ids[:, 0] % 5).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        callback.after_step(step)


LOCK = {"type": "lock"}
QUANTIZATION = {"type": "quantization", "start_epoch": 1, "freeze_epoch": 1.75}


@pytest.mark.parametrize("stages", [(LOCK,), (LOCK, QUANTIZATION)])
def test_zeros_stay_and_the_others_learn(stages: tuple[dict[str, Any], ...]) -> None:
    model = sparse_model()
    before = [linear.weight.detach().clone() for linear in linears(model)]
    callback = CompressionCallback(recipe(*stages))
    train(model, callback)
    assert callback.status()["sparsity"] == pytest.approx(0.5, abs=1e-3)
    for linear, old in zip(linears(model), before, strict=True):
        assert torch.equal(linear.weight == 0, old == 0)
        assert not torch.equal(linear.weight, old)


def test_a_sparse_model_is_not_filled_without_a_word() -> None:
    with pytest.raises(
        RecipeError, match=r"50.0% of the encoder's weights are zero.*'- type: lock'.*densify"
    ):
        train(sparse_model(), CompressionCallback(recipe(QUANTIZATION)))


def test_it_is_filled_where_the_recipe_says_so() -> None:
    model = sparse_model()
    train(model, CompressionCallback(recipe(QUANTIZATION, densify=True)))
    assert sparsity_of(linears(model)) < 0.01


def test_a_lock_without_zeros_is_refused() -> None:
    with pytest.raises(RecipeError, match="has no zeros to keep in its encoder"):
        train(tiny_model("bert"), CompressionCallback(recipe(LOCK)))


@pytest.mark.parametrize("method", ["magnitude", "random", "lottery-ticket"])
def test_pruning_goes_on_from_the_zeros(method: str) -> None:
    """Before the first update, too, and where the zeros are finer than the pattern."""
    stage = {"type": "pruning", "method": method, "sparsity": 0.8, "start_epoch": 1, "end_epoch": 1.5}
    model = sparse_model()
    before = [linear.weight.detach() == 0 for linear in linears(model)]
    callback = CompressionCallback(recipe(stage))
    train(model, callback, steps=3)
    for linear, old in zip(linears(model), before, strict=True):
        assert torch.equal(linear.weight == 0, old)
    other = sparse_model()
    train(other, CompressionCallback(recipe(stage)))
    for linear, old in zip(linears(other), before, strict=True):
        assert (linear.weight == 0)[old].all()
    assert sparsity_of(linears(other)) >= 0.8 - 1e-3


def test_a_locked_run_is_saved_and_restored() -> None:
    model = sparse_model()
    train(model, CompressionCallback(recipe(LOCK)))
    twin = sparse_model()
    CompressionCallback(recipe(LOCK)).attach_(twin, steps_per_epoch=4, total_steps=8)
    assert twin.load_state_dict(model.state_dict()).missing_keys == []
    for one, two in zip(linears(model), linears(twin), strict=True):
        assert torch.equal(one.weight, two.weight)
        assert torch.equal(find_mask(one).mask, find_mask(two).mask)


def test_masks_that_are_there_are_a_lock() -> None:
    model = tiny_model("bert", sparsity=0.5)  # as secateur.hf loads a compressed folder
    assert unlocked_sparsity(model) == 0.0
    train(model, CompressionCallback(recipe()))
    assert sparsity_of(linears(model)) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("family", FAMILY_ROWS)
def test_every_family_can_be_locked(family: str) -> None:
    model = tiny_model(family)
    zeroed = [linear.weight.data.view(-1)[::3].zero_() for linear in linears(model)]
    assert zeroed
    assert lock_zeros_(model) == pytest.approx(1 / 3, abs=1e-2)
    unlock_(model)
    assert all(find_mask(linear) is None for linear in linears(model))
    assert unlocked_sparsity(model) == pytest.approx(1 / 3, abs=1e-2)


def test_targets_are_found() -> None:
    model = tiny_model("bert")
    assert len(find_targets(model, ("encoder",))) == 12
    pooler, table = find_targets(model, ("pooler", "embeddings"))
    assert pooler.linear is model.bert.pooler.dense
    assert (table.out_features, table.in_features) == (50, 32)
    assert find_targets(tiny_model("distilbert"), ("pooler",))[0].name == "pre_classifier"


def test_a_target_that_is_not_there_is_named() -> None:
    with pytest.raises(StructureError, match="no linear layer between encoder and classifier"):
        find_targets(tiny_model("bert", "ForTokenClassification"), ("pooler",))
    with pytest.raises(StructureError, match="also the weight of its output layer"):
        find_targets(tiny_model("bert", "ForMaskedLM"), ("embeddings",))
    with pytest.raises(StructureError, match="'head' is not known; allowed: encoder, pooler, embeddings"):
        find_targets(tiny_model("bert"), ("head",))
