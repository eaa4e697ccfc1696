"""What a user can get wrong: status 2, one sentence, no traceback, nothing half-written."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import Run
from tiny_checkpoint import edit_config, write_tiny_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "compressed"


@pytest.fixture(autouse=True)
def _nothing_half_written(tmp_path: Path) -> object:
    yield
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*.partial-*"))


def write_csv(folder: Path, *lines: str) -> Path:
    path = folder / "data.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_missing_data_file(refused: Run, classifier: Path, checkpoint: Path, out: Path) -> None:
    compressing = refused("compress", "--model", classifier, "--data", "no.csv", "--out", out)
    evaluating = refused("evaluate", checkpoint, "--data", "no.csv")
    assert "no.csv does not exist" in compressing.err
    assert "no.csv does not exist" in evaluating.err


def test_a_missing_model(refused: Run, data: Path, tmp_path: Path, out: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for arguments in (
        ("compress", "--model", nowhere, "--data", data, "--out", out),
        ("evaluate", nowhere, "--data", data),
        ("evaluate", nowhere, "--data", data, "--engine", "pytorch"),
        ("predict", nowhere, "a text"),
        ("benchmark", nowhere),
        ("inspect", nowhere),
    ):
        assert "nowhere is not a folder" in refused(*arguments).err


def test_columns_that_are_not_there(
    refused: Run, classifier: Path, checkpoint: Path, tmp_path: Path, out: Path
) -> None:
    table = write_csv(tmp_path, "sentence,topic", "a table,table", "the time,time")
    named = refused("evaluate", checkpoint, "--data", table, "--text", "words", "--label", "topic")
    assert "no column 'words'; its columns are: sentence, topic" in named.err
    guessed = refused("compress", "--model", classifier, "--data", table, "--out", out)
    assert "Name the right one with --label" in guessed.err


def test_one_label_only(refused: Run, classifier: Path, tmp_path: Path, out: Path) -> None:
    table = write_csv(tmp_path, "text,label", *(f"a table for {n},table" for n in range(30)))
    assert (
        "only label 'table'" in refused("compress", "--model", classifier, "--data", table, "--out", out).err
    )


def test_an_empty_text(
    refused: Run,
    checkpoint: Path,
    classifier: Path,
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "Text 1 is empty" in refused("predict", checkpoint, "a table", " ").err
    monkeypatch.setattr("sys.stdin", io.StringIO("\n \n"))
    assert "Standard input holds no text" in refused("predict", checkpoint).err
    table = write_csv(tmp_path, "text,label", "a table,table", ",time")
    said = refused("compress", "--model", classifier, "--data", table, "--out", out).err
    assert "data.csv, line 3: 'text' is empty" in said


def test_a_text_longer_than_the_models_positions_is_cut_and_said_once(run: Run, checkpoint: Path) -> None:
    long = "table " * 100
    outcome = run("predict", checkpoint, long, long, "--json", "-")
    assert outcome.status == 0
    assert len(json.loads(outcome.out)["predictions"]) == 2
    assert outcome.err.count("were cut") == 1
    assert outcome.err.startswith("secateur: 2 of 2 texts")


def test_an_unknown_or_wrong_recipe(
    refused: Run, classifier: Path, data: Path, tmp_path: Path, out: Path
) -> None:
    arguments = ("compress", "--model", classifier, "--data", data, "--out", out, "--recipe")
    assert "There is no recipe 'balancd'" in refused(*arguments, "balancd").err
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: wrong\ntraining: {epochs: 1, learning_rate: 0.1, epoch: 3}\n")
    assert "unknown key 'epoch'" in refused(*arguments, wrong).err


@pytest.mark.parametrize("damage", ["truncated", "altered", "no tensors", "no config", "other version"])
def test_a_damaged_checkpoint(refused: Run, checkpoint: Path, data: Path, damage: str) -> None:
    tensors = checkpoint / "model.safetensors"
    if damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "altered":
        tensors.write_bytes(b"\xff" * 64 + tensors.read_bytes()[64:])
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "no config":
        (checkpoint / "config.json").unlink()
    else:
        config = json.loads((checkpoint / "config.json").read_text())
        edit_config(checkpoint, quantization_config={**config["quantization_config"], "format_version": 9})
    for arguments in (
        ("predict", checkpoint, "a table"),
        ("evaluate", checkpoint, "--data", data),
        ("benchmark", checkpoint),
        ("inspect", checkpoint),
    ):
        refused(*arguments)


def test_a_dense_model_is_no_checkpoint(refused: Run, classifier: Path) -> None:
    assert "compress it first" in refused("predict", classifier, "a table").err


def test_an_unsupported_family(refused: Run, data: Path, tmp_path: Path, out: Path) -> None:
    family = tmp_path / "family"
    family.mkdir()
    (family / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2Model"]}))
    said = refused("compress", "--model", family, "--data", data, "--out", out).err
    assert "gpt2" in said
    assert "supported: bert" in said
    other = write_tiny_checkpoint(tmp_path / "other")
    edit_config(other, model_type="gpt2")
    assert "gpt2" in refused("predict", other, "a table").err


def test_a_broken_dense_model(refused: Run, classifier: Path, data: Path, tmp_path: Path, out: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(classifier, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert (
        "broken cannot be loaded" in refused("compress", "--model", broken, "--data", data, "--out", out).err
    )


def test_labels_that_the_model_does_not_know(refused: Run, checkpoint: Path, tmp_path: Path) -> None:
    rows = [
        f"{word},{label}" for label in ("food", "sport") for word in ("a", "me", "for", "two", "is", "the")
    ]
    table = write_csv(tmp_path, "text,label", *rows)
    assert "does not know the label" in refused("evaluate", checkpoint, "--data", table).err


def test_an_out_folder_with_something_else_in_it(
    refused: Run, classifier: Path, data: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years of work")
    said = refused("compress", "--model", classifier, "--data", data, "--out", precious.parent).err
    assert "holds something other than a Secateur checkpoint (thesis.tex)" in said
    assert precious.read_text() == "years of work"


def test_a_sequence_longer_than_the_models_positions(refused: Run, checkpoint: Path) -> None:
    assert "the model has 24 positions" in refused("benchmark", checkpoint, "--seq-len", 25).err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Give either the folder of a checkpoint or --synthetic"),
        (("--synthetic", "gpt", "--quantized"), "no synthetic model 'gpt'"),
        (("--synthetic", "minilm-l6", "--quantized", "--sparsity", "80"), "sparsity is 80"),
        (("--synthetic", "minilm-l6", "--quantized", "--pattern", "stripes"), "no pattern 'stripes'"),
        (("--synthetic", "minilm-l6", "--quantized", "--layers", "0"), "number of layers is 0"),
        (("--seq-len", "0"), "Invalid value for '--seq-len'"),
        (("--threads", "many"), "Invalid value for '--threads'"),
        (("--frobnicate",), "No such option"),
    ],
)
def test_impossible_benchmarks(refused: Run, arguments: tuple[str, ...], said: str) -> None:
    assert said in refused("benchmark", *arguments).err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--core-hour-price", "-1"),
            "--core-hour-price is -1.0: give what an hour",
        ),
        (("--core-hour-price", "nan"), "--core-hour-price is nan"),
        (("--engine", "secateur", "--core-hour-price", "nan"), "--core-hour-price is nan"),
        (("--engine", "tensorrt"), "no engine 'tensorrt'; known are secateur"),
        (("--engine", "pytorch"), "pytorch runs the dense model: give its folder with --dense"),
        (("--engine", "secateur", "--profile"), "give it without --engine"),
        (("--engine", "secateur", "--seq-len", "25"), "the model has 24 positions"),
        (("--engine", "secateur", "--dense", "nowhere"), "cannot be read"),
        (("--dense", "nowhere"), "name them with --engine"),
        (("--forms", "nowhere"), "name them with --engine"),
        (("--engine", "secateur", "--isa", "altivec"), "altivec"),
    ],
)
def test_impossible_comparisons(
    refused: Run, checkpoint: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused("benchmark", checkpoint, "--seq-len", 8, *arguments).err


@pytest.mark.parametrize(
    ("command", "rest"), [("predict", ("a table",)), ("inspect", ()), ("benchmark", ("--seq-len", 8))]
)
def test_an_instruction_set_that_is_not_there(
    refused: Run, checkpoint: Path, command: str, rest: tuple[object, ...]
) -> None:
    assert "altivec" in refused(command, checkpoint, *rest, "--isa", "altivec").err


def test_a_result_that_cannot_be_written(refused: Run, checkpoint: Path, tmp_path: Path) -> None:
    assert "is a folder" in refused("predict", checkpoint, "a table", "--json", tmp_path).err


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("CXX=no-such-compiler", "'no-such-compiler' is no C++20 compiler: install one"),
        ("PYTHON=no-such-python", "There is no 'no-such-python': install Python 3.10 or newer"),
    ],
)
def test_a_machine_without_compiler_or_python(variable: str, said: str) -> None:
    done = subprocess.run(
        ["make", "-C", ROOT, "--no-print-directory", "tools", variable],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(said)
