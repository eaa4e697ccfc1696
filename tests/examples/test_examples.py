"""Every example does what it says, on tiny models."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tiny_checkpoint import tiny_config, tiny_tokenizer, write_tiny_checkpoint

EXAMPLES = Path(__file__).parents[2] / "examples"
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports an example by its name."""

    def found(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return found


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a head of three labels and 128 positions."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = tiny_config(max_position_embeddings=128)
    del config["quantization_config"], config["architectures"]
    folder = tmp_path_factory.mktemp("encoder")
    BertForSequenceClassification(BertConfig(**config)).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tiny_tokenizer())
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    names = {"tokenizer_class": "PreTrainedTokenizerFast", **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that takes a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\n"
        "training: {epochs: 1, learning_rate: 1.0e-3, batch_size: 8}\n"
        "stages:\n"
        "  - {type: distillation}\n"
        "  - {type: pruning, sparsity: 0.8, start_epoch: 0, end_epoch: 0.4}\n"
        "  - {type: quantization, start_epoch: 0.4, freeze_epoch: 0.8}\n"
    )
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of 90 rows with the labels of `encoder`."""
    words = ("book", "me", "a", "for", "two", "tonight", "what", "is", "the")
    rows = [
        {"text": f"{first} {second} {label} {index}", "label": label}
        for index, first in enumerate(words[:5])
        for second in words[:6]
        for label in ("alarm", "table", "time")
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_classify(load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("classify").main(str(write_tiny_checkpoint(tmp_path / "model")), ["a table", "the time"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 4
    assert lines[0] == "a table"


def test_token_ids(load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("token_ids").main(str(write_tiny_checkpoint(tmp_path / "model", vocab_size=3000)))
    assert "Engine(" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the stock Trainer, which runs with its defaults here
def test_own_trainer(
    load: Load, encoder: Path, data: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load("own_trainer").main(str(encoder), str(data), str(tmp_path / "out"), str(recipe), epochs=1)
    assert "pattern='block4'" in capsys.readouterr().out


@pytest.mark.long
def test_demo(load: Load, encoder: Path, data: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    arguments = ("--model", encoder, "--data", data, "--recipe", recipe, "--out", out)
    assert load("demo").main([str(argument) for argument in arguments]) == 0
    results = json.loads((out / "results.json").read_text())
    rows = {(row["model"], row["engine"]): row for row in results["rows"]}
    assert {("dense", "pytorch"), ("compressed", "pytorch"), ("compressed", "secateur")} <= set(rows)
    for row in rows.values():
        assert 0 <= row["accuracy"] <= 1
        assert row["size_mb"] > 0
        assert set(row["latency_ms"]) == {"s32_t1", "s128_t1", "s32_tall", "s128_tall"}
    assert not rows["compressed", "secateur"]["torch"]
    assert results["machine"]["cpu"]
    assert results["engine_against_pytorch"]["rows_differ"] <= 0.1


def test_demo_takes_the_steps_that_fit(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    demo = load("demo")
    assert demo.affordable_steps(90.0, 0.2) == int((demo.SECONDS - 90 - 400 * 0.2) / (1.35 * 0.2))
    assert demo.affordable_steps(90.0, 0.1) > 1500
    assert demo.affordable_steps(1e4, 1.0) == demo.LEAST_STEPS
    recipes = pytest.importorskip("secateur.recipe.recipe")
    recipe = recipes.load_recipe("balanced")
    whole = recipe.small_data.steps
    console = demo.output()
    assert demo._within(recipe, whole, console) == recipe
    assert capsys.readouterr().out == ""
    shorter = demo._within(recipe, 700, console)
    assert shorter.small_data.steps == 700
    assert shorter.stretched(2153).training.min_steps == 700
    assert f"700 of {whole} steps" in capsys.readouterr().out


def test_demo_refuses_what_cannot_work(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load("demo").main(["--model", str(write_tiny_checkpoint(tmp_path / "model"))]) == 2
    assert "takes at most 24 tokens" in capsys.readouterr().err
