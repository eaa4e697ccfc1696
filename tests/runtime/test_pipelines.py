from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import edit_config, tiny_config, tiny_tensors, tiny_tokenizer, write_tiny_checkpoint

from secateur import pipeline
from secateur.checkpoint import write_checkpoint
from secateur.errors import CheckpointError, DataError, UnsupportedError
from secateur.runtime.pipelines import TextClassificationPipeline, _batches

pytest.importorskip("secateur._engine")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> TextClassificationPipeline:
    return pipeline(write_tiny_checkpoint(tmp_path_factory.mktemp("pipeline") / "model"), num_threads=1)


def test_texts_become_labels(classifier: TextClassificationPipeline) -> None:
    texts = ["book me a table", "what is the time", "book"]
    found = classifier(texts)
    assert [set(answer) for answer in found] == [{"label", "score"}] * 3
    for text, answer in zip(texts, found, strict=True):
        assert classifier(text) == classifier([text]) == [answer]
        assert answer["label"] in classifier.labels
    everything = classifier(texts, top_k=None)
    assert [row[0] for row in everything] == found
    assert all(sum(answer["score"] for answer in row) == pytest.approx(1) for row in everything)
    assert [len(row) for row in classifier(texts, top_k=2)] == [2, 2, 2]
    assert len(classifier("book", top_k=2)) == 2
    assert classifier([]) == []
    assert classifier([], top_k=None) == []


def test_padding_and_truncation_of_the_file_are_ignored(classifier: TextClassificationPipeline) -> None:
    assert "padding" in json.loads(tiny_tokenizer())
    assert [len(ids) for ids in classifier.encode(["book", "book me a table for two tonight " * 2])] == [
        3,
        16,
    ]


def test_the_order_of_texts_does_not_matter(classifier: TextClassificationPipeline) -> None:
    random = np.random.default_rng(0)
    words = ["book", "me", "a", "table", "for", "two", "tonight", "what", "is", "the", "time"]
    texts = [" ".join(random.choice(words, random.integers(1, 20))) for _ in range(1000)]
    logits = classifier.logits(texts)
    np.testing.assert_array_equal(classifier.logits(texts[::-1]), logits[::-1])
    np.testing.assert_array_equal(classifier.logits(texts[7]), logits[7:8])


def test_batches_hold_everything_once_and_stay_small() -> None:
    lengths = [1, 512, 3, 512, *[100] * 300, 9000]
    batches = list(_batches(lengths))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert batches[0] == [len(lengths) - 1]
    assert all(sum(lengths[index] for index in batch) <= 8192 for batch in batches[1:])


def test_a_long_text_is_cut_and_that_is_said_once(tmp_path: Path) -> None:
    classifier = pipeline(write_tiny_checkpoint(tmp_path / "model"), num_threads=1)
    long = "table " * 30
    with pytest.warns(UserWarning, match="1 of 2 texts have more than the 24 tokens"):
        (first, _) = classifier([long, "book"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert classifier(long) == [first]
    (ids,) = classifier.encode(long)
    assert len(ids) == 24
    assert ids[-1] == 3  # [SEP] stays


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["book", ""], "Text 1 is empty"),
        ("  \n", "Text 0 is empty"),
        (["book", None], "Text 1 must be a string, but is NoneType"),
        (["\ud800"], "cannot be tokenized"),
    ],
)
def test_unusable_texts_are_refused(
    classifier: TextClassificationPipeline, texts: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        classifier(texts)


@pytest.mark.parametrize("top_k", [0, -1, True, "all"])
def test_an_impossible_top_k_is_refused(classifier: TextClassificationPipeline, top_k: int) -> None:
    with pytest.raises(DataError, match="top_k must be a positive integer or None"):
        classifier("book", top_k=top_k)


def test_a_folder_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a sound tokenizer"):
        pipeline(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        pipeline(folder)
    config = tiny_config(vocab_size=10)
    write_checkpoint(folder, config, tiny_tensors(config), {"tokenizer.json": tiny_tokenizer()})
    with pytest.raises(CheckpointError, match="16 tokens and the model only 10"):
        pipeline(folder)


def test_other_problems_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    edit_config(folder, problem_type="multi_label_classification")
    with pytest.raises(UnsupportedError, match="single-label classification only"):
        pipeline(folder)
