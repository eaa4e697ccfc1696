"""Steps beside the peak: sums, rates and shares of made-up times, and the real engine's counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import write_tiny_checkpoint

from secateur.bench.profile import explain, measure_peak, profile
from secateur.runtime.engine import Engine

PEAK = {"u8s8": 100.0, "f32": 50.0}


def step(number: int, name: str, kernel: str, **values: Any) -> dict[str, Any]:
    empty = {
        **dict.fromkeys(("ms", "tokens", "macs", "executed_macs"), 0.0),
        **dict.fromkeys(("n", "k"), 0),
        "density": 1.0,
        "type": "",
        "tile": (0, 0),
    }
    return {"step": number, "name": name, "kernel": kernel, **empty, **values}


def product(number: int, name: str, **values: Any) -> dict[str, Any]:
    sizes = {"n": 64, "k": 64, "density": 0.25, "type": "u8s8", "tile": (32, 64)}
    return step(number, name, "spmm_u8s8_x", **{**sizes, **values})


STEPS = [
    product(0, "a.query", ms=2.0, tokens=8.0, macs=4e8, executed_macs=1e8),
    product(0, "a.key", type="f32", density=0.75),
    step(1, "a", "attention_x", type="u8s8", ms=1.0, tokens=8.0, macs=2e7, executed_macs=2e7),
    step(2, "a.norm", "layer_norm_x", ms=1.0, tokens=8.0),
]


def test_products_that_were_timed_together_are_one_row() -> None:
    joined, attention, norm = profile(STEPS, PEAK, threads=1)["steps"]
    assert joined["name"] == "a.query + key"
    assert joined["tile"] == [8, 64]
    assert joined["n"] == 128
    assert joined["density"] == 0.5
    assert joined["gmacs_effective"] == pytest.approx(200)
    assert joined["gmacs_executed"] == pytest.approx(50)
    # A quarter of what is stored is int8, the rest float: 0.25 ms and 1.5 ms at their peaks.
    assert joined["floor_ms"] == pytest.approx(1.75)
    assert joined["peak_share"] == pytest.approx(0.875)
    assert attention["gmacs_executed"] == pytest.approx(20)
    assert attention["density"] is None
    assert norm["tile"] is norm["gmacs_effective"] is norm["peak_share"] is None


def test_the_total_adds_up_and_threads_raise_the_peak() -> None:
    one, two = (profile(STEPS, PEAK, threads) for threads in (1, 2))
    assert one["total"]["ms"] == 4
    assert one["total"]["gmacs_executed"] == pytest.approx(30)
    assert one["total"]["peak_share"] == pytest.approx((1.75 + 0.2) / 4)
    assert two["total"]["peak_share"] == pytest.approx(one["total"]["peak_share"] / 2)
    assert one["shares"] == {"products": 0.5, "attention": 0.25, "norms": 0.25}


def test_the_sentence_says_where_the_time_goes() -> None:
    said = explain(profile(STEPS, PEAK, threads=2), latency_ms=3.9)
    for part in ("4.000 ms", "3.900", "products 50%", "norms 25%", "100 GMAC/s u8s8", "times 2 threads"):
        assert part in said
    assert "products at 44%" in said
    assert "norms at" not in said


def test_steps_without_calls_have_no_rates(tmp_path: Path) -> None:
    steps = Engine.from_pretrained(write_tiny_checkpoint(tmp_path / "model"), num_threads=1).inspect()
    found = profile(steps, PEAK, threads=1)
    assert found["total"]["ms"] == 0
    assert found["total"]["peak_share"] is None


@pytest.mark.parametrize("threads", [1, 2])
def test_the_engine_counts_the_work_of_a_call(tmp_path: Path, threads: int) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    engine = Engine.from_pretrained(folder, num_threads=threads)
    hidden, inner, labels = 32, 64, len(engine.labels)
    batch = [[2, 5, 6, 7, 3], [2, 5, 3]]
    engine.profile()
    for _ in range(3):
        engine(batch)
    rows = {row["name"].removeprefix("bert.encoder.layer."): row for row in engine.inspect()}
    assert rows["0.attention.self.query"]["macs"] == 8 * 3 * hidden * hidden
    assert rows["0.intermediate.dense"]["macs"] == 8 * hidden * inner
    assert rows["0.attention"]["macs"] == 2 * (5 * 5 + 3 * 3) * hidden
    assert rows["1.attention.self.key"]["macs"] == 8 * 2 * hidden * hidden
    # Past the last keys and values only the first token of each sequence is computed.
    assert rows["1.attention"]["macs"] == 2 * (5 + 3) * hidden
    assert rows["1.output.dense"]["macs"] == 2 * hidden * inner
    assert rows["1.output.LayerNorm"]["tokens"] == 2
    assert rows["head.dense"]["macs"] == 2 * hidden * hidden
    assert rows["head.output"]["macs"] == 2 * labels * hidden
    dense = rows["0.output.dense"]
    assert dense["executed_macs"] == pytest.approx(dense["macs"] * dense["density"])
    assert 0 < dense["density"] < 0.7


def test_a_large_batch_is_one_call(tmp_path: Path) -> None:
    engine = Engine.from_pretrained(write_tiny_checkpoint(tmp_path / "model"), num_threads=1)
    engine.profile()
    engine(np.full((40, 20), 5))
    assert engine.inspect()[0]["tokens"] == 800


def test_the_peak_is_measured_for_every_instruction_set() -> None:
    from secateur import _engine

    for isa in _engine.cpu_info()["isas"]:
        peak = measure_peak(isa)
        assert set(peak) == {"u8s8", "f32", "bf16"}
        assert all(0.01 < rate < 1e5 for rate in peak.values())
    with pytest.raises(ValueError, match="altivec"):
        measure_peak("altivec")
