"""`secateur predict`: a model's answers to texts from the command line or from standard input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.commands.console import print_table, show_json
from secateur.commands.predict_input import read_input
from secateur.errors import DataError
from secateur.runtime.pipelines import pipeline

__all__ = ["Request", "run"]


@dataclass(frozen=True)
class Request:
    """What to ask.

    Attributes:
        model: The checkpoint's folder.
        texts: The texts; none for the lines of standard input.
        question: Of question answering: the question.
        context: Of question answering: the context of all questions.
        task: The task's name; None for that of the model.
        options: Options of the pipeline, as `top_k`; None means its default.
        threads: Threads to use; None for all.
        isa: An instruction set to force; None for the best.
    """

    model: Path
    texts: Sequence[str] | None = None
    question: str | None = None
    context: str | None = None
    task: str | None = None
    options: Mapping[str, Any] | None = None
    threads: int | None = None
    isa: str | None = None


_FLAGS = {
    "top_k": "--top-k",
    "aggregation_strategy": "--aggregation",
    "targets": "--target",
    "threshold": "--threshold",
    "doc_stride": "--doc-stride",
    "max_seq_len": "--max-seq-len",
    "max_answer_len": "--max-answer-len",
    "handle_impossible_answer": "--no-answer",
}
_USUAL: dict[str, dict[str, Any]] = {
    "text-classification": {"top_k": 1},
    "token-classification": {"aggregation_strategy": "simple"},
}


def run(request: Request, json_file: Path | None) -> None:
    """Answers and prints.

    Args:
        request: What to ask.
        json_file: Where to write the answers as JSON.

    Raises:
        SecateurError: The checkpoint or a text cannot be used.
    """
    ask = pipeline(request.model, request.task, num_threads=request.threads, isa=request.isa)
    task = ask.task.name
    options = {name: value for name, value in (request.options or {}).items() if value is not None}
    for name in options:
        if name not in ask.OPTIONS:
            raise DataError(f"{_FLAGS[name]} is of no use to {task}: leave it out.")
    usual = _USUAL.get(task, {})
    if "threshold" in options:
        usual = {}
    given = read_input(task, request.texts, request.question, request.context)
    answers = ask(given, **{**usual, **options})
    if task == "question-answering" and options.get("top_k", 1) == 1:
        answers = [[answer] for answer in answers]
    key = "embedding" if task == "sentence-embeddings" else "answers"
    found = [
        {**({"text": asked} if isinstance(asked, str) else asked), key: _plain(answer)}
        for asked, answer in zip(given, answers, strict=True)
    ]
    if not show_json(json_file, {"predictions": found}):
        _PRINT[task](found)


def _plain(answer: Any) -> Any:
    return answer if isinstance(answer, list) else answer.tolist()


def _print_labels(found: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for one in found:
        text = one["text"] if one.get("text_pair") is None else f"{one['text']} | {one['text_pair']}"
        answers = [(answer["label"], f"{answer['score']:.3f}") for answer in one["answers"]]
        rows += _beside((text,), answers, 2)
    print_table("", ("text", "label", "score"), rows, numbers=1)


def _print_entities(found: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for one in found:
        answers = [
            (
                one["text"][answer["start"] : answer["end"]],
                str(answer.get("entity_group", answer.get("entity"))),
                str(answer["start"]),
                str(answer["end"]),
                f"{answer['score']:.3f}",
            )
            for answer in one["answers"]
        ]
        rows += _beside((one["text"],), answers, 5)
    print_table("", ("text", "found", "entity", "start", "end", "score"), rows, numbers=3)


def _print_spans(found: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for one in found:
        answers = [
            (
                answer["answer"] or "(no answer)",
                str(answer["start"]),
                str(answer["end"]),
                f"{answer['score']:.3f}",
            )
            for answer in one["answers"]
        ]
        rows += _beside((one["question"],), answers, 4)
    print_table("", ("question", "answer", "start", "end", "score"), rows, numbers=3)


def _print_words(found: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for one in found:
        masks = one["answers"] if isinstance(one["answers"][0], list) else [one["answers"]]
        for place, mask in enumerate(masks, 1):
            text = one["text"] if len(masks) == 1 else f"{one['text']} (mask {place})"
            rows += _beside((text,), [(answer["token_str"], f"{answer['score']:.3f}") for answer in mask], 2)
    print_table("", ("text", "word", "score"), rows, numbers=1)


def _print_vectors(found: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (
            one["text"],
            str(len(one["embedding"])),
            " ".join(f"{number:.3f}" for number in one["embedding"][:4]) + " ...",
        )
        for one in found
    ]
    print_table("", ("text", "size", "vector (whole with --json)"), rows)


def _beside(asked: tuple[str, ...], answers: Sequence[tuple[str, ...]], width: int) -> list[tuple[str, ...]]:
    """Returns rows of a table: what was asked beside the first answer only."""
    shown = list(answers) or [("",) * width]
    return [(*(asked if place == 0 else ("",) * len(asked)), *answer) for place, answer in enumerate(shown)]


_PRINT = {
    "text-classification": _print_labels,
    "token-classification": _print_entities,
    "question-answering": _print_spans,
    "fill-mask": _print_words,
    "sentence-embeddings": _print_vectors,
}
