"""Where commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["hush_libraries", "note", "output", "print_table", "show_json"]

_FALLBACK_WIDTH = 160  # of what is not a terminal: a file or a pipe shall not fold a table's rows


def output() -> Console:
    """Makes the console for results."""
    return _console(stderr=False)


def note(text: str) -> None:
    """Prints a line that is not part of the result.

    Args:
        text: Plain text, no markup.
    """
    _console(stderr=True).print(text, markup=False, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> None:
    """Prints a table on standard output.

    Args:
        title: A line above it, or nothing.
        columns: Headings, left to right.
        rows: Cells as plain text, no markup.
        numbers: How many columns at the right end hold numbers.
    """
    made = Table()
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place >= len(columns) - numbers else "left")
    for row in rows:
        made.add_row(*map(Text, row))
    console = output()
    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(made)


def show_json(path: Path | None, results: Mapping[str, Any]) -> bool:
    """Writes a command's result where `--json` says.

    Args:
        path: A file, `-` for standard output, None for nowhere.
        results: The result.

    Returns:
        Whether standard output is taken, so that no table may follow.
    """
    from secateur.bench.results import write_results

    if path is None:
        return False
    write_results(path, results)
    return str(path) == "-"


def hush_libraries() -> None:
    """Keeps transformers and tokenizers from reporting on standard error; call before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(stderr=stderr, width=_FALLBACK_WIDTH)
    return console
