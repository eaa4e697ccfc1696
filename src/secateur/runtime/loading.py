"""A checkpoint packed for an instruction set: once in a process, however many engines run it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from secateur.checkpoint import (
    Checkpoint,
    CheckpointIdentity,
    ModelShape,
    identify_checkpoint,
    read_checkpoint,
)
from secateur.errors import CheckpointError, DataError, UnsupportedError
from secateur.runtime.lowering import lower
from secateur.runtime.threads import usable_threads

__all__ = ["LoadedModel", "load_model", "native_module"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """What engines of one checkpoint share; nothing of it changes.

    Attributes:
        packed: The engine's model: weights in the layout of its kernels.
        config: The parsed config.json.
        shape: Its sizes.
        labels: The classes in the order of the logits.
    """

    packed: Any
    config: Mapping[str, Any]
    shape: ModelShape
    labels: tuple[str, ...]


# Goes by what the files are, not where they lie: a folder that was replaced or written to is another model.
_loaded: WeakValueDictionary[tuple[CheckpointIdentity, str], LoadedModel] = WeakValueDictionary()
_loading = threading.Lock()


def load_model(folder: str | os.PathLike[str], isa: str | None = None) -> LoadedModel:
    """Loads a checkpoint, or finds it where another engine of this process has it already.

    Args:
        folder: A folder that `secateur compress` wrote.
        isa: The instruction set to pack for; None for the environment variable SECATEUR_ISA, else the best.

    Raises:
        CheckpointError: If the folder is no sound checkpoint.
        UnsupportedError: If this version, build or CPU cannot run what is asked for.
        DataError: If `folder` is no path or `isa` no name.
    """
    if not isinstance(folder, (str, os.PathLike)) or "\0" in os.fspath(folder):
        raise DataError(f"The checkpoint must be the path of a folder, but is {folder!r}.")
    if isa is not None and not isinstance(isa, str):
        raise DataError(f"isa must be the name of an instruction set or None, but is {isa!r}.")
    native = native_module()
    try:
        chosen = str(native.resolve_isa(isa or ""))
    except ValueError as error:
        raise UnsupportedError(f"{str(error).rstrip('.')}.") from None
    with _loading:
        identity = identify_checkpoint(folder)
        model = None if identity is None else _loaded.get((identity, chosen))
        if model is None:
            checkpoint = read_checkpoint(folder)
            model = _pack(native, checkpoint, chosen)
            _loaded[checkpoint.identity, chosen] = model
    return model


def native_module() -> Any:
    """Returns the compiled engine.

    Raises:
        UnsupportedError: If it is not built.
    """
    try:
        return import_module("secateur._engine")
    except ImportError as error:
        raise UnsupportedError(
            f"The engine of {Path(__file__).parents[1]} cannot be loaded ({error}): install Secateur with "
            f"`pip install secateur`, or in a clone run `make build`, which needs a C++20 compiler."
        ) from None


def _pack(native: Any, checkpoint: Checkpoint, isa: str) -> LoadedModel:
    try:
        packed = native.Model(lower(checkpoint), isa, usable_threads()[0])
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.folder} cannot be run: {str(error).rstrip('.')}.") from None
    return LoadedModel(packed, checkpoint.config, checkpoint.shape, tuple(checkpoint.labels))


def _new_lock() -> None:
    """A child must not wait for a thread of its parent that was loading when it was forked."""
    global _loading
    _loading = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)
