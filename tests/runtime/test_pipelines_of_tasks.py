"""Pipelines of every task on the engine, what they refuse, and answers to given outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from torch_engine import MAX_TOKENS, SENTENCES, TorchEngine, tiny_model

from secateur import pipeline
from secateur.errors import DataError, SecateurError, UnsupportedError
from secateur.export import export_checkpoint
from secateur.runtime.pipelines import PIPELINES, pipeline_of
from secateur.runtime.pipelines.outputs import outputs_of
from secateur.tasks import TASKS, Encoded

pytest.importorskip("secateur._engine")

HEADS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "sentence-embeddings": "AutoModel",
}
TAGS = {"id2label": {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}}
CHANGES: dict[str, dict[str, Any]] = {
    "token-classification": TAGS,
    "sentence-embeddings": {"sentence_embedding": {"pooling": "mean", "normalize": True}},
}
CONTEXT = " ".join(SENTENCES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Any, Any]]:
    """Of each task and tokenizer, our pipeline on the engine, and on PyTorch with the same weights."""
    found = {}
    for task, head in HEADS.items():
        for kind in ("wordpiece", "bytes"):
            folder = tmp_path_factory.mktemp("model")
            model = tiny_model(folder, head, kind, **CHANGES.get(task, {}))
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            out = export_checkpoint(model, tokenizer, folder / "checkpoint")
            found[task, kind] = pipeline(out, num_threads=1), pipeline_of(TorchEngine(model, folder))
    return found


def ask(run: Any) -> Any:
    """Asks a pipeline something of its task, long texts among it."""
    if run.task.name == "question-answering":
        return run(question=["Where do I live?", "How tall?"], context=CONTEXT)
    if run.task.name == "fill-mask":
        return run([f"Book me a {run.mask_token} for two", f"My {run.mask_token} is {run.mask_token}"])
    if run.task.name == "token-classification":
        return run([SENTENCES[0], CONTEXT], aggregation_strategy="first")
    if run.task.name == "sentence-embeddings":
        return run(SENTENCES).tolist()
    return run([SENTENCES[2], ("a table", "for two")], top_k=None)


def assert_near(one: Any, other: Any) -> None:
    """Compares answers; numbers to what the engine's GELU costs."""
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_near(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_near(first, second)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=2e-3)
    else:
        assert one == other


@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
@pytest.mark.parametrize("task", HEADS)
def test_the_engine_answers_as_pytorch(models: Any, task: str, kind: str) -> None:
    ours, double = models[task, kind]
    assert type(ours) is PIPELINES[task]
    assert ours.task.name == task
    assert_near(ask(ours), ask(double))


@pytest.mark.parametrize("task", HEADS)
def test_many_threads_share_a_pipeline(models: Any, task: str) -> None:
    ours, _ = models[task, "wordpiece"]
    expected = ask(ours)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(ask, [ours] * 12))


def test_every_task_has_a_pipeline() -> None:
    assert set(PIPELINES) == set(TASKS) == set(HEADS)


@pytest.mark.parametrize("task", HEADS)
def test_no_text_no_answer(models: Any, task: str) -> None:
    ours, _ = models[task, "wordpiece"]
    found = ours(question=[], context=[]) if task == "question-answering" else ours([])
    assert len(found) == 0


