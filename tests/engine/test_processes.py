"""Plans in company: one model under several plans, many callers, forked children, refused threads."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from child import run_in_child
from plan_description import Batch, random_batch, random_description

_engine = pytest.importorskip("secateur._engine")
LENGTHS = [5, 1, 33, 64, 2, 31, 32, 7, 17]


def _wrong_answers(plans: list[Any], batches: list[Batch], rounds: int) -> int:
    """Lets one caller a batch ask every plan in turn; counts answers that differ from the first."""
    expected = [np.asarray(plans[0].run(*batch)).copy() for batch in batches]
    wrong: list[int] = []

    def call(i: int) -> None:
        for turn in range(rounds):
            plan = plans[(i + turn) % len(plans)]
            if not np.array_equal(np.asarray(plan.run(*batches[i])), expected[i]):
                wrong.append(i)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(len(batches))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return len(wrong)


def test_plans_share_a_model_and_eight_callers_use_them() -> None:
    model = _engine.Model(random_description(64, 4, 128))
    other = _engine.Plan(random_description(64, 4, 128), None, 2)  # the same weights, packed for itself
    plans = [_engine.Plan(model, 2), _engine.Plan(model, 1), _engine.Plan(model, 3, 70), other]
    assert {plan.isa for plan in plans} == {model.isa}
    batches = [random_batch([3 + i, 20, 1 + 2 * i], seed=i) for i in range(8)]
    assert _wrong_answers(plans, batches, 40) == 0


def test_a_plan_keeps_its_model() -> None:
    model = _engine.Model(random_description())
    batch = random_batch(LENGTHS)
    expected = np.asarray(_engine.Plan(model).run(*batch)).copy()
    plan = _engine.Plan(model)
    del model
    np.testing.assert_array_equal(np.asarray(plan.run(*batch)), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_max_tokens_changes_memory_and_not_results(threads: int) -> None:
    model = _engine.Model(random_description(64, 4, 128))
    batch = random_batch([*LENGTHS, *[64] * 20, *[1] * 150])
    expected = np.asarray(_engine.Plan(model, threads).run(*batch))
    sizes = []
    for max_tokens in (64, 100, 1000, 10**6):
        plan = _engine.Plan(model, threads, max_tokens)
        assert plan.max_tokens == max_tokens
        before = plan.arena_bytes()
        np.testing.assert_array_equal(np.asarray(plan.run(*batch)), expected)
        plan.run(*random_batch([1]))
        assert plan.arena_bytes() == before > 0
        sizes.append(before)
    assert sizes[0] < sizes[1] <= sizes[2] <= sizes[3]
    unbounded = _engine.Plan(model, threads)
    assert unbounded.max_tokens is None
    assert unbounded.arena_bytes() == 0
    unbounded.run(*batch)
    assert sizes[1] < unbounded.arena_bytes() <= sizes[3]  # groups bound it, however large the batch


def test_a_sequence_longer_than_max_tokens_is_refused() -> None:
    plan = _engine.Plan(random_description(), None, 1, 20)
    assert plan.run(*random_batch([20, 20, 1])).shape == (3, 5)
    with pytest.raises(ValueError, match="sequence 1 has 21 tokens; max_tokens is 20"):
        plan.run(*random_batch([3, 21]))
    for wrong in (0, -1, 2**31):
        with pytest.raises(ValueError, match="max_tokens must be"):
            _engine.Plan(random_description(), None, 1, wrong)


def test_memory_of_many_callers_is_given_up() -> None:
    """One arena a processor stays, whatever number of callers there was."""
    plan = _engine.Plan(random_description(64, 4, 128), None, 1, 64)
    one = plan.arena_bytes()
    assert _wrong_answers([plan], [random_batch(LENGTHS, seed=i) for i in range(32)], 10) == 0
    assert plan.arena_bytes() <= one * len(os.sched_getaffinity(0))


@pytest.mark.filterwarnings("ignore:This process")  # Python 3.12+ warns of fork with threads: the point
def test_children_and_grandchildren_run_two_plans() -> None:
    """No wake-up is lost in a child, whatever its parent's threads were at."""
    model = _engine.Model(random_description(64, 4, 128))
    plans = [_engine.Plan(model, 2), _engine.Plan(random_description(), None, 3, 64)]
    batches = [random_batch(LENGTHS, seed=seed) for seed in range(2)]
    expected = [np.asarray(plan.run(*batch)).copy() for plan, batch in zip(plans, batches, strict=True)]

    def ask_both() -> None:
        for _ in range(10):
            for plan, batch, logits in zip(plans, batches, expected, strict=True):
                np.testing.assert_array_equal(np.asarray(plan.run(*batch)), logits)

    def child() -> None:
        ask_both()
        run_in_child(ask_both)
        assert _wrong_answers([plans[0]], [batches[0]] * 3, 5) == 0
        plans.clear()  # its own threads end; those of its parent are not its own to join

    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            plans[0].run(*batches[0])

    caller = threading.Thread(target=keep_busy)
    caller.start()
    try:
        for _ in range(3):
            run_in_child(child)
    finally:
        stop.set()
        caller.join()
    ask_both()


_REFUSED = """
import resource, sys
sys.path[:0] = [{folder!r}]
from plan_description import random_batch, random_description
from secateur import _engine
model = _engine.Model(random_description())
resource.setrlimit(resource.RLIMIT_AS, (2 * 1024**3, resource.RLIM_INFINITY))
try:
    _engine.Plan(model, 1000)
except RuntimeError as error:
    print(error)
print(_engine.Plan(model, 2).run(*random_batch([3, 4])).shape)
"""


@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer wants more addresses"
)
def test_threads_that_the_system_refuses_are_an_error() -> None:
    """With 2 GB of addresses there is no room for the stacks of 1000 threads."""
    if resource.getrlimit(resource.RLIMIT_STACK)[0] not in range(2**22, 2**40):
        pytest.skip("the stacks of threads are not of the usual 8 MB")
    code = _REFUSED.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the system starts no more than" in done.stdout
    assert "of 1000 threads\n(2, 5)" in done.stdout


def test_what_was_checked_is_what_runs() -> None:
    """Another thread writes to the array meanwhile: ids out of range never reach the kernels."""
    plan = _engine.Plan(random_description(), None, 1)
    ids, types, offsets = random_batch([64] * 10)
    ids[7] = 3
    expected = np.asarray(plan.run(ids, types, offsets)).copy()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            ids[7] = 2**31 - 1
            ids[7] = 3

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            try:
                np.testing.assert_array_equal(np.asarray(plan.run(ids, types, offsets)), expected)
            except ValueError as error:
                assert "outside the vocabulary" in str(error)  # noqa: PT017  (either way is right)
    finally:
        stop.set()
        writer.join()
