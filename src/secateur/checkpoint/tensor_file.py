"""Reading a safetensors file that anyone may have written, and writing one.

The header is checked whole before a tensor is read. Tensors are read rather than mapped: a file that is cut
off or written to while a process uses it can then do no more than raise, where a mapping would kill the
process or change its weights under it. Files are written here too: for numpy the library has no bfloat16.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from secateur.checkpoint.bfloat16 import BF16
from secateur.checkpoint.source import FileIdentity, open_regular
from secateur.errors import CheckpointError

__all__ = ["read_tensors", "write_tensors"]

_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "BF16": BF16,
    "F32": np.dtype("<f4"),
}
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # what the safetensors library allows
_MAX_DIMENSIONS = 8
_READ_AT_ONCE = 1 << 30  # Linux reads at most 2 GB in one call


class _Damage(Exception):
    """What is wrong with the file, as a clause."""


class _Entry(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int  # from the end of the header
    end: int


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], FileIdentity]:
    """Reads every tensor of a file.

    Args:
        path: A safetensors file of int8, uint8, uint16, bfloat16 and float32 tensors.

    Returns:
        The tensors by name, read-only, each in memory of its own, bfloat16 as `BF16`; and which file it was.

    Raises:
        CheckpointError: If the file is missing, damaged, too large for the memory or of other types.
    """
    try:
        with open_regular(path) as (file, identity):
            if identity.size > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
                raise MemoryError  # a file of holes can be larger than any memory, and fill it
            entries = _read_header(path, file, identity.size)
            start = file.tell()
            return {name: _read_tensor(file, start, entry) for name, entry in entries.items()}, identity
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: copy the whole folder.") from None
    except _Damage as damage:
        raise CheckpointError(f"{path} is truncated or altered ({damage}): copy the folder again.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise CheckpointError(f"{path} is too large for the memory of this machine.") from None


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Writes a file, byte for byte as the safetensors library does: the widest types first, then by name.

    Args:
        path: A new file.
        tensors: By name, of the types that `read_tensors` gives.
        metadata: What the header says beside.

    Raises:
        OSError: If it cannot be written.
    """
    types = {dtype: name for name, dtype in _DTYPES.items()}
    order = list(_DTYPES)  # among types as wide as each other the library's order
    ordered = sorted(tensors, key=lambda name: (-order.index(types[tensors[name].dtype]), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in ordered:
        begin, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": types[tensors[name].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for name in ordered:
            file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)


def _read_header(path: Path, file: FileIO, file_size: int) -> dict[str, _Entry]:
    if file_size < _LENGTH_BYTES:
        raise _Damage("it is too short for a header")
    header_size = int.from_bytes(_read(file, _LENGTH_BYTES), "little")
    if header_size > min(_MAX_HEADER_BYTES, file_size - _LENGTH_BYTES):
        raise _Damage(f"its header claims {header_size} bytes")
    try:
        header = json.loads(bytes(_read(file, header_size)), object_pairs_hook=_distinct)
    except RecursionError:
        raise _Damage("its header is nested too deeply") from None
    except ValueError as error:
        raise _Damage(f"its header is not valid JSON: {error}") from None
    if not isinstance(header, dict):
        raise _Damage("its header is not an object")
    header.pop("__metadata__", None)
    return _layout(path, header, file_size - _LENGTH_BYTES - header_size)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _layout(path: Path, header: dict[str, Any], data_size: int) -> dict[str, _Entry]:
    """Checks that the entries fill the file exactly, one after another."""
    for name, entry in header.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
            raise _Damage(f"its entry {_short(name)} has no type")
    foreign = sorted({entry["dtype"] for entry in header.values()} - set(_DTYPES))
    if foreign:
        raise CheckpointError(
            f"{path} holds tensors of type {_short(', '.join(foreign))}, and the format knows only I8, U8, "
            f"U16, BF16 and F32: compress the model again."
        )
    entries = {name: _parse(name, entry) for name, entry in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise _Damage(f"tensor {_short(name)} does not begin where the one before it ends")
        end = entry.end
    if end != data_size:
        raise _Damage(f"its tensors take {end} bytes, but it holds {data_size}")
    return entries


def _parse(name: str, entry: dict[str, Any]) -> _Entry:
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > _MAX_DIMENSIONS:
        raise _Damage(f"tensor {_short(name)} has no sound shape or offsets")
    dtype = _DTYPES[entry["dtype"]]
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise _Damage(f"the offsets of tensor {_short(name)} do not fit its shape")
    return _Entry(dtype, tuple(shape), *offsets)


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 for value in values
    )


def _read_tensor(file: FileIO, start: int, entry: _Entry) -> NDArray[Any]:
    file.seek(start + entry.begin)
    tensor = _read(file, entry.end - entry.begin).view(entry.dtype).reshape(entry.shape)
    tensor.flags.writeable = False
    return tensor


def _read(file: FileIO, size: int) -> NDArray[np.uint8]:
    data = np.empty(size, np.uint8)
    done = 0
    while done < size:
        count = file.readinto(data[done : done + _READ_AT_ONCE].data)
        if not count:
            raise _Damage("it ends too early")
        done += count
    return data


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
