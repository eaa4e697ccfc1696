"""The figures of README.md are those of the committed results."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_committed_figures(script: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count(script.BEGIN) == readme.count(script.END) == 1
    results = [script.RESULTS / f"{name}.json" for name in ("accuracy_clinc150", "minilm_latency")]
    shown = readme.partition(script.BEGIN)[2].partition(script.END)[0].strip()
    if all(path.is_file() for path in results):
        accuracy, latency = (script._read(path.stem) for path in results)
        assert shown == script.table(accuracy, latency)
    else:
        assert not shown


def test_the_table_is_made_of_the_results(script: ModuleType) -> None:
    cases = dict.fromkeys(script.CASES, 10.0)
    scored = {"accuracy": 0.9512, "n": 4500, "size_mb": 90.9}
    accuracy = {
        "command": "python accuracy.py",
        "rows": [
            {"model": "dense", "engine": "pytorch", **scored},
            {"model": "compressed", "engine": "secateur", **scored, "accuracy": 0.9444},
        ],
    }
    latency = {
        "command": "python latency.py",
        "rows": [{"engine": engine, "latency_ms": cases} for engine in script.ROWS],
        "speedup": {
            peer: {case: {"ratio": 12.34} for case in cases} for peer in script.ROWS if peer != "secateur"
        },
        "engine_alone": {"load_seconds": 0.05, "peak_memory_mb": 81.2},
        "machine": {"cpu": "CPU", "cores": 2, "threads": 2, "isas": ["avx2"], "versions": {"torch": "2.13"}},
    }
    new = script.with_figures(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n", accuracy, latency)
    assert new.startswith(f"before\n{script.BEGIN}\n| all-MiniLM-L6-v2 on clinc150 |")
    assert new.endswith(f"{script.END}\nafter\n")
    assert "| **compressed, Secateur** | 94.4% | 90.9 | 10.00 ms |" in new
    assert "12.3 times as fast as PyTorch float32" in new
    assert "under 90 MB" in new
    assert "old" not in new
