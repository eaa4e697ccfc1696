"""Optimal BERT Surgeon: on quadratic losses exact, the same in any memory, and its damp found by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from pruning_evidence import evidence_for, made, random_batches
from tiny_models import tiny_model
from torch import Tensor

from secateur.errors import DataError, RecipeError, StructureError
from secateur.modeling import find_projections
from secateur.pattern import Pattern
from secateur.sparsity import ObertPruner, TaylorPruner
from secateur.sparsity.fisher import BlockLayout
from secateur.sparsity.obert import block_size_of

SIZE, COUNT, DAMP = 48, 60, 1e-2


class Quadratic:
    """The loss 1/2 (w - w0)^T H (w - w0), H block diagonal, as evidence: its Fisher matrix is H - damp."""

    def __init__(self, model: Any, pattern: str) -> None:
        torch.manual_seed(3)
        self.projections = list(find_projections(model))
        self.start = [one.linear.weight.detach().double() for one in self.projections]
        self.rows = [[torch.randn_like(weight) for weight in self.start] for _ in range(COUNT)]
        self.layouts = [BlockLayout(Pattern.parse(pattern), tuple(w.shape), SIZE) for w in self.start]
        self.asked: list[int] = []

    def gradients(
        self, count: int, *, draw: int = 0, matrices: Sequence[int] | None = None
    ) -> Iterator[list[Tensor]]:
        self.asked.append(draw)
        for row in self.rows[:count]:
            masks = [one.linear.parametrizations.weight[0].mask for one in self.projections]
            found = [(gradient * mask).float() for gradient, mask in zip(row, masks, strict=True)]
            yield found if matrices is None else [found[index] for index in matrices]

    def loss(self, weights: list[Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for place, (weight, start, layout) in enumerate(zip(weights, self.start, self.layouts, strict=True)):
            step = layout.cut(weight - start)
            for row in self.rows:
                total = total + 0.5 * (layout.cut(row[place]) * step).sum(-1).square().sum() / COUNT
            total = total + 0.5 * DAMP * step.square().sum()
        return total

    def now(self) -> list[Tensor]:
        return [one.linear.weight.detach().double() for one in self.projections]

    def held_out_loss(self) -> float:
        return float(self.loss(self.now()))

    def inputs(self, visit: Any) -> None:
        raise AssertionError("oBERT reads no inputs")


def quadratic(pattern: str, sparsity: float, **options: Any) -> tuple[ObertPruner, Quadratic]:
    model = tiny_model("bert")
    settings = {"num_grads": COUNT, "fisher_block_size": SIZE, "damp": DAMP, **options}
    pruner = ObertPruner(Pattern.parse(pattern), **settings)
    pruner.attach_(model)
    evidence = Quadratic(model, pattern)
    pruner.step_(sparsity, evidence)
    return pruner, evidence


@pytest.mark.parametrize("pattern", ["unstructured", "block4", "block:2x4", "2:4"])
def test_on_a_quadratic_loss_the_result_is_the_constrained_minimum(pattern: str) -> None:
    pruner, evidence = quadratic(pattern, 0.5)
    weights = [weight.requires_grad_() for weight in evidence.now()]
    gradients = torch.autograd.grad(evidence.loss(weights), weights)
    untouched = [weight.clone().requires_grad_() for weight in pruned_only(evidence, pruner)]
    others = torch.autograd.grad(evidence.loss(untouched), untouched)
    for gradient, other, mask in zip(gradients, others, pruner.masks(), strict=True):
        # Where a weight stays, the loss is flat: no other values of the kept weights are better.
        assert float(gradient[mask].abs().max()) < 1e-4 * float(other[mask].abs().max())


def pruned_only(evidence: Quadratic, pruner: ObertPruner) -> list[Tensor]:
    return [weight * mask for weight, mask in zip(evidence.start, pruner.masks(), strict=True)]


@pytest.mark.parametrize("pattern", ["unstructured", "block4"])
def test_the_first_block_to_go_is_the_cheapest(pattern: str) -> None:
    model = tiny_model("bert")
    evidence = Quadratic(model, pattern)
    pruner = ObertPruner(Pattern.parse(pattern), num_grads=COUNT, fisher_block_size=SIZE, damp=DAMP)
    pruner.attach_(model)
    blocks = sum(mask.numel() for mask in pruner.masks()) // pruner.pattern.block_size
    pruner.step_(1.0 / blocks, evidence)
    ((matrix, gone),) = [(i, (~m).nonzero()[0]) for i, m in enumerate(pruner.masks()) if not m.all()]
    least = math.inf
    for index, layout in enumerate(evidence.layouts):
        rows = torch.stack([layout.cut(row[index].float().double()) for row in evidence.rows], 1)
        eye = torch.eye(SIZE, dtype=torch.float64)
        inverse = torch.linalg.inv(rows.transpose(1, 2) @ rows / COUNT + DAMP * eye)
        cut = layout.cut(evidence.start[index])
        group = pruner.pattern.block_size
        costs = []
        for start in range(0, SIZE, group):
            w = cut[:, start : start + group, None]
            corner = inverse[:, start : start + group, start : start + group]
            costs.append(0.5 * (w.transpose(1, 2) @ torch.linalg.inv(corner) @ w).flatten())
        cost = torch.stack(costs, 1).repeat_interleave(group, 1)
        whole = torch.full_like(evidence.start[index], torch.inf)
        whole = layout.join(cost)
        least = min(least, float(whole.min()))
        if index == matrix:
            taken = float(whole[tuple(gone)])
    assert taken == pytest.approx(least, rel=1e-5)


def test_the_predicted_increase_is_that_of_the_quadratic_loss() -> None:
    pruner, evidence = quadratic("unstructured", 0.3)
    damping = (
        0.5
        * DAMP
        * sum(
            float((now - start).square().sum())
            for now, start in zip(evidence.now(), evidence.start, strict=True)
        )
    )
    assert pruner.notes()["predicted_increase"] == pytest.approx(evidence.held_out_loss() - damping, rel=1e-4)
    assert pruner.notes()["damp"] == DAMP


def test_recomputing_is_better_on_one_quadratic_loss() -> None:
    losses = {}
    for recomputations in (1, 8, 32):
        pruner, evidence = quadratic("unstructured", 0.7, recomputations=recomputations)
        assert evidence.asked == list(range(1, recomputations + 1))
        assert pruner.sparsity == pytest.approx(0.7, abs=1e-4)
        losses[recomputations] = evidence.held_out_loss()
    assert losses[32] < losses[8] < losses[1]


def test_the_update_is_worth_it() -> None:
    pruner, evidence = quadratic("block4", 0.5)
    assert evidence.held_out_loss() < 0.9 * float(evidence.loss(pruned_only(evidence, pruner)))


# --- on a model ----------------------------------------


def pruned(**options: Any) -> tuple[ObertPruner, Any]:
    model = tiny_model("bert")
    pruner = made("obert", **{"num_grads": 20, "damp": 1e-5, **options})
    assert isinstance(pruner, ObertPruner)
    pruner.attach_(model)
    pruner.step_(0.5, evidence_for(model, count=10))
    return pruner, model


@pytest.mark.parametrize("damp", [1e-5, "auto"])
@pytest.mark.parametrize(
    ("pattern", "ranking"), [("block4", "global"), ("block4", "matrix"), ("2:4", "global")]
)
def test_less_memory_gives_the_same_bits(pattern: str, ranking: str, damp: Any) -> None:
    whole, model = pruned(pattern=pattern, ranking=ranking, damp=damp, recomputations=2)
    assert len(whole.groups()) == 1
    trials = 6 if damp == "auto" else 2
    fixed = 4 * trials * sum(mask.numel() for mask in whole.masks())
    largest = 4 * 64 * 32 * (16 + 20)
    little, other = pruned(
        pattern=pattern, ranking=ranking, damp=damp, recomputations=2, max_memory_gb=(fixed + largest) / 1e9
    )
    assert len(little.groups()) == 8  # two attention matrices need as much as a wide one
    assert little.notes() == whole.notes()
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())


def test_auto_takes_the_damp_with_the_lowest_held_out_loss() -> None:
    found, model = pruned(damp="auto")
    notes = found.notes()
    assert notes["held_out_loss"] == evidence_for(model, count=10).held_out_loss()
    again, other = pruned(damp=notes["damp"])
    assert again.notes()["predicted_increase"] == notes["predicted_increase"]
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())
    for factor in (10.0, 0.1):  # its neighbours among the tries; the ends of the range have only one
        _, worse = pruned(damp=float(f"{notes['damp'] * factor:.3g}"))
        assert evidence_for(worse, count=10).held_out_loss() >= notes["held_out_loss"] or is_end(found)


def is_end(pruner: ObertPruner) -> bool:
    model = tiny_model("bert")
    fresh = made("obert", num_grads=20, damp="auto")
    fresh.attach_(model)
    assert isinstance(fresh, ObertPruner)
    tried = fresh._damps(evidence_for(model, count=10), 1)
    assert tried == sorted(tried, reverse=True)
    return pruner.notes()["damp"] in (tried[0], tried[-1])


@pytest.mark.parametrize(
    ("pattern", "asked", "taken"),
    [
        ("unstructured", None, 50),
        ("block4", None, 32),
        ("2:4", None, 48),
        ("block:4x4", None, 48),
        ("block:16x16", None, 256),
        ("block4", 64, 64),
    ],
)
def test_blocks_of_the_fisher_matrix_hold_whole_blocks(pattern: str, asked: int | None, taken: int) -> None:
    assert block_size_of(Pattern.parse(pattern), asked) == taken


# --- bad input ----------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fisher_block_size": 50}, "fisher_block_size is 50, and the pattern block4 .* multiple of 4"),
        ({"damp": 0.0}, r"damp must be a positive number or auto, got 0\.0"),
        ({"num_grads": 0}, "at least 1 gradient and 1 recomputation, got 0 and 1"),
        ({"recomputations": 0}, "at least 1 gradient and 1 recomputation, got 5 and 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        made("obert", **options)


@pytest.mark.parametrize(
    ("num_grads", "needed", "setting"),
    [(20, r"0\.000426", r"fisher_block_size \(16\)"), (5, r"0\.000172", r"num_grads \(5\)")],
)
def test_too_little_memory_says_how_much_and_what_lowers_it(
    num_grads: int, needed: str, setting: str
) -> None:
    pruner = made("obert", max_memory_gb=1e-4, num_grads=num_grads)
    message = (
        rf"needs {needed} GB for one matrix at a time \(bert\.encoder\.layer\.0\.intermediate\.dense is the "
        rf"largest\), and max_memory_gb is 0\.0001: raise it, or lower {setting}"
    )
    with pytest.raises(RecipeError, match=message):
        pruner.attach_(tiny_model("bert"))


@pytest.mark.parametrize("kind", [ObertPruner, TaylorPruner])
def test_fewer_rows_than_gradients_are_said_before_the_run(kind: Any) -> None:
    with pytest.raises(DataError, match="asks for num_grads 40, and there are only 39 rows"):
        kind(Pattern.parse("block4"), num_grads=40).check_rows(39)
    kind(Pattern.parse("block4"), num_grads=40).check_rows(40)


def test_gradients_that_are_all_zero_are_said() -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        model.classifier.weight.zero_()
    pruner = made("obert", damp="auto")
    pruner.attach_(model)
    with pytest.raises(StructureError, match="All gradients are 0"):
        pruner.step_(0.5, evidence_for(model))


def test_taylor_is_the_mean_square_of_what_removing_a_block_changes() -> None:
    model = tiny_model("bert")
    pruner = made("taylor", num_grads=4)
    pruner.attach_(model)
    scores = pruner.scores(evidence_for(model))
    for index, projection in enumerate(find_projections(model)):
        weight = projection.linear.parametrizations.weight.original
        total = torch.zeros(weight.shape[0], weight.shape[1] // 4)
        for batch in random_batches(model)[:4]:
            (gradient,) = torch.autograd.grad(model(**batch).loss, [weight])
            total += (gradient * weight.detach()).unflatten(1, (-1, 4)).sum(-1).square() / 4
        torch.testing.assert_close(pruner.pattern.block_scores(scores[index]), total)
