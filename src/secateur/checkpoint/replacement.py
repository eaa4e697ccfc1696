"""Putting a finished folder in the place of another one in one step."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

__all__ = ["replace_folder", "sync_folder"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sync_folder(folder: Path) -> None:
    """Forces a flat folder and its files to disk, so that a rename never outlives its content."""
    for path in [*folder.iterdir(), folder]:
        _sync(path)


def replace_folder(source: Path, target: Path) -> None:
    """Moves `source` to `target`; what lay at `target` before is deleted.

    On Linux the two change places in one system call, so that a reader sees the old folder or the new one.
    Elsewhere the old one steps aside first, and back again if the move fails.

    Args:
        source: A finished folder beside the target.
        target: A missing, empty or outdated folder.

    Raises:
        OSError: If the file system refuses; the target is then as it was.
    """
    if not target.exists():
        os.rename(source, target)
    elif _exchange(source, target):
        shutil.rmtree(source)
    else:
        aside = source.with_name(f"{source.name}.old")
        os.rename(target, aside)
        try:
            os.rename(source, target)
        except OSError:
            os.rename(aside, target)
            raise
        shutil.rmtree(aside)
    _sync(target.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two folders atomically; False where the system or the file system has no such call."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # an old C library
        return False
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    if renameat2(*paths, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
