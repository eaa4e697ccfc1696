"""The C++ plan: invariances, equality over instruction sets, hostile descriptions."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest
from plan_description import random_batch, random_description, with_orders

_engine = pytest.importorskip("secateur._engine")
ISAS = _engine.cpu_info()["isas"]
LENGTHS = [5, 1, 33, 64, 2, 31, 32, 7, 17]


def run(
    description: dict[str, Any], lengths: list[int], isa: str | None = None, threads: int = 1
) -> np.ndarray:
    ids, types, offsets = random_batch(lengths)
    return np.asarray(_engine.Plan(description, isa, threads).run(ids, types, offsets))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("hidden_heads_inner", [(32, 2, 64), (384, 12, 1536), (60, 3, 132)])
def test_every_isa_gives_the_reference_bits(isa: str, hidden_heads_inner: tuple[int, int, int]) -> None:
    hidden, heads, inner = hidden_heads_inner
    description = random_description(hidden, heads, inner, dense_roles=("ffn_out",))
    expected = run(description, LENGTHS, "reference")
    assert np.isfinite(expected).all()
    assert expected.std() > 0.1
    np.testing.assert_array_equal(run(description, LENGTHS, isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_activations_over_isas(isa: str, activation: str) -> None:
    description = random_description(activation=activation)
    np.testing.assert_array_equal(run(description, [40, 3], isa), run(description, [40, 3], "reference"))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_batch_place_or_threads(isa: str, threads: int) -> None:
    description = random_description(64, 4, 128)
    plan = _engine.Plan(description, isa, threads)
    ids, types, offsets = random_batch(LENGTHS)
    together = np.asarray(plan.run(ids, types, offsets))
    for s in range(len(LENGTHS)):
        part = slice(offsets[s], offsets[s + 1])
        alone = plan.run(ids[part], types[part], np.array([0, LENGTHS[s]], np.int32))
        np.testing.assert_array_equal(np.asarray(alone)[0], together[s])
    np.testing.assert_array_equal(
        np.asarray(_engine.Plan(description, isa, 1).run(ids, types, offsets)), together
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("f32", [(), ("query",), ("value", "ffn_in"), ("attention", "layer.1")])
@pytest.mark.parametrize("hidden_heads_inner", [(32, 2, 64), (60, 3, 132)])
def test_the_order_of_columns_changes_nothing(
    isa: str, f32: tuple[str, ...], hidden_heads_inner: tuple[int, int, int]
) -> None:
    hidden, heads, inner = hidden_heads_inner
    plain = random_description(hidden, heads, inner, f32=f32)
    ordered = with_orders(plain)
    assert sum("order" in step for step in ordered["steps"]) >= 2
    np.testing.assert_array_equal(run(ordered, LENGTHS, isa), run(plain, LENGTHS, isa))


def test_a_batch_larger_than_a_group_of_tokens() -> None:
    description = random_description()
    lengths = [64] * 40
    many = run(description, lengths)
    ids, types, _ = random_batch(lengths)
    plan = _engine.Plan(description, None, 1)
    last = plan.run(ids[-64:], types[-64:], np.array([0, 64], np.int32))
    np.testing.assert_array_equal(np.asarray(last)[0], many[-1])


def test_token_types_default_to_zero() -> None:
    plan = _engine.Plan(random_description(), None, 1)
    ids, types, offsets = random_batch([9, 4])
    np.testing.assert_array_equal(
        np.asarray(plan.run(ids, None, offsets)), np.asarray(plan.run(ids, np.zeros_like(types), offsets))
    )


def test_concurrent_callers_get_their_own_answers() -> None:
    plan = _engine.Plan(random_description(64, 4, 128), None, 2)
    batches = [random_batch([3 + i, 20, 1 + 2 * i], seed=i) for i in range(8)]
    expected = [np.asarray(plan.run(*batch)).copy() for batch in batches]
    wrong: list[int] = []

    def call(i: int) -> None:
        for _ in range(50):
            if not np.array_equal(np.asarray(plan.run(*batches[i])), expected[i]):
                wrong.append(i)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(len(batches))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@pytest.mark.filterwarnings("ignore:This process")  # Python 3.12+ warns of fork with threads: the point
def test_a_forked_child_makes_its_own_threads() -> None:
    plan = _engine.Plan(random_description(), None, 2)
    batch = random_batch([20, 30])
    expected = np.asarray(plan.run(*batch)).copy()
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(np.asarray(plan.run(*batch)), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_profile_times_every_step() -> None:
    plan = _engine.Plan(random_description(), None, 1)
    assert all(step["ms"] == 0 for step in plan.steps())
    plan.profile(True)
    plan.run(*random_batch([64, 64]))
    steps = plan.steps()
    assert sum(step["ms"] for step in steps) > 0
    products = [step for step in steps if step["k"] > 0 and not step["kernel"].startswith("dot")]
    assert len(products) == 12
    assert all(0 < step["density"] < 0.5 for step in products)


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ([1, 50], [2], "outside the vocabulary"),
        ([1, -1], [2], "outside the vocabulary"),
        ([1] * 65, [65], "at most 64"),
        ([1, 2], [2, 0], "is empty"),
        ([1, 2], [3, -1], "is empty"),
        ([1, 2], [1], "offsets"),
    ],
)
def test_bad_batches_are_refused(ids: list[int], lengths: list[int], message: str) -> None:
    plan = _engine.Plan(random_description(), None, 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    with pytest.raises(ValueError, match=message):
        plan.run(np.array(ids, np.int32), None, offsets)


def _drop(description: dict[str, Any], step: int, key: str) -> None:
    del description["steps"][step][key]


def _set(description: dict[str, Any], step: int, key: str, value: object) -> None:
    description["steps"][step][key] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["steps"].pop(0), "embeddings"),
        (lambda d: d["steps"].pop(), "the head"),
        (lambda d: d["steps"].pop(4), "an attention"),
        (lambda d: d["steps"].append(d["steps"][-1]), "goes on"),
        (lambda d: _drop(d, 1, "scale"), "lacks 'scale'"),
        (lambda d: _set(d, 5, "input_scale", float("nan")), "input_scale"),
        (lambda d: _set(d, 5, "input_scale", 0.0), "input_scale"),
        (lambda d: _set(d, 2, "input_scale", 0.5), "share"),
        (lambda d: _set(d, 5, "input_zero_point", 256), "0 .. 255"),
        (lambda d: _set(d, 7, "n", 1 << 40), "expected"),
        (lambda d: _set(d, 1, "k", 30), "expected"),
        (lambda d: _set(d, 1, "values", d["steps"][1]["values"][:-1]), "more blocks"),
        (lambda d: _set(d, 1, "values", np.full_like(d["steps"][1]["values"], -128)), "-128"),
        (lambda d: _set(d, 1, "mask", d["steps"][1]["mask"][:-1]), "mask"),
        (lambda d: _set(d, 1, "scale", np.full(32, np.inf, np.float32)), "weight_scale"),
        (lambda d: _set(d, 1, "bias", np.full(32, np.nan, np.float32)), "bias"),
        (lambda d: _set(d, 1, "values", d["steps"][1]["values"].astype(np.int16)), "array of its type"),
        (lambda d: _set(d, 4, "num_heads", 3), "expected"),
        (lambda d: _set(d, 7, "activation", "swish"), "unknown activation"),
        (lambda d: _set(d, 0, "word_scale", np.zeros(50, np.float32)), "word embeddings: scale"),
        (lambda d: _set(d, 1, "op", "conv"), "unknown plan step"),
        (lambda d: d.update(hidden_size=30), "multiple of 4"),
        (lambda d: _set(d, 8, "order", np.arange(63, dtype=np.uint16)), "a value a column"),
        (lambda d: _set(d, 8, "order", np.zeros(64, np.uint16)), "each column once"),
        (lambda d: _set(d, 8, "order", np.arange(1, 65, dtype=np.uint16)), "each column once"),
        (lambda d: _set(d, 8, "order", np.arange(64)), "array of its type"),
        (lambda d: _set(d, 5, "order", np.arange(32, dtype=np.uint16)[::-1].copy()), "attention head"),
        (
            lambda d: _set(d, 1, "order", np.arange(32, dtype=np.uint16)[::-1].copy()),
            "share their input's order",
        ),
    ],
)
def test_broken_descriptions_are_refused(change: Any, message: str) -> None:
    description = random_description()
    change(description)
    with pytest.raises(ValueError, match=message):
        _engine.Plan(description, None, 1)


def test_a_mask_may_not_keep_blocks_past_the_last_column() -> None:
    description = random_description(60, 3, 132)
    mask = description["steps"][1]["mask"].copy()
    mask[3, -1] |= 0x80  # 15 blocks a row: the 16th bit is padding
    _set(description, 1, "mask", mask)
    with pytest.raises(ValueError, match="past the last column"):
        _engine.Plan(description, None, 1)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_threads_keep_off_the_processor_of_their_caller() -> None:
    before = set(os.listdir("/proc/self/task"))
    plan = _engine.Plan(random_description(), None, 2)
    (worker,) = (int(name) for name in set(os.listdir("/proc/self/task")) - before)
    batch = random_batch(LENGTHS)
    allowed = os.sched_getaffinity(0)
    try:
        for cpu in sorted(allowed)[:2]:
            os.sched_setaffinity(0, {cpu})
            plan.run(*batch)
            assert os.sched_getaffinity(worker) == allowed - {cpu}
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_forced_isa_that_the_cpu_lacks_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown instruction set"):
        _engine.Plan(random_description(), "sse9", 1)
    missing = {"avx2", "avxvnni", "avx512", "avx512vnni", "neondot"} - set(ISAS)
    name = sorted(missing)[0]
    with pytest.raises(ValueError, match=f"no {name}"):
        _engine.Plan(random_description(), name, 1)
    monkeypatch.setenv("SECATEUR_ISA", "reference")
    assert _engine.Plan(random_description(), None, 1).isa == "reference"
