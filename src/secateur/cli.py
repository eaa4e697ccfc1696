"""The command line: parses, calls `secateur.commands`, turns errors into one sentence and an exit status.

Exit status: 0; 2 the user's mistake; 130 Ctrl-C; 1 our bug. Nothing heavy is imported until a command runs,
so that `secateur --help` is quick.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from secateur.commands.recipe_app import recipe_app
from secateur.errors import DataError, SecateurError

__all__ = ["app", "main"]

EXIT_BUG = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="secateur",
    help="Compress a fine-tuned BERT-family model and run it on a sparse int8 CPU engine.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class EngineName(str, Enum):
    """What runs a checkpoint."""

    secateur = "secateur"
    pytorch = "pytorch"


class Task(str, Enum):
    """What a model does with its text."""

    text_classification = "text-classification"


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
    task: Annotated[Task, typer.Option(help="What the model does.")] = Task.text_classification,
    recipe: Annotated[str, typer.Option(help="A built-in recipe or a YAML file.")] = "balanced",
    teacher: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Another fine-tuned model to learn from.")
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    dense_out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep the dense model, if it is fine-tuned on the way."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random number.")] = 42,
    save_every: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="How often the unfinished run is saved, in OUT.run.")
    ] = 500,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.run.")] = False,
    threads: Threads = None,
) -> None:
    """Prune, distil and quantize a model on your data; write a checkpoint for the engine."""
    from secateur.commands.compress import Request, run

    request = Request(
        model, data, out, task.value, recipe, teacher, dense_out, seed, threads, save_every, resume
    )
    run(request, text_column, label_column)


@app.command()
def evaluate(
    model: CheckpointFolder,
    data: Data,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    engine: Annotated[EngineName, typer.Option(help="What runs the model.")] = EngineName.secateur,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    threads: Threads = None,
    isa: Isa = None,
    json_file: JsonFile = None,
) -> None:
    """Measure a model's accuracy on labelled data."""
    from secateur.commands.evaluate import run

    run(model, data, split, engine.value, text_column, label_column, threads, isa, json_file)


@app.command()
def predict(
    model: CheckpointFolder,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; default: the lines of stdin.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Show the k likeliest labels.")] = 1,
    threads: Threads = None,
    isa: Isa = None,
    json_file: JsonFile = None,
) -> None:
    """Label texts."""
    from secateur.commands.predict import run

    run(model, texts, top_k, threads, isa, json_file)


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
    _show_warnings_of_our_own()
    try:
        status = app(args=arguments, prog_name="secateur", standalone_mode=False)
        sys.stdout.flush()
        if status == EXIT_INTERRUPTED:  # newer versions of typer make it a status, older ones an exception
            raise KeyboardInterrupt
        return int(status or 0)
    except SecateurError as error:
        return _complain(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return _complain("Interrupted.", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(
            error, "format_message"
        ):  # a usage error of click, which typer vendors from some version on
            return _complain(_usage_sentence(error))
        if isinstance(error, OSError) and error.filename is not None:
            return _complain(f"{error.filename}: {error.strerror}.")
        if os.environ.get("SECATEUR_DEBUG"):
            raise
        name = type(error).__name__
        return _complain(
            f"This is a bug in Secateur, not a mistake of yours ({name}: {error}); "
            f"please report it with what `secateur --debug ...` shows.",
            EXIT_BUG,
        )


def _show_warnings_of_our_own() -> None:
    """Prints what our modules log as warnings; hides the warnings that libraries mean for programmers."""
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"secateur\b")
    warnings.showwarning = _show_warning
    logger = logging.getLogger("secateur")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("secateur: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"secateur: {message}", file=sys.stderr)


def _complain(sentence: str, status: int = EXIT_USER) -> int:
    print(f"secateur: {sentence}", file=sys.stderr)
    return status


def _usage_sentence(error: Exception) -> str:
    message = str(error.format_message()).strip().rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "secateur"
    return f"{message}; see `{command} --help`."
