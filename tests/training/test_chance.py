"""A dense model that knows nothing is named before it is compressed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_tasks
from tiny_training import recipe

from secateur.data import Splits
from secateur.training import compress
from secateur.training.chance import chance_note


def test_chance_is_the_share_of_the_most_frequent_class(tiny_splits: Splits) -> None:
    labels = [row.label for row in tiny_splits.validation]
    share = max(labels.count(label) for label in labels) / len(labels)
    note = chance_note(tiny_splits, {"validation": {"accuracy": share}})
    assert note is not None
    assert f"{share:.3f}" in note
    assert "always" in note
    assert chance_note(tiny_splits, {"validation": {"accuracy": share + 0.1}}) is None


@pytest.mark.parametrize("kind", ["multi", "regression", "tokens"])
def test_other_tasks_have_a_chance_of_nothing(kind: str) -> None:
    splits = tiny_tasks.splits(kind)
    metric = splits.task.main_metric
    assert chance_note(splits, {"validation": {metric: 0.0}}) is not None
    assert chance_note(splits, {"validation": {metric: 0.2}}) is None


def test_compress_says_so_and_notes_the_minutes_it_foresaw(
    classifier_folder: Path, tiny_splits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {"type": "pruning", "sparsity": 0.5, "start_epoch": 0, "end_epoch": 0.5}
    done = compress(classifier_folder, tiny_splits, recipe(stages, epochs=1), tmp_path / "out")
    assert done.metrics["estimated_minutes"] >= 0.0
    assert "it has not learnt this task" in capsys.readouterr().err
