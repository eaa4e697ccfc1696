"""`benchmark --sweep`: what it measures, that it goes on after a stop, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import Run

from secateur.bench import synthetic
from secateur.bench.synthetic import SyntheticShape
from secateur.checkpoint import read_checkpoint
from secateur.commands import sweep

QUICK = ("--seconds", 0, "--rounds", 1, "--thread-counts", 1, "--isa", "reference")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(synthetic.SHAPES, "tiny", SyntheticShape(2, 64, 4, vocab_size=100, max_positions=32))


def test_random_weights_are_swept_over_all_axes(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    axes = ("--lengths", "8, 16", "--batch-sizes", "1,2", "--sparsities", "0,0.5", "--layer-counts", "1")
    base = ("--synthetic", "tiny", "--quantized", "--seq-len", 8, "--sparsity", 0.8)
    done = run("benchmark", "--sweep", *base, *axes, *QUICK, "--json", file)
    assert done.status == 0, done.err
    assert "texts/s" in done.out
    found = json.loads(file.read_text())
    assert found["base"] == {"seq_len": 8, "batch_size": 1, "sparsity": 0.8, "threads": 1, "layers": 2}
    keys = [
        tuple(row[name] for name in ("seq_len", "batch_size", "sparsity", "layers"))
        for row in found["points"]
    ]
    expected = [
        (8, 1, 0.8, 2),
        (16, 1, 0.8, 2),
        (8, 2, 0.8, 2),
        (8, 1, 0.0, 2),
        (8, 1, 0.5, 2),
        (8, 1, 0.8, 1),
    ]
    assert keys == expected
    work = {key: row["work"]["gmac"] for key, row in zip(keys, found["points"], strict=True)}
    assert work[8, 1, 0.8, 1] < work[8, 1, 0.8, 2] < work[8, 1, 0.5, 2] < work[8, 1, 0.0, 2]
    assert work[8, 2, 0.8, 2] == pytest.approx(2 * work[8, 1, 0.8, 2], rel=0.01)
    assert found["about"]["isa"] == "reference"
    assert found["roof"]["memory_gbs"] > 0
    assert found["machine"]["cpu"]


@pytest.mark.parametrize(("options", "numbers"), [((), "float32"), (("--quantized",), "int8")])
def test_random_weights_are_of_the_type_that_was_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], numbers: str
) -> None:
    file, page = tmp_path / "sweep.json", tmp_path / "sweep.html"
    written = []
    write = sweep.write_synthetic

    def spied(*args: Any, **kwargs: Any) -> Path:
        folder = write(*args, **kwargs)
        written.append(read_checkpoint(folder).quantization.numbers)
        return folder

    monkeypatch.setattr(sweep, "write_synthetic", spied)
    axes = ("--lengths", "4,8", "--batch-sizes", "1", "--sparsities", "0.5", "--layer-counts", "2")
    base = ("--synthetic", "tiny", "--seq-len", 8, *options)
    done = run("benchmark", "--sweep", *base, *axes, *QUICK, "--json", file, "--plots", page)
    assert done.status == 0, done.err
    assert set(written) == {numbers}
    assert json.loads(file.read_text())["about"]["quantized"] == (numbers == "int8")
    assert f"{'f32' if numbers == 'float32' else 'int8'} on registers" in page.read_text()


def test_a_checkpoint_is_swept_in_two_sittings(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    arguments = ("benchmark", checkpoint, "--sweep", "--seq-len", 8, "--batch-sizes", "1,3", *QUICK)
    stopped = run(*arguments, "--lengths", "4,8,24", "--json", file, "--time-limit", 0)
    assert stopped.status == 0, stopped.err
    assert "0 of 4 points have all their rounds; the same command goes on from there." in stopped.err
    assert not file.exists()
    assert run(*arguments, "--lengths", "4", "--json", file).status == 0
    before = json.loads(file.read_text())
    done = run(*arguments, "--lengths", "4,8,24", "--json", file)
    assert done.status == 0, done.err
    assert f"{file} has 3 of 4 points already." in done.err
    after = json.loads(file.read_text())
    assert after["points"][:3] == before["points"]
    assert [row["seq_len"] for row in after["points"]] == [8, 4, 8, 24]
    assert all(row["sparsity"] is None and len(row["turns"]) == 1 for row in after["points"])
    other = run(*arguments, "--json", file, "--isa", "avx2")
    assert other.status == 2
    assert "isa" in other.err or "avx2" in other.err


def test_a_grid_to_standard_output(run: Run, checkpoint: Path) -> None:
    axes = ("--lengths", "4,8", "--batch-sizes", "1,2", "--grid")
    done = run("benchmark", checkpoint, "--sweep", "--seq-len", 4, *axes, *QUICK, "--json", "-")
    assert done.status == 0, done.err
    assert len(json.loads(done.out)["points"]) == 4


def test_the_page_of_plots_needs_nothing_else(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    page = tmp_path / "plots.html"
    axes = ("--lengths", "4,8", "--batch-sizes", "1,2")
    done = run("benchmark", checkpoint, "--sweep", "--seq-len", 4, *axes, *QUICK, "--plots", page)
    assert done.status == 0, done.err
    text = page.read_text(encoding="utf-8")
    for title in ("Latency over length", "Throughput over batch", "Roofline"):
        assert title in text
    assert "Latency over sparsity" not in text
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", text)
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix == ".html"] == ["plots.html"]


SYNTHETIC = ("--sweep", "--synthetic", "tiny", "--quantized", "--seq-len", 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--lengths", "8"), "need --sweep"),
        (("--grid",), "need --sweep"),
        (("--time-limit", 3), "need --sweep"),
        (("--sweep", "--engine", "all"), "leave out --engine"),
        (("--sweep", "--profile"), "leave out --engine, --dense, --forms, --profile"),
        (("--sweep",), "Give either the folder of a checkpoint or --synthetic"),
        (("--sweep", "--synthetic", "gpt", "--quantized"), "no synthetic model 'gpt'"),
        ((*SYNTHETIC, "--lengths", "8,none"), "--lengths has 'none': give whole numbers"),
        ((*SYNTHETIC, "--batch-sizes", "0"), "--batch-sizes has '0'"),
        ((*SYNTHETIC, "--thread-counts", ""), "--thread-counts has ''"),
        ((*SYNTHETIC, "--sparsities", "80"), "--sparsities has '80': give fractions"),
        ((*SYNTHETIC, "--sparsities", "nan"), "--sparsities has 'nan': give fractions"),
        ((*SYNTHETIC, "--pattern", "dense", "--sparsities", "0.8"), "Dense weights have no zeros"),
        ((*SYNTHETIC, "--pattern", "stripes"), "no pattern 'stripes'"),
        ((*SYNTHETIC, "--lengths", "8,33"), "A length is 33, but the model has 32 positions"),
        ((*SYNTHETIC, "--rounds", "0"), "Invalid value for '--rounds'"),
    ],
)
def test_impossible_sweeps(refused: Run, arguments: tuple[object, ...], said: str) -> None:
    assert said in refused("benchmark", *arguments).err


def test_a_checkpoint_has_no_axis_of_sparsity(refused: Run, checkpoint: Path) -> None:
    said = refused("benchmark", checkpoint, "--sweep", "--seq-len", 8, "--sparsities", "0.8").err
    assert "A checkpoint has its sparsity and its layers" in said


def test_a_file_of_something_else_is_left_alone(refused: Run, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "precious.json"
    file.write_text('{"years": "of work"}')
    said = refused("benchmark", checkpoint, "--sweep", "--seq-len", 8, "--lengths", "8", "--json", file).err
    assert "is not the file of a sweep" in said
    assert file.read_text() == '{"years": "of work"}'
