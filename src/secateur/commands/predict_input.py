"""What `secateur predict` is asked: texts, pairs of them, or questions with contexts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.errors import DataError

__all__ = ["read_input"]

_FIELDS = {
    "text-classification": ("text", "text_pair"),
    "question-answering": ("question", "context"),
}


def read_input(
    task: str, texts: Sequence[str] | None, question: str | None, context: str | None
) -> list[Any]:
    """Gathers what a pipeline shall be called with.

    Args:
        task: The task's name.
        texts: From the command line; none for the lines of standard input, empty ones left out. A text that
            begins as a JSON object is one; a tab parts the two texts of a pair.
        question: Of question answering: the question.
        context: Of question answering: the context of all questions.

    Returns:
        Strings; dictionaries with `text` and `text_pair`, or with `question` and `context`.

    Raises:
        DataError: There is nothing, or something that the task cannot use.
    """
    answering = task == "question-answering"
    if not answering and (question is not None or context is not None):
        raise DataError(f"--question and --context are for question-answering, and this model is for {task}.")
    if question is not None:
        if texts:
            raise DataError("Give questions either with --question or after the model.")
        if context is None:
            raise DataError("--question needs the text that holds the answer: give it with --context.")
        return [{"question": question, "context": context}]
    given = [(f"Text {place}", text) for place, text in enumerate(texts or ())] or _lines_of_stdin()
    return [_one(task, where, text, context) for where, text in given]


def _one(task: str, where: str, text: str, context: str | None) -> Any:
    fields = _FIELDS.get(task, ("text",))
    if text.lstrip().startswith('{"'):
        record = _record(where, text, fields)
        if task == "question-answering" and context is not None:
            record.setdefault("context", context)
        missing = fields[0] if fields[0] not in record else None
        if task == "question-answering" and "context" not in record:
            missing = missing or "context"
        if missing:
            raise DataError(f"{where} is a JSON object without {missing!r}: add it.")
        return record if len(fields) == 2 else record["text"]
    if task == "question-answering":
        if context is None:
            raise DataError(
                f"{where} is a question without a context: give --context, or JSON lines with 'question' and "
                f"'context'."
            )
        return {"question": text, "context": context}
    if task == "text-classification" and "\t" in text.strip():
        parts = text.strip().split("\t")
        if len(parts) != 2:
            raise DataError(f"{where} has {len(parts) - 1} tabs: one parts the two texts of a pair.")
        return {"text": parts[0], "text_pair": parts[1]}
    return text


def _record(where: str, text: str, fields: Sequence[str]) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f'{where} begins as a JSON object but is none ({error}): write {{"{fields[0]}": ...}}.'
        ) from None
    extra = sorted(set(record) - set(fields)) if isinstance(record, Mapping) else []
    if extra:
        raise DataError(f"{where} has the field {extra[0]!r}: known are {', '.join(fields)}.")
    return dict(record)


def _lines_of_stdin() -> list[tuple[str, str]]:
    if sys.stdin.isatty():
        raise DataError("No text is given: name it after the model, or send lines to standard input.")
    try:
        lines = sys.stdin.read().split("\n")  # splitlines would end lines at U+2028, too
    except UnicodeDecodeError as error:
        raise DataError(f"Standard input is not UTF-8 text (byte {error.start}): convert it.") from None
    given = [(f"Line {place}", line.strip()) for place, line in enumerate(lines, 1) if line.strip()]
    if not given:
        raise DataError("Standard input holds no text: send one text a line.")
    return given
