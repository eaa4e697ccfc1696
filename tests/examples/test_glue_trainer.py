"""The script in the form of run_glue writes what `compress` writes for the same seed and recipe."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_checkpoint import WORDS, tiny_config, tiny_tokenizer
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from secateur.checkpoint import read_checkpoint
from secateur.training import compress

SCRIPT = Path(__file__).parents[2] / "examples" / "glue_trainer.py"
SEED = 11
LABELS = ("alarm", "table", "time")
RECIPE = """
name: tiny
training: {epochs: 2, learning_rate: 2.0e-3, batch_size: 8, warmup: 0.25, weight_decay: 0.01, dropout: 0.0}
stages:
  - {type: distillation, hardness: 0.9}
  - {type: pruning, sparsity: 0.7, start_epoch: 0, end_epoch: 1}
  - {type: quantization, start_epoch: 1.2, freeze_epoch: 1.8}
"""

# The stock Trainer warns of what its defaults will be; datasets leaves files to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example as a module, without bf16 that only some CPUs have."""
    monkeypatch.setattr("secateur.training.arguments.cpu_has_bf16", lambda: False)
    spec = importlib.util.spec_from_file_location("example_glue_trainer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def classifier(folder: Path, **changes: Any) -> Path:
    """Writes a dense classifier whose labels stand in another order than sorted."""
    torch.manual_seed(0)
    config = tiny_config(**changes)
    del config["quantization_config"], config["architectures"]
    BertForSequenceClassification(BertConfig(**config)).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tiny_tokenizer())
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    names = {"tokenizer_class": "PreTrainedTokenizerFast", **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def rows(folder: Path, labels: Sequence[Any], pairs: bool = False) -> Path:
    """Writes train, validation and test files."""
    folder.mkdir()
    draw = random.Random(0)
    for split, count in (("train", 50), ("validation", 9), ("test", 12)):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(count):
                label = labels[index % len(labels)]
                row = {"text": " ".join([*draw.choices(WORDS[5:], k=draw.randint(2, 9)), str(label)])}
                if pairs:
                    row["text_pair"] = " ".join(draw.choices(WORDS[5:], k=draw.randint(2, 9)))
                file.write(json.dumps({**row, "label": label}) + "\n")
    return folder


def command(model: Path, data: Path, recipe: Path, out: Path, epochs: float, *more: str) -> list[str]:
    known = TrainingArguments.__dataclass_fields__
    new = "train_sampling_strategy" in known
    return [
        *("--model_name_or_path", str(model), "--recipe", str(recipe), "--output_dir", str(out)),
        *(
            item
            for name in ("train", "validation", "test")
            for item in (f"--{name}_file", f"{data}/{name}.jsonl")
        ),
        *("--cache_dir", str(out.parent / "cache"), "--max_seq_length", "24", "--seed", str(SEED)),
        *("--do_train", "--do_eval", "--do_predict"),
        *("--num_train_epochs", str(epochs), "--learning_rate", "2e-3"),
        *("--per_device_train_batch_size", "8", "--weight_decay", "0.01", "--optim", "adamw_torch_fused"),
        *("--warmup_steps" if new else "--warmup_ratio", "0.25", "--use_cpu"),
        *(("--train_sampling_strategy", "group_by_length") if new else ("--group_by_length",)),
        *("--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "true", *more),
    ]


def test_it_gives_the_weights_of_compress(script: ModuleType, recipe: Path, tmp_path: Path) -> None:
    names = {"id2label": {"0": "time", "1": "alarm", "2": "table"}}
    model = classifier(
        tmp_path / "model", **names, label2id={v: int(k) for k, v in names["id2label"].items()}
    )
    data = rows(tmp_path / "data", LABELS)
    script.main(command(model, data, recipe, tmp_path / "run", 2))
    ours = compress(model, data, recipe, tmp_path / "compress", seed=SEED, progress=False)
    written = (tmp_path / "run" / "compressed" / "model.safetensors").read_bytes()
    assert written == (ours.folder / "model.safetensors").read_bytes()
    assert read_checkpoint(tmp_path / "run" / "compressed").labels == ["time", "alarm", "table"]


def test_pairs_and_values(script: ModuleType, recipe: Path, tmp_path: Path) -> None:
    plain = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    model = classifier(tmp_path / "model", **plain, num_labels=1, problem_type="regression")
    data = rows(tmp_path / "data", (0.5, 1.5, 4.0), pairs=True)
    script.main(command(model, data, recipe, tmp_path / "run", 2))
    assert read_checkpoint(tmp_path / "run" / "compressed").quantization.sparsity == pytest.approx(
        0.7, abs=0.02
    )


def test_two_lines_and_two_imports_are_ours() -> None:
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    code = lines[next(place for place, line in enumerate(lines) if line.startswith("from __future__")) :]
    ours = [line for line in code if re.search("ecateur|CompressionC|export_c", line)]
    assert len([line for line in ours if "import" in line]) == 2
    assert [bool(re.search("# Secateur: (added|changed)$", line)) for line in ours[2:]] == [True, True]
