"""Plans of bfloat16 matrices, alone and beside float32 and int8 ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_encoder import plain_outputs
from plan_description import as_bf16, random_batch, random_description

_engine = pytest.importorskip("secateur._engine")
ISAS = _engine.cpu_info()["isas"]
LENGTHS = [5, 1, 3, 33, 4, 2, 64, 3, 31, 6, 2, 32, 7, 3, 17]
PROJECTIONS = ("query", "key", "value", "attn_out", "ffn_in", "ffn_out")
FLOATS = (*PROJECTIONS, "attention", "word", "position", "token_type")

# Float32 but for these roles and layers, which are bfloat16.
MIXES: dict[str, tuple[str, ...]] = {
    "everything": PROJECTIONS,
    "query": ("query",),
    "key and value": ("key", "value"),
    "attn_out": ("attn_out",),
    "ffn_in": ("ffn_in",),
    "ffn_out": ("ffn_out",),
    "last layer": ("layer.1",),
}
mixes = pytest.mark.parametrize("bf16", MIXES.values(), ids=MIXES.keys())


def described(bf16: tuple[str, ...], f32: tuple[str, ...] = FLOATS, **changes: Any) -> dict[str, Any]:
    return as_bf16(random_description(**{"f32": f32, "activation": "relu", **changes}), bf16)


def run(description: dict[str, Any], isa: str | None = None, threads: int = 1) -> np.ndarray:
    return np.asarray(_engine.Plan(description, isa, threads).run(*random_batch(LENGTHS)))


@mixes
@pytest.mark.parametrize("dense_roles", [(), PROJECTIONS], ids=["sparse", "dense"])
def test_a_plan_computes_what_its_description_means(
    bf16: tuple[str, ...], dense_roles: tuple[str, ...]
) -> None:
    description = described(bf16, hidden=60, heads=3, inner=132, dense_roles=dense_roles)
    batch = random_batch([1, 2, 3] * 14 + [33, 64, 31, 32])
    expected = plain_outputs(description, *batch)
    error = np.abs(np.asarray(_engine.Plan(description, None, 1).run(*batch)) - expected).max(axis=1)
    # An activation between two bfloat16 may be rounded to the other one than in double precision: texts that
    # hold none are exact but for the order of sums, and the others are off by a few of 2^-9 of an activation.
    assert (error < 5e-5).mean() > 0.05
    assert error.max() < 0.05 * expected.std()


def test_rounding_is_there_and_is_small() -> None:
    description = random_description(f32=FLOATS, activation="relu")
    difference = np.abs(run(as_bf16(description, PROJECTIONS)) - run(description))
    assert 1e-4 < difference.max() < 0.5


@pytest.mark.parametrize("isa", ISAS)
@mixes
def test_every_isa_gives_the_reference_bits(isa: str, bf16: tuple[str, ...]) -> None:
    for f32 in (FLOATS, tuple(name for name in FLOATS if name in (*bf16, "word"))):  # else float32, else int8
        description = described(bf16, f32, hidden=60, heads=3, inner=132, dense_roles=("ffn_out", "key"))
        expected = run(description, "reference")
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(run(description, isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_batch_place_or_threads(isa: str, threads: int) -> None:
    description = described(PROJECTIONS, hidden=64, heads=4, inner=128, dense_roles=("attn_out",))
    plan = _engine.Plan(description, isa, threads)
    ids, types, offsets = random_batch(LENGTHS)
    together = np.asarray(plan.run(ids, types, offsets))
    for s, length in enumerate(LENGTHS):
        part = slice(offsets[s], offsets[s + 1])
        alone = plan.run(ids[part], types[part], np.array([0, length], np.int32))
        np.testing.assert_array_equal(np.asarray(alone)[0], together[s])
    np.testing.assert_array_equal(run(description, isa), together)


def test_steps_name_the_kernels_and_the_rounding() -> None:
    description = described(("query", "ffn_out"), dense_roles=("ffn_out",))
    steps = _engine.Plan(description, None, 1).steps()
    by_name = {step["name"]: step for step in steps}
    assert by_name["layer.0.query"]["kernel"].startswith("spmm_bf16")
    assert by_name["layer.0.query"]["type"] == "bf16"
    assert by_name["layer.1.ffn_out"]["kernel"].startswith("gemm_bf16")
    assert by_name["layer.0.key"]["kernel"].startswith("spmm_f32")
    rounds = [step["kernel"] for step in steps if step["name"] == "round"]
    assert len(rounds) == 4
    assert all(kernel.startswith("round_bf16") for kernel in rounds)


def test_weights_take_half_the_memory() -> None:
    dense = {"hidden": 256, "heads": 4, "inner": 1024, "dense_roles": PROJECTIONS}
    sizes = [
        sum(step["packed_bytes"] for step in _engine.Plan(described(bf16, **dense), None, 1).steps())
        for bf16 in ((), PROJECTIONS)
    ]
    assert 0.45 < sizes[1] / sizes[0] < 0.6


def test_a_matrix_without_weights_gives_its_bias() -> None:
    description = described(PROJECTIONS)
    step = description["steps"][3]
    assert step["role"] == "value"
    step["mask"] = np.zeros_like(step["mask"])
    step["values"] = np.zeros(0, np.uint16)
    expected = plain_outputs(description, *random_batch(LENGTHS))
    np.testing.assert_allclose(run(description), expected, atol=0.05)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (0x7F80, "layer.0.query: a weight is not finite"),
        (0xFFC0, "layer.0.query: a weight is not finite"),
        (0x0001, "layer.0.query: a bfloat16 weight is smaller than 2\\^-50, but not 0"),
        (0xA67F, "layer.0.query: a bfloat16 weight is smaller than 2\\^-50, but not 0"),
    ],
)
def test_unsound_weights_are_refused(bits: int, message: str) -> None:
    description = described(PROJECTIONS)
    description["steps"][1]["values"][3] = bits
    with pytest.raises(ValueError, match=message):
        _engine.Plan(description, None, 1)


def test_the_least_weights_run() -> None:
    description = described(PROJECTIONS)
    description["steps"][1]["values"][:3] = (0x2680, 0xA680, 0x8000)
    assert np.isfinite(run(description)).all()


def test_entries_of_int8_and_tables_are_refused() -> None:
    description = described(PROJECTIONS)
    description["steps"][1]["input_scale"] = 0.1
    with pytest.raises(ValueError, match=r"layer\.0\.query is bfloat16 and takes no 'input_scale'"):
        _engine.Plan(description, None, 1)
    description = described(PROJECTIONS)
    description["steps"][0]["word"] = np.zeros((50, 32), np.uint16)
    with pytest.raises(ValueError, match="the table 'word' is bfloat16, and may be int8 or float32"):
        _engine.Plan(description, None, 1)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_packing_in_parallel_changes_nothing(threads: int) -> None:
    description = described(("query", "ffn_in"), f32=("query", "ffn_in", "value"), layers=3)
    batch = random_batch(LENGTHS)
    expected = np.asarray(_engine.Plan(_engine.Model(description, None, 1), 1).run(*batch))
    plan = _engine.Plan(_engine.Model(description, None, threads), 1)
    np.testing.assert_array_equal(np.asarray(plan.run(*batch)), expected)


def test_of_several_unsound_matrices_the_first_is_named() -> None:
    description = described(PROJECTIONS, layers=4)
    for step in description["steps"][3:]:
        if step["op"] == "linear":
            step["values"][0] = 0x7F80
    for _ in range(20):
        with pytest.raises(ValueError, match=r"layer\.0\.value: a weight is not finite"):
            _engine.Model(description, None, 4)
    with pytest.raises(ValueError, match="packing_threads must not be negative"):
        _engine.Model(description, None, -1)
