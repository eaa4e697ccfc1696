"""The work of a call, against what the shapes say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import write_tiny_checkpoint

from secateur.bench.work import call_work, measure_roof, weight_passes
from secateur.runtime.engine import Engine


@pytest.mark.parametrize(
    ("seq_len", "batch_size", "threads", "passes"),
    [(128, 1, 1, 1), (128, 2, 1, 1), (128, 3, 1, 2), (128, 3, 2, 1), (512, 4, 1, 4), (100, 5, 1, 3)],
)
def test_a_batch_reads_the_weights_once_a_group(
    seq_len: int, batch_size: int, threads: int, passes: int
) -> None:
    assert weight_passes(seq_len, batch_size, threads) == passes


def test_work_is_the_sum_of_the_steps() -> None:
    steps = [{"executed_macs": 2e9, "packed_bytes": 3_000_000}, {"executed_macs": 5e8, "packed_bytes": 0}]
    assert call_work(steps, 2) == {"gmac": 2.5, "weight_mb": 6.0}


def test_the_work_of_a_large_batch_counts_all_of_its_groups(tmp_path: Path) -> None:
    engine = Engine.from_pretrained(write_tiny_checkpoint(tmp_path / "model"), num_threads=1)
    gmac = []
    for batch_size in (1, 64):  # 64 sequences of 16 tokens are four groups
        engine.profile()
        engine(np.full((batch_size, 16), 5, np.int32))
        passes = weight_passes(16, batch_size, 1)
        assert passes == (4 if batch_size == 64 else 1)
        gmac.append(call_work(engine.inspect(), passes)["gmac"])
    assert gmac[0] > 0
    assert gmac[1] == pytest.approx(64 * gmac[0], rel=0.05)


def test_the_roof_is_plausible() -> None:
    roof = measure_roof("reference")
    assert set(roof) == {"int8_gmacs", "f32_gmacs", "memory_gbs"}
    assert all(0.01 < value < 1e5 for value in roof.values())
