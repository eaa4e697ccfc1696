"""The snippets of docs/pipelines.md run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from torch_engine import tiny_model

from secateur.export import export_checkpoint

pytest.importorskip("secateur._engine")

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "classifier": ("AutoModelForSequenceClassification", {"id2label": {0: "table", 1: "time"}}),
    "tagger": ("AutoModelForTokenClassification", {"id2label": {0: "O", 1: "B-PER", 2: "B-LOC"}}),
    "answerer": ("AutoModelForQuestionAnswering", {}),
    "filler": ("AutoModelForMaskedLM", {}),
    "embedder": ("AutoModel", {"sentence_embedding": {"pooling": "mean", "normalize": True}}),
}


def test_there_is_a_snippet_for_each_task() -> None:
    assert [re.findall(r'pipeline\("(\w+)"', snippet) for snippet in SNIPPETS] == [[name] for name in MODELS]


@pytest.mark.parametrize("name", MODELS)
def test_snippets_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, changes = MODELS[name]
    model = tiny_model(tmp_path / "dense", head, **changes)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "dense")
    export_checkpoint(model, tokenizer, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    lines = [line for line in SNIPPETS[list(MODELS).index(name)].splitlines() if line.strip()]
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    calls = [
        line for line in lines if re.match(r"(classify|answer|fill|embed)\b.*\(", line) and " = " not in line
    ]
    for call in calls:
        assert np.size(eval(call.partition("  # ")[0], names)) > 0, call
