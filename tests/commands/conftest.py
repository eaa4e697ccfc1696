"""The command line, run in this process; tiny models and data to run it on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from command_line import Outcome, Run
from tiny_checkpoint import WORDS, tiny_config, tiny_tokenizer, write_tiny_checkpoint

from secateur.cli import main

TINY_RECIPE = """
name: tiny
training: {epochs: 1, learning_rate: 1.0e-3, batch_size: 16}
stages:
  - {type: distillation}
  - {type: pruning, sparsity: 0.8, start_epoch: 0, end_epoch: 0.5}
  - {type: quantization, start_epoch: 0.5, freeze_epoch: 0.9}
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `secateur ARGUMENTS...`, with lines as long as in a file."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments: object) -> Outcome:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture
def refused(run: Run) -> Run:
    """Runs a command that must end with status 2 and one sentence on standard error."""

    def call(*arguments: object) -> Outcome:
        outcome = run(*arguments)
        assert outcome.status == 2, outcome
        *before, sentence = outcome.err.strip().splitlines()
        assert sentence.startswith("secateur: ")
        assert sentence.endswith((".", ")", "?", "`."))
        assert not any("Traceback" in line for line in before)
        assert not outcome.out
        return outcome

    return call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny checkpoint with the labels of `data`."""
    return write_tiny_checkpoint(tmp_path / "checkpoint")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train, validation and test files in three labels."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    for split, count in (("train", 48), ("validation", 9), ("test", 12)):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(count):
                words = [*draw.choices(WORDS[5:], k=4), ("alarm", "table", "time")[index % 3]]
                row = {"text": " ".join(words), "label": ("alarm", "table", "time")[index % 3]}
                file.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense Hugging Face classifier with the labels of `data`."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = tiny_config()
    del config["quantization_config"], config["architectures"]
    folder = tmp_path_factory.mktemp("classifier")
    BertForSequenceClassification(BertConfig(**config)).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tiny_tokenizer())
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": token for name, token in special.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that takes a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_RECIPE)
    return path
