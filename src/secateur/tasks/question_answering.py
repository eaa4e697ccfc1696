"""Extractive question answering: the piece of a context that answers a question, or nothing.

A context that is too long is read in windows that overlap. Every window gives each of its tokens a logit for
being the answer's first token and one for being its last; where a window holds no answer, both shall fall on
the feature's first token.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from secateur.errors import DataError
from secateur.tasks.fields import required_text
from secateur.tasks.probability import softmax
from secateur.tasks.spans import best_spans
from secateur.tasks.squad_scores import squad_scores, squad_v2_scores
from secateur.tasks.task import Encoded, Outputs, Task
from secateur.tasks.tokenization import encodings
from secateur.tasks.windows import Frame, windows

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Prediction", "QuestionAnswering", "Row", "Window"]

_N_BEST = 20
_MAX_ANSWER_TOKENS = 30


class Row(NamedTuple):
    """A question on a context.

    Attributes:
        question: The question.
        context: What may hold the answer.
        answers: Right answers, each with its first character in the context; () where the context has none,
            None where nobody knows.
        id: What the data set calls the question.
    """

    question: str
    context: str
    answers: tuple[tuple[str, int], ...] | None = None
    id: str = ""


@dataclass(frozen=True)
class Window:
    """What a feature shows of its context.

    Attributes:
        first: How many tokens stand before the context's.
        start: Which of the context's tokens is the first.
        offsets: [n, 2] int32 characters of the feature's n tokens of the context.
        all_offsets: [N, 2] int32 characters of the whole context's tokens.
        words: [n] the number of the word that each is of, as the tokenizer sees words; -1 where it sees none.
    """

    first: int
    start: int
    offsets: NDArray[np.int32]
    all_offsets: NDArray[np.int32]
    words: list[int]


class Prediction(NamedTuple):
    """An answer as a piece of the context, with the sum of its two logits; empty for no answer."""

    text: str
    start: int
    end: int
    score: float


class QuestionAnswering(Task):
    """The piece of a context that answers a question.

    Args:
        doc_stride: Tokens of the context that a window shares with the one before; where they would fill it,
            half of them.
        window: Most tokens of a feature, where the model takes more.
        max_answer_tokens: Most tokens of an answer.
        null_threshold: A question counts as one without an answer where the score of no answer exceeds that
            of the best answer by more than this. Only data with such questions are scored so.
    """

    name = "question-answering"
    head = "token"
    auto_class = "AutoModelForQuestionAnswering"
    columns = {  # noqa: RUF012
        "question": ("question", "query"),
        "context": ("context", "passage", "paragraph"),
        "answers": ("answers", "answer"),
        "id": ("id", "qid"),
    }
    optional = frozenset({"id"})
    main_metric = "f1"

    def __init__(
        self,
        *,
        doc_stride: int = 128,
        window: int = 384,
        max_answer_tokens: int = _MAX_ANSWER_TOKENS,
        null_threshold: float = 0.0,
    ) -> None:
        if math.isnan(null_threshold):
            raise DataError("null_threshold must be a number, but is nan: no score exceeds it.")
        self.labels: list[str] = []
        self.doc_stride = doc_stride
        self.window = window
        self.max_answer_tokens = max_answer_tokens
        self.null_threshold = null_threshold

    @classmethod
    def from_rows(
        cls, rows: Sequence[Row], *, kind: str | None = None, names: Sequence[str] | None = None
    ) -> Self:
        """Returns the task; there is nothing to learn: see `Task`."""
        if kind is not None:
            raise DataError(f"{cls.name} has no kinds, but {kind!r} was given: leave it out.")
        return cls()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Returns the task: see `Task`."""
        return cls()

    def config(self) -> dict[str, Any]:
        """Returns nothing: the head's two outputs have no names. See `Task`."""
        return {}

    # --- rows ------------------------------------------------------

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Row:
        """Makes a row, and checks that answers stand where they are said to: see `Task`."""
        question, context = required_text(record, "question"), required_text(record, "context")
        name = record.get("id")
        answers = _answers(record.get("answers"))
        for text, start in answers:
            if not text.strip():
                raise DataError("'answers' holds an empty text; give empty lists where there is no answer")
            found = context[start : start + len(text)] if start >= 0 else ""
            if found != text:
                raise DataError(
                    f"'answers' says {text!r} at character {start} of the context, but there stands {found!r}"
                )
        return Row(question, context, answers, "" if name is None else str(name))

    @classmethod
    def key(cls, row: Row) -> str:
        """Returns question and context: see `Task`."""
        return f"{row.question}\n{row.context}"

    @classmethod
    def group(cls, row: Row) -> str:
        """Returns the context: questions on one context never part. See `Task`."""
        return row.context

    @classmethod
    def truth(cls, row: Row) -> Hashable:
        """Returns the answers: see `Task`."""
        return None if row.answers is None else tuple(sorted(row.answers))

    # --- rows to token ids -----------------------------------------

    def encode(self, tokenizer: Tokenizer, rows: Sequence[Row], max_length: int) -> Encoded:
        """Tokenizes questions with windows over their contexts: see `Task`.

        A question keeps at most half of the tokens; `cut` counts those that lose some.
        """
        longest = min(max_length, self.window)
        input_ids: list[list[int]] = []
        token_types: list[list[int]] = []
        numbers: list[int] = []
        details: list[Any] = []
        cut = 0
        pairs = [(row.question.strip(), row.context) for row in rows]
        for number, encoding in enumerate(encodings(tokenizer, pairs)):
            frame = Frame(encoding, most_before=longest // 2)
            cut += frame.cut
            offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)[frame.tokens]
            numbered = encoding.word_ids
            words = [-1 if (word := numbered[index]) is None else word for index in frame.tokens]
            for start, stop in windows(len(frame.tokens), frame.room(longest), self.doc_stride):
                ids, types = frame.feature(start, stop)
                input_ids.append(ids)
                token_types.append(types)
                numbers.append(number)
                details.append(Window(frame.first, start, offsets[start:stop], offsets, words[start:stop]))
        types_or_none = token_types if any(map(any, token_types)) else None
        return Encoded(input_ids, types_or_none, numbers, details=details, cut=cut)

    def targets(self, rows: Sequence[Row], encoded: Encoded) -> list[dict[str, Any]]:
        """Returns the first and last token of the first right answer: see `Task`.

        Both are the feature's first token where its window does not hold the whole answer, or there is none.
        """
        found = []
        for number, window in zip(encoded.rows, encoded.details, strict=True):
            answers = rows[number].answers
            if answers is None:
                raise DataError(
                    f"The question {rows[number].question!r} has no answers: give data with answers."
                )
            places = (0, 0)
            if answers:
                text, start = answers[0]
                first, last = _tokens(window.all_offsets, start, start + len(text))
                first, last = first - window.start, last - window.start
                if 0 <= first <= last < len(window.offsets):
                    places = (window.first + first, window.first + last)
            found.append({"start_positions": places[0], "end_positions": places[1]})
        return found

    # --- outputs to answers and scores -----------------------------

    def answers(
        self,
        rows: Sequence[Row],
        encoded: Encoded,
        outputs: Outputs,
        *,
        top_k: int = 1,
        no_answer: bool = False,
        max_answer_tokens: int | None = None,
        null_threshold: float | None = None,
        **options: Any,
    ) -> list[Any]:
        """Turns logits into the best answers.

        Args:
            rows: The rows.
            encoded: Their features.
            outputs: [F] logits [S, 2] of starts and ends.
            top_k: Most answers a question.
            no_answer: Whether "" may be an answer: it comes first where its score exceeds the best answer's
                by more than the threshold.
            max_answer_tokens: Most tokens of an answer; None for the task's.
            null_threshold: See the class; None for the task's.
            **options: There are no others.

        Returns:
            A row: a list of `answer`, `start`, `end` (characters of the context) and `score` (a probability
            among the best 20 spans), best first.

        Raises:
            DataError: An option is not known or out of range.
        """
        if options:
            raise DataError(f"{self.name} has no option {sorted(options)[0]!r}.")
        longest = self.max_answer_tokens if max_answer_tokens is None else max_answer_tokens
        for name, value in (("top_k", top_k), ("max_answer_tokens", longest)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise DataError(f"{name} must be a positive integer, but is {value!r}.")
        threshold = self.null_threshold if null_threshold is None else null_threshold
        best, nulls = self.predictions(rows, encoded, outputs, max(top_k, _N_BEST), longest)
        found = []
        for predictions, null in zip(best, nulls, strict=True):
            given = [*predictions]
            if no_answer or not given:
                nothing = Prediction("", 0, 0, null)
                refused = not given or null - given[0].score > threshold
                given.insert(0 if refused else sum(one.score >= null for one in given[1:]) + 1, nothing)
            shares = softmax(np.array([one.score for one in given]))
            found.append(
                [
                    {"answer": one.text, "start": one.start, "end": one.end, "score": float(share)}
                    for one, share in zip(given[:top_k], shares, strict=False)
                ]
            )
        return found

    def score(self, rows: Sequence[Row], encoded: Encoded, outputs: Outputs) -> dict[str, Any]:
        """Scores the best answers by the rules of SQuAD v1, or of v2 where a question has no answer.

        Returns:
            See `squad_scores` and `squad_v2_scores`.

        Raises:
            DataError: There is no row, or nobody knows the answers of one.
        """
        if not rows:
            raise DataError("There is no row to score: give data with a test split.")
        if any(row.answers is None for row in rows):
            raise DataError("A question has no answers to compare with: give data with answers.")
        best, nulls = self.predictions(rows, encoded, outputs, 1, self.max_answer_tokens)
        given = [predictions[0].text if predictions else "" for predictions in best]
        references = [[text for text, _ in row.answers or ()] for row in rows]
        if all(references):
            return squad_scores(given, references)
        differences = [
            null - (predictions[0].score if predictions else -np.inf)
            for predictions, null in zip(best, nulls, strict=True)
        ]
        return squad_v2_scores(given, references, differences, self.null_threshold)

    def predictions(
        self, rows: Sequence[Row], encoded: Encoded, outputs: Outputs, count: int, max_answer_tokens: int
    ) -> tuple[list[list[Prediction]], list[float]]:
        """Finds the best answers over all windows.

        Args:
            rows: [n] rows.
            encoded: Their features.
            outputs: [F] logits [S, 2].
            count: Most answers a row.
            max_answer_tokens: Most tokens of an answer.

        Returns:
            [n] answers, best first, each span of characters once with its best score; [n] scores of no
            answer, each the lowest that a window gives.
        """
        found: list[dict[tuple[int, int], float]] = [{} for _ in rows]
        nulls = [float("inf")] * len(rows)
        for number, window, output in zip(encoded.rows, encoded.details, outputs, strict=True):
            logits = np.asarray(output, np.float32)
            nulls[number] = min(nulls[number], float(logits[0, 0]) + float(logits[0, 1]))
            context = logits[window.first : window.first + len(window.offsets)]
            for span in best_spans(context[:, 0], context[:, 1], count, max_answer_tokens):
                place = int(window.offsets[span.start, 0]), int(window.offsets[span.end, 1])
                found[number][place] = max(span.score, found[number].get(place, -np.inf))
        best = []
        for row, places in zip(rows, found, strict=True):
            ordered = sorted(places.items(), key=lambda one: (-one[1], one[0]))[:count]
            ends = [(start, _with_marks(row.context, end), score) for (start, end), score in ordered]
            best.append([Prediction(row.context[s:e], s, e, score) for s, e, score in ends])
        return best, nulls

    # --- for people ------------------------------------------------

    def describe(self, rows: Sequence[Row]) -> list[str]:
        """Returns how many contexts there are, and how many questions have no answer: see `Task`."""
        contexts = len({row.context for row in rows})
        nothing = sum(not row.answers for row in rows)
        line = f"{len(rows)} questions on {contexts} contexts"
        return [f"{line}, {nothing} of them without an answer" if nothing else line]


def _answers(given: Any) -> tuple[tuple[str, int], ...]:
    """Reads answers as {"text": [...], "answer_start": [...]} or [{"text": ..., "answer_start": ...}]."""
    texts, starts = None, None
    if isinstance(given, Mapping):
        texts, starts = given.get("text"), given.get("answer_start")
    elif isinstance(given, (list, tuple)) and all(isinstance(one, Mapping) for one in given):
        texts, starts = [one.get("text") for one in given], [one.get("answer_start") for one in given]
    if isinstance(texts, str) and isinstance(starts, int):
        texts, starts = [texts], [starts]
    if (
        not isinstance(texts, (list, tuple))
        or not isinstance(starts, (list, tuple))
        or len(texts) != len(starts)
        or not all(isinstance(text, str) for text in texts)
        or not all(isinstance(start, int) and not isinstance(start, bool) for start in starts)
    ):
        raise DataError('\'answers\' must look like {"text": ["..."], "answer_start": [0]}')
    return tuple(zip(texts, starts, strict=True))


def _with_marks(text: str, end: int) -> int:
    """Moves an end behind combining marks, which tokenizers that strip accents leave out."""
    while end < len(text) and unicodedata.combining(text[end]):
        end += 1
    return end


def _tokens(offsets: NDArray[np.int32], start: int, end: int) -> tuple[int, int]:
    """Returns the first and last token that share a character with a span; first > last where none does."""
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return first, last
