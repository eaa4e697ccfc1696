"""What every method promises, on a tiny model of every family and with every pattern."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_models import FAMILY_ROWS, tiny_model
from torch import Tensor

from secateur.distillation import SILENT, StudentHook
from secateur.modeling import find_projections
from secateur.pattern import Pattern
from secateur.recipe.pruning_methods import METHODS
from secateur.sparsity import PRUNERS, MovementPruner, Pruner, find_mask, sparsity_of
from secateur.training.evidence import TrainingEvidence

FEW = {"obert": {"num_grads": 4, "damp": 1e-3, "fisher_block_size": 16}, "taylor": {"num_grads": 2}}
PATTERNS = ("unstructured", "block4", "block:2x4", "2:4")
EVERY = [
    *itertools.product(sorted(PRUNERS), FAMILY_ROWS, ["block4"]),
    *itertools.product(sorted(PRUNERS), ["bert"], [name for name in PATTERNS if name != "block4"]),
]


def batches() -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        ids = torch.randint(5, 50, (4, 6), generator=generator)
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 5}


class Case:
    """A method attached to a model."""

    def __init__(self, method: str, family: str, pattern: str, seed: int = 0) -> None:
        self.model: Any = tiny_model(family, seed=seed)
        StudentHook(SILENT).attach_(self.model)
        self.pruner: Pruner = PRUNERS[method](Pattern.parse(pattern), **FEW.get(method, {}))
        self.evidence = TrainingEvidence(self.model, batches) if self.pruner.needs else None
        self.pruner.attach_(self.model)
        self.score_(seed)

    def score_(self, seed: int) -> None:
        """Gives methods that learn scores some, as training would."""
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.pruner, MovementPruner):
            for mask in self.pruner._scored():
                mask.scores.data.copy_(torch.randn(mask.scores.shape, generator=generator))

    def step_(self, sparsity: float) -> list[Tensor]:
        self.pruner.step_(sparsity, self.evidence)
        return [mask.clone() for mask in self.pruner.masks()]

    def state(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self.model.state_dict().items()}


def test_every_method_has_options_and_a_class() -> None:
    assert set(PRUNERS) == set(METHODS)
    for method, kind in PRUNERS.items():
        made = kind(Pattern.parse("block4"), **METHODS[method]().keywords())
        assert made.ranking == METHODS[method].ranking  # both know the authors' default


@pytest.mark.parametrize(("method", "family", "pattern"), EVERY)
def test_the_target_is_reached_to_one_block(method: str, family: str, pattern: str) -> None:
    case = Case(method, family, pattern)
    unit = Pattern.parse(pattern)
    before = [projection.linear.weight.detach().clone() for projection in find_projections(case.model)]
    assert case.pruner.sparsity == 0.0
    for sparsity in (0.25, 0.5):
        masks = case.step_(sparsity)
        for mask in masks:
            if unit.is_grouped:
                groups = mask.unflatten(-1, (-1, unit.group)).sum(-1)
                assert (groups == unit.group - unit.removed_of_group(sparsity)).all()
            else:
                blocks = unit.block_scores(mask.float())
                assert torch.equal(unit.expand(blocks > 0), mask)  # in whole blocks
        if case.pruner.ranking == "matrix":
            counts = [(mask.numel(), int((~mask).sum())) for mask in masks]
        else:
            counts = [(sum(mask.numel() for mask in masks), sum(int((~mask).sum()) for mask in masks))]
        for total, gone in counts:
            assert gone == round(sparsity * total / unit.block_size) * unit.block_size
    for projection, old, mask in zip(find_projections(case.model), before, masks, strict=True):
        weight = projection.linear.weight
        assert (weight[~mask] == 0).all()
        if not case.pruner.needs:  # second-order methods change what stays
            assert torch.equal(weight, old * mask)


@pytest.mark.parametrize(("method", "family", "pattern"), EVERY)
def test_nothing_comes_back_unless_the_method_says_so(method: str, family: str, pattern: str) -> None:
    case = Case(method, family, pattern)
    first = case.step_(0.25)
    with torch.no_grad():  # as an optimizer with momentum would, behind the masks, too
        for projection in find_projections(case.model):
            original = projection.linear.parametrizations["weight"].original
            original.add_(torch.randn(original.shape, generator=torch.Generator().manual_seed(1)))
    case.score_(5)
    second = case.step_(0.5)
    back = sum(int((new & ~old).sum()) for new, old in zip(second, first, strict=True))
    assert (back > 0) == case.pruner.revives


@pytest.mark.parametrize(("method", "family", "pattern"), EVERY)
def test_a_saved_model_goes_on_bit_for_bit(method: str, family: str, pattern: str) -> None:
    case, other = Case(method, family, pattern), Case(method, family, pattern, seed=3)
    case.step_(0.25)
    assert other.model.load_state_dict(copy.deepcopy(case.state())).missing_keys == []
    assert case.state().keys() == other.state().keys()
    for one in (case, other):
        one.step_(0.5)
    assert torch.equal(case.pruner.fingerprint(), other.pruner.fingerprint())
    state = other.state()
    for key, value in case.state().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(("method", "family", "pattern"), EVERY)
def test_finalize_leaves_a_plain_model(method: str, family: str, pattern: str) -> None:
    case = Case(method, family, pattern)
    case.step_(0.5)
    effective = [projection.linear.weight.detach().clone() for projection in find_projections(case.model)]
    case.pruner.finalize_()
    assert sorted(case.model.state_dict()) == sorted(tiny_model(family).state_dict())
    for projection, wanted in zip(find_projections(case.model), effective, strict=True):
        assert find_mask(projection.linear) is None
        assert type(projection.linear) is torch.nn.Linear
        assert torch.equal(projection.linear.weight, wanted)
    linears = [projection.linear for projection in find_projections(case.model)]
    assert sparsity_of(linears) == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize("method", sorted(PRUNERS))
@pytest.mark.parametrize("pattern", ["unstructured", "block4"])
@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_nothing_and_everything(method: str, pattern: str, sparsity: float) -> None:
    case = Case(method, "bert", pattern)
    case.step_(sparsity)
    assert case.pruner.sparsity == sparsity
