"""Figures as JSON files, written whole or not at all."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.errors import DataError

__all__ = ["write_results", "write_text"]


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Writes figures to a JSON file: beside it first, then renamed over it.

    Args:
        path: The file, whose folder is made where it is missing; `-` writes to standard output.
        results: What to write.

    Raises:
        DataError: The file cannot be written.
    """
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the name of a JSON file.")
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Writes a file: beside its place first, then renamed over it.

    Args:
        path: The file, whose folder is made where it is missing.
        text: What to write.

    Raises:
        DataError: The file cannot be written.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the name of a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from error
        raise


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be written ({error.strerror}): choose another place.")
