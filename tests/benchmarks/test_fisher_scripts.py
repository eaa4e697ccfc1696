"""What oBERT predicts against what comes, on a tiny model; and what the script of its cost counts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor

from secateur.pattern import Pattern

Open = Callable[[str], ModuleType]


def texts(count: int, rows: int, seed: int) -> list[dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(seed)
    ids = [torch.randint(6, 50, (rows, 6), generator=draws) for _ in range(count)]
    return [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in ids]


@pytest.mark.parametrize("pattern", ["unstructured", "block4"])
def test_a_small_growth_of_the_loss_is_the_predicted_one(open_script: Open, pattern: str) -> None:
    script = open_script("predicted_increase")
    model = tiny_model("bert")

    def source() -> Iterator[dict[str, Tensor]]:
        for batch in texts(400, 1, 1):
            (log_probability,) = script.log_probabilities(model, [batch])
            yield {**batch, "labels": torch.multinomial(log_probability.exp(), 1).flatten()}

    rows = script.measure(
        model, source, texts(8, 50, 2), Pattern.parse(pattern), [0.05, 0.1, 0.2], num_grads=400, damp=1e-5
    )
    assert [row["sparsity"] for row in rows] == [0.05, 0.1, 0.2]
    for row in rows:
        # Of what lies outside the blocks F knows nothing, and it was chosen to be small: a factor, no more.
        assert 0.2 < row["predicted"] / row["measured"] < 2.0
        assert row["measured"] < row["magnitude"]
    assert rows[0]["measured"] < rows[1]["measured"] < rows[2]["measured"]
    pytest.importorskip("plotly")
    results = {"rows": rows, "model": "m", "data": "d", "num_grads": 400, "machine": {"cpu": "CPU"}}
    drawn = script.figure(results).data
    assert [line.name for line in drawn] == [f"{pattern}, measured", f"{pattern}, predicted"]
    assert list(drawn[1].y) == [row["predicted"] for row in rows]


def options(**changes: Any) -> Namespace:
    values = {
        "shapes": ["minilm"],
        "layers": 1,
        "num_grads": [3],
        "block_sizes": [32],
        "batch": 2,
        "length": 4,
        "max_memory_gb": 4.0,
        "device": "cpu",
        "part": "update",
    }
    return Namespace(**{**values, **changes})


def test_passes_for_groups_are_counted(open_script: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    script = open_script("fisher_cost")
    asked: list[int] = []
    plain = script.TrainingEvidence.gradients

    def counting(self: Any, count: int, **keywords: Any) -> Any:
        asked.append(len(keywords["matrices"]))
        return plain(self, count, **keywords)

    monkeypatch.setattr(script.TrainingEvidence, "gradients", counting)
    weights = 12 * 384 * 384
    wide = 4 * 384 * 1536 * 3  # fewer gradients than a block has weights are kept as they are
    little = (2 * 4 * weights + wide) / 1e9
    for part in ("passes", "update"):
        asked.clear()
        found = script.measure(options(part=part, max_memory_gb=little))
        assert (found["groups"], found["sweeps"]) == (3, 5)
        assert asked == [4, 1, 1, 1, 4]
        assert found["seconds"] > 0
        assert found["peak_mb"] is None or found["peak_mb"] >= found["loaded_mb"]
