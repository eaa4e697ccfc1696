"""Plans whose int8 products take their input's scale token by token, alone and beside all other kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_encoder import plain_outputs
from plan_description import as_bf16, as_dynamic, random_batch, random_description, with_orders

_engine = pytest.importorskip("secateur._engine")
ISAS = _engine.cpu_info()["isas"]
LENGTHS = [5, 1, 3, 33, 4, 2, 64, 3, 31, 6, 2, 32, 7, 3, 17]
ROLES = ("query", "attn_out", "ffn_in", "ffn_out")  # "query" stands for all three projections
FLOATS = ("key", "attention", "ffn_in", "layer.1")

# Static but for these roles and layers, which are dynamic.
MIXES: dict[str, tuple[str, ...]] = {
    "everything": ROLES,
    "projections": ("query",),
    "attn_out": ("attn_out",),
    "ffn_in": ("ffn_in",),
    "ffn_out": ("ffn_out",),
    "last layer": ("layer.1",),
}
mixes = pytest.mark.parametrize("dynamic", MIXES.values(), ids=MIXES.keys())
SIZES: dict[str, Any] = {"hidden": 60, "heads": 3, "inner": 132}


def described(dynamic: tuple[str, ...] = ROLES, **changes: Any) -> dict[str, Any]:
    return as_dynamic(random_description(**{"activation": "relu", **changes}), dynamic)


def run(description: dict[str, Any], isa: str | None = None, threads: int = 1) -> np.ndarray:
    return np.asarray(_engine.Plan(description, isa, threads).run(*random_batch(LENGTHS)))


@mixes
@pytest.mark.parametrize("dense_roles", [(), ("query", "key", "value", *ROLES)], ids=["sparse", "dense"])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_a_plan_computes_what_its_description_means(
    dynamic: tuple[str, ...], dense_roles: tuple[str, ...], head: str
) -> None:
    description = described(dynamic, dense_roles=dense_roles, head=head, **SIZES)
    batch = random_batch([1, 2, 3] * 14 + [33, 64, 31, 32])
    expected = plain_outputs(description, *batch)
    error = np.abs(np.asarray(_engine.Plan(description, None, 1).run(*batch)) - expected).max(axis=1)
    # A value between two integers may be rounded to the other one than in double precision: texts that hold
    # none are exact but for the order of sums, and the others are off by a few of 1/127 of an activation.
    assert (error < 1e-4).mean() > 0.05
    assert error.max() < 0.2 * expected.std()


def test_dynamic_and_static_inputs_differ_by_their_rounding() -> None:
    static = random_description(activation="relu")
    difference = np.abs(run(as_dynamic(static, ROLES)) - run(static))
    assert 1e-4 < difference.max() < 0.5 * run(static).std()


@pytest.mark.parametrize("isa", ISAS)
@mixes
def test_every_isa_gives_the_reference_bits(isa: str, dynamic: tuple[str, ...]) -> None:
    for f32, bf16 in (((), ()), (FLOATS, ()), (FLOATS, ("key",))):  # the rest of it int8, or in part float
        for activation in ("gelu", "relu"):
            described_ = described(dynamic, f32=f32, activation=activation, dense_roles=("ffn_out",), **SIZES)
            description = as_bf16(described_, bf16)
            expected = run(description, "reference")
            assert np.isfinite(expected).all()
            np.testing.assert_array_equal(run(description, isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_results_do_not_depend_on_batch_place_or_threads(isa: str, threads: int, head: str) -> None:
    description = described(hidden=64, heads=4, inner=128, dense_roles=("attn_out",), head=head)
    plan = _engine.Plan(description, isa, threads)
    ids, types, offsets = random_batch(LENGTHS)
    together = np.asarray(plan.run(ids, types, offsets))
    first = 0
    for s, length in enumerate(LENGTHS):
        part = slice(offsets[s], offsets[s + 1])
        alone = np.asarray(plan.run(ids[part], types[part], np.array([0, length], np.int32)))
        np.testing.assert_array_equal(alone, together[first : first + len(alone)])
        first += len(alone)
    np.testing.assert_array_equal(run(description, isa), together)


@pytest.mark.parametrize("isa", ISAS)
@mixes
def test_an_order_of_columns_changes_no_result(isa: str, dynamic: tuple[str, ...]) -> None:
    for f32 in ((), ("key", "attention"), ("word",)):
        description = described(dynamic, f32=f32, **SIZES)
        ordered = with_orders(description)
        assert any("order" in step for step in ordered["steps"])
        np.testing.assert_array_equal(run(ordered, isa), run(description, isa))


@pytest.mark.parametrize("isa", ISAS)
def test_tables_narrower_than_the_layers(isa: str) -> None:
    description = described(embedding=24, **SIZES)
    expected = run(description, "reference")
    np.testing.assert_array_equal(run(description, isa), expected)
    plain = plain_outputs(description, *random_batch(LENGTHS))
    assert np.abs(expected - plain).max() < 0.2 * plain.std()


@pytest.mark.parametrize("isa", ISAS)
def test_a_token_of_zeros_gives_the_bias(isa: str) -> None:
    """A relu that lets nothing through leaves rows of zeros, whose scale is 1."""
    description = described(layers=1)
    inner = next(step for step in description["steps"] if step.get("role") == "ffn_in")
    inner["bias"] = np.full_like(inner["bias"], -1e6)
    outer = next(step for step in description["steps"] if step.get("role") == "ffn_out")
    before = run(description, isa)
    outer["scale"] = outer["scale"] * 7  # multiplies only zeros
    np.testing.assert_array_equal(run(description, isa), before)
    assert np.isfinite(before).all()


def test_the_second_pass_is_a_step_of_its_own() -> None:
    description = described(("query", "ffn_out"), head="token")
    plan = _engine.Plan(description, None, 1)
    names = [step["name"] for step in plan.steps()]
    added = [name for name in names if name.endswith(".quantize")]
    assert added == [f"layer.{i}.{what}.quantize" for i in range(2) for what in ("attention", "ffn_out")]
    by_name = {step["name"]: step for step in plan.steps()}
    assert by_name["layer.0.ffn_out.quantize"]["kernel"].startswith("quantize_rows_")
    assert by_name["layer.0.ffn_out"]["type"] == "u8s8"
    # Last layer, head over first tokens: keys and values of all tokens, then the first tokens' queries.
    first = _engine.Plan(described(("query",)), None, 1)
    names = [step["name"] for step in first.steps() if step["name"].endswith(".quantize")]
    assert names == ["layer.0.attention.quantize", "layer.1.attention.quantize", "layer.1.query.quantize"]
    static = _engine.Plan(random_description(), None, 1)
    assert not any(step["name"].endswith(".quantize") for step in static.steps())


def test_memory_is_bounded_as_ever() -> None:
    plan = _engine.Plan(described(), None, 1, 64)
    before = plan.arena_bytes()
    plan.run(*random_batch(LENGTHS))
    assert plan.arena_bytes() == before
    static = _engine.Plan(random_description(activation="relu"), None, 1, 64).arena_bytes()
    # context and inner in float32 beside their integers, and a scale a token
    assert before - static == 64 * (4 * 32 + 4 * 64 + 4) * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_scale": 0.1}, "takes its scale token by token and takes no 'input_scale'"),
        ({"input_zero_point": 3}, "takes no 'input_zero_point'"),
        ({"dynamic": False}, "lacks 'input_scale'"),
        ({"dynamic": "yes"}, "'dynamic' has a wrong type"),
        ({"dynamic": 1}, "'dynamic' has a wrong type"),
    ],
)
def test_contradictions_are_refused(change: dict[str, Any], message: str) -> None:
    description = described()
    step = next(step for step in description["steps"] if step.get("role") == "ffn_in")
    step.update(change)
    with pytest.raises(ValueError, match=message):
        _engine.Plan(description, None, 1)


def test_float_weights_have_no_dynamic_input() -> None:
    description = random_description(f32=("ffn_in",))
    next(step for step in description["steps"] if step.get("role") == "ffn_in")["dynamic"] = True
    with pytest.raises(ValueError, match="ffn_in is float32 and takes no 'dynamic'"):
        _engine.Plan(description, None, 1)


def test_query_key_and_value_must_agree() -> None:
    description = described()
    key = next(step for step in description["steps"] if step.get("role") == "key")
    del key["dynamic"]
    key |= {"input_scale": 0.1, "input_zero_point": 128}
    with pytest.raises(ValueError, match="must quantize their input all dynamically or all statically"):
        _engine.Plan(description, None, 1)
