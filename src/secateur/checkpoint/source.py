"""Opening files that anyone may have written, so that they can be told from what replaces them later."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from secateur.errors import CheckpointError

__all__ = ["FileIdentity", "identify", "open_regular"]


class FileIdentity(NamedTuple):
    """Equal for two looks at a file only if nothing was written to it, or put in its place, between them."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


def identify(path: Path) -> FileIdentity | None:
    """Returns what a path names now; None where it names nothing that can be looked at."""
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[FileIO, FileIdentity]]:
    """Opens an ordinary file or a link to one; pipes and devices would block, or never end.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is none.
        CheckpointError: If it cannot be read or is no ordinary file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} cannot be read: it is not an ordinary file.")
    with FileIO(descriptor) as file:
        yield file, _identity(status)


def _identity(status: os.stat_result) -> FileIdentity:
    return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
