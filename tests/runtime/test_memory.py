"""What engines hold, share and give back, as the kernel counts it. Linux only."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from child import run_in_child
from tiny_checkpoint import write_tiny_checkpoint

from secateur import Engine

pytest.importorskip("secateur._engine")
pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")

MB = 10**6
IDS = [[3, 5, 7, 1], [2], list(range(24))]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with 38 MB of dense weights."""
    return write_tiny_checkpoint(
        tmp_path_factory.mktemp("large") / "model",
        density=None,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=3,
        num_attention_heads=16,
    )


def _memory(entry: str) -> int:
    """Returns an entry of smaps_rollup, in bytes."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {entry} in smaps_rollup")


def _packed_bytes(engine: Engine) -> int:
    return sum(step["packed_bytes"] for step in engine.inspect())


def test_a_second_engine_holds_no_weights(large: Path) -> None:
    first = Engine.from_pretrained(large, num_threads=1)
    packed = _packed_bytes(first)
    assert packed > 35 * MB
    before = _memory("Rss")
    others = [Engine.from_pretrained(large, num_threads=threads) for threads in (1, 1, 2, 2)]
    assert _memory("Rss") - before < packed / 4
    assert [_packed_bytes(other) for other in others] == [packed] * 4


@pytest.mark.filterwarnings("ignore:This process")  # Python 3.12+ warns of fork with threads: the point
def test_forked_children_share_the_weights(large: Path) -> None:
    engine = Engine.from_pretrained(large, num_threads=2)
    packed, expected = _packed_bytes(engine), engine(IDS)

    def child() -> None:
        np.testing.assert_array_equal(engine(IDS), expected)
        private = _memory("Private_Dirty") + _memory("Private_Clean")
        assert private < packed / 2, f"{private / MB:.0f} MB are the child's own"
        other = Engine.from_pretrained(large, num_threads=1)  # the child finds what its parent packed
        np.testing.assert_array_equal(other(IDS), expected)
        private = _memory("Private_Dirty") + _memory("Private_Clean")
        assert private < packed / 2, f"{private / MB:.0f} MB are the child's own"

    run_in_child(child)


def test_engines_leave_nothing_behind(large: Path) -> None:
    def load_and_drop() -> None:
        engine = Engine.from_pretrained(large, num_threads=2, max_tokens=256)
        engine(IDS)
        del engine
        gc.collect()

    for _ in range(2):
        load_and_drop()
    before, threads = _memory("Rss"), len(os.listdir("/proc/self/task"))
    for _ in range(6):
        load_and_drop()
    assert _memory("Rss") - before < 20 * MB  # one copy of the weights would be twice that
    assert len(os.listdir("/proc/self/task")) == threads


def test_max_tokens_sets_the_memory_aside_at_once(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(
        tmp_path / "model", hidden_size=256, intermediate_size=8192, max_position_embeddings=4096
    )
    engine = Engine.from_pretrained(folder, num_threads=1, max_tokens=4096)
    ids = np.full((40, 4096), 7, np.int32)
    engine(ids[:1, :4])
    before = _memory("Rss")
    for batch, length in ((1, 4096), (3, 1000), (4, 4096), (2000, 1)):
        engine(np.resize(ids, (batch, length)))
    assert _memory("Rss") - before < 5 * MB  # the activations of 4096 tokens are about 80 MB
    unbounded = Engine.from_pretrained(folder, num_threads=1)
    before = _memory("Rss")
    unbounded(ids[:1, :4096])
    assert _memory("Rss") - before > 30 * MB


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("threads", "calls"), [(1, 1_000_000), (2, 100_000)])
def test_memory_does_not_grow_over_a_million_calls(tmp_path: Path, threads: int, calls: int) -> None:
    engine = Engine.from_pretrained(
        write_tiny_checkpoint(tmp_path / "model", num_hidden_layers=1), num_threads=threads
    )
    random = np.random.default_rng(0)
    lengths = [random.integers(1, 25, count) for count in (1, 1, 2, 3, 5, 8) for _ in range(50)]
    requests = [[random.integers(0, 50, length).astype(np.int32) for length in row] for row in lengths]
    requests.append([requests[0][0]] * 2000)  # one large batch comes by
    for request in requests * 3:
        engine(request)
    del requests[-1]
    before = _memory("Rss")
    for call in range(calls):
        engine(requests[call % len(requests)])
    assert _memory("Rss") - before < 1 * MB
