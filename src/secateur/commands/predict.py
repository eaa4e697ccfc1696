"""`secateur predict`: labels for texts from the command line or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from secateur.commands.console import print_table, show_json
from secateur.errors import DataError
from secateur.runtime.pipelines import pipeline

__all__ = ["run"]


def run(
    model: Path,
    texts: Sequence[str] | None,
    top_k: int,
    threads: int | None,
    isa: str | None,
    json_file: Path | None,
) -> None:
    """Labels texts and prints the answers.

    Args:
        model: The checkpoint's folder.
        texts: The texts; none for the lines of standard input, empty ones left out.
        top_k: Answers for each text.
        threads: Threads to use; None for all.
        isa: An instruction set to force; None for the best.
        json_file: Where to write the answers as JSON.

    Raises:
        SecateurError: The checkpoint or a text cannot be used.
    """
    given = list(texts) if texts else _lines_of_stdin()
    classify = pipeline(model, num_threads=threads, isa=isa)
    found = classify.answers(given, top_k)
    rows = [{"text": text, "answers": best} for text, best in zip(given, found, strict=True)]
    if show_json(json_file, {"predictions": rows}):
        return
    lines = [
        ("" if place else text, answer["label"], f"{answer['score']:.3f}")
        for text, best in zip(given, found, strict=True)
        for place, answer in enumerate(best)
    ]
    print_table("", ("text", "label", "score"), lines, numbers=1)


def _lines_of_stdin() -> list[str]:
    if sys.stdin.isatty():
        raise DataError("No text is given: name it after the model, or send lines to standard input.")
    try:
        lines = [line.strip() for line in sys.stdin.read().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"Standard input is not UTF-8 text (byte {error.start}): convert it.") from None
    given = [line for line in lines if line]
    if not given:
        raise DataError("Standard input holds no text: send one text a line.")
    return given
