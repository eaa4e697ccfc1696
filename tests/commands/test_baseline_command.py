"""`secateur baseline`: tables, the sentence on what is good enough, half of a network, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Run

pytest.importorskip("sklearn")


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"compressed": {"test": {"accuracy": 0.92, "n": 12}}, "sparsity": 0.8}))
    return path


def measured(run: Run, *arguments: Any) -> dict[str, Any]:
    outcome = run("baseline", *arguments, "--json", "-")
    assert outcome.status == 0, outcome
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def test_it_prints_a_row_and_what_it_means(run: Run, data: Path, metrics: Path) -> None:
    outcome = run("baseline", "--data", data, "--compare", metrics)
    assert outcome.status == 0, outcome
    assert "TF-IDF + linear" in outcome.out
    assert "The simple baseline is good enough here: accuracy 0.9167 against 0.9200" in outcome.out
    assert "3 labels" in outcome.err


def test_as_json(run: Run, data: Path, tmp_path: Path) -> None:
    found = measured(run, "--data", data, "--seed", 7)
    assert (found["task"], found["metric"], found["seed"]) == ("text-classification", "accuracy", 7)
    (row,) = found["rows"]
    assert row["test"]["accuracy"] == 11 / 12
    assert set(row) == {"name", "validation", "test", "minutes", "latency_ms", "size_mb"}
    assert found["sentence"] is None


def test_columns_are_named(run: Run, refused: Run, tmp_path: Path) -> None:
    lines = [{"words": f"{word} number {i}", "what": word} for i in range(20) for word in ("alarm", "table")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = measured(run, "--data", path, "--column", "text=words", "--column", "label=what")
    assert found["rows"][0]["test"]["accuracy"] == 1.0
    assert measured(run, "--data", path, "--text", "words", "--label", "what")["rows"] != []
    assert "is not ROLE=COLUMN" in refused("baseline", "--data", path, "--column", "words").err


def test_the_rows_tell_the_task(run: Run, tmp_path: Path) -> None:
    lines = [{"tokens": ["go", "to", f"town{i}"], "marks": ["O", "O", "B-LOC"]} for i in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert measured(run, "--data", path, "--column", "tags=marks")["task"] == "token-classification"


def test_a_checkpoint_brings_its_own_metrics(run: Run, refused: Run, data: Path, checkpoint: Path) -> None:
    (checkpoint / "metrics.json").unlink()
    assert (
        "has no metrics.json to compare with"
        in refused("baseline", "--data", data, "--model", checkpoint).err
    )
    (checkpoint / "metrics.json").write_text(json.dumps({"compressed": {"test": {"accuracy": 0.2}}}))
    found = measured(run, "--data", data, "--model", checkpoint)
    assert found["compared"] == 0.2
    assert found["sentence"].startswith("The simple baseline is good enough")


def test_half_of_a_fine_tuned_network_learns_from_the_whole(
    run: Run, data: Path, classifier: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "half"
    arguments = ("--data", data, "--model", classifier, "--half-depth", "--out", out, "--recipe", recipe)
    found = measured(run, *arguments)
    simple, half = found["rows"]
    assert simple["name"] == "TF-IDF + linear"
    assert (half["layers"], half["taught"]) == ([0], True)
    assert half["name"] == "half depth, 1 of 2 layers, distilled"
    assert 0 <= half["test"]["accuracy"] <= 1
    assert half["size_mb"] == round((out / "model.safetensors").stat().st_size / 1e6, 3)
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 1
    again = run("evaluate", out, "--data", data, "--json", tmp_path / "again.json")
    assert again.status == 0, again
    kept = [path.name for path in tmp_path.iterdir() if path.name.startswith("half")]
    assert kept == ["half"]


def test_what_it_refuses(refused: Run, data: Path, classifier: Path, tmp_path: Path) -> None:
    need = "needs the network to halve and a place for the half"
    assert need in refused("baseline", "--data", data, "--half-depth").err
    assert (
        "give --half-depth or --bilstm with it"
        in refused("baseline", "--data", data, "--out", tmp_path / "half").err
    )
    assert (
        "is no JSON file of metrics" in refused("baseline", "--data", data, "--compare", tmp_path / "no").err
    )
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    assert "says nothing of accuracy" in refused("baseline", "--data", data, "--compare", wrong).err
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    arguments = ("--data", data, "--model", classifier, "--half-depth", "--out", mine)
    refused("baseline", *arguments)
    assert [path.name for path in mine.iterdir()] == ["letter.txt"]
