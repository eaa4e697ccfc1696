"""The options that several commands share, with the words that explain them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Aggregation",
    "CheckpointFolder",
    "ColumnOfRole",
    "Data",
    "DocStride",
    "EngineName",
    "Isa",
    "JsonFile",
    "LabelColumn",
    "LoggingDir",
    "MaskShare",
    "MaxAnswerLen",
    "MaxSeqLen",
    "NoAnswer",
    "NullThreshold",
    "ReportTo",
    "SweepAxis",
    "Targets",
    "Task",
    "TaskOfModel",
    "TextColumn",
    "Threads",
    "Threshold",
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
        help="CSV, TSV, JSON-lines, SQuAD JSON, CoNLL or plain text file (also .gz), or a folder with train, "
        "validation and test files; or the packaged set assistant_intents, or org/name on the hub.",
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
ReportTo = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Tell tensorboard, mlflow, wandb or the like, too; repeatable."),
]
LoggingDir = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where TensorBoard's files go; default: OUT.logs."),
]
SweepAxis = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Of a sweep: the values; --sweep alone takes good ones.")
]
TaskOfModel = Annotated[Task | None, typer.Option(help="What the model does; default: what its config says.")]

# --- what single tasks can be told

MaxSeqLen = Annotated[
    int | None, typer.Option(min=1, help="Most tokens of a text, or of a window with its question.")
]
DocStride = Annotated[
    int | None,
    typer.Option(min=0, help="Question answering: tokens that neighbouring windows of a context share."),
]
MaxAnswerLen = Annotated[
    int | None, typer.Option(min=1, help="Question answering: most tokens of an answer.")
]
NullThreshold = Annotated[
    float | None,
    typer.Option(help="Question answering: no answer wins where it scores more than this above the best."),
]
NoAnswer = Annotated[
    bool | None, typer.Option("--no-answer", help="Question answering: there may be no answer.")
]
MaskShare = Annotated[
    float | None, typer.Option(min=0, max=1, help="Fill-mask: the share of tokens that is hidden and scored.")
]
Threshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="Multi-label: all labels that are so probable.")
]
Aggregation = Annotated[
    str | None,
    typer.Option(help="Token classification: none, simple (the default), first, average or max."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", metavar="WORD", help="Fill-mask: only these words; may be given often."),
]
