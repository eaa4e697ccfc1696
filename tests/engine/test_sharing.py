"""Layers that share their weights, and embeddings that lack token types or are narrower than the layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_encoder import plain_outputs
from plan_description import STEPS_OF_A_LAYER, random_batch, random_description, share_layers, with_orders

_engine = pytest.importorskip("secateur._engine")
ISAS = _engine.cpu_info()["isas"]
LENGTHS = [5, 1, 3, 33, 4, 2, 64, 3, 31, 6, 2, 32, 7, 3, 17]
FLOAT = ("layer.0", "layer.1", "layer.2", "word", "position", "token_type")
HEADS = ("sequence", "token")


def run(description: dict[str, Any], isa: str | None = None, threads: int = 1) -> np.ndarray:
    return np.asarray(_engine.Plan(description, isa, threads).run(*random_batch(LENGTHS)))


def packed_bytes(description: dict[str, Any]) -> int:
    steps = _engine.Plan(description, None, 1).steps()
    return sum(step["packed_bytes"] for step in steps if not step["name"].startswith("head"))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("f32", [(), FLOAT, ("query", "ffn_out")])
def test_shared_layers_take_the_memory_of_one(head: str, f32: tuple[str, ...]) -> None:
    """Whatever their place: the last layer runs over first tokens only where the head reads no more."""
    one = random_description(layers=1, f32=f32, head=head)
    shared = share_layers(random_description(layers=12, f32=f32, head=head))
    assert packed_bytes(shared) == packed_bytes(one) > 0
    assert packed_bytes(random_description(layers=12, f32=f32, head=head)) > 8 * packed_bytes(one)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("orders", [False, True])
def test_shared_layers_compute_what_copies_of_them_compute(isa: str, head: str, orders: bool) -> None:
    shared = random_description(layers=3, head=head, embedding=20, f32=("value",))
    shared = share_layers(with_orders(shared) if orders else shared)
    copies = {
        **shared,
        "steps": [
            {key: np.copy(value) if isinstance(value, np.ndarray) else value for key, value in step.items()}
            for step in shared["steps"]
        ],
    }
    assert packed_bytes(copies) > packed_bytes(shared)
    np.testing.assert_array_equal(run(shared, isa, 2), run(copies, "reference"))


def test_the_same_arrays_with_another_scale_are_packed_apart() -> None:
    shared = share_layers(random_description(layers=2))
    other = [dict(step) for step in shared["steps"]]
    other[1 + STEPS_OF_A_LAYER + 7]["input_scale"] *= 2  # the outer projection of layer 1
    other[1 + STEPS_OF_A_LAYER + 7]["name"] = "another"
    description = {**shared, "steps": other}
    # The inner projection before it writes with that scale, so it is another one too.
    by_name = [
        (step["name"], step["packed_bytes"] > 0)
        for step in _engine.Plan(description, None, 1).steps()
        if step["k"] and step["name"] in ("layer.0.ffn_in", "layer.0.ffn_out", "another")
    ]
    assert by_name == [
        ("layer.0.ffn_in", True),
        ("layer.0.ffn_out", True),
        ("layer.0.ffn_in", True),
        ("another", True),
    ]
    assert not np.array_equal(run(description), run(shared))


@pytest.mark.parametrize("embedding", [None, 20, 48])
@pytest.mark.parametrize("token_types", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_embeddings_compute_what_their_description_means(
    embedding: int | None, token_types: bool, head: str
) -> None:
    description = random_description(
        60, 3, 132, activation="relu", f32=FLOAT, embedding=embedding, token_types=token_types, head=head
    )
    ids, types, offsets = random_batch(LENGTHS)
    if not token_types:
        types = np.zeros_like(types)
    expected = plain_outputs(description, ids, types, offsets)
    found = np.asarray(_engine.Plan(description, None, 1).run(ids, types, offsets))
    np.testing.assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("f32", [(), ("query",), FLOAT])
def test_projected_embeddings_are_the_same_everywhere(isa: str, threads: int, f32: tuple[str, ...]) -> None:
    description = random_description(132, 3, 132, embedding=36, f32=f32)
    expected = run(description, "reference")
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(run(description, isa, threads), expected)
    np.testing.assert_array_equal(run(with_orders(description), isa, threads), expected)


def test_projected_embeddings_are_near_those_in_double_precision() -> None:
    description = random_description(60, 3, 132, embedding=20, activation="relu")
    batch = random_batch([1, 2, 3] * 14)
    expected = plain_outputs(description, *batch)
    error = np.abs(np.asarray(_engine.Plan(description, None, 1).run(*batch)) - expected).max(axis=1)
    assert (error < 5e-5).mean() > 0.05
    assert error.max() < 0.2 * expected.std()


def test_steps_of_a_projection() -> None:
    def names(f32: tuple[str, ...]) -> list[str]:
        plan = _engine.Plan(random_description(embedding=20, f32=f32), None, 1)
        return [step["name"] for step in plan.steps()][:4]

    assert names(())[:3] == ["embeddings", "embeddings.projection", "embeddings.quantize"]
    assert names(("query", "key", "value"))[2] == "layer.0.query"  # which reads float32


def test_a_model_without_token_types_takes_zeros_only() -> None:
    plan = _engine.Plan(random_description(token_types=False), None, 1)
    assert plan.num_token_types == 1
    ids, types, offsets = random_batch([9, 4])
    zeros = np.asarray(plan.run(ids, np.zeros_like(types), offsets))
    np.testing.assert_array_equal(np.asarray(plan.run(ids, None, offsets)), zeros)
    with pytest.raises(ValueError, match=r"token type id is outside 0 \.\. 0"):
        plan.run(ids, np.ones_like(types), offsets)


@pytest.mark.parametrize("f32", [(), ("position",)])
def test_a_position_table_may_begin_past_its_first_rows(f32: tuple[str, ...]) -> None:
    """RoBERTa's first two rows are for padding."""
    description = random_description(f32=f32)
    embed = description["steps"][0]
    expected = run(description)
    for key in ("position", "position_scale"):
        if key in embed:
            whole = np.concatenate([embed[key][:2], embed[key]])
            embed[key] = whole[2:]
            assert embed[key].base is not None
    assert _engine.Plan(description, None, 1).max_sequence == 64
    np.testing.assert_array_equal(run(description), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(projection_weight=np.ones((32, 16), np.float32)), r"weight must be \[32, 20\]"),
        (lambda e: e.update(projection_weight=np.ones((20, 32), np.float32)), r"weight must be \[32, 20\]"),
        (lambda e: e.update(projection_weight=np.full((32, 20), np.nan, np.float32)), "weight is not finite"),
        (lambda e: e.update(projection_weight=np.ones((32, 20), np.int8)), "contiguous array of its type"),
        (lambda e: e.update(projection_bias=np.ones(20, np.float32)), "projection: bias must have a value"),
        (lambda e: e.pop("projection_bias"), "lacks 'projection_bias'"),
        (lambda e: e.pop("projection_weight"), "lacks 'projection_weight'"),
        (lambda e: [e.pop("projection_weight"), e.pop("projection_bias")], "must have 32 values"),
        (lambda e: e.update(gamma=np.ones(32, np.float32)), "gamma must have 20 values"),
        (
            lambda e: e.update(word=np.ones(20, np.float32), word_scale=None),
            r"word embeddings must be \[rows",
        ),
        (lambda e: e.update(word=np.ones((50, 18), np.float32), word_scale=None), "multiple of 4 columns"),
        (
            lambda e: e.update(position=np.ones((64, 32), np.float32), position_scale=None),
            "position embeddings",
        ),
        (lambda e: e.update(token_type=None), "without 'token_type' takes no 'token_type_scale'"),
        (lambda e: e.update(projection=1), "'embed' takes no 'projection'"),
        (lambda e: e.update({3: 1}), "not a string"),
    ],
)
def test_broken_embeddings_are_refused(change: Any, message: str) -> None:
    description = random_description(embedding=20)
    change(description["steps"][0])
    with pytest.raises(ValueError, match=message):
        _engine.Plan(description, None, 1)
