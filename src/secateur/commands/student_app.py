"""The options of `secateur student`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.commands.options import Data, MaxSeqLen, Threads

__all__ = ["student"]


def student(
    model: Annotated[
        str,
        typer.Option(metavar="FOLDER", help="A Hugging Face encoder or masked language model: it teaches."),
    ],
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the student goes.")],
    recipe: Annotated[
        str, typer.Option(help="A built-in recipe or a YAML file, with a student.")
    ] = "general",
    max_seq_len: MaxSeqLen = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random number.")] = 42,
    save_every: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="How often the unfinished run is saved, in OUT.run.")
    ] = 500,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.run.")] = False,
    threads: Threads = None,
) -> None:
    """Make a smaller student of a model and teach it on plain texts; `compress --student` takes it on."""
    from secateur.commands.student import run

    run(model, data, out, recipe, max_seq_len, seed, save_every, resume, threads)
