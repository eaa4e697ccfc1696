"""The options that several commands share, with the words that explain them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "CheckpointFolder",
    "ColumnOfRole",
    "Data",
    "EngineName",
    "Isa",
    "JsonFile",
    "LabelColumn",
    "SweepAxis",
    "Task",
    "TextColumn",
    "Threads",
]


class EngineName(str, Enum):
    """What runs a checkpoint."""

    secateur = "secateur"
    pytorch = "pytorch"


class Task(str, Enum):
    """What a model does with its text; the names of `secateur.tasks.TASKS`, which a test compares."""

    text_classification = "text-classification"
    token_classification = "token-classification"
    question_answering = "question-answering"
    fill_mask = "fill-mask"
    sentence_embeddings = "sentence-embeddings"


CheckpointFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `compress` wrote.")]
Data = Annotated[
    str,
    typer.Option(
        metavar="PATH",
        help="CSV, TSV or JSON-lines file (also .gz), or a folder with train, validation and test files; "
        "or the name of the packaged set, assistant_intents.",
    ),
]
TextColumn = Annotated[
    str | None, typer.Option("--text", metavar="NAME", help="The column that holds the text.")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label", metavar="NAME", help="The column that holds the label.")
]
ColumnOfRole = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=COLUMN",
        help="The column that holds a role of the task, for example text_pair=hypothesis; repeatable.",
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads to use; default: all that this process may use.")
]
Isa = Annotated[
    str | None,
    typer.Option(help="Force an instruction set, for example avx2; default: the best this CPU has."),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON; - for stdout.")
]
SweepAxis = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Of a sweep: the values; --sweep alone takes good ones.")
]
