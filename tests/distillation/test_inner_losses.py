"""The distances within two models against loops over single numbers in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_distances import angle, by_hand_attention, squared
from torch import Tensor

from secateur.distillation import layer_pairs
from secateur.distillation.losses import (
    attention_distance,
    attention_scores,
    similarity_distance,
    state_distance,
)
from secateur.errors import RecipeError

LENGTHS = (6, 3, 1)
MASK = torch.tensor([[1] * length + [0] * (6 - length) for length in LENGTHS])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cosine", [False, True])
def test_states_are_compared_over_each_rows_real_tokens(cosine: bool) -> None:
    a, b = numbers(3, 6, 4), numbers(3, 6, 4, seed=1)
    apart = (lambda x, y: 1 - angle(x, y)) if cosine else squared
    for mask, lengths in ((MASK, LENGTHS), (None, (6, 6, 6))):
        expected = [
            sum(apart(a[row, i].double().tolist(), b[row, i].double().tolist()) for i in range(length))
            / length
            for row, length in enumerate(lengths)
        ]
        found = state_distance(a, b, mask, cosine=cosine)
        assert found.dtype == torch.float32
        assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert state_distance(a, b, torch.zeros_like(MASK)).tolist() == [0.0] * 3


@pytest.mark.parametrize("soft", [False, True])
def test_attention_is_compared_over_pairs_of_real_tokens(soft: bool) -> None:
    heads = 2
    own, other = ([numbers(3, 6, 8, seed=seed + i) for i in range(2)] for seed in (0, 2))
    expected = []
    for row, length in enumerate(LENGTHS):
        mine, theirs = (
            by_hand_attention(q[row].double(), k[row].double(), heads, length, soft) for q, k in (own, other)
        )
        flat = [[x for matrix in one for line in matrix for x in line] for one in (mine, theirs)]
        expected.append(squared(*flat))
    scores = [attention_scores(q, k, heads) for q, k in (own, other)]
    found = attention_distance(*scores, MASK, probabilities=soft)
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)
    whole = attention_distance(*scores, torch.ones_like(MASK), probabilities=soft)
    assert attention_distance(*scores, probabilities=soft).tolist() == pytest.approx(whole.tolist())
    empty = attention_distance(*scores, torch.zeros_like(MASK), probabilities=soft)
    assert empty.tolist() == [0.0] * 3


def test_similarities_are_those_of_a_text_with_all_others() -> None:
    a, b = numbers(4, 3), numbers(4, 5, seed=1)  # widths may differ
    rows = [[one.double().tolist() for one in matrix] for matrix in (a, b)]
    expected = [
        sum((angle(rows[0][i], rows[0][j]) - angle(rows[1][i], rows[1][j])) ** 2 for j in range(4) if j != i)
        / 3
        for i in range(4)
    ]
    assert similarity_distance(a, b).tolist() == pytest.approx(expected, rel=1e-4)
    assert similarity_distance(a[:1], b[:1]).tolist() == [0.0]
    own, other = a.clone().requires_grad_(), b.clone().requires_grad_()
    similarity_distance(own, other).sum().backward()
    assert own.grad is not None and float(own.grad.abs().max()) > 0  # noqa: PT018
    assert other.grad is None


@pytest.mark.parametrize("distance", [state_distance, attention_distance])
def test_padding_has_no_gradient_and_the_teacher_none(distance: Any) -> None:
    shape = (3, 6, 4) if distance is state_distance else (3, 2, 6, 6)
    for more in [{}] if distance is state_distance else [{}, {"probabilities": True}]:
        own, other = numbers(*shape).requires_grad_(), numbers(*shape, seed=1).requires_grad_()
        distance(own, other, MASK, **more).sum().backward()
        assert other.grad is None
        assert own.grad is not None
        padded = own.grad[1, 3:] if distance is state_distance else own.grad[1, :, :, 3:]
        assert float(padded.abs().max()) == 0.0
        assert float(own.grad.abs().max()) > 0.0


@pytest.mark.parametrize(
    ("layer_map", "sizes", "expected"),
    [
        ("uniform", (6, 12), [1, 3, 5, 7, 9, 11]),
        ("uniform", (4, 12), [2, 5, 8, 11]),
        ("uniform", (2, 3), [1, 2]),
        ("uniform", (3, 3), [0, 1, 2]),
        ("last", (3, 12), [9, 10, 11]),
        ((0, 5), (2, 6), [0, 5]),
    ],
)
def test_layers_learn_from_layers(layer_map: Any, sizes: tuple[int, int], expected: list[int]) -> None:
    assert layer_pairs(layer_map, *sizes) == list(enumerate(expected))


def test_a_layer_may_learn_from_none() -> None:
    assert layer_pairs((None, 5), 2, 6) == [(1, 5)]


@pytest.mark.parametrize(
    ("layer_map", "sizes", "words"),
    [
        ("uniform", (3, 2), "The student has 3 layers and the teacher 2"),
        ("last", (3, 2), "give a list of 3 layers of the teacher, 0 to 1"),
        ((0,), (2, 6), "layer_map names 1 layers, but the student has 2"),
        ((0, 6), (2, 6), "layer 1 of the student learn from layer 6, but the teacher has the layers 0 to 5"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(layer_map: Any, sizes: tuple[int, int], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        layer_pairs(layer_map, *sizes)
