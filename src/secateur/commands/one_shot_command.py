"""The parser of `secateur one-shot`; imports nothing heavy, as `secateur.cli` asks."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from secateur.commands.options import (
    ColumnOfRole,
    Data,
    JsonFile,
    LabelColumn,
    MaxSeqLen,
    Task,
    TextColumn,
    Threads,
)
from secateur.errors import DataError

__all__ = ["one_shot"]


class _Quantize(str, Enum):
    static = "static"
    dynamic = "dynamic"
    auto = "auto"


class _Rounding(str, Enum):
    nearest = "nearest"
    gptq = "gptq"


def one_shot(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Hugging Face folder, fine-tuned on the data.")
    ],
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the checkpoint goes.")],
    sparsity: Annotated[
        float | None, typer.Option(help="Fraction of weights to remove, 0 to 1; without, none.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="How weights are scored: wanda and sparsegpt (the default) look at texts alone, obert and "
            "taylor at labels, too, magnitude at nothing."
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="What goes together: block4 (the default), unstructured, block:RxC, N:M as 2:4."),
    ] = None,
    ranking: Annotated[
        str | None, typer.Option(help="What is compared: global, matrix or row; default: the method's own.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="A key of the method, as in recipes; repeatable."),
    ] = None,
    quantize: Annotated[
        _Quantize | None,
        typer.Option(help="Make it int8: static or dynamic activations; auto leaves in float what it must."),
    ] = None,
    rounding: Annotated[
        _Rounding | None, typer.Option(help="Of weights to int8: nearest, or gptq, layer by layer.")
    ] = None,
    max_loss_increase: Annotated[
        float | None, typer.Option(min=0, help="Of --quantize auto: most by which the loss may rise.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Training rows to calibrate with; default: 512 at most.")
    ] = None,
    task: Annotated[Task | None, typer.Option(help="What it does; default: what its head does.")] = None,
    column: ColumnOfRole = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    kind: Annotated[
        str | None,
        typer.Option(help="What labels mean: single-label, multi-label or regression; default: found out."),
    ] = None,
    max_seq_len: MaxSeqLen = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random number.")] = 42,
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Prune and quantize a fine-tuned model without training it; write a checkpoint for the engine."""
    from secateur.commands.one_shot import Quantization, Request, run

    if quantize is None and (rounding is not None or max_loss_increase is not None):
        raise DataError("--rounding and --max-loss-increase are of --quantize: give that, too.")
    form = None
    if quantize is not None:
        form = Quantization(quantize.value, rounding.value if rounding else None, max_loss_increase)
    request = Request(
        *(model, data, out, method, sparsity, pattern, ranking, tuple(option or ()), form, rows),
        *(None if task is None else task.value, tuple(column or ()), text_column, label_column, kind),
        *(max_seq_len, seed, threads),
    )
    run(request, json_file)
