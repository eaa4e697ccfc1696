"""Forms of data beside plain rows: CoNLL, SQuAD, plain text, manifests, folders of the hub."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from secateur.data import load_splits, read_records
from secateur.data.hub import is_hub_id, load_from_hub
from secateur.data.splits import Splits
from secateur.errors import DataError, UnsupportedError
from secateur.tasks import TextClassification, TokenClassification
from secateur.tasks.fill_mask import Row as MaskRow
from secateur.tasks.question_answering import Row as Question
from secateur.tasks.sentence_embeddings import Row as Sentence
from secateur.tasks.text_classification import Row
from secateur.tasks.token_classification import Row as Words

CONLL = """-DOCSTART- -X- O O

EU NNP B-ORG
rejects VBZ O

# id 17
#tag\tO
Peter\tB-PER
Blackburn\tI-PER
"""


def _lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _all(splits: Splits) -> set[Any]:
    return {*splits.train, *splits.validation, *splits.test}


@pytest.mark.parametrize("name", ["train.conll", "train.bio.gz", "train.txt"])
def test_conll_is_read_and_known(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(gzip.compress(CONLL.encode()) if name.endswith("gz") else CONLL.encode())
    (tmp_path / "test.iob2").write_text("Peter B-PER\n")
    (tmp_path / "dev.conll").write_text("Peter\r\n" if name == "train.txt" else "EU B-ORG\r\n")
    if name == "train.txt":
        with pytest.raises(DataError, match=r"dev\.conll, line 1: 'Peter' has no tag"):
            load_splits(tmp_path)
        return
    splits = load_splits(tmp_path)
    assert isinstance(splits.task, TokenClassification)
    assert splits.train == [
        Words(("EU", "rejects"), ("B-ORG", "O")),
        Words(("#tag", "Peter", "Blackburn"), ("O", "B-PER", "I-PER")),
    ]
    assert splits.labels == ["O", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    assert [record.line for record in read_records(file)] == [3, 7]


def test_plain_text_is_for_fill_mask(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("One paragraph.\n\n Another O \n")
    (tmp_path / "validation.txt.gz").write_bytes(gzip.compress(b"A third.\n"))
    (tmp_path / "test.txt").write_text("x y\n")
    splits = load_splits(tmp_path)
    assert splits.task.name == "fill-mask"
    assert splits.train == [MaskRow("One paragraph."), MaskRow("Another O")]
    assert "5 words" not in splits.describe()
    assert "4 words" in splits.describe()


def test_the_nested_form_of_squad_is_read(tmp_path: Path) -> None:
    questions = [
        {"id": "1", "question": "where?", "answers": [{"text": "Berlin", "answer_start": 3}]},
        {"id": "2", "question": "who?", "is_impossible": True, "answers": [], "plausible_answers": []},
    ]
    articles = [{"title": "T", "paragraphs": [{"context": "in Berlin", "qas": questions}]}]
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps({"version": "v2.0", "data": articles}, indent=1))
    splits = load_splits(tmp_path)
    assert splits.task.name == "question-answering"
    assert splits.train == [
        Question("where?", "in Berlin", (("Berlin", 3),), "1"),
        Question("who?", "in Berlin", (), "2"),
    ]
    assert splits.leaks["train and test"] == 1
    questions[0]["answers"] = [{"text": "Bonn", "answer_start": 3}]
    (tmp_path / "test.json").write_text(json.dumps({"data": articles}))
    with pytest.raises(DataError, match=r"test\.json, line 1: 'answers' says 'Bonn' at character 3"):
        load_splits(tmp_path)
    (tmp_path / "test.json").write_text(json.dumps({"data": [{"paragraphs": 3}]}))
    with pytest.raises(DataError, match="behind question 0 there is something without a list"):
        load_splits(tmp_path)


def test_questions_on_one_context_never_part(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{i}?", "context": f"in Berlin {i // 4}", "answers": {"text": [], "answer_start": []}}
        for i in range(200)
    ]
    splits = load_splits(_lines(tmp_path / "all.jsonl", rows))
    assert sum(splits.leaks.values()) == 0
    assert len(splits.train) == 160
    contexts = [{row.context for row in part} for part in (splits.train, splits.validation, splits.test)]
    assert not contexts[0] & contexts[1] | contexts[0] & contexts[2] | contexts[1] & contexts[2]


def test_tasks_are_guessed_from_columns(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    pairs = [{"sentence1": f"a {i}", "sentence2": f"b {i}"} for i in range(30)]
    assert load_splits(_lines(file, pairs)).task.name == "sentence-embeddings"
    splits = load_splits(_lines(file, [{**pair, "score": i / 7} for i, pair in enumerate(pairs)]))
    assert (splits.task.name, splits.task.kind) == ("text-classification", "regression")
    assert "kind regression: numbers from " in splits.describe()
    scored = load_splits(file, "sentence-embeddings")
    assert scored.task.kind == "similarity"
    assert Sentence("a 7", "b 7", 1.0) in _all(scored)
    several = [{"text": f"t {i}", "labels": ["a", "b"][: i % 3]} for i in range(30)]
    assert load_splits(_lines(file, several)).task.kind == "multi-label"
    with pytest.raises(DataError, match="The kind 'x' is not known"):
        load_splits(file, kind="x")
    with pytest.raises(UnsupportedError, match="'x' is not known"):
        load_splits(file, "x")


def test_columns_are_given_by_role(tmp_path: Path) -> None:
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "gold": "xy"[i % 2]} for i in range(40)]
    file = _lines(tmp_path / "all.jsonl", rows)
    splits = load_splits(file, columns={"text": "sentence2", "label": "gold"})
    assert splits.columns == {"text": "sentence2", "label": "gold"}
    roles = {"text": "sentence1", "text_pair": "sentence2", "label": "gold"}
    both = load_splits(file, "text-classification", roles)
    assert both.columns["text_pair"] == "sentence2"
    with pytest.raises(DataError, match="no column role 'answers'; its roles are text, text_pair, label"):
        load_splits(file, "text-classification", {"answers": "gold"})
    with pytest.raises(DataError, match=r"none of the columns question, query.*--column question=NAME"):
        load_splits(file, "question-answering")


def test_a_manifest_names_task_and_labels(tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": i % 2} for i in range(40)]
    _lines(tmp_path / "train.jsonl", rows)
    (tmp_path / "manifest.json").write_text('{"task": "classification", "labels": ["neg", "pos"]}')
    splits = load_splits(tmp_path)
    assert splits.labels == ["neg", "pos"]
    assert Row("t 1", "pos") in _all(splits)
    assert load_splits(tmp_path / "train.jsonl").labels == ["neg", "pos"]
    (tmp_path / "manifest.json").write_text('{"task": "language-modelling"}')
    assert load_splits(tmp_path).task.name == "fill-mask"
    for content, message in (
        ("{", "cannot be read as JSON"),
        ("[]", "must be a JSON object"),
        ('{"labels": {"a": 1}}', "'labels' must be a list of names"),
    ):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(DataError, match=message):
            load_splits(tmp_path)


def test_a_set_without_training_rows_can_be_measured_on(tmp_path: Path) -> None:
    _lines(tmp_path / "test.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}])
    splits = load_splits(tmp_path)
    assert (splits.train, splits.validation, len(splits.test)) == ([], [], 2)
    model = TextClassification(["b", "a", "c"])
    assert load_splits(tmp_path, model).task is model
    with pytest.raises(DataError, match="the model does not know the label 'a'"):
        load_splits(tmp_path, TextClassification(["b", "c"]))


def test_contradictions_and_repeats_are_counted(tmp_path: Path) -> None:
    rows = [("x", "a"), ("X ", "b"), ("y", "a"), ("y", "a"), ("z", "b")]
    for split in ("train", "validation", "test"):
        chosen = rows if split == "train" else rows[2:3]
        _lines(tmp_path / f"{split}.jsonl", [{"text": text, "label": label} for text, label in chosen])
    said = load_splits(tmp_path).describe()
    assert "1 training row repeats an earlier one." in said
    assert "1 training text occurs in rows that contradict each other." in said
    assert "2 of the labels have under 10 rows" in said
    assert "by frequency: a (3), b (2)" in said


def _parquet(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    for split, count, labels in (("train", 40, [0, 1]), ("validation", 4, [1, 0]), ("test", 4, [-1, -1])):
        columns = {
            "sentence": [f"{split} {i}" for i in range(count)],
            "label": [labels[i % 2] for i in range(count)],
        }
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


def test_a_folder_of_the_hub_is_read_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, folder = tmp_path / "home", tmp_path / "set"
    home.mkdir()
    folder.mkdir()
    _parquet(folder)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_HOME", raising=False)
    splits = load_splits(folder)
    assert splits.labels == ["neg", "pos"]
    assert [row.label for row in splits.validation] == ["pos", "neg", "pos", "neg"]
    assert len(splits.test) == 4
    assert "test has no labels and is not used." in splits.describe()
    assert list(home.iterdir()) == []
    kept = tmp_path / "kept"
    load_splits(folder / "train-00000-of-00001.parquet", cache=kept)
    assert any(kept.iterdir())
    assert list(home.iterdir()) == []


def test_what_the_hub_does_not_give_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert is_hub_id("org/name:config")
    assert not any(map(is_hub_id, ("a/b/c", "./data", "../data", "/data/set", "name")))
    with pytest.raises(DataError, match=r"^data/train\.csv does not exist"):
        load_splits("data/train.csv")
    with pytest.raises(DataError, match=r"^nobody/nothing is no file or folder here, and .*\.$"):
        load_from_hub("nobody/nothing")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('{"labels": ["a", "a"]}', "each of the 'labels' must have a name of its own"),
        ('{"labels": ["a", " "]}', "each of the 'labels' must have a name of its own"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_a_manifest_that_would_fail_only_after_training(tmp_path: Path, said: str, why: str) -> None:
    file = _lines(tmp_path / "train.jsonl", [{"text": f"text {n}", "label": n % 2} for n in range(40)])
    (tmp_path / "manifest.json").write_text(said)
    with pytest.raises(DataError, match=why):
        load_splits(file)


def test_a_manifest_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = _lines(tmp_path / "train.jsonl", [{"text": f"text {n}", "label": n % 2} for n in range(40)])
    (tmp_path / "manifest.json").write_text('\ufeff{"labels": ["no", "yes"]}', encoding="utf-8")
    assert load_splits(file).labels == ["no", "yes"]
