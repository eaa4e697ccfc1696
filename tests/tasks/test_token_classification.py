from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
from task_tokenizers import ALL, ODD_WORDS, byte_pairs, word_pieces

from secateur.errors import DataError, MissingExtraError
from secateur.tasks.entities import entity_scores
from secateur.tasks.tag_scheme import scheme_of, to_bio
from secateur.tasks.token_classification import Row, TokenClassification, row_of_text
from secateur.tasks.windows import windows
from secateur.tasks.words import used_tokens

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def _row(words: str, tags: str) -> Row:
    return Row(tuple(words.split()), tuple(tags.split()))


def _right(task: TokenClassification, rows: list[Row], tokenizer: Any, length: int) -> tuple[Any, list[Any]]:
    """Logits that say what the targets say, and noise elsewhere."""
    encoded = task.encode(tokenizer, rows, length)
    rng = np.random.default_rng(0)
    outputs = []
    for target in task.targets(rows, encoded):
        logits = rng.normal(size=(len(target["labels"]), len(task.labels))).astype(np.float32)
        for place, label in enumerate(target["labels"]):
            if label >= 0:
                logits[place] = 9 * np.eye(len(task.labels))[label]
        outputs.append(logits)
    return encoded, outputs


def test_the_first_token_of_a_word_carries_its_tag() -> None:
    task = TokenClassification(LABELS)
    tokenizer = word_pieces()
    rows = [_row("John is booking Berlins (new)", "B-PER O O B-LOC O")]
    encoded = task.encode(tokenizer, rows, 64)
    tokens = [tokenizer.id_to_token(token) for token in encoded.input_ids[0]]
    assert tokens == ["[CLS]", "john", "is", "book", "##ing", "berlin", "##s", "(", "new", ")", "[SEP]"]
    (target,) = task.targets(rows, encoded)
    assert target["labels"] == [-100, 3, 0, 0, -100, 1, -100, 0, -100, -100, -100]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("length", [12, 31, 400])
def test_every_word_is_labelled_once_and_comes_back(kind: str, length: int) -> None:
    task = TokenClassification(LABELS)
    rng = random.Random(length)
    rows = []
    for _ in range(25):
        words = rng.choices(ODD_WORDS, k=rng.randint(1, 20))
        rows.append(Row(tuple(words), tuple(rng.choices(LABELS, k=len(words)))))
    encoded, outputs = _right(task, rows, ALL[kind](), length)
    assert max(len(ids) for ids in encoded.input_ids) <= length
    found = task.answers(rows, encoded, outputs)
    labelled = [0] * len(rows)
    for number, target in zip(encoded.rows, task.targets(rows, encoded), strict=True):
        labelled[number] += sum(label >= 0 for label in target["labels"])
    for row, answer, count in zip(rows, found, labelled, strict=True):
        # words without any character that a tokenizer keeps have no token
        silent = [word for word in row.tokens if word == "\u200b\u200b" and kind == "word pieces"]
        assert count == len(row.tokens) - len(silent)
        for word, right, tag in zip(row.tokens, row.tags or (), answer["tags"], strict=True):
            assert tag == ("O" if word in silent else right)
        text = " ".join(row.tokens)
        for entity in answer["entities"]:
            assert 0 <= entity["start"] <= entity["end"] <= len(text)


def test_a_raw_text_gives_the_token_ids_of_its_words() -> None:
    task = TokenClassification(LABELS)
    words = ("John", "is", "in", "Berlin,", "cafe\u0301!")
    for make in ALL.values():
        one = task.encode(make(), [Row(words)], 64)
        two = task.encode(make(), [row_of_text(" ".join(words))], 64)
        assert one.input_ids == two.input_ids
    spaced = task.encode(byte_pairs(), [row_of_text("  John   is ")], 64)
    assert [word for word in spaced.details[0].text.words if word >= 0] == [0, 1]


