"""The packaged intent data set keeps the promises its README makes."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from functools import cache
from importlib.resources import files

import pytest

SPLITS = ("train", "validation", "test")
OUT_OF_SCOPE = "out_of_scope"
FOLDER = files("secateur") / "data" / "packaged" / "assistant_intents"

Row = tuple[str, str]


@cache
def tokens(text: str) -> tuple[str, ...]:
    """The words of a text, whatever its case and punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    words = (word.replace("'", "") for word in re.findall(r"[\w']+", folded))
    return tuple(word for word in words if word)


def edit_distance(left: tuple[str, ...], right: tuple[str, ...]) -> int:
    previous = list(range(len(right) + 1))
    for i, word in enumerate(left, 1):
        current = [i]
        for j, other in enumerate(right, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (word != other)))
        previous = current
    return previous[-1]


def nearly_the_same(left: Row, right: Row) -> bool:
    """Whether one text is the other with a word or two changed, or the two share a label and most words."""
    a, b = tokens(left[0]), tokens(right[0])
    if a == b:
        return True
    shared, either = len(set(a) & set(b)), len(set(a) | set(b))
    if left[1] == right[1] and shared >= 0.8 * either:
        return True
    if min(len(a), len(b)) < 4 or max(len(a), len(b)) - shared > 2 + (len(a) - len(set(a))):
        return False
    return edit_distance(a, b) <= 2


def lines(split: str) -> list[str]:
    text = (FOLDER / f"{split}.jsonl").read_bytes().decode("utf-8")
    assert text.endswith("\n")
    return text[:-1].split("\n")


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    return {split: [(row["text"], row["label"]) for row in map(json.loads, lines(split))] for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_every_line_is_an_object_of_text_and_label(split: str) -> None:
    for line in lines(split):
        row = json.loads(line)
        assert set(row) == {"text", "label"}
        assert isinstance(row["text"], str)
        assert row["text"] == row["text"].strip() != ""
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", row["label"])


def test_there_are_enough_rows_of_every_intent(rows: dict[str, list[Row]]) -> None:
    counts = {split: Counter(label for _, label in rows[split]) for split in SPLITS}
    intents = set(counts["train"])
    assert len(intents) >= 16
    assert min(counts["train"].values()) >= 40
    assert min(counts["validation"].values()) >= 10
    assert min(counts["test"][intent] for intent in intents) >= 25
    assert counts["test"][OUT_OF_SCOPE] >= 60


def test_splits_share_their_intents_and_only_the_test_split_is_out_of_scope(
    rows: dict[str, list[Row]],
) -> None:
    labels = {split: {label for _, label in rows[split]} for split in SPLITS}
    assert OUT_OF_SCOPE not in labels["train"]
    assert labels["train"] == labels["validation"] == labels["test"] - {OUT_OF_SCOPE}


def test_no_text_occurs_twice(rows: dict[str, list[Row]]) -> None:
    seen = Counter(tokens(text) for split in SPLITS for text, _ in rows[split])
    assert [words for words, count in seen.items() if count > 1 or not words] == []


@pytest.mark.parametrize(
    ("held_out", "learnt_from"), [("validation", "train"), ("test", "train"), ("test", "validation")]
)
def test_no_held_out_text_is_a_small_edit_of_another_split(
    rows: dict[str, list[Row]], held_out: str, learnt_from: str
) -> None:
    offenders = [
        (row[0], other[0])
        for row in rows[held_out]
        for other in rows[learnt_from]
        if nearly_the_same(row, other)
    ]
    assert offenders == []


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (("Cancel my 3pm meeting!", "a"), ("cancel my 3pm meeting", "b"), True),
        (("cancel my meeting with Ann", "a"), ("cancel our meeting with Bob", "b"), True),
        (("cancel my meeting with Ann", "a"), ("please cancel our meeting with Bob", "b"), False),
        (("to be or to do is it", "a"), ("to be or not to do it", "b"), True),
        (("lost card", "a"), ("lost wallet", "a"), False),
        (("with Ann cancel my meeting", "a"), ("cancel my meeting with Ann", "a"), True),
    ],
)
def test_the_rule_for_small_edits_itself(left: Row, right: Row, expected: bool) -> None:
    assert nearly_the_same(left, right) is expected
