"""Rows of an accuracy table."""

from __future__ import annotations

import pytest

from secateur.bench.accuracy_rows import markdown, merged, scored_by_seed
from secateur.errors import DataError


def score(accuracy: float, **more: object) -> dict[str, object]:
    return {"accuracy": accuracy, "n": 10, "oos_auroc": None, "minutes": 2.0, "sparsity": 0.8, **more}


def test_means_over_seeds() -> None:
    row = scored_by_seed("compressed", "secateur", {1: score(0.9), 2: score(0.8, minutes=4.0)})
    assert row["accuracy"] == pytest.approx(0.85)
    assert (row["n"], row["minutes"], row["sparsity"]) == (10, 3.0, 0.8)
    assert isinstance(row["n"], int)
    assert "oos_auroc" not in row
    assert row["by_seed"]["2"]["accuracy"] == 0.8
    with pytest.raises(DataError, match="no seed"):
        scored_by_seed("dense", "pytorch", {})


def test_kept_without_rows_has_no_bounds() -> None:
    dense = scored_by_seed("dense", "pytorch", {1: score(0.8), 2: score(0.5)})
    found = merged(scored_by_seed("compressed", "pytorch", {1: score(0.6), 2: score(0.5)}), dense, "accuracy")
    assert found["by_seed"] == pytest.approx([0.75, 1.0])
    assert (found["low"], found["high"]) == (None, None)
    assert found["spread"] == pytest.approx(0.25)
    simple = scored_by_seed("TF-IDF", "scikit-learn", {1: score(0.4)})
    assert merged(simple, dense, "accuracy")["by_seed"] == pytest.approx([0.5, 0.8])
    nothing = scored_by_seed("dense", "pytorch", {1: score(0.0)})
    assert merged(nothing, nothing, "accuracy")["value"] is None


def test_the_table() -> None:
    kept = {"value": 0.985, "low": 0.97, "high": 1.0, "by_seed": [0.98, 0.99], "spread": 0.01}
    row = scored_by_seed("compressed", "secateur", {1: score(0.9), 2: score(0.8)})
    row |= {"kept": kept, "size_mb": 15.5, "size_parts_mb": {"embeddings": 11.0, "encoder": 4.0}}
    row["latency_ms"] = {"32": 1.234, "128": None}
    simple = {**scored_by_seed("TF-IDF", "scikit-learn", {1: score(0.4, sparsity=None)}), "size_mb": 2.0}
    simple |= {"kept": {**kept, "low": None, "spread": None}, "latency_ms": {"a text": 0.5}}
    text = markdown(
        {
            "question": "What does compression cost on it?",
            "metric": "accuracy",
            "seeds": [1, 2],
            "rows": [row, simple],
            "data": {"train": 1000, "notes": ["Split by a hash."]},
            "machine": {"cpu": "CPU", "cores": 2},
            "command": "python benchmarks/accuracy.py",
        }
    )
    lines = text.splitlines()
    assert lines[4].split(" | ")[2:6] == ["0.8500", "98.5% (± 0.5%)", "97.0% to 100.0%", "80.0%"]
    assert lines[4].endswith("| 11.00 | 4.00 | 15.50 | 1.23 ms |  |")
    assert lines[5].split(" | ")[3:6] == ["98.5%", "", ""]
    assert lines[5].endswith("| 2.00 | 0.50 ms |  |")
    assert {len(line.split("|")) for line in lines[2:6]} == {14}
    assert "- Split by a hash." in lines
    assert "Means over the seeds 1, 2; 10 test rows, 1,000 training rows." in text
