from __future__ import annotations

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import tiny_config, tiny_tensors, tiny_tokenizer, write_tiny_checkpoint

from secateur import pipeline
from secateur.checkpoint import write_checkpoint
from secateur.errors import CheckpointError, DataError, UnsupportedError
from secateur.runtime.pipelines import TextClassificationPipeline
from secateur.runtime.pipelines.outputs import _batches

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
    assert [[answer] for answer in found] == classifier(texts, top_k=1)
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
    batches = list(_batches(lengths, lengths, 0))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert batches[0] == [len(lengths) - 1]
    assert all(sum(lengths[index] for index in batch) <= 8192 for batch in batches[1:])
    batches = list(_batches([10] * 1000, [1] * 1000, 30_000))
    assert sorted(index for batch in batches for index in batch) == list(range(1000))
    assert max(map(len, batches)) * 30_000 <= 2**23


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
        (["book", None], "Text 1 must be a string, or a pair .* but is NoneType"),
        (["\ud800"], "Text 0 has half a character"),
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


def test_a_length_in_the_tokenizers_settings_counts(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 8}')
    assert pipeline(folder).max_length == 8
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert pipeline(folder).max_length == 24


def test_options_of_the_pipeline_hold_for_its_calls(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    classifier = pipeline(folder, num_threads=1, top_k=2)
    assert len(classifier("book")) == 2
    assert len(classifier("book", top_k=1)) == 1
    with pytest.raises(DataError, match=r"no option 'topk': did you mean top_k\?"):
        pipeline(folder, topk=2)
    with pytest.raises(DataError, match=r"no option 'batch_size': known are top_k, "):
        classifier("book", batch_size=2)


def test_the_task_can_be_said_and_is_checked(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    assert isinstance(pipeline(folder, "sentiment-analysis"), TextClassificationPipeline)
    with pytest.raises(UnsupportedError, match="holds a model for text-classification, not for fill-mask"):
        pipeline(folder, "fill-mask")
    with pytest.raises(DataError, match=r"There is no task 'fil-mask': did you mean fill-mask\?"):
        pipeline(folder, "fil-mask")


def test_many_threads_share_a_pipeline(classifier: TextClassificationPipeline) -> None:
    texts = [["book me a table " * count, "what is the time"] for count in (1, 2, 3)] * 8
    expected = [classifier.logits(some) for some in texts]
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(classifier.logits, texts), expected, strict=True):
            np.testing.assert_array_equal(found, right)


def test_pairs(classifier: TextClassificationPipeline) -> None:
    pair = {"text": "book me", "text_pair": "a table"}
    (ids, same) = classifier.encode([pair, ("book me", "a table")])
    assert ids == same == [2, 5, 6, 3, 7, 8, 3]
    types = classifier.engine([ids], [[0, 0, 0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(classifier.logits(pair), types)
    assert not np.array_equal(classifier.engine([ids]), types)
    assert classifier([pair])[0] == classifier(pair) == classifier(("book me", "a table"))[0]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"text": "book"}, None),
        ({"text": "book", "text_pair": " "}, "The second text of pair 0 is empty"),
        ({"text": "book", "text_pair": 3}, "The second text of pair 0 must be a string, but is int"),
        ({"text_pair": "book"}, "Text 0 is a dictionary that has no 'text'"),
        ({"text": "book", "pair": "table"}, "Text 0 is a dictionary that has 'pair'"),
        ([["book", "table"]], "Text 0 must be a string, or a pair as a tuple or a dictionary"),
        ([("book", "table", "two")], "Text 0 must be a string, or a pair"),
        (17, "must be a text or a list of them, but is int"),
        (None, "must be a text or a list of them, but is NoneType"),
    ],
)
def test_pairs_that_are_none(classifier: TextClassificationPipeline, texts: Any, message: str | None) -> None:
    if message is None:
        assert classifier(texts) == classifier("book")[0]
        return
    with pytest.raises(DataError, match=message):
        classifier(texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"function_to_apply": "relu"}, "function_to_apply must be one of softmax, sigmoid, none or None"),
        ({"threshold": 0.5}, "threshold is for multi-label models, and this one is single-label"),
    ],
)
def test_impossible_options(
    classifier: TextClassificationPipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        classifier("book", **options)


def test_a_threshold_gives_all_labels_above_it(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", problem_type="multi_label_classification")
    classifier = pipeline(folder, num_threads=1)
    everything = classifier(["book me a table", "what"], top_k=None)
    (middle,) = sorted(answer["score"] for answer in everything[0])[1:2]
    found = classifier(["book me a table", "what"], threshold=middle)
    assert found == [[answer for answer in some if answer["score"] >= middle] for some in everything]
    assert len(found[0]) == 2
    with pytest.raises(DataError, match="threshold must lie between 0 and 1, but is 2"):
        classifier("book", threshold=2)


def test_a_tokenizer_that_knows_no_pairs(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="The tokenizer of this model knows no pairs of texts"):
        pipeline(folder)(("book me", "a table"))
