"""A column that is named by hand, and what is still looked for beside it."""

from pathlib import Path

import pytest

from secateur.data import load_splits
from secateur.tasks import TASKS
from secateur.tasks.text_classification import Row

PAIR = ["premise", "hypothesis", "gold"]
FIT = ["anchor", "positive", "score", "other"]


@pytest.mark.parametrize(
    ("task", "present", "named", "others"),
    [
        ("text-classification", PAIR, {"label": "gold"}, {"text": "premise", "text_pair": "hypothesis"}),
        ("text-classification", PAIR, {"text": "premise", "label": "gold"}, {}),
        ("text-classification", PAIR, {"text_pair": "hypothesis"}, {"text": "premise"}),
        ("text-classification", PAIR, {"text_pair": "gold"}, {"text": "premise"}),
        ("text-classification", PAIR, {"label": "hypothesis"}, {"text": "premise"}),
        ("text-classification", ["text", *PAIR], {"text_pair": "hypothesis"}, {"text": "premise"}),
        ("sentence-embeddings", FIT, {"similarity": "other"}, {"text": "anchor", "text_pair": "positive"}),
        ("sentence-embeddings", FIT, {"text": "anchor"}, {}),
        ("sentence-embeddings", FIT, {"text_pair": "other"}, {"text": "anchor", "similarity": "score"}),
        ("sentence-embeddings", FIT, {"text": "positive", "text_pair": "other"}, {"similarity": "score"}),
        (
            "question-answering",
            ["question", "body", "answers", "id"],
            {"context": "body"},
            {"question": "question", "answers": "answers", "id": "id"},
        ),
    ],
)
def test_the_other_roles_are_guessed_beside_a_named_column(
    task: str, present: list[str], named: dict[str, str], others: dict[str, str]
) -> None:
    assert TASKS[task].guess(present, named) == {**named, **others}


def test_a_named_label_leaves_a_pair_a_pair(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    rows = "".join(f"day {i},it is wet,{'yes' if i % 2 else 'no'}\n" for i in range(60))
    file.write_text(f"premise,hypothesis,gold\n{rows}")
    splits = load_splits(file, columns={"label": "gold"})
    assert splits.columns == {"text": "premise", "text_pair": "hypothesis", "label": "gold"}
    assert {row.text_pair for row in splits.train} == {"it is wet"}


def test_a_later_split_has_the_roles_of_the_first(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("sentence1,label\n" + "good,yes\nbad,no\n" * 20)
    (tmp_path / "test.csv").write_text("sentence1,sentence2,label\ngood,better,yes\nbad,worse,no\n")
    assert load_splits(tmp_path).test == [Row("good", "yes"), Row("bad", "no")]
