"""What the scripts make of timings: rows, their kind, and figures; nothing is timed here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from secateur.bench.measure import Timing, Turn
from secateur.errors import DataError

Open = Callable[[str], ModuleType]
SHARING = [
    {"threads": 1, "barrier_ns": 3.0, "call_awake_ns": 10.0, "call_asleep_ns": 10.0, "read_gbs": 10.0},
    {"threads": 2, "barrier_ns": 200.0, "call_awake_ns": 2e3, "call_asleep_ns": 4e4, "read_gbs": 16.0},
]
MACHINE = {"cpu": "CPU", "isas": ["avx2"], "threads": 2, "versions": {}}


def timing(milliseconds: float) -> Timing:
    return Timing((Turn((milliseconds,) * 3),))


def profiled() -> list[dict[str, Any]]:
    row = {"kernel": "spmm_u8s8", "n": 768, "k": 768, "packed_bytes": 200_000, "tokens": 128}
    head = {"kernel": "dot_avx2", "n": 768, "k": 768, "packed_bytes": 2_000_000, "tokens": 1}
    return [{**row, "name": "query", "step": 0, "ms": 4.8}, {**head, "name": "pooler", "step": 1, "ms": 0.2}]


def case(script: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = script.case_rows(
        "b1_s128", {1: timing(5.5), 2: timing(3.3)}, ([profiled()] * 3, 0.5), 12, SHARING, 2
    )
    return found


def test_rows_beyond_this_machine_are_modelled_and_say_so(open_script: Open) -> None:
    pytest.importorskip("plotly")
    found = case(open_script("threads"))
    kinds = {row["threads"]: row["kind"] for row in found["rows"]}
    assert kinds == {1: "measured", 2: "measured", **dict.fromkeys((4, 8, 16, 32, 64), "modelled")}
    for row in found["rows"]:
        assert (row["measured_ms"] is None) == (row["kind"] == "modelled")
        assert row["modelled_ms"]["low"] <= row["modelled_ms"]["high"]
    one, two, four = found["rows"][:3]
    assert one["modelled_speedup"] == {"low": 1.0, "high": 1.0}
    # 48 and 12 units: half on each of two threads; the rest alone; two barriers and a start. On four threads the head
    # waits for its weights.
    assert two["modelled_ms"]["low"] == pytest.approx(2.4 + 0.1 + 0.5 + 2 * 0.2e-3 + 2e-3, abs=1e-3)
    assert four["modelled_ms"]["low"] == pytest.approx(1.2 + 0.05 + 0.5 + 2 * 0.4e-3 + 4e-3, abs=1e-3)
    assert found["model_error"]["relative"] == pytest.approx(3.0024 / 3.3 - 1, abs=1e-3)


def test_the_figure_of_threads_tells_measured_from_modelled(open_script: Open) -> None:
    pytest.importorskip("plotly")
    script = open_script("threads")
    results = {
        "cases": {"b1_s128": case(script)},
        "machine": MACHINE,
        "model": {"name": "bert-base", "sparsity": 0.8},
    }
    measured, modelled, ideal = script.figure(results).data
    assert list(measured.x) == [1, 2]
    assert list(modelled.x) == [2, 4, 8, 16, 32, 64]
    assert "modelled" in modelled.name
    assert (measured.line.dash, modelled.line.dash) == ("solid", "dash")
    assert list(ideal.y) == list(ideal.x)


def test_without_the_native_tool_it_says_how_to_build_it(open_script: Open, tmp_path: Path) -> None:
    script = open_script("threads")
    with pytest.raises(DataError, match=r"make build/kernels/\.built"):
        script.sharing_costs(tmp_path / "none", 2)
    with pytest.raises(DataError, match="one processor only"):
        script.sharing_costs(Path(sys.executable), 1)


def test_the_figure_of_sparsity_is_relative_to_the_best_float_peer(open_script: Open) -> None:
    pytest.importorskip("plotly")
    script = open_script("break_even")
    latencies = {"slow peer": 20.0, "best peer": 10.0, "ours dense": 5.0, "ours": 2.0}
    results = {
        "candidates": {
            name: {
                "precision": "f32",
                "sparse": name == "ours",
                "isa": "avx2" if name.startswith("ours") else None,
                "latency_ms": {"0.5": ms, "0.9": ms / (2 if name == "ours" else 1)},
            }
            for name, ms in latencies.items()
        },
        "int8_over_f32": {"int8 over f32": {"0.5": {"ratio": 1.5}, "0.9": {"ratio": 2.0}}},
        "model": {"name": "bert-base", "layers": 12},
        "request": {"seq_len": 128},
        "machine": MACHINE,
    }
    figures = script.figures(results)
    assert list(figures) == ["break_even", "break_even_int8"]
    speeds = {line.name: list(line.y) for line in figures["break_even"].data}
    assert speeds == {
        "ours": [5.0, 10.0],
        "slow peer": [0.5, 0.5],
        "best peer": [1.0, 1.0],
        "ours dense": [2.0, 2.0],
    }
    assert "1 is best peer" in figures["break_even"].layout.title.text
    assert list(figures["break_even_int8"].data[0].y) == [1.5, 2.0]


def test_without_a_gpu_nothing_is_measured(
    open_script: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    script = open_script("gpu")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.json")])
    assert script.main() == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "finds no CUDA GPU here, so nothing is measured" in said[0]
    assert not list(tmp_path.iterdir())


def test_published_figures_name_their_source(
    open_script: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = open_script("gpu")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--published"])
    assert script.main() == 0
    said = capsys.readouterr().out
    assert "published, not measured by us" in said
    assert {gpu for gpu, *_ in script.PUBLISHED} == {"T4", "V100"}
    for *_, source in script.PUBLISHED:
        assert "https://" in source
        assert source in said.replace("\n", "")
