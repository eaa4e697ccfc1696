"""Runs the command line: turns errors into one sentence and an exit status.

Exit status: 0; 2 the user's mistake; 130 Ctrl-C; 1 our bug.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

import typer

from secateur.errors import SecateurError

__all__ = ["run_app"]

EXIT_BUG = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


def run_app(app: typer.Typer, arguments: Sequence[str] | None) -> int:
    """Parses, runs a command and reports what went wrong.

    Args:
        app: The commands.
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
