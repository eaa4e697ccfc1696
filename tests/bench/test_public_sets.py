"""Splits that let no context leak."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from secateur.bench.public_sets import group_of_rows, load_public, split_by_group


def write(folder: Path, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def question(place: int, number: int, what: str) -> dict[str, Any]:
    context = f"{what} {place} stands here. The sentence {place} is another one."
    answers = {"text": [what], "answer_start": [0]}
    return {
        "id": f"{what}{place}-{number}",
        "title": what,
        "context": context,
        "question": f"What {number}?",
        "answers": answers,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(
        tmp_path / "squad_v1_dev",
        "validation",
        [question(p, n, "House") for p in range(60) for n in range(3)],
    )
    for name in ("amazon_reviews", "new_wiki", "reddit"):
        rows = [question(p, n, name.title()) for p in range(40) for n in range(3)]
        write(tmp_path / f"squadshifts_{name}", "test", rows)
    pairs = [
        {
            "text": f"Question {place} {number}?",
            "text_pair": (
                f"House {place} stands here." if number % 2 else f"The sentence {place} is another one."
            ),
            "label": ("entailment", "not_entailment")[(place + number) % 2],
        }
        for place in range(60)
        for number in range(4)
    ]
    write(tmp_path / "qnli_dev", "validation", pairs)
    return tmp_path


def test_a_group_is_in_one_part_only() -> None:
    rows = [(group, number) for group in range(500) for number in range(3)]
    parts = split_by_group(rows, lambda row: f"group {row[0]}", (0.7, 0.1, 0.2))
    groups = [{group for group, _ in part} for part in parts]
    assert sum(map(len, parts)) == len(rows)
    assert len(set.union(*groups)) == sum(map(len, groups))
    assert [len(part) / len(rows) for part in parts] == pytest.approx([0.7, 0.1, 0.2], abs=0.05)


def test_qnli_is_split_by_paragraph(root: Path) -> None:
    splits = load_public(root / "qnli_dev")
    parts = (splits.train, splits.validation, splits.test)
    assert sum(map(len, parts)) == 240
    assert all(parts)
    houses = [{row.text.split()[1] for row in part} for part in parts]  # sentences of one paragraph share it
    assert len(set.union(*houses)) == sum(map(len, houses))
    assert group_of_rows(splits) == [row.text_pair for row in splits.test]


def test_squad_learns_from_the_shifted_sets_alone(root: Path) -> None:
    splits = load_public(root / "squad", train_rows=50)
    assert splits.task.name == "question-answering"
    assert len(splits.train) == 50
    assert len(splits.test) == 180
    names = {row.context.split()[0] for row in splits.train}
    assert names == {"Amazon_Reviews", "New_Wiki", "Reddit"}
    assert {row.context.split()[0] for row in splits.test} == {"House"}
    contexts = {row.context for row in splits.train}
    assert splits.validation
    assert not contexts & {row.context for row in splits.validation}
    assert len(set(group_of_rows(splits) or [])) == 60
    assert "not on SQuAD's own training file" in splits.notes[0]
    assert splits.train == load_public(root / "squad", train_rows=50).train


def test_other_sets_are_loaded_as_they_are() -> None:
    whole = load_public("assistant_intents")
    some = load_public("assistant_intents", train_rows=100, test_rows=30)
    assert (len(some.train), len(some.test)) == (100, 30)
    assert set(some.train) <= set(whole.train)
    assert len({row.label for row in some.train}) > 10
    assert group_of_rows(whole) is None
