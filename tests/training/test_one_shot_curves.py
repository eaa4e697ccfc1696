"""The curves of one-shot pruning: readings along one trajectory, taken up where a run was killed."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_tasks
import torch

from secateur.errors import DataError
from secateur.modeling import find_projections
from secateur.sparsity.mask import unquantized_weight
from secateur.training import fine_tune
from secateur.training.one_shot import OneShot, Prepared, prepare

Open = Callable[[str], ModuleType]
SPARSITIES = [0.3, 0.6, 0.9]


@pytest.fixture
def open_script() -> Open:
    """Opens a script of benchmarks/ as a module."""

    def open_it(name: str) -> ModuleType:
        path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look themselves up there
        spec.loader.exec_module(module)
        return module

    return open_it


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    start = tiny_tasks.encoder(folder / "encoder")
    splits = tiny_tasks.splits("single")
    return fine_tune(
        start, splits, folder / "dense", min_steps=120, batch_size=16, learning_rate=5e-3, progress=False
    ).folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_topics")
    splits = tiny_tasks.splits("single")
    for name in ("train", "validation", "test"):
        lines = [json.dumps({"text": row.text, "label": row.label}) for row in getattr(splits, name)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def arguments(data: Path, dense: Path, tmp_path: Path, **changes: Any) -> argparse.Namespace:
    values: dict[str, Any] = {
        "data": str(data),
        "task": None,
        "model": dense,
        "methods": ["magnitude", "sparsegpt", "obert-2"],
        "patterns": ["block4"],
        "sparsities": SPARSITIES,
        "rows": 32,
        "num_grads": 16,
        "damp": 1e-5,
        "train_rows": 0,
        "test_rows": 30,
        "max_length": None,
        "seed": 42,
        "threads": 1,
        "work": tmp_path / "work",
        "out": None,
        "redraw": False,
    }
    return argparse.Namespace(**{**values, **changes})


def weights(ready: Prepared) -> list[torch.Tensor]:
    return [unquantized_weight(projection.linear).clone() for projection in find_projections(ready.network)]


def obert(dense: Path) -> Prepared:
    options = {"num_grads": 8, "damp": 1e-5, "fisher_block_size": 16}
    return prepare(dense, tiny_tasks.splits("single"), OneShot(method="obert", sparsity=0.9, options=options))


def test_a_reading_is_the_step_at_hand_cut_short(open_script: Open, dense: Path, tmp_path: Path) -> None:
    script = open_script("one_shot")
    ready = obert(dense)
    read = {}
    for sparsity in script.trajectory(ready, 2, 0.9, SPARSITIES, tmp_path / "state"):
        assert ready.pruner is not None
        assert ready.pruner.sparsity == pytest.approx(sparsity, abs=5e-3)
        read[sparsity] = weights(ready)
    cut = 1 - math.sqrt(0.1)  # the same share of what is left, twice: 68 %
    for sparsity, before in ((0.3, []), (0.6, []), (0.9, [cut])):
        plain = obert(dense)
        for number, target in enumerate([*before, sparsity], 1):
            plain.evidence.step = number
            plain.prune_(target)
        assert all(map(torch.equal, weights(plain), read[sparsity]))


def test_a_killed_trajectory_goes_on_to_the_same_weights(
    open_script: Open, dense: Path, tmp_path: Path
) -> None:
    script = open_script("one_shot")
    whole = {}
    ready = obert(dense)
    for sparsity in script.trajectory(ready, 4, 0.9, SPARSITIES, tmp_path / "whole"):
        whole[sparsity] = weights(ready)
    ready = obert(dense)
    run = script.trajectory(ready, 4, 0.9, SPARSITIES, tmp_path / "killed")
    assert [next(run), next(run)] == SPARSITIES[:2]
    ready = obert(dense)
    assert [
        (sparsity, all(map(torch.equal, weights(ready), whole[sparsity])))
        for sparsity in script.trajectory(ready, 4, 0.9, SPARSITIES[2:], tmp_path / "killed")
    ] == [(0.9, True)]


def test_readings_are_kept_and_gone_on_with(
    open_script: Open, dense: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = open_script("one_shot")
    out = tmp_path / "results.json"
    given = arguments(data, dense, tmp_path)
    measured: list[float] = []
    now = script._Score.now

    def counted(score: Any) -> dict[str, Any]:
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(0.0)
        found: dict[str, Any] = now(score)
        return found

    monkeypatch.setattr(script._Score, "now", counted)
    with pytest.raises(KeyboardInterrupt):
        script.run(given, out)
    kept = json.loads(out.read_text())
    assert [len(curve["points"]) for curve in kept["curves"]] == [3, 2]
    monkeypatch.setattr(script._Score, "now", now)
    results = script.run(given, out)
    assert results == json.loads(out.read_text())
    assert results["curves"][0] == kept["curves"][0]
    assert [curve["name"] for curve in results["curves"]] == given.methods
    for curve in results["curves"]:
        assert [point["sparsity"] for point in curve["points"]] == SPARSITIES
        for point in curve["points"]:
            assert point["achieved"] == pytest.approx(point["sparsity"], abs=5e-3)
            assert 0.0 <= point["score"] <= 1.0
            assert point["kept"]["low"] <= point["kept"]["value"] <= point["kept"]["high"]
            assert point["kept"]["value"] == pytest.approx(point["score"] / results["dense"])
    assert str(tmp_path) not in json.dumps({**results, "command": ""})
    assert not (tmp_path / "work" / data.name / "block4_obert-2").exists()
    with pytest.raises(DataError, match="readings made with other rows, seed"):
        script.run(arguments(data, dense, tmp_path, rows=64, seed=1), out)


def test_a_figure_for_each_pattern(open_script: Open) -> None:
    pytest.importorskip("plotly")
    script = open_script("one_shot")
    point = {"sparsity": 0.3, "achieved": 0.3, "score": 0.9}
    curves = [
        {"pattern": "block4", "name": "wanda", "points": [point | {"sparsity": 0.6, "achieved": 0.6}, point]},
        {"pattern": "block4", "name": "random", "points": []},
        {"pattern": "unstructured", "name": "wanda", "points": [point]},
    ]
    results = {
        "curves": curves,
        "dense": 0.95,
        "metric": "accuracy",
        "model": "m",
        "data": {"name": "d", "test": 5},
        "request": {"sparsities": [0.3, 0.6]},
    }
    drawn = script.figures(results)
    assert set(drawn) == {"block4", "unstructured"}
    traces = drawn["block4"].data
    assert [trace.name for trace in traces] == ["wanda", "dense"]
    assert tuple(traces[0].x) == (0.3, 0.6)
    assert tuple(traces[1].y) == (0.95, 0.95)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("--methods=guess", "'guess' is no method"), ("--sparsities=0.5,1.5", "lie between 0 and 1")],
)
def test_bad_arguments(
    open_script: Open, given: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    script = open_script("one_shot")
    monkeypatch.setattr(sys, "argv", ["one_shot.py", "--data", "d", given])
    with pytest.raises(SystemExit) as caught:
        script.main()
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err
