"""Wanda, and what it shares with SparseGPT as a pruner of a live model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_bert import random_sequences
from tiny_models import MEMBERS, family_batch, tiny_model
from torch import Tensor

from secateur.errors import DataError, RecipeError, StructureError
from secateur.modeling import find_blocks, find_projections
from secateur.pattern import Pattern
from secateur.sparsity import PRUNERS, find_mask, sparsity_of
from secateur.sparsity.hessian import InputMoments, InputSquares, reconstruction_error
from secateur.sparsity.layer_inputs import LayerInputs, inputs_by_layer
from secateur.sparsity.mask import unquantized_weight
from secateur.sparsity.wanda import WandaPruner

METHODS = ("sparsegpt", "wanda")


def texts_for(model: Any, count: int = 24) -> LayerInputs:
    """Returns calibration batches of random tokens with padding."""
    sequences = random_sequences(count, seed=3)
    batches = [family_batch(model, sequences[start : start + 6]) for start in range(0, count, 6)]
    return LayerInputs(model, batches)


def masks_of(model: Any) -> dict[str, Tensor]:
    """Returns name to mask."""
    return {one.name: find_mask(one.linear).mask.clone() for one in find_projections(model)}


@pytest.mark.parametrize("ranking", ["row", "matrix"])
@pytest.mark.parametrize("name", ["unstructured", "block4", "block:2x4", "2:4"])
def test_masks_are_those_of_the_formula(name: str, ranking: str) -> None:
    pattern = Pattern.parse(name)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(50, 24, generator=random) * torch.linspace(0.1, 3.0, 24)
    weight = torch.randn(8, 24, generator=random)
    found = InputSquares("layer", 24)
    found.add_(x)
    pruner = WandaPruner(pattern, ranking=ranking)
    new, keep = pruner.pruned(weight, torch.ones_like(weight, dtype=torch.bool), found, 0.5)
    plain = weight.abs() * x.norm(dim=0)  # equation 1
    height, width = (1, 4) if pattern.is_grouped else (pattern.rows, pattern.columns)
    compared = {"row": height, "matrix": 8}[ranking]
    expected = torch.ones_like(keep)
    for top in range(0, 8, compared):
        blocks = []
        for row in range(top, top + compared, height):
            for left in range(0, 24, width):
                part = plain[row : row + height, left : left + width]
                blocks.append((float(part.square().sum()), row, left))
        if pattern.is_grouped:
            for _, row, left in blocks:
                for place in plain[row, left : left + 4].argsort()[:2]:
                    expected[row, left + int(place)] = False
        else:
            for _, row, left in sorted(blocks)[: len(blocks) // 2]:
                expected[row : row + height, left : left + width] = False
    assert torch.equal(keep, expected)
    assert torch.equal(new, weight * expected)


def test_refitting_moves_outputs_less() -> None:
    random = torch.Generator().manual_seed(1)
    found = InputMoments("layer", 30)
    found.add_(torch.randn(300, 10, generator=random) @ torch.randn(10, 30, generator=random))
    weight = torch.randn(12, 30, generator=random)
    everything = torch.ones_like(weight, dtype=torch.bool)
    plain, keep = WandaPruner(Pattern("unstructured")).pruned(weight, everything, found, 0.5)
    fitted = WandaPruner(Pattern("unstructured"), refit=True)
    new, same = fitted.pruned(weight, everything, found, 0.5)
    assert torch.equal(keep, same)
    assert not new[~keep].any()
    assert reconstruction_error(weight, new, found) < 0.2 * reconstruction_error(weight, plain, found)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("method", METHODS)
def test_every_family_is_pruned_to_the_target(method: str, member: str) -> None:
    model = tiny_model(member)
    pruner = PRUNERS[method](Pattern.parse("block4"))
    pruner.attach_(model)
    source = texts_for(model)
    for target in (0.5, 0.75):
        before = masks_of(model)
        pruner.step_(target, source)
        for name, mask in masks_of(model).items():
            assert not (mask & ~before[name]).any()
            blocks = mask.unflatten(-1, (-1, 4))
            assert torch.equal(blocks.any(-1), blocks.all(-1))
            assert int((~blocks.all(-1)).sum()) == pytest.approx(target * blocks[..., 0].numel(), abs=1)
    assert sparsity_of([one.linear for one in find_projections(model)]) == pytest.approx(0.75, abs=1e-3)
    pruner.finalize_()
    assert not any("parametrizations" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("method", METHODS)
def test_globally_matrices_lose_different_shares_of_one_target(method: str) -> None:
    model = tiny_model("bert")
    with torch.no_grad():  # outputs of this one hardly matter, beside the others'
        find_blocks(model)[1].ffn_in.linear.weight.mul_(0.05)
    pruner = PRUNERS[method](Pattern.parse("unstructured"), ranking="global")
    pruner.attach_(model)
    pruner.step_(0.6, texts_for(model))
    masks = masks_of(model)
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(
        0.6 * sum(mask.numel() for mask in masks.values())
    )
    shares = {name: float((~mask).double().mean()) for name, mask in masks.items()}
    assert max(shares, key=shares.__getitem__) == find_blocks(model)[1].ffn_in.name
    assert min(shares.values()) < 0.5


def outputs(model: Any, source: LayerInputs) -> Tensor:
    """Returns the last hidden states of real tokens."""
    rows = []
    with torch.no_grad():
        for batch in source._batches:
            hidden = model.base_model(**batch).last_hidden_state
            rows.append(hidden[batch["attention_mask"].bool()])
    return torch.cat(rows)


def test_sparsegpt_moves_the_models_outputs_less_than_wanda_and_magnitude() -> None:
    moved = {}
    for method in ("magnitude", *METHODS):
        model = tiny_model("bert", initializer_range=0.1)
        with torch.no_grad():  # tokens with much in common, as a trained model has them
            table = model.base_model.embeddings.word_embeddings.weight
            table.copy_(table[:, :6] @ torch.randn(6, 32, generator=torch.Generator().manual_seed(0)))
        source = texts_for(model, 96)
        before = outputs(model, source)
        pruner = PRUNERS[method](Pattern.parse("unstructured"))
        pruner.attach_(model)
        pruner.step_(0.5, source)
        moved[method] = float((outputs(model, source) - before).square().mean())
    assert moved["sparsegpt"] < 0.6 * moved["wanda"] < 0.6 * moved["magnitude"]


def test_later_matrices_are_pruned_for_the_inputs_that_earlier_ones_give() -> None:
    model = tiny_model("bert")
    pruner = PRUNERS["sparsegpt"](Pattern.parse("block4"))
    pruner.attach_(model)
    dense = {one.name: unquantized_weight(one.linear) for one in find_projections(model)}
    source = texts_for(model)
    pruner.step_(0.7, source)
    moments = {}
    for group, found in inputs_by_layer(find_blocks(model), source, InputMoments):
        moments |= {one.name: found for one in group}
    pruned = {one.name: unquantized_weight(one.linear) for one in find_projections(model)}
    again = PRUNERS["sparsegpt"](Pattern.parse("block4"))
    shares = {name: 1.0 - float((weight != 0).double().mean()) for name, weight in pruned.items()}
    assert all(abs(share - 0.7) < 5e-3 for share in shares.values())
    for name, weight in dense.items():
        again._prepare_(moments[name])
        everything = torch.ones_like(weight, dtype=torch.bool)
        expected, _ = again.pruned(weight, everything, moments[name], shares[name])
        torch.testing.assert_close(pruned[name], expected, rtol=1e-4, atol=1e-5)


def test_bad_input_is_one_sentence() -> None:
    model = tiny_model("bert")
    pruner = WandaPruner(Pattern.parse("unstructured"))
    with pytest.raises(StructureError, match="attach_"):
        pruner.step_(0.5, texts_for(model))
    pruner.attach_(model)
    with pytest.raises(StructureError, match="WandaPruner learns from inputs"):
        pruner.step_(0.5)
    with pytest.raises(RecipeError, match=r"1\.5 is no fraction"):
        pruner.step_(1.5, texts_for(model))
    with pytest.raises(StructureError, match="does not judge a matrix by its weights alone"):
        pruner.score(torch.ones(2, 2))
    with torch.no_grad():
        find_blocks(model)[1].v.linear.bias.fill_(float("nan"))
    with pytest.raises(DataError, match=r"layer.1.attention.output.dense holds NaN"):
        pruner.step_(0.5, texts_for(model))
