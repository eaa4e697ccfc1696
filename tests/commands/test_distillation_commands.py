"""`secateur student`, `compress --student`, and the networks of `secateur baseline`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

WORDS = ["alarm", "table", "number", "wake", "seats", "me", "for", "at", "two", "six"]
RECIPE = """name: quick
training: {epochs: 1, learning_rate: 1.0e-3, batch_size: 16}
stages:
  - {type: distillation}
  - {type: pruning, sparsity: 0.5, start_epoch: 0, end_epoch: 0.5}
"""
GENERAL = """name: general-quick
student: {layers: 1, hidden_size: 16}
training: {epochs: 1, learning_rate: 1.0e-3, batch_size: 16}
stages:
  - {type: distillation, outputs: 0, hidden: 1, embeddings: 1, attention: 1}
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = [
        {"text": f"{word} number {WORDS[2 + index % 8]}", "label": word}
        for index in range(24)
        for word in ("alarm", "table")
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier of four layers with the labels of the rows, and an encoder beside it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = {word: index for index, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{name[1:-1].lower()}_token": name for name in special}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(ids),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
        id2label={0: "alarm", 1: "table"},
        label2id={"alarm": 0, "table": 1},
    )
    for name, head in (("model", BertForSequenceClassification), ("encoder", BertModel)):
        head(config).save_pretrained(tmp_path / name)
        PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(tmp_path / name)
    return tmp_path / "model"


def test_a_student_is_taught_on_texts_and_then_compressed(
    run: Run, rows: Path, model: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"wake me at {word} for {word}" for word in WORDS * 3))
    (tmp_path / "general.yaml").write_text(GENERAL)
    (tmp_path / "task.yaml").write_text(RECIPE)
    taught = run(
        *("student", "--model", model.with_name("encoder"), "--data", texts, "--out", tmp_path / "tiny"),
        *("--recipe", tmp_path / "general.yaml", "--threads", 1),
    )
    assert taught.status == 0, taught
    assert "go on with secateur compress" in taught.err.replace("\n", " ")
    done = run(
        *("compress", "--model", model, "--student", tmp_path / "tiny", "--data", rows),
        *("--out", tmp_path / "out", "--recipe", tmp_path / "task.yaml", "--threads", 1),
    )
    assert done.status == 0, done
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (1, 16)


@pytest.mark.parametrize("form", ["distilbert", "tinybert"])
def test_the_half_in_a_form(run: Run, rows: Path, model: Path, tmp_path: Path, form: str) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "task.yaml").write_text(RECIPE)
    outcome = run(
        *("baseline", "--data", rows, "--model", model, "--half-depth", "--form", form, "--threads", 1),
        *("--out", tmp_path / "half", "--recipe", tmp_path / "task.yaml", "--json", "-"),
    )
    assert outcome.status == 0, outcome
    row: dict[str, Any] = json.loads(outcome.out)["rows"][-1]
    assert (row["form"], row["layers"], row["taught"]) == (form, [0, 3], True)
    recipe = (tmp_path / "half" / "recipe.yaml").read_text()
    assert f"name: quick-{form}" in recipe
    wanted = "layer_map:\n  - null\n  - 3\n" if form == "distilbert" else "attention: 1.0\n"
    assert wanted in recipe
    assert "type: pruning" not in recipe


def test_networks_that_do_not_go_together_are_refused(
    refused: Run, rows: Path, model: Path, tmp_path: Path
) -> None:
    asked = ("baseline", "--data", rows)
    assert "--bilstm needs the fine-tuned network" in refused(*asked, "--bilstm").err
    both = refused(*asked, "--model", model, "--out", tmp_path / "o", "--bilstm", "--half-depth")
    assert "ask for one after the other" in both.err
    assert "--form is of the half-depth network" in refused(*asked, "--form", "tinybert").err
    assert "give --half-depth or --bilstm with it" in refused(*asked, "--out", tmp_path / "o").err
    encoder = model.with_name("encoder")
    plain = refused(*asked, "--model", encoder, "--out", tmp_path / "o", "--half-depth", "--form", "tinybert")
    assert "is not fine-tuned and cannot teach its half" in plain.err.replace("\n", " ")
