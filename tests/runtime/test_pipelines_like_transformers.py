"""Every pipeline against transformers' own, on the same weights: labels, offsets, words and scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch_engine import MAX_TOKENS, SENTENCES, SPECIAL, TorchEngine, tiny_model

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
        assert_alike(ours(texts, **options), theirs(texts, **options))


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
    assert_alike(ours(SENTENCES[:3], **options), theirs(SENTENCES[:3], **options))


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
            warnings.simplefilter("ignore")  # theirs says that words are guessed
            expected = theirs(texts, **options)
        assert_alike(ours(texts, **options), expected)
        assert_alike(ours(texts[0], **options), expected[0])
        assert ignored is None or ignored or all(expected)


# --- fill-mask -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 1}, {"top_k": 20}, {"targets": 0}, {"targets": 3, "top_k": 2}]
)
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


@pytest.mark.parametrize("kind", KINDS)
def test_fill_several_masks(pairs: Pairs, kind: str) -> None:
    ours, theirs = pairs("fill-mask", "AutoModelForMaskedLM", kind)
    mask = SPECIAL[kind]["mask"]
    texts = [f"Book me a {mask} for {mask}, please.", f"My name is {mask}"]
    assert_alike(ours(texts, top_k=3), theirs(texts, top_k=3))


# --- question answering --------------------------------------------------------------------------------------

ANSWERER = "AutoModelForQuestionAnswering"
QUESTIONS = [
    ("Where do I live?", SENTENCES[0]),
    ("Where is the company?", SENTENCES[1]),
    ("How tall?", " ".join(SENTENCES)),
    ("Wie?", "日本 Berlin"),
]


@pytest.fixture(scope="module")
def answerers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any, Any]]:
    """Our pipeline, the model and transformers' tokenizer, for each kind of tokenizer."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("answerer")
        model = tiny_model(folder, ANSWERER, kind, spread=0.6)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        made[kind] = (pipeline_of(TorchEngine(model, folder)), model, tokenizer)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 3},
        {"top_k": 5, "align_to_words": False},
        {"max_answer_len": 2, "top_k": 2},
        {"max_answer_len": 60},
        {"handle_impossible_answer": True, "top_k": 4},
        {"max_seq_len": 50, "doc_stride": 7, "top_k": 3},
        {"max_seq_len": 64, "doc_stride": 0, "top_k": 2},
    ],
)
def test_question_answering(answerers: Any, kind: str, options: dict[str, Any]) -> None:
    ours, model, tokenizer = answerers[kind]
    expected = [span_answers(model, tokenizer, *pair, **options) for pair in QUESTIONS]
    questions, contexts = map(list, zip(*QUESTIONS, strict=True))
    assert_alike(ours(question=questions, context=contexts, **options), expected)
    (question, context), first = QUESTIONS[0], expected[0]
    assert_alike(ours(question=question, context=context, **options), first)
    assert_alike(ours({"question": question, "context": context}, **options), first)
    assert_alike(ours([{"question": question, "context": context}], **options), [first])
    if hasattr(transformers, "QuestionAnsweringPipeline"):  # went with transformers 5
        theirs = transformers.QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)
        assert_alike(first, theirs(question=question, context=context, **options))


def span_answers(
    model: Any,
    tokenizer: Any,
    question: str,
    context: str,
    top_k: int = 1,
    max_seq_len: int = MAX_TOKENS,
    doc_stride: int | None = None,
    max_answer_len: int = 15,
    handle_impossible_answer: bool = False,
    align_to_words: bool = True,
) -> Any:
    """What transformers' pipeline of version 4 answers, written down span by span."""
    windows = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=max_seq_len,
        stride=min(max_seq_len // 2, 128) if doc_stride is None else doc_stride,
        return_overflowing_tokens=True,
    )
    answers: list[dict[str, Any]] = []
    nothing = 1.0
    for number in range(len(windows["input_ids"])):
        given = {name: torch.tensor([windows[name][number]]) for name in tokenizer.model_input_names}
        with torch.inference_mode():
            output = model(**given)
        encoding = windows[number]
        inside = [sequence == 1 for sequence in encoding.sequence_ids]
        allowed = torch.tensor([True, *inside[1:]])
        start, end = (
            torch.where(allowed, logits[0], -10000.0).softmax(-1).tolist()
            for logits in (output.start_logits, output.end_logits)
        )
        nothing = min(nothing, start[0] * end[0])
        spans = [
            (start[first] * end[last], first, last)
            for first in range(len(inside))
            for last in range(first, min(first + max_answer_len, len(inside)))
            if inside[first] and inside[last]
        ]
        best = sorted(spans, key=lambda span: -span[0])[: 2 * top_k + 10 if align_to_words else top_k]
        for score, first, last in best:
            if align_to_words:
                begin = encoding.word_to_chars(encoding.token_to_word(first), sequence_index=1)[0]
                behind = encoding.word_to_chars(encoding.token_to_word(last), sequence_index=1)[1]
            else:
                begin, behind = encoding.offsets[first][0], encoding.offsets[last][1]
            text = context[begin:behind]
            same = [answer for answer in answers if answer["answer"].lower() == text.lower()]
            if same:
                same[0]["score"] += score
            else:
                answers.append({"score": score, "start": begin, "end": behind, "answer": text})
    if handle_impossible_answer:
        answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
    answers = sorted(answers, key=lambda answer: -answer["score"])[:top_k]
    return answers[0] if top_k == 1 else answers


# --- sentence embeddings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_sentence_embeddings(tmp_path: Path, kind: str, pooling: str, normalize: bool) -> None:
    how = {"pooling": pooling, "normalize": normalize}
    model = tiny_model(tmp_path, "AutoModel", kind, sentence_embedding=how)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs = transformers.pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")
    ours = pipeline_of(TorchEngine(model, tmp_path))
    tokens = [np.array(rows[0], np.float32) for rows in theirs(SENTENCES)]
    pooled = {"mean": lambda rows: rows.mean(0), "cls": lambda rows: rows[0], "max": lambda rows: rows.max(0)}
    expected = np.stack([pooled[pooling](rows) for rows in tokens])
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    found = ours(SENTENCES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, unit if normalize else expected, atol=1e-5)
    np.testing.assert_allclose(ours(SENTENCES, normalize_embeddings=True), unit, atol=1e-5)
    np.testing.assert_array_equal(ours(SENTENCES[0]), found[:1])
    np.testing.assert_array_equal(ours.encode(SENTENCES[0]), found[0])
    np.testing.assert_allclose(ours.similarity(found, found[0]), (unit @ unit[:1].T), atol=1e-5)
