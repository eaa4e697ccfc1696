"""Plans of float32 matrices, and of float32 and int8 ones beside each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_encoder import plain_outputs
from plan_description import random_batch, random_description

_engine = pytest.importorskip("secateur._engine")
ISAS = _engine.cpu_info()["isas"]
LENGTHS = [5, 1, 3, 33, 4, 2, 64, 3, 31, 6, 2, 32, 7, 3, 17]
PROJECTIONS = ("query", "key", "value", "attn_out", "ffn_in", "ffn_out")
TABLES = ("word", "position", "token_type")

# What is float32; the rest is int8.
MIXES: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "everything": (*PROJECTIONS, "attention", *TABLES),
    "attention": ("attention",),
    "projections": PROJECTIONS,
    "query": ("query",),
    "key and value": ("key", "value"),
    "value and attention": ("value", "attention"),
    "attn_out": ("attn_out",),
    "ffn_in": ("ffn_in",),
    "ffn_out": ("ffn_out",),
    "first layer": ("layer.0",),
    "last layer": ("layer.1",),
    "one table": ("word",),
}
mixes = pytest.mark.parametrize("f32", MIXES.values(), ids=MIXES.keys())


def run(description: dict[str, Any], isa: str | None = None, threads: int = 1) -> np.ndarray:
    return np.asarray(_engine.Plan(description, isa, threads).run(*random_batch(LENGTHS)))


@mixes
@pytest.mark.parametrize("dense_roles", [(), PROJECTIONS], ids=["sparse", "dense"])
def test_a_plan_computes_what_its_description_means(
    f32: tuple[str, ...], dense_roles: tuple[str, ...]
) -> None:
    description = random_description(60, 3, 132, activation="relu", dense_roles=dense_roles, f32=f32)
    batch = random_batch([1, 2, 3] * 14 + [33, 64, 31, 32])
    expected = plain_outputs(description, *batch)
    assert expected.std() > 1
    error = np.abs(np.asarray(_engine.Plan(description, None, 1).run(*batch)) - expected).max(axis=1)
    # Sums of at most 132 terms round at 6e-8 each; two layers, and logits of up to 20.
    exact = error < 5e-5
    if f32 == MIXES["everything"]:
        assert exact.all()
    # A value that lies between two steps of int8 may be rounded to the other one than in double precision.
    # Some texts hold no such value, and in the others it is a small part of the logits.
    assert exact.mean() > 0.05
    assert error.max() < 0.2 * expected.std()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_float_activations_are_near_the_true_ones(activation: str) -> None:
    description = random_description(activation=activation, f32=MIXES["everything"])
    expected = plain_outputs(description, *random_batch(LENGTHS))
    # 2e-4 at most at each inner activation, which an outer projection and the head add up.
    assert np.abs(run(description) - expected).max() < 2e-3


@pytest.mark.parametrize("isa", ISAS)
@mixes
def test_every_isa_gives_the_reference_bits(isa: str, f32: tuple[str, ...]) -> None:
    description = random_description(60, 3, 132, dense_roles=("ffn_out", "key"), f32=f32)
    expected = run(description, "reference")
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(run(description, isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("mix", ["everything", "attention", "projections", "key and value", "first layer"])
def test_results_do_not_depend_on_batch_place_or_threads(isa: str, threads: int, mix: str) -> None:
    description = random_description(64, 4, 128, dense_roles=("attn_out",), f32=MIXES[mix])
    plan = _engine.Plan(description, isa, threads)
    ids, types, offsets = random_batch(LENGTHS)
    together = np.asarray(plan.run(ids, types, offsets))
    for s, length in enumerate(LENGTHS):
        part = slice(offsets[s], offsets[s + 1])
        alone = plan.run(ids[part], types[part], np.array([0, length], np.int32))
        np.testing.assert_array_equal(np.asarray(alone)[0], together[s])
    np.testing.assert_array_equal(run(description, isa), together)


def test_zeros_of_a_dense_matrix_cost_nothing_and_change_nothing() -> None:
    dense = random_description(f32=MIXES["everything"])
    sparse = random_description(f32=MIXES["everything"])
    for step in dense["steps"]:
        if step["op"] != "linear":
            continue
        keep = np.unpackbits(step.pop("mask"), axis=1, bitorder="little", count=step["k"]).astype(bool)
        step["weight"] = np.zeros((step["n"], step["k"]), np.float32)
        step["weight"][keep] = step.pop("values")
    np.testing.assert_array_equal(run(dense), run(sparse))
    kernels = [[s["kernel"] for s in _engine.Plan(d, None, 1).steps()] for d in (dense, sparse)]
    assert kernels[0] == kernels[1]


def test_steps_name_the_kernels_and_densities_of_float_matrices() -> None:
    description = random_description(dense_roles=("ffn_out",), f32=(*PROJECTIONS, "layer.0"))
    steps = {step["name"]: step for step in _engine.Plan(description, None, 1).steps()}
    assert steps["layer.0.query"]["kernel"].startswith("spmm_f32")
    assert 0.2 < steps["layer.0.query"]["density"] < 0.4
    assert steps["layer.1.ffn_out"]["kernel"].startswith("gemm_f32")
    assert steps["layer.1.ffn_out"]["density"] == 1
    assert steps["layer.0.attention"]["kernel"].startswith("attention_f32")
    assert steps["layer.1.attention"]["kernel"].startswith("attention_")
    assert not steps["layer.1.attention"]["kernel"].startswith("attention_f32")


def test_a_buffer_is_there_only_where_a_layer_needs_it() -> None:
    def arena(f32: tuple[str, ...]) -> int:
        plan = _engine.Plan(random_description(32, 2, 1024, layers=2, f32=f32), None, 1)
        plan.run(*random_batch([32]))
        return int(plan.arena_bytes())

    # One tile: the inner activations of all tokens and of the first ones, a byte or four of 2 x 32 x 1024.
    inner = 2 * 32 * 1024
    assert arena(("ffn_out",)) - arena(()) == 3 * inner
    assert arena(("layer.0.ffn_out",)) - arena(()) == 4 * inner


def test_a_matrix_without_weights_gives_its_bias() -> None:
    description = random_description(f32=MIXES["everything"], activation="relu")
    step = description["steps"][3]
    assert step["role"] == "value"
    step["mask"] = np.zeros_like(step["mask"])
    step["values"] = np.zeros(0, np.float32)
    expected = plain_outputs(description, *random_batch(LENGTHS))
    np.testing.assert_allclose(run(description), expected, atol=5e-5)


def test_a_long_sequence() -> None:
    description = random_description(positions=512, activation="relu", f32=MIXES["everything"])
    batch = random_batch([512, 3])
    plan = _engine.Plan(description, None, 1)
    logits = np.asarray(plan.run(*batch))
    np.testing.assert_allclose(logits, plain_outputs(description, *batch), atol=5e-5)


def _set(step: int, **values: object) -> Any:
    return lambda d: d["steps"][step].update(values)


def _nan(key: str, step: int) -> Any:
    def change(description: dict[str, Any]) -> None:
        values = description["steps"][step][key].copy()
        values.flat[-1] = np.nan
        description["steps"][step][key] = values

    return change


def _infinite(key: str, step: int) -> Any:
    def change(description: dict[str, Any]) -> None:
        description["steps"][step][key] = np.full_like(description["steps"][step][key], np.inf)

    return change


def _cut(key: str, step: int) -> Any:
    return lambda d: d["steps"][step].update({key: d["steps"][step][key][:-1].copy()})


def _past_the_last_column(description: dict[str, Any]) -> None:
    mask = description["steps"][1]["mask"].copy()
    mask[3, -1] |= 0x80  # 60 weights a row: the 64th bit is padding
    description["steps"][1]["mask"] = mask


# Steps: 0 embeddings, 1 query, 4 attention, 7 inner projection, 8 outer projection (dense).
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nan("values", 1), "layer.0.query: a weight is not finite"),
        (_infinite("weight", 8), "layer.0.ffn_out: a weight is not finite"),
        (_infinite("bias", 7), "layer.0.ffn_in: bias is not finite"),
        (_cut("bias", 1), "layer.0.query: bias must have a value a row"),
        (_cut("values", 1), "layer.0.query: the mask keeps [0-9]+ weights, but there are [0-9]+ values"),
        (_cut("mask", 1), "layer.0.query: the mask has a wrong shape"),
        (_past_the_last_column, "layer.0.query: the mask keeps weights past the last column"),
        (_cut("weight", 8), "layer.0.ffn_out: the weight has a wrong shape"),
        (_set(1, values=np.zeros((4, 4), np.float32)), r"layer.0.query: values must be \[B\]"),
        (_set(1, values=np.zeros(4, np.float64)), "contiguous array of its type, int8, float32 or uint16"),
        (_set(1, scale=np.ones(60, np.float32)), "layer.0.query is float32 and takes no 'scale'"),
        (_set(1, input_scale=0.1), "layer.0.query is float32 and takes no 'input_scale'"),
        (_set(7, input_zero_point=3), "layer.0.ffn_in is float32 and takes no 'input_zero_point'"),
        (_set(4, key_scale=0.1), "lacks 'query_scale'"),
        (_set(0, word_scale=np.ones(50, np.float32)), "table 'word' is float32 and takes no 'word_scale'"),
        (_nan("word", 0), "word embeddings is not finite"),
        (_set(0, position=np.zeros((64, 8), np.float32)), "position embeddings must be"),
        (_set(0, position=np.zeros((64, 60), np.int8)), "lacks 'position_scale'"),
    ],
)
def test_broken_float_descriptions_are_refused(change: Any, message: str) -> None:
    description = random_description(60, 3, 132, dense_roles=("ffn_out",), f32=MIXES["everything"])
    change(description)
    with pytest.raises(ValueError, match=message):
        _engine.Plan(description, None, 1)


def test_int8_projections_share_a_scale_whatever_stands_between_them() -> None:
    description = random_description(f32=("key",))
    description["steps"][3]["input_scale"] = 0.5
    with pytest.raises(ValueError, match="value: query, key and value must share"):
        _engine.Plan(description, None, 1)
    description = random_description(f32=("query", "key"))
    description["steps"][3]["input_scale"] = 0.5
    assert np.isfinite(run(description)).all()
