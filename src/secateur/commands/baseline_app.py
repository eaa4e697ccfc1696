"""The options of `secateur baseline`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from secateur.commands.options import ColumnOfRole, Data, JsonFile, LabelColumn, Task, TextColumn, Threads

__all__ = ["Form", "baseline"]


class Form(str, Enum):
    """What the half of a network learns."""

    plain = "plain"
    distilbert = "distilbert"
    tinybert = "tinybert"


def baseline(
    data: Data,
    task: Annotated[
        Task | None,
        typer.Option(help="What the rows are for; default: that of --model, or what they look like."),
    ] = None,
    column: ColumnOfRole = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A network to halve or to learn from, or one to compare with."),
    ] = None,
    half_depth: Annotated[
        bool, typer.Option("--half-depth", help="Train every second layer of --model, too.")
    ] = False,
    form: Annotated[
        Form | None,
        typer.Option(
            help="Of --half-depth: learn outputs (plain), last hidden states too (distilbert), or first all "
            "that lies within (tinybert)."
        ),
    ] = None,
    bilstm: Annotated[
        bool,
        typer.Option("--bilstm", help="Distil --model into a BiLSTM of under a million parameters, too."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the half, or the BiLSTM, goes.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Whose training the half gets: a built-in recipe or a YAML file.")
    ] = "balanced",
    compare: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The metrics.json of a checkpoint to compare with.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random number.")] = 42,
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Measure what a simple model reaches on your data, to know whether a network is worth it."""
    from secateur.commands.baseline import Request, run

    run(
        Request(
            data=data,
            task=None if task is None else task.value,
            columns=tuple(column or ()),
            model=model,
            half_depth=half_depth,
            out=out,
            recipe=recipe,
            compare=compare,
            seed=seed,
            threads=threads,
            text=text,
            label=label,
            form=None if form is None else form.value,
            bilstm=bilstm,
        ),
        json_file,
    )
