"""Every pipeline against transformers' own, on the same weights: labels, offsets, words and scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from torch_engine import SENTENCES, SPECIAL, TorchEngine, tiny_model

from secateur.runtime.pipelines import pipeline_of

KINDS = ("wordpiece", "bytes", "unigram")
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
Pair = tuple[Any, Any]  # ours, theirs
Pairs = Callable[..., Pair]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    """Makes a model once, and gives our pipeline and transformers' of it."""
    made: dict[Any, Pair] = {}

    def make(task: str, head: str, kind: str, **changes: Any) -> Pair:
        key = (task, head, kind, repr(changes))
        if key not in made:
            folder = tmp_path_factory.mktemp("model")
            model = tiny_model(folder, head, kind, **changes)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            theirs = transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
            made[key] = pipeline_of(TorchEngine(model, folder)), theirs
        return made[key]

    yield make


def assert_alike(ours: Any, theirs: Any) -> None:
    """Compares answers; scores to float error, everything else exactly."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict)
        assert list(ours) and set(ours) == set(theirs), (ours, theirs)
        for key, value in theirs.items():
            assert_alike(ours[key], value)
    elif isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs), (ours, theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_alike(mine, other)
    elif isinstance(theirs, (float, np.floating)):
        assert type(ours) is float
        assert ours == pytest.approx(float(theirs), rel=1e-4, abs=1e-6)
    else:
        assert type(ours) is (int if isinstance(theirs, (int, np.integer)) else type(theirs))
        assert ours == theirs


# --- text classification -------------------------------------------------------------------------------------

CLASSIFIER = "AutoModelForSequenceClassification"
LABELS = {"id2label": {0: "alarm", 1: "table", 2: "time", 3: "none"}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"top_k": 3},
        {"top_k": None},
        {"top_k": 100},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "none", "top_k": 2},
        {"function_to_apply": "softmax", "top_k": None},
    ],
)
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_text_classification(pairs: Pairs, kind: str, options: dict[str, Any], problem: str) -> None:
    ours, theirs = pairs("text-classification", CLASSIFIER, kind, problem_type=problem, **LABELS)
    for texts in (
        SENTENCES[2],
        SENTENCES[2:4],
        [SENTENCES[2]],
        {"text": "a table", "text_pair": "for two"},
        [{"text": "a table", "text_pair": "for two"}, {"text": "a table"}],
    ):
        assert_alike(ours(texts, **options), theirs(texts, **options, **({})))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tuple_is_a_pair(pairs: Pairs, kind: str) -> None:
    ours, theirs = pairs("text-classification", CLASSIFIER, kind, **LABELS)
    pair = {"text": "a table", "text_pair": "for two"}
    assert_alike([ours(("a table", "for two"))[0]], [theirs(pair)])
    assert_alike(ours([("a table", "for two"), "a table"]), theirs([pair, "a table"]))


@pytest.mark.parametrize("options", [{}, {"top_k": None}, {"function_to_apply": "sigmoid"}])
def test_regression(pairs: Pairs, options: dict[str, Any]) -> None:
    changes = {"problem_type": "regression", "num_labels": 1}
    ours, theirs = pairs("text-classification", CLASSIFIER, "wordpiece", **changes)
    assert_alike(ours(SENTENCES[:3], **options), theirs(SENTENCES[:3], truncation=True, **options))


# --- token classification ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_token_classification(pairs: Pairs, kind: str, strategy: str) -> None:
    ours, theirs = pairs(
        "token-classification", "AutoModelForTokenClassification", kind, id2label=dict(enumerate(TAGS))
    )
    texts = [*SENTENCES, "ça 日本 W", "日本", "Wolfgang\tBerlin\n\nBerlin"]
    for ignored in (None, [], ["O", "PER", "B-LOC"]):
        options: dict[str, Any] = {"aggregation_strategy": strategy}
        if ignored is not None:
            options["ignore_labels"] = ignored
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both cut the long ones
            expected = theirs(texts, **options)
            assert_alike(ours(texts, **options), expected)
            assert_alike(ours(texts[0], **options), expected[0])
        assert any(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@pytest.mark.parametrize("stride", [0, 3, 10])
def test_token_classification_in_windows(pairs: Pairs, kind: str, strategy: str, stride: int) -> None:
    ours, theirs = pairs(
        "token-classification", "AutoModelForTokenClassification", kind, id2label=dict(enumerate(TAGS))
    )
    texts = [" ".join(SENTENCES), "a table", SENTENCES[0] + SENTENCES[1]]
    options = {"aggregation_strategy": strategy, "stride": stride}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs says that words are guessed
        for text in texts:
            assert_alike(ours(text, **options), theirs(text, **options))


# --- fill-mask -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 20}, {"targets": 0}, {"targets": 3, "top_k": 2}])
def test_fill_mask(pairs: Pairs, kind: str, options: dict[str, Any]) -> None:
    ours, theirs = pairs("fill-mask", "AutoModelForMaskedLM", kind)
    mask = SPECIAL[kind]["mask"]
    assert ours.mask_token == mask
    if "targets" in options:
        words = {"wordpiece": ["table", "book", "the", "book"], "bytes": ["Ġtable", "Ġbook", "Wol", "Wol"]}
        known = words.get(kind, ["▁table", "▁Book", "▁the", "▁the"])
        options = {**options, "targets": known if options["targets"] else known[0]}
    texts = [f"Book me a {mask} for two, please.", f"{mask} is the time", f"My name is {mask}"]
    assert_alike(ours(texts, **options), theirs(texts, **options))
    assert_alike(ours(texts[0], **options), theirs(texts[0], **options))


# --- question answering --------------------------------------------------------------------------------------