@pytest.mark.parametrize("task", [task for task in HEADS if task != "question-answering"])
@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a [MASK]", ""], "Text 1 is empty; leave it out or give it a word."),
        (" \n", "Text 0 is empty; leave it out or give it a word."),
        (["a [MASK]", 3], "Text 1 must be a string"),
        (None, "must be a text or a list of them, but is NoneType"),
        (b"text", "must be a text or a list of them, but is bytes"),
        (["a [MASK] \ud800"], r"Text 0 has half a character \('\\ud800' at place 9\): delete it"),
    ],
)
def test_unusable_texts_are_refused(models: Any, task: str, texts: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        models[task, "wordpiece"][0](texts)


@pytest.mark.parametrize(
    ("task", "call", "said"),
    [
        ("token-classification", {"aggregation_strategy": "all"}, "one of none, simple, first, average, max"),
        ("token-classification", {"ignore_labels": "O"}, "ignore_labels must be a list of labels"),
        ("token-classification", {"ignore_labels": None}, "ignore_labels must be a list of labels"),
        ("token-classification", {"ignore_labels": 3}, "ignore_labels must be a list of labels"),
        ("text-classification", {"function_to_apply": ["softmax"]}, "function_to_apply must be one of"),
        ("fill-mask", {"targets": 3}, "must be a text or a list of them, but is int"),
        ("fill-mask", {"targets": ["\ud800"]}, "A target has half a character"),
        ("token-classification", {"top_k": 2}, "has no option 'top_k'"),
        ("fill-mask", {"top_k": 0}, "top_k must be a positive integer, but is 0"),
        ("fill-mask", {"top_k": None}, "top_k must be a positive integer, but is None"),
        ("fill-mask", {"targets": []}, "targets is empty"),
        ("fill-mask", {"targets": ["table", ""]}, "A target is empty"),
        (
            "fill-mask",
            {"targets": ["tablecloth"]},
            r"'tablecloth' is not one word .*\(it is \d+ pieces: table ",
        ),
        ("fill-mask", {"targets": "日"}, "'日' is not one word of the model's vocabulary."),
        ("sentence-embeddings", {"normalize_embeddings": "yes"}, "must be True or False, but is 'yes'"),
    ],
)
def test_impossible_options(models: Any, task: str, call: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        models[task, "wordpiece"][0]("a [MASK] for two", **call)


def test_a_text_without_a_mask(models: Any) -> None:
    ours, _ = models["fill-mask", "wordpiece"]
    with pytest.raises(DataError, match=r"Text 1 has no \[MASK\]: put it where a word is asked for"):
        ours(["a [MASK]", "a table"])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"question": "Who?"}, "A context is missing: give both"),
        ({"context": "I do."}, "A question is missing: give both"),
        ({"question": "Who?", "context": " "}, "Context 0 is empty"),
        ({"question": ["Who?", ""], "context": "I do."}, "Question 1 is empty"),
        ({"question": 3, "context": "I do."}, "must be a text or a list of them, but is int"),
        ({"question": "Who?", "context": 3}, "must be a text or a list of them, but is int"),
        ({"question": ["Who?"], "context": ["a", "b"]}, "There are 1 questions and 2 contexts"),
        ({"inputs": {"question": "Who?"}}, "Input 0 must be a dictionary with 'question' and 'context'"),
        ({"inputs": "Who?"}, "Input 0 must be a dictionary with 'question' and 'context'"),
        ({"inputs": {"question": "a", "context": "b"}, "question": "c"}, "Give either question and context"),
        ({"top_k": 0}, "top_k must be a positive integer, but is 0"),
        ({"max_answer_len": 0}, "max_answer_len must be a positive integer, but is 0"),
        ({"max_seq_len": 4000}, f"max_seq_len is 4000, but the model takes {MAX_TOKENS} tokens"),
        ({"max_seq_len": True}, "max_seq_len must be a positive integer or None"),
        ({"doc_stride": 96}, "doc_stride is 96, but a window has 96 tokens"),
        ({"doc_stride": -1}, "doc_stride must be None or an integer from 0 on"),
        ({"handle_impossible_answer": 1}, "handle_impossible_answer must be True or False, but is 1"),
        ({"max_seq_len": 3}, "3 tokens leave no room"),
    ],
)
def test_impossible_questions(models: Any, call: dict[str, Any], said: str) -> None:
    given = (
        call if {"question", "context", "inputs"} & set(call) else {"question": "a?", "context": "b", **call}
    )
    with pytest.raises(DataError, match=said):
        models["question-answering", "wordpiece"][0](**given)


@pytest.mark.parametrize("task", HEADS)
def test_a_checkpoint_of_another_task(models: Any, task: str) -> None:
    folder = models[task, "wordpiece"][0].engine.folder
    other = next(name for name in HEADS if name != task)
    with pytest.raises(UnsupportedError, match=f"holds a model for {task}, not for {other}"):
        pipeline(folder, other)


def test_a_tokenizer_without_a_mask(models: Any, tmp_path: Path) -> None:
    ours, double = models["fill-mask", "wordpiece"]
    text = (ours.engine.folder / "tokenizer.json").read_text()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text((ours.engine.folder / name).read_text())
    (tmp_path / "tokenizer.json").write_text(text.replace("[MASK]", "[NONE]"))
    with pytest.raises(UnsupportedError, match="has no mask token"):
        pipeline_of(TorchEngine(double.engine.model, tmp_path))


def test_embeddings_that_cannot_be_compared(models: Any) -> None:
    ours, _ = models["sentence-embeddings", "wordpiece"]
    with pytest.raises(DataError, match=r"but are \[1, 3\] and \[1, 4\]"):
        ours.similarity([1.0, 2.0, 3.0], [[1.0, 2.0, 3.0, 4.0]])
    for given in ("a text", [[1.0, 2.0], [3.0]]):
        with pytest.raises(DataError, match="Embeddings must be arrays of numbers"):
            ours.similarity(given, [1.0, 2.0])


@pytest.mark.parametrize("folder", [None, 3, b"folder", [], "a\0b"])
def test_what_is_no_path(folder: Any) -> None:
    with pytest.raises(DataError, match="must be the path of a folder"):
        pipeline(folder)


