"""The model of many threads, against cases that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import write_tiny_checkpoint

from secateur.bench.scaling import Machine, Step, barrier_ms, call_ms, step_costs, step_ms, units
from secateur.runtime.engine import Engine

FREE = Machine(barrier_ns=0.0, call_ns=0.0, read_gbs=1e9)
PRODUCT = Step("ffn_in", ms=9.6, weight_mb=0.5, shared="tile", parts=3)


@pytest.mark.parametrize(
    ("step", "sequences", "seq_len", "expected"),
    [
        (PRODUCT, 1, 128, 4 * 3),
        (PRODUCT, 1, 129, 5 * 3),
        (PRODUCT, 3, 40, 4 * 3),  # tiles run across sequences
        (Step("key", 1, 0, "tile", 2, first=True), 33, 128, 2 * 2),
        (Step("norm", 1, 0, "tile"), 1, 8, 1),
        (Step("attention", 1, 0, "head", 12), 2, 40, 2 * 12 * 2),
        (Step("attention", 1, 0, "head", 12, first=True), 2, 40, 2 * 12),
        (Step("pooler", 1, 0, "sequence"), 5, 128, 5),
    ],
)
def test_units_are_tiles_times_parts(step: Step, sequences: int, seq_len: int, expected: int) -> None:
    assert units(step, sequences, seq_len) == expected


@pytest.mark.parametrize(
    ("threads", "expected"),
    [(1, 9.6), (2, 4.8), (4, 2.4), (5, 2.4), (8, 1.6), (12, 0.8), (64, 0.8)],
)
def test_the_thread_with_most_of_twelve_units_sets_the_pace(threads: int, expected: float) -> None:
    found = step_ms(PRODUCT, FREE, threads=threads, sequences=1, of=1, seq_len=128)
    assert found == pytest.approx(expected)


def test_a_barrier_costs_more_the_more_threads_wait() -> None:
    machine = Machine(barrier_ns=200.0, call_ns=0.0, read_gbs=1e9)
    assert barrier_ms(machine, 1) == 0
    assert barrier_ms(machine, 2) == pytest.approx(200e-6)
    assert barrier_ms(machine, 64) == pytest.approx(6400e-6)
    found = step_ms(PRODUCT, machine, threads=2, sequences=1, of=1, seq_len=128)
    assert found == pytest.approx(4.8 + 200e-6)


def test_no_step_is_faster_than_its_weights_are_read() -> None:
    heavy = Step("ffn_in", ms=9.6, weight_mb=40.0, shared="tile", parts=48)
    grows, fixed = Machine(0.0, 0.0, 10.0), Machine(0.0, 0.0, 10.0, most_gbs=20.0)
    times = [step_ms(heavy, machine, threads=8, sequences=1, of=1, seq_len=128) for machine in (grows, fixed)]
    assert times == pytest.approx([9.6 / 8, 40.0 / 20.0])
    # On one thread the measured time says it all.
    assert step_ms(heavy, fixed, threads=1, sequences=1, of=1, seq_len=128) == 9.6


def test_a_call_adds_up_its_steps_and_its_start() -> None:
    machine = Machine(barrier_ns=1000.0, call_ns=3000.0, read_gbs=1e9)
    steps = [PRODUCT, Step("norm", 0.4, 0.0, "tile"), Step("pooler", 0.2, 0.0, "sequence")]
    one = call_ms(steps, machine, threads=1, batch_size=1, seq_len=128, alone_ms=0.1)
    assert one == pytest.approx(9.6 + 0.4 + 0.2 + 0.1)
    # 12 units and 4 tiles over 4 threads, the sequence on one; 3 barriers of 2 us, a start of 6 us.
    four = call_ms(steps, machine, threads=4, batch_size=1, seq_len=128, alone_ms=0.1)
    assert four == pytest.approx(2.4 + 0.1 + 0.2 + 0.1 + 3 * 0.002 + 0.006)


def test_a_large_batch_goes_in_groups_that_grow_with_the_threads() -> None:
    machine = Machine(barrier_ns=1000.0, call_ns=3000.0, read_gbs=1e9)
    steps = [Step("product", 16.0, 0.0, "tile", 2)]
    # Two sequences of 128 a group and thread: 5 sequences are groups of 4 and 1 on two threads.
    found = call_ms(steps, machine, threads=2, batch_size=5, seq_len=128)
    assert found == pytest.approx(16.0 / 2 + 2 * 0.001 + 2 * 0.003)
    # ... and 3 tiles of one part are two for one of them.
    odd = [Step("norm", 9.0, 0.0, "tile")]
    assert call_ms(odd, FREE, threads=2, batch_size=1, seq_len=96) == pytest.approx(6.0)


def test_the_steps_of_a_real_plan(tmp_path: Path) -> None:
    engine = Engine.from_pretrained(write_tiny_checkpoint(tmp_path / "model"), num_threads=1)
    profiled = []
    for _ in range(3):
        engine.profile()
        engine(np.full((2, 10), 5, np.int32))
        profiled.append(engine.inspect())
    heads = engine.config["num_attention_heads"]
    steps = step_costs(profiled, batch_size=2, seq_len=10, num_heads=heads)
    assert len(steps) == len({row["step"] for row in profiled[0]})
    assert all(step.ms > 0 for step in steps)
    by_name = {step.name: step for step in steps}
    attention = [step for step in steps if step.shared == "head"]
    assert [(step.parts, step.first) for step in attention] == [(heads, False), (heads, True)]
    assert by_name["embeddings"].shared == "tile"
    # Three matrices of one block of rows each.
    query = next(step for step in steps if step.name.endswith("0.attention.self.query"))
    assert (query.parts, query.first, query.weight_mb > 0) == (
        3,
        False,
        True,
    )
    assert by_name["head.rows"].shared == "sequence"
    dense = by_name["head.dense"]
    assert (dense.shared, dense.parts, dense.first, dense.weight_mb) == ("tile", 1, True, 4 * 32 * 32 / 1e6)
    assert call_ms(steps, FREE, threads=1, batch_size=2, seq_len=10) == pytest.approx(
        sum(step.ms for step in steps)
    )