def test_overlapping_windows_share_tokens_out() -> None:
    for length in range(1, 60):
        for room in (1, 4, 7, 16):
            shares = used_tokens(windows(length, room, room // 4))
            assert [token for share in shares for token in range(*share)] == list(range(length))


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("kind", ["word pieces", "bytes"])
def test_entities_are_those_of_transformers(strategy: str, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip("transformers.pipelines.token_classification")
    tokenizer = ALL[kind]()
    unknown = "[UNK]" if kind == "word pieces" else "<unk>"
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown)
    reference = object.__new__(module.TokenClassificationPipeline)
    reference.tokenizer = fast
    reference.model = type("Model", (), {"config": type("Config", (), {"id2label": dict(enumerate(LABELS))})})
    task = TokenClassification(LABELS)
    rng = np.random.default_rng(1)
    for words in (
        ["John", "is", "in", "new", "Berlins,"],
        ["cafe\u0301", "👩‍👩‍👧", "booking", "york"],
        ["東京"],
    ):
        text = " ".join(words)
        encoded = task.encode(tokenizer, [row_of_text(text)], 64)
        output = rng.normal(scale=2, size=(len(encoded.input_ids[0]), len(LABELS))).astype(np.float32)
        plain = tokenizer.encode(text)
        scores = np.exp(output - output.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
        chosen = module.AggregationStrategy(strategy)
        expected = []
        with pytest.warns() if kind == "bytes" and strategy in ("first", "average", "max") else _nothing():
            pieces = reference.gather_pre_entities(
                text, np.array(plain.ids), scores, plain.offsets, plain.special_tokens_mask, chosen
            )
        for entity in reference.aggregate(pieces, chosen):
            if "O" not in (entity.get("entity"), entity.get("entity_group")):
                expected.append(entity)
        (found,) = task.answers([row_of_text(text)], encoded, [output], aggregation=strategy)
        assert [{**one, "score": 0} for one in found["entities"]] == [{**one, "score": 0} for one in expected]
        for one, two in zip(found["entities"], expected, strict=True):
            assert one["score"] == pytest.approx(float(two["score"]), rel=1e-5)


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_entity_scores_are_counted_by_hand() -> None:
    truth = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC"]]
    given = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "B-LOC"]]
    # right: 2 LOC; given: 1 PER, 3 LOC; true: 1 PER, 2 LOC
    found = entity_scores(truth, given)
    assert found["precision"] == 0.5
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(4 / 7)
    assert found["f1_by_type"] == {"LOC": pytest.approx(0.8), "PER": 0.0}
    assert entity_scores([["O"]], [["O"]])["f1"] == 0.0


def test_score_is_perfect_where_every_tag_is_right_and_counts_words() -> None:
    rows = [_row("John is in Berlin", "B-PER O O B-LOC"), _row("the book", "O O")]
    task = TokenClassification.from_rows(rows)
    assert task.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    encoded, outputs = _right(task, rows, word_pieces(), 16)
    assert task.score(rows, encoded, outputs)["f1"] == 1.0
    outputs[0][1] = 9 * np.eye(5)[0]
    result = task.score(rows, encoded, outputs)
    assert result["accuracy"] == pytest.approx(5 / 6)
    assert result["f1"] == pytest.approx(2 / 3)
    assert result["n"] == 2


def test_plain_tags_are_scored_by_accuracy() -> None:
    rows = [_row("the book is new", "DET NOUN VERB ADJ")]
    task = TokenClassification.from_rows(rows)
    assert (task.kind, task.main_metric, task.labels) == ("plain", "accuracy", ["ADJ", "DET", "NOUN", "VERB"])
    encoded, outputs = _right(task, rows, word_pieces(), 16)
    assert task.score(rows, encoded, outputs) == {"accuracy": 1.0, "macro_f1": 1.0, "n": 1}


def test_other_schemes_are_read_as_bio() -> None:
    assert [to_bio(tag) for tag in ("S-PER", "U-PER", "E-LOC", "L-LOC", "O")] == [
        "B-PER",
        "B-PER",
        "I-LOC",
        "I-LOC",
        "O",
    ]
    rows = [_row("John new york", "S-PER B-LOC E-LOC")]
    task = TokenClassification.from_rows(rows)
    assert task.adapt(rows[0]).tags == ("B-PER", "B-LOC", "I-LOC")
    with pytest.raises(DataError, match="The tag 'LOC' is neither O nor begins with B- or I-"):
        scheme_of(["O", "B-PER", "LOC"])


def test_integers_need_names() -> None:
    rows = [_row("John Berlin the", "1 2 0")]
    with pytest.raises(DataError, match=r"numbers without names.*manifest\.json"):
        TokenClassification.from_rows(rows)
    task = TokenClassification.from_rows(rows, names=["O", "B-PER", "B-LOC"])
    assert task.adapt(rows[0]).tags == ("B-PER", "B-LOC", "O")
    with pytest.raises(DataError, match="'3' is none of the 3 labels"):
        TokenClassification.from_rows([_row("a", "3")], names=["O", "B-PER", "B-LOC"])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"tokens": "John is", "tags": ["O", "O"]}, "'tokens' must be a list of strings"),
        ({"tokens": ["a"], "tags": [None]}, "'tags' must be a list of strings or of integers"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "'tags' has 1 entries for 2 words"),
        ({"tokens": [" "], "tags": ["O"]}, "'tokens' holds no word"),
    ],
)
def test_impossible_rows_are_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TokenClassification.parse(record)


def test_unknown_tags_and_options_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TokenClassification(LABELS)
    row = _row("John", "B-ORG")
    encoded = task.encode(word_pieces(), [row], 16)
    with pytest.raises(DataError, match="does not know the tag 'B-ORG'"):
        task.targets([row], encoded)
    with pytest.raises(DataError, match="has no tags"):
        task.targets([Row(("John",))], encoded)
    outputs = [np.zeros((len(encoded.input_ids[0]), 5), np.float32)]
    with pytest.raises(DataError, match="aggregation must be one of none, simple"):
        task.answers([row], encoded, outputs, aggregation="all")
    with pytest.raises(DataError, match="no option 'top_k'"):
        task.answers([row], encoded, outputs, top_k=3)
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    monkeypatch.setitem(sys.modules, "seqeval", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'secateur\[train\]'"):
        entity_scores([["O"]], [["O"]])
