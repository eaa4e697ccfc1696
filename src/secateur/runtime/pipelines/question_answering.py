"""Questions with contexts in; the pieces of the contexts that answer them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError
from secateur.runtime.pipelines.pipeline import Pipeline, checked_text, counting_number, listed
from secateur.tasks.probability import softmax
from secateur.tasks.question_answering import QuestionAnswering, Row, Window
from secateur.tasks.spans import best_spans

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["QuestionAnsweringPipeline"]

Pair = Mapping[str, str]


class Options(TypedDict, total=False):
    """What a call may say."""

    top_k: int
    doc_stride: int | None
    max_seq_len: int | None
    max_answer_len: int
    handle_impossible_answer: bool
    align_to_words: bool


class QuestionAnsweringPipeline(Pipeline[QuestionAnswering]):
    """Finds answers in contexts. Safe to call from many threads at a time."""

    OPTIONS: ClassVar[Mapping[str, Any]] = {
        "top_k": 1,
        "doc_stride": None,
        "max_seq_len": None,
        "max_answer_len": 15,
        "handle_impossible_answer": False,
        "align_to_words": True,
    }

    def __call__(
        self,
        inputs: Pair | Sequence[Pair] | None = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Answers.

        Args:
            inputs: `{"question": ..., "context": ...}` or a list of them, instead of the two that follow.
            question: A question or several.
            context: The text that holds the answer: one for all questions, or as many as questions.
            **options: `top_k`: how many answers, best first.
                `doc_stride`: how many tokens neighbouring windows of a long context share; None is 128, or
                half a window where that is less.
                `max_seq_len`: most tokens of a window with its question; None is 384, or what the model
                takes.
                `max_answer_len`: most tokens of an answer.
                `handle_impossible_answer`: whether "" may be the answer, for a model trained with questions
                that have none.
                `align_to_words`: whether an answer ends at the ends of words.

        Returns:
            `{"score", "start", "end", "answer"}` for one question, a list of these for several; each a list,
            best first, where `top_k` is larger than 1. `context[start:end]` is the answer. The score is the
            probability of start times that of end in their window, added up over windows.

        Raises:
            DataError: A question or context is missing, empty or not a string, or an option has an impossible
                value.
        """
        chosen = self._with(options)
        pairs = _pairs(inputs, question, context)
        alone = isinstance(inputs, Mapping) or isinstance(question, str)
        longest, stride = self._sizes(chosen)
        task = QuestionAnswering(doc_stride=stride, window=longest)
        encoded = self.encode_rows(pairs, longest, task=task)
        candidates: list[list[_Candidate]] = [[] for _ in pairs]
        nothing = [1.0] * len(pairs)
        many = 2 * chosen["top_k"] + 10 if chosen["align_to_words"] else chosen["top_k"]
        outputs = self.outputs(encoded)
        for row, window, logits in zip(encoded.rows, encoded.details, outputs, strict=True):
            none, start, end = _probabilities(logits, window)
            nothing[row] = min(nothing[row], none)
            for first, last, score in _likeliest(start, end, many, chosen["max_answer_len"]):
                span = _characters(window, first, last, chosen["align_to_words"])
                candidates[row].append((*span, score))
        found: list[Any] = [
            _answers(
                pair.context, spans, chosen["top_k"], none if chosen["handle_impossible_answer"] else None
            )
            for pair, spans, none in zip(pairs, candidates, nothing, strict=True)
        ]
        if chosen["top_k"] == 1:
            found = [best[0] for best in found]
        return found[0] if alone else found

    def _check(self, options: Mapping[str, Any]) -> None:
        for name in ("top_k", "max_answer_len"):
            counting_number(name, options[name])
        for name in ("handle_impossible_answer", "align_to_words"):
            if not isinstance(options[name], bool):
                raise DataError(f"{name} must be True or False, but is {options[name]!r}.")
        longest, stride = options["max_seq_len"], options["doc_stride"]
        counting_number("max_seq_len", longest, none="384, or what the model takes")
        if longest is not None and longest > self.max_length:
            raise DataError(f"max_seq_len is {longest}, but the model takes {self.max_length} tokens.")
        if stride is None:
            return
        if isinstance(stride, bool) or not isinstance(stride, int) or stride < 0:
            raise DataError(f"doc_stride must be None or an integer from 0 on, but is {stride!r}.")
        window, _ = self._sizes(options)
        if stride >= window:
            raise DataError(f"doc_stride is {stride}, but a window has {window} tokens: give a smaller one.")

    def _sizes(self, options: Mapping[str, Any]) -> tuple[int, int]:
        """Returns the tokens of a window, and how many of them the one before has, too."""
        longest = options["max_seq_len"] or min(384, self.max_length)
        stride = options["doc_stride"]
        return longest, min(128, longest // 2) if stride is None else stride


_Candidate = tuple[int, int, float]  # first character, the one behind the last, probability


def _pairs(inputs: Any, question: Any, context: Any) -> list[Row]:
    if inputs is not None:
        if question is not None or context is not None:
            raise DataError("Give either question and context, or dictionaries with both.")
        records = [inputs] if isinstance(inputs, Mapping) else listed(inputs)
        for place, record in enumerate(records):
            if not isinstance(record, Mapping) or not {"question", "context"} <= set(record):
                raise DataError(f"Input {place} must be a dictionary with 'question' and 'context'.")
        given = [(record["question"], record["context"]) for record in records]
    elif question is None or context is None:
        raise DataError(f"A {'question' if question is None else 'context'} is missing: give both.")
    else:
        questions = listed(question)
        contexts = [context] * len(questions) if isinstance(context, str) else listed(context)
        if len(questions) != len(contexts):
            raise DataError(
                f"There are {len(questions)} questions and {len(contexts)} contexts: give one context for "
                f"all, or as many as questions."
            )
        given = list(zip(questions, contexts, strict=True))
    return [
        Row(checked_text(one, f"Question {place}"), checked_text(other, f"Context {place}"))
        for place, (one, other) in enumerate(given)
    ]


def _probabilities(
    logits: NDArray[np.float32], window: Window
) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
    """Returns the probability of no answer, and [n] those of the answer's first and last token.

    All are shares among the tokens of the context and the feature's first token, which stands for no answer.
    """
    context = logits[window.first : window.first + len(window.offsets)]
    shares = softmax(np.concatenate([logits[:1], context]).T)
    return float(shares[0, 0] * shares[1, 0]), shares[0, 1:], shares[1, 1:]


def _likeliest(
    start: NDArray[np.float32], end: NDArray[np.float32], count: int, longest: int
) -> list[tuple[int, int, float]]:
    """Returns first token, last token and probability of the likeliest spans, best first."""
    with np.errstate(divide="ignore"):
        logs = np.log(start, dtype=np.float64), np.log(end, dtype=np.float64)
    return [(span.start, span.end, float(np.exp(span.score))) for span in best_spans(*logs, count, longest)]


def _characters(window: Window, first: int, last: int, whole_words: bool) -> tuple[int, int]:
    """Returns the characters of a span of tokens, widened to whole words as far as the window shows them."""
    if whole_words:
        words = window.words
        while first > 0 and words[first - 1] == words[first] >= 0:
            first -= 1
        while last + 1 < len(words) and words[last + 1] == words[last] >= 0:
            last += 1
    return int(window.offsets[first, 0]), int(window.offsets[last, 1])


def _answers(
    context: str, candidates: Sequence[_Candidate], top_k: int, nothing: float | None
) -> list[dict[str, Any]]:
    """Adds up what answers in the same words, and orders."""
    found: dict[str, dict[str, Any]] = {}
    for start, end, score in candidates:
        answer = context[start:end]
        same = found.get(answer.lower())
        if same is not None:
            same["score"] += score
        else:
            found[answer.lower()] = {"score": score, "start": start, "end": end, "answer": answer}
    answers = list(found.values())
    if nothing is not None:
        answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
    answers.sort(key=lambda answer: -float(answer["score"]))
    return answers[:top_k] or [{"score": 0.0, "start": 0, "end": 0, "answer": ""}]
