"""The command line: parses, calls `secateur.commands`, turns errors into one sentence and an exit status.

Exit status: 0; 2 the user's mistake; 130 Ctrl-C; 1 our bug. Nothing heavy is imported until a command runs,
so that `secateur --help` is quick.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from secateur.commands.baseline_app import baseline
from secateur.commands.one_shot_command import one_shot
from secateur.commands.options import (
    Aggregation,
    CheckpointFolder,
    ColumnOfRole,
    Data,
    DocStride,
    EngineName,
    Isa,
    JsonFile,
    LabelColumn,
    LoggingDir,
    MaskShare,
    MaxAnswerLen,
    MaxSeqLen,
    NoAnswer,
    NullThreshold,
    ReportTo,
    SweepAxis,
    Targets,
    Task,
    TaskOfModel,
    TextColumn,
    Threads,
    Threshold,
)
from secateur.commands.recipe_app import recipe_app
from secateur.commands.running import run_app
from secateur.commands.student_app import student
from secateur.errors import DataError

__all__ = ["app", "main"]

app = typer.Typer(
    name="secateur",
    help="Compress a fine-tuned BERT-family model and run it on a sparse int8 CPU engine.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _global_options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")
    ] = False,
) -> None:
    if debug:
        os.environ["SECATEUR_DEBUG"] = "1"
    if version:
        from secateur import __version__

        typer.echo(f"secateur {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def compress(
    model: Annotated[
        str,
        typer.Option(metavar="FOLDER", help="A Hugging Face model: fine-tuned for the data, or pretrained."),
    ],
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the checkpoint goes.")],
    task: Annotated[
        Task | None,
        typer.Option(help="What it shall do; default: what its head does, or what the data are for."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="A built-in recipe or a YAML file.")] = "balanced",
    teacher: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Another fine-tuned model to learn from.")
    ] = None,
    student_folder: Annotated[
        str | None,
        typer.Option("--student", metavar="FOLDER", help="Start from this smaller model; see `student`."),
    ] = None,
    column: ColumnOfRole = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    dense_out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep the dense model, if it is fine-tuned on the way."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="What labels mean: single-label, multi-label or regression; default: found out."),
    ] = None,
    max_seq_len: MaxSeqLen = None,
    doc_stride: DocStride = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep what the teacher says of the rows, and data of the hub, for other runs.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random number.")] = 42,
    save_every: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="How often the unfinished run is saved, in OUT.run.")
    ] = 500,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.run.")] = False,
    report_to: ReportTo = None,
    logging_dir: LoggingDir = None,
    threads: Threads = None,
) -> None:
    """Prune, distil and quantize a model on your data; write a checkpoint for the engine."""
    from secateur.commands.compress import Request, run

    name = None if task is None else task.value
    run(
        Request(
            *(model, data, out, name, recipe, teacher, dense_out, seed, threads, save_every, resume),
            *(tuple(column or ()), text_column, label_column, kind, max_seq_len, cache, student_folder),
            *(tuple(report_to or ()), logging_dir, doc_stride),
        )
    )


app.command("one-shot")(one_shot)


@app.command()
def evaluate(
    model: CheckpointFolder,
    data: Data,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    engine: Annotated[EngineName, typer.Option(help="What runs the model.")] = EngineName.secateur,
    task: TaskOfModel = None,
    column: ColumnOfRole = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    max_seq_len: MaxSeqLen = None,
    doc_stride: DocStride = None,
    max_answer_len: MaxAnswerLen = None,
    null_threshold: NullThreshold = None,
    mask_share: MaskShare = None,
    threads: Threads = None,
    isa: Isa = None,
    json_file: JsonFile = None,
) -> None:
    """Measure a model on labelled data: the scores of its task."""
    from secateur.commands.evaluate import Request, run

    options = {
        "doc_stride": doc_stride,
        "max_answer_tokens": max_answer_len,
        "null_threshold": null_threshold,
        "share": mask_share,
    }
    name, columns = None if task is None else task.value, tuple(column or ())
    request = Request(
        *(model, data, split, engine.value, name, columns, text_column, label_column),
        *(max_seq_len, options, threads, isa),
    )
    run(request, json_file)


@app.command()
def predict(
    model: CheckpointFolder,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT...",
            help="Texts, or questions on --context; default: the lines of stdin. A tab parts the texts of a "
            'pair; a JSON object gives them names: {"text": ..., "text_pair": ...}, {"question": ..., '
            '"context": ...}.',
        ),
    ] = None,
    question: Annotated[str | None, typer.Option(metavar="TEXT", help="A question on --context.")] = None,
    context: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The text that holds the answers.")
    ] = None,
    task: TaskOfModel = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Show the k best answers.")] = None,
    threshold: Threshold = None,
    aggregation: Aggregation = None,
    target: Targets = None,
    max_seq_len: MaxSeqLen = None,
    doc_stride: DocStride = None,
    max_answer_len: MaxAnswerLen = None,
    no_answer: NoAnswer = None,
    threads: Threads = None,
    isa: Isa = None,
    json_file: JsonFile = None,
) -> None:
    """Ask a model: labels, entities, answers, missing words or vectors for texts."""
    from secateur.commands.predict import Request, run

    options = {
        "top_k": top_k,
        "threshold": threshold,
        "aggregation_strategy": aggregation,
        "targets": target or None,
        "max_seq_len": max_seq_len,
        "doc_stride": doc_stride,
        "max_answer_len": max_answer_len,
        "handle_impossible_answer": no_answer,
    }
    name = None if task is None else task.value
    run(Request(model, texts, question, context, name, options, threads, isa), json_file)


app.command()(baseline)
app.command()(student)


@app.command()
def benchmark(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="Folder that `compress` wrote.")
    ] = None,
    synthetic: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Random weights instead: bert-base, bert-large, distilbert, minilm-l6."
        ),
    ] = None,
    pattern: Annotated[
        str, typer.Option(help="Of a synthetic model: block4, unstructured or dense.")
    ] = "block4",
    sparsity: Annotated[float, typer.Option(help="Of a synthetic model: fraction of zeros.")] = 0.8,
    quantized: Annotated[bool, typer.Option("--quantized", help="Of a synthetic model: int8.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Of a synthetic model: bfloat16 weights.")] = False,
    layers: Annotated[int | None, typer.Option(help="Of a synthetic model: its number of layers.")] = None,
    seq_len: Annotated[int, typer.Option(min=1, help="Tokens in each sequence.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences in a call.")] = 1,
    threads: Threads = None,
    isa: Isa = None,
    seconds: Annotated[float, typer.Option(min=0, help="Least time spent in timed calls.")] = 3.0,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the time goes, step by step, beside the CPU's peak.")
    ] = False,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Most tokens that go through the layers at a time; bounds the memory."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Time engines beside each other, in turns: secateur, onnxruntime, onnxruntime-int8, "
            "openvino, openvino-bf16, openvino-int8, pytorch, pytorch-bf16, deepsparse; or all installed.",
        ),
    ] = None,
    dense: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The dense model, for engines that run it.")
    ] = None,
    forms: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Keep the models that other engines run here, or find them here."
        ),
    ] = None,
    core_hour_price: Annotated[
        float | None, typer.Option(metavar="P", help="Price of one core for an hour: adds the cost of texts.")
    ] = None,
    json_file: JsonFile = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Vary one thing at a time around the case that the other options give (on one thread).",
        ),
    ] = False,
    lengths: SweepAxis = None,
    batch_sizes: SweepAxis = None,
    sparsities: SweepAxis = None,
    thread_counts: SweepAxis = None,
    layer_counts: SweepAxis = None,
    grid: Annotated[bool, typer.Option("--grid", help="Of a sweep: every combination.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Of a sweep: turns of each point.")] = 5,
    time_limit: Annotated[
        float | None, typer.Option(min=0, help="Of a sweep: stop after so many seconds; --json FILE goes on.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a sweep: an HTML page with the plots.")
    ] = None,
) -> None:
    """Measure the engine's latency and throughput."""
    if sweep:
        if engine or dense or forms or profile or bf16 or core_hour_price is not None:
            raise DataError(
                "A sweep is of our engine's latency alone, in int8 or float32: leave out --engine, --dense, "
                "--forms, --profile, --bf16 and --core-hour-price."
            )
        from secateur.commands.sweep import AxisOptions, SweepModel, SweepRequest, run_sweep

        run_sweep(
            SweepModel(model, synthetic, pattern, quantized, sparsity, layers),
            AxisOptions(lengths, batch_sizes, sparsities, thread_counts, layer_counts),
            SweepRequest(seq_len, batch_size, threads, isa, seconds, rounds, grid, time_limit),
            json_file,
            plots,
        )
        return None
    axes = (lengths, batch_sizes, sparsities, thread_counts, layer_counts)
    if grid or any(option is not None for option in (*axes, time_limit, plots)):
        raise DataError("--lengths, --grid, --plots and the other options of a sweep need --sweep.")
    from secateur.commands.benchmark import Request, Synthetic, run

    random_weights = Synthetic(synthetic, pattern, sparsity, quantized, layers, bf16) if synthetic else None
    request = Request(seq_len, batch_size, threads, isa, seconds, profile, max_tokens, core_hour_price)
    if engine is None and (dense or forms):
        raise DataError("--dense and --forms are for other engines: name them with --engine.")
    if engine is not None:
        from secateur.commands.comparison import run_comparison

        return run_comparison(model, random_weights, dense, engine, forms, request, json_file)
    return run(model, random_weights, request, json_file)


@app.command()
def inspect(
    model: CheckpointFolder,
    isa: Isa = None,
    json_file: JsonFile = None,
) -> None:
    """Show what a checkpoint is made of, and which kernel runs each part."""
    from secateur.commands.inspect import run

    run(model, isa, json_file)


@app.command()
def doctor(json_file: JsonFile = None) -> None:
    """Show what this machine offers, and what is missing."""
    from secateur.commands.doctor import run

    run(json_file)


app.add_typer(recipe_app, name="recipe")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Instead of those of the process.

    Returns:
        The exit status.
    """
    return run_app(app, arguments)
