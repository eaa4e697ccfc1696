from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from secateur.data import Row, load_splits
from secateur.errors import DataError


def _write(file: Path, rows: list[tuple[str, str | int]]) -> Path:
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return file


def _many(count: int = 100) -> list[tuple[str, str | int]]:
    return [(f"utterance {i}", "ab"[i % 4 == 0]) for i in range(count)]


def test_a_folder_gives_its_three_files(tmp_path: Path) -> None:
    _write(tmp_path / "train.jsonl", [("x", "b"), ("y", "a")])
    _write(tmp_path / "dev.jsonl", [("v", "a")])
    (tmp_path / "test.csv").write_text("text,label\nX ,b\n")
    (tmp_path / "manifest.json").write_text("{}")
    splits = load_splits(tmp_path)
    assert splits.train == [Row("x", "b"), Row("y", "a")]
    assert splits.validation == [Row("v", "a")]
    assert splits.test == [Row("X ", "b")]
    assert splits.labels == ["a", "b"]
    assert splits.leaks == {"train and validation": 0, "train and test": 1, "validation and test": 0}
    assert "1 text occurs in both train and test" in splits.describe()


def test_one_file_is_split_by_label_and_hash(tmp_path: Path) -> None:
    rows = _many()
    splits = load_splits(_write(tmp_path / "all.jsonl", rows))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [80, 10, 10]
    assert Counter(row.label for row in splits.test) == {"a": 8, "b": 2}
    assert sum(splits.leaks.values()) == 0
    shuffled = random.Random(0).sample(rows, len(rows))
    again = load_splits(_write(tmp_path / "again.jsonl", shuffled))
    assert set(again.test) == set(splits.test)
    assert set(again.validation) == set(splits.validation)


def test_equal_texts_never_part(tmp_path: Path) -> None:
    rows = [*_many(), *[(f"Utterance  {i}", "b") for i in range(100)], *_many()]
    splits = load_splits(_write(tmp_path / "all.jsonl", rows))
    assert sum(splits.leaks.values()) == 0
    assert "100 repeated rows were dropped" in splits.describe()


def test_a_missing_split_is_set_apart_from_train(tmp_path: Path) -> None:
    _write(tmp_path / "train.jsonl", _many())
    _write(tmp_path / "test.jsonl", [("t", "a")])
    splits = load_splits(tmp_path)
    assert len(splits.train) == 90
    assert len(splits.validation) == 10
    assert splits.test == [Row("t", "a")]
    assert "validation has no file: 10 training rows" in splits.describe()


def test_integer_labels_sort_by_value(tmp_path: Path) -> None:
    rows: list[tuple[str, str | int]] = [(f"u{i}", i % 12) for i in range(120)]
    assert load_splits(_write(tmp_path / "all.jsonl", rows)).labels == [str(i) for i in range(12)]


def test_untrained_out_of_scope_rows_are_kept_apart(tmp_path: Path) -> None:
    _write(tmp_path / "train.jsonl", _many())
    _write(tmp_path / "validation.jsonl", [("v", "a"), ("w", "oos")])
    _write(tmp_path / "test.jsonl", [("t", "a"), ("far out", "out_of_scope")])
    splits = load_splits(tmp_path)
    assert splits.labels == ["a", "b"]
    assert splits.test == [Row("t", "a")]
    assert splits.out_of_scope == [Row("far out", "out_of_scope")]
    assert "1 out-of-scope validation rows are not used" in splits.describe()


def test_a_trained_out_of_scope_label_is_an_ordinary_one(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        _write(tmp_path / f"{split}.jsonl", [("t", "a"), ("far out", "oos")])
    splits = load_splits(tmp_path)
    assert splits.labels == ["a", "oos"]
    assert len(splits.test) == 2
    assert splits.out_of_scope == []


def test_unusable_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give a data file, a folder, or the packaged set"):
        load_splits(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no train, validation or test file.*Found: nothing"):
        load_splits(tmp_path)
    _write(tmp_path / "train.jsonl", [("x", "a"), ("y", "b")])
    with pytest.raises(DataError, match="too few rows"):
        load_splits(tmp_path)
    _write(tmp_path / "train.jsonl", [("x", "a"), ("y", "a")])
    _write(tmp_path / "test.jsonl", [("x", "a"), ("y", "a")])
    _write(tmp_path / "dev.jsonl", [("x", "a")])
    with pytest.raises(DataError, match="the only label 'a'; at least two"):
        load_splits(tmp_path)
    _write(tmp_path / "train.jsonl", [("x", "a"), ("y", "b")])
    _write(tmp_path / "test.jsonl", [("x", "c")])
    with pytest.raises(DataError, match=r"test\.jsonl: the label 'c' occurs in no training row: add"):
        load_splits(tmp_path)
    _write(tmp_path / "test.jsonl", [("x", "a")])
    _write(tmp_path / "valid.jsonl", [("x", "a")])
    with pytest.raises(DataError, match=r"several validation files \(dev\.jsonl, valid\.jsonl\)"):
        load_splits(tmp_path)


def test_the_packaged_set_holds_what_it_promises() -> None:
    splits = load_splits("assistant_intents")
    assert len(splits.labels) >= 16
    for rows, least in ((splits.train, 40), (splits.validation, 10), (splits.test, 25)):
        counts = Counter(row.label for row in rows)
        assert set(counts) == set(splits.labels)
        assert min(counts.values()) >= least
    assert len(splits.out_of_scope) >= 60
    assert sum(splits.leaks.values()) == 0


@pytest.mark.parametrize(("name", "labels", "test_rows"), [("clinc150", 151, 5500), ("sst2", 2, 1821)])
def test_public_sets_load(name: str, labels: int, test_rows: int) -> None:
    folder = Path(os.environ.get("SECATEUR_DATA", "../shared/data")) / name
    if not folder.is_dir():
        pytest.skip("the public data sets are not here")
    splits = load_splits(folder)
    assert len(splits.labels) == labels
    assert len(splits.test) == test_rows
    assert splits.out_of_scope == []