def test_names_of_another_type(models: Any) -> None:
    folder = models["fill-mask", "wordpiece"][0].engine.folder
    with pytest.raises(DataError, match="isa must be the name of an instruction set"):
        pipeline(folder, isa=3)  # type: ignore[call-overload]
    with pytest.raises(DataError, match=r"There is no task \['fill-mask'\]"):
        pipeline(folder, ["fill-mask"])  # type: ignore[call-overload]


# --- answers to given outputs


class GivenEngine:
    """Gives outputs that a test chose, one a sequence."""

    max_length, vocab_size, num_token_types = MAX_TOKENS, 1000, 2

    def __init__(self, folder: Path, output_of: Any) -> None:
        self.folder, self.output_of = folder, output_of
        self.config = json.loads((folder / "config.json").read_text())
        self.batches: list[int] = []

    def __call__(self, input_ids: Sequence[Sequence[int]], *_: Any, positions: Any = None) -> list[Any]:
        self.batches.append(len(input_ids))
        places = positions or [None] * len(input_ids)
        return [self.output_of(ids, where) for ids, where in zip(input_ids, places, strict=True)]


def test_entities_of_given_tags(models: Any) -> None:
    ours, _ = models["token-classification", "wordpiece"]
    folder = ours.engine.folder
    text = "Wolfgang live in Berlin New York"
    # wolf ##gang live in berlin new york
    tags = [0, 1, 2, 0, 0, 3, 3, 4, 0]

    def output_of(ids: Sequence[int], _: Any) -> Any:
        assert len(ids) == len(tags)
        logits = np.full((len(ids), 5), -10, np.float32)
        logits[np.arange(len(ids)), tags] = 10
        return logits

    tagger = pipeline_of(GivenEngine(folder, output_of), "ner", aggregation_strategy="simple")
    found = [(one["entity_group"], text[one["start"] : one["end"]], one["word"]) for one in tagger(text)]
    assert found == [
        ("PER", "Wolfgang", "wolfgang"),
        ("LOC", "Berlin", "berlin"),
        ("LOC", "New York", "new york"),
    ]
    single = tagger(text, aggregation_strategy="none", ignore_labels=["O", "B-LOC"])
    assert [one["entity"] for one in single] == ["B-PER", "I-PER", "I-LOC"]
    assert [one["index"] for one in single] == [1, 2, 7]


def test_a_long_context_is_read_to_its_end(models: Any) -> None:
    """The answer stands behind what one window shows, and wins there."""
    ours, _ = models["question-answering", "wordpiece"]
    target = ours.tokenizer.token_to_id("berlin")

    def output_of(ids: Sequence[int], _: Any) -> Any:
        logits = np.zeros((len(ids), 2), np.float32)
        places = [place for place, token in enumerate(ids) if token == target]
        logits[places or [0]] = 20
        return logits

    context = "book me a table for two tonight " * 40 + "in Berlin"
    answerer = pipeline_of(GivenEngine(ours.engine.folder, output_of))
    found = answerer(question="Where?", context=context, handle_impossible_answer=True)
    assert found["answer"] == "Berlin"
    assert context[found["start"] : found["end"]] == "Berlin"
    nowhere = answerer(question="Where?", context=context[:-6], handle_impossible_answer=True, top_k=2)
    assert (nowhere[0]["answer"], nowhere[0]["start"], nowhere[0]["end"]) == ("", 0, 0)
    assert nowhere[0]["score"] == pytest.approx(1, abs=1e-3)


def test_outputs_come_in_order_and_in_bounded_batches(models: Any) -> None:
    ours, _ = models["fill-mask", "wordpiece"]
    engine = GivenEngine(
        ours.engine.folder, lambda ids, places: np.full((len(places), 1000), ids[1], np.float32)
    )
    engine.vocab_size = 2**21
    lengths = [3 + index % 7 for index in range(50)]
    encoded = Encoded(
        [[2, *[index] * (length - 2), 3] for index, length in enumerate(lengths)],
        None,
        list(range(50)),
        positions=[[1]] * 50,
        details=[type("Detail", (), {"truth": None})] * 50,
    )
    found = outputs_of(engine, ours.task, encoded)  # type: ignore[arg-type]
    assert [int(output[0, 0]) for output in found] == list(range(50))
    assert max(engine.batches) == 4
    assert sum(engine.batches) == 50


def test_the_runtime_imports_no_torch() -> None:
    code = """
import sys
import secateur.runtime.engine, secateur.runtime.pipelines
assert not {"torch", "transformers", "secateur.training"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_refusal_is_one_of_ours(models: Any) -> None:
    for task in HEADS:
        with pytest.raises(SecateurError, match=f"The {task} pipeline has no option 'temperature'"):
            pipeline_of(models[task, "wordpiece"][0].engine, temperature=2)
