"""Heads of plans: what they give, and that it depends on nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_encoder import plain_outputs
from plan_description import random_batch, random_description
from plan_heads import HEADS

_engine = pytest.importorskip("secateur._engine")
ISAS = _engine.cpu_info()["isas"]
LENGTHS = [5, 1, 3, 33, 4, 2, 64, 3, 31, 6, 2, 32, 7, 3, 17]
FLOAT = ("layer.0", "layer.1", "word", "position", "token_type")
EVERY = [name for name, head in HEADS.items() if head[0] == "every"]
heads = pytest.mark.parametrize("head", HEADS)


@heads
@pytest.mark.parametrize("hidden_heads_embedding", [(32, 2, None), (60, 3, 20), (132, 3, None)])
def test_a_head_computes_what_its_description_means(
    head: str, hidden_heads_embedding: tuple[int, int, int | None]
) -> None:
    hidden, num_heads, embedding = hidden_heads_embedding
    description = random_description(
        hidden, num_heads, activation="relu", f32=FLOAT, head=head, embedding=embedding, labels=7
    )
    plan = _engine.Plan(description, None, 1)
    batch = random_batch(LENGTHS)
    expected = plain_outputs(description, *batch)
    assert expected.std() > 0.05
    found = np.asarray(plan.run(*batch))
    assert plan.every_token == (HEADS[head][0] == "every")
    assert found.shape == expected.shape == (len(expected), plan.num_outputs)
    # Float32 sums; the polynomial of GELU is 2e-4 off at most, which the output adds up.
    np.testing.assert_allclose(found, expected, atol=1e-2 if "gelu" in str(HEADS[head]) else 1e-4)


@heads
@pytest.mark.parametrize("isa", ISAS)
def test_every_isa_gives_the_reference_bits(head: str, isa: str) -> None:
    description = random_description(60, 3, 132, head=head, embedding=20, labels=67)
    batch = random_batch(LENGTHS)
    expected = np.asarray(_engine.Plan(description, "reference", 1).run(*batch))
    np.testing.assert_array_equal(np.asarray(_engine.Plan(description, isa, 2).run(*batch)), expected)


@heads
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_batch_place_threads_or_max_tokens(head: str, threads: int) -> None:
    model = _engine.Model(random_description(64, 4, 128, head=head, vocab=200, labels=130))
    plan = _engine.Plan(model, threads)
    ids, types, offsets = random_batch([*LENGTHS, *[64] * 10])
    together = np.asarray(plan.run(ids, types, offsets))
    every = plan.every_token
    for s in range(len(offsets) - 1):
        part = slice(offsets[s], offsets[s + 1])
        alone = plan.run(ids[part], types[part], np.array([0, offsets[s + 1] - offsets[s]], np.int32))
        np.testing.assert_array_equal(np.asarray(alone), together[part if every else slice(s, s + 1)])
    for max_tokens in (64, 100):
        bounded = _engine.Plan(model, threads, max_tokens)
        before = bounded.arena_bytes()
        np.testing.assert_array_equal(np.asarray(bounded.run(ids, types, offsets)), together)
        assert bounded.arena_bytes() == before


@pytest.mark.parametrize("head", EVERY)
@pytest.mark.parametrize("threads", [1, 2])
def test_positions_choose_rows(head: str, threads: int) -> None:
    plan = _engine.Plan(random_description(64, 4, 128, head=head), None, threads)
    batch = random_batch([*LENGTHS, *[64] * 10])
    everything = np.asarray(plan.run(*batch))
    tokens = len(batch[0])
    rng = np.random.default_rng(5)
    for asked in (
        np.arange(tokens),
        np.array([0]),
        np.array([tokens - 1]),
        np.flatnonzero(rng.random(tokens) < 0.1),
        np.arange(300, 420),  # groups of tokens before and after have none
        np.array([], int),
    ):
        found = np.asarray(plan.run(*batch, asked.astype(np.int32)))
        assert found.shape == (len(asked), plan.num_outputs)
        np.testing.assert_array_equal(found, everything[asked])


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([3, 9], "position 9 is outside the 9 tokens"),
        ([-1], "position -1 is outside"),
        ([2, 2], "must ascend"),
        ([4, 2], "must ascend"),
        (list(range(10)), "more positions than tokens"),
    ],
)
def test_bad_positions_are_refused(positions: list[int], message: str) -> None:
    plan = _engine.Plan(random_description(head="token"), None, 1)
    with pytest.raises(ValueError, match=message):
        plan.run(*random_batch([4, 5]), np.array(positions, np.int32))


def test_positions_of_a_head_without_any_are_refused() -> None:
    for head in ("sequence", "mean", "max"):
        plan = _engine.Plan(random_description(head=head), None, 1)
        with pytest.raises(ValueError, match="one gives a row a sequence"):
            plan.run(*random_batch([4, 5]), np.array([1], np.int32))


def test_only_the_first_token_of_the_last_layer_is_computed_where_only_it_is_read() -> None:
    def tokens(head: str) -> dict[str, float]:
        plan = _engine.Plan(random_description(head=head), None, 1)
        plan.profile(True)
        plan.run(*random_batch([20, 30]))
        return {step["name"]: step["tokens"] for step in plan.steps()}

    for head in ("sequence", "cls"):
        assert tokens(head)["layer.1.ffn_out"] == 2
    for head in ("token", "mean", "max"):
        assert tokens(head)["layer.1.ffn_out"] == 50


def test_the_profile_says_what_a_head_does() -> None:
    plan = _engine.Plan(random_description(head="masked", vocab=200), None, 1)
    plan.profile(True)
    plan.run(*random_batch([20, 30]), np.array([3, 20, 21], np.int32))
    steps = {step["name"]: step for step in plan.steps()}
    names = [name for name in steps if name.startswith("head")]
    assert names == ["head.rows", "head.dense", "head.norm", "head.output"]
    assert all(steps[name]["tokens"] == 3 for name in names)
    assert steps["head.output"]["macs"] == steps["head.output"]["executed_macs"] == 3 * 200 * 32
    assert steps["head.output"]["type"] == "f32"
    assert steps["head.output"]["packed_bytes"] == 0  # the word table's
    assert steps["head.dense"]["packed_bytes"] == 4 * 32 * 32


@pytest.mark.parametrize("f32", [(), FLOAT])
def test_a_tied_output_reads_the_word_table_itself(f32: tuple[str, ...]) -> None:
    description = random_description(head="masked", f32=f32)
    step = description["steps"][-1]
    assert step["weight"] is description["steps"][0]["word"]
    batch = random_batch(LENGTHS)
    tied = np.asarray(_engine.Plan(description, None, 1).run(*batch))
    step["weight"] = step["weight"].copy()
    own = _engine.Plan(description, None, 1)
    np.testing.assert_array_equal(np.asarray(own.run(*batch)), tied)
    (row,) = (row for row in own.steps() if row["name"] == "head.output")
    assert row["packed_bytes"] == step["weight"].nbytes


def test_what_is_read_in_place_outlives_its_description() -> None:
    description = random_description(head="token dense")
    batch = random_batch(LENGTHS)
    plan = _engine.Plan(description, None, 1)
    expected = np.asarray(plan.run(*batch)).copy()
    head = description["steps"][-1]
    sizes = [head[key].shape for key in ("dense_weight", "weight")]
    del description, head
    again = [np.full(shape, np.nan, np.float32) for shape in sizes * 20]  # where they lay, if they were freed
    np.testing.assert_array_equal(np.asarray(plan.run(*batch)), expected)
    assert len(again) == 40


def _set(**values: object) -> Any:
    return lambda head: head.update(values)


def _drop(*keys: str) -> Any:
    return lambda head: [head.pop(key) for key in keys]


FLOATS = np.ones((5, 32), np.float32)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sequence", _set(rows="last"), "unknown rows; known are every, first, max, mean"),
        ("sequence", _drop("rows"), "lacks 'rows'"),
        ("sequence", _set(pooler_weight=FLOATS), "'head' takes no 'pooler_weight'"),
        ("sequence", _set(normalize=1), "'normalize' has a wrong type"),
        (
            "sequence",
            _set(dense_activation="swish"),
            "unknown dense_activation; known are gelu, gelu_new, relu, tanh",
        ),
        ("sequence", _drop("dense_activation"), "lacks 'dense_activation'"),
        ("sequence", _drop("dense_bias"), "lacks 'dense_bias'"),
        ("sequence", _drop("dense_weight"), "without 'dense_weight' takes no 'dense_bias'"),
        ("sequence", _drop("dense_weight", "dense_bias"), "takes no 'dense_activation'"),
        (
            "sequence",
            _set(dense_weight=np.ones((32, 28), np.float32)),
            r"head.dense: weight must be \[rows, 32\]",
        ),
        (
            "sequence",
            _set(dense_weight=np.ones((30, 32), np.float32), dense_bias=np.ones(30, np.float32)),
            "of 4",
        ),
        ("sequence", _set(dense_weight=np.ones((32, 32), np.int8)), "contiguous array of its type"),
        ("sequence", _set(dense_bias=np.ones(31, np.float32)), "head.dense: bias must have 32 values"),
        ("sequence", _set(dense_bias=np.full(32, np.nan, np.float32)), "head.dense: bias is not finite"),
        (
            "sequence",
            _set(dense_weight=np.full((32, 32), np.inf, np.float32)),
            "head.dense: weight is not finite",
        ),
        ("sequence", _set(gamma=np.ones(32, np.float32)), "lacks 'beta'"),
        ("sequence", _set(beta=np.ones(32, np.float32)), "lacks 'gamma'"),
        ("sequence plain", _set(gamma=FLOATS[0], beta=FLOATS[0]), "head.norm: stands after a dense layer"),
        ("masked", _set(gamma=np.ones(31, np.float32)), "head.norm: gamma must have 32 values"),
        ("masked", _set(beta=np.full(32, np.nan, np.float32)), "head.norm: beta is not finite"),
        ("sequence", _set(weight=np.ones((5, 28), np.float32)), r"head.output: weight must be \[rows, 32\]"),
        ("sequence", _set(weight=np.ones((0, 32), np.float32)), "head.output: weight must be"),
        ("sequence", _set(weight=np.ones(32, np.float32)), "head.output: weight must be"),
        ("sequence", _set(weight=FLOATS * np.nan), "head.output: weight is not finite"),
        ("sequence", _set(weight=FLOATS.astype(np.float64)), r"int8, float32 or uint16 \(bfloat16\)"),
        (
            "sequence",
            _set(weight_scale=np.ones(5, np.float32)),
            "'weight' is float32 takes no 'weight_scale'",
        ),
        ("sequence", _set(weight=FLOATS.astype(np.int8)), "lacks 'weight_scale'"),
        ("sequence", _drop("bias"), "lacks 'bias'"),
        ("sequence", _drop("weight"), "without 'weight' takes no 'bias'"),
        ("sequence", _set(bias=np.ones(4, np.float32)), "head.output: bias must have 5 values"),
        ("masked int8", _set(weight_scale=np.ones(4, np.float32)), "weight_scale must have a value a row"),
        (
            "masked int8",
            _set(weight_scale=np.zeros(5, np.float32)),
            "weight_scale must be finite and positive",
        ),
        ("masked int8", _set(bias=np.ones((5, 1), np.float64)), "contiguous array of its type"),
    ],
)
def test_broken_heads_are_refused(name: str, change: Any, message: str) -> None:
    description = random_description(head=name)
    change(description["steps"][-1])
    with pytest.raises(ValueError, match=message):
        _engine.Plan(description, None, 1)
