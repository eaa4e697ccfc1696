"""Reading and writing a checkpoint folder: all is checked before use, and written whole or not at all."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from secateur.checkpoint.config import (
    QUANT_METHOD,
    ModelShape,
    QuantizationConfig,
    parse_labels,
    parse_quantization,
    parse_shape,
)
from secateur.checkpoint.layout import layout_problems
from secateur.checkpoint.replacement import replace_folder, sync_folder
from secateur.errors import CheckpointError, problem_list

__all__ = [
    "CONFIG_FILE",
    "TENSOR_FILE",
    "TOKENIZER_FILE",
    "Checkpoint",
    "check_target",
    "read_checkpoint",
    "write_checkpoint",
]

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
_RECIPE_FILE = "recipe.yaml"
_METRICS_FILE = "metrics.json"
_CARD_FILE = "README.md"

# Everything that a checkpoint may consist of. A folder with anything else in it is never replaced.
_OWN_FILES = {
    *(CONFIG_FILE, TENSOR_FILE, _RECIPE_FILE, _METRICS_FILE, _CARD_FILE),
    *(TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "chat_template.jinja"),
}
_DTYPES: dict[str, np.dtype[Any]] = {
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "F32": np.dtype("<f4"),
}


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint.

    Attributes:
        folder: Where it lies.
        config: The parsed config.json.
        quantization: Its `quantization_config`.
        shape: Its sizes.
        tensors: Every tensor by name, read-only and mapped from the file.
        labels: The classes in the order of the logits.
        mapping: The mapped file.
    """

    folder: Path
    config: dict[str, Any]
    quantization: QuantizationConfig
    shape: ModelShape
    tensors: dict[str, NDArray[Any]]
    labels: list[str]
    mapping: mmap.mmap = field(repr=False)

    def release_pages_(self) -> None:
        """Gives the memory of what was read so far back to the system; it is read again where it is used."""
        if hasattr(self.mapping, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)


def read_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Reads and checks a checkpoint folder.

    Args:
        folder: A folder written by `write_checkpoint`.

    Returns:
        The checkpoint; its tensors stay mapped to the file.

    Raises:
        CheckpointError: If the folder is missing, no Secateur checkpoint or damaged; names every problem.
        UnsupportedError: If it is sound but of a model family that this version cannot run.
    """
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a folder: give the folder that `secateur compress --out` wrote."
        )
    config = _read_config(path / CONFIG_FILE)
    quantization = parse_quantization(config, str(path))
    shape = parse_shape(config, str(path))
    labels = parse_labels(config, str(path))
    tensors, mapping = _map_tensors(path / TENSOR_FILE)
    problems = layout_problems(tensors, shape, quantization, len(labels))
    if problems:
        raise CheckpointError(problem_list(f"{path} is not a sound checkpoint", problems))
    return Checkpoint(path, config, quantization, shape, tensors, labels, mapping)


def write_checkpoint(
    folder: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    tokenizer_files: Mapping[str, bytes],
    recipe_yaml: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> Path:
    """Checks and writes a checkpoint folder, all of it or nothing.

    Written beside the target, synced to disk and renamed. A checkpoint that lies there is replaced at once.

    Args:
        folder: Where to write; missing parents are made.
        config: The content of config.json, with its `quantization_config`.
        tensors: Every tensor by name.
        tokenizer_files: File name to content. Padding and truncation are taken out of tokenizer.json.
        recipe_yaml: The resolved recipe.
        metrics: What was measured on the way.
        card: The model card.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the content breaks the format, or the folder holds anything but a checkpoint.
        UnsupportedError: If the model family is not supported.
    """
    target = Path(os.path.realpath(folder))
    check_target(target)
    quantization = parse_quantization(config, "The new checkpoint")
    shape = parse_shape(config, "The new checkpoint")
    labels = parse_labels(config, "The new checkpoint")
    problems = layout_problems(tensors, shape, quantization, len(labels))
    if problems:
        raise CheckpointError(problem_list("The new checkpoint breaks the format", problems))

    files = {name: _own_name(name, content) for name, content in tokenizer_files.items()}
    files[CONFIG_FILE] = _json_bytes(config)
    if recipe_yaml is not None:
        files[_RECIPE_FILE] = recipe_yaml.encode()
    if metrics is not None:
        files[_METRICS_FILE] = _json_bytes(metrics)
    if card is not None:
        files[_CARD_FILE] = card.encode()

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}.") from None
    try:
        _open_to_umask(temporary)
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        # transformers refuses a file without this entry
        save_file(contiguous, temporary / TENSOR_FILE, metadata={"format": "pt"})
        (temporary / TENSOR_FILE).chmod(0o666 & stat.S_IMODE(temporary.stat().st_mode))
        sync_folder(temporary)
        replace_folder(temporary, target)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def check_target(folder: str | os.PathLike[str]) -> None:
    """Refuses a place where a checkpoint must not be written; worth asking before hours of training.

    Args:
        folder: Where a checkpoint shall be written.

    Raises:
        CheckpointError: If something lies there that is neither empty nor a checkpoint of ours.
    """
    target = Path(os.path.realpath(folder))
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise CheckpointError(f"{target} is a file: choose another --out folder.")
    content = sorted(entry.name for entry in target.iterdir())
    foreign = [name for name in content if name not in _OWN_FILES or (target / name).is_dir()]
    if content and (foreign or not _is_checkpoint(target)):
        found = ", ".join((foreign or content)[:3])
        raise CheckpointError(
            f"{target} holds something other than a Secateur checkpoint ({found}): "
            f"choose a new or empty --out folder."
        )


def _is_checkpoint(folder: Path) -> bool:
    try:
        entry = _read_config(folder / CONFIG_FILE).get("quantization_config")
    except CheckpointError:
        return False
    return isinstance(entry, dict) and entry.get("quant_method") == QUANT_METHOD


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}, so it is not a checkpoint: "
            f"give the folder that `secateur compress --out` wrote."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise CheckpointError(f"{path} is not valid JSON: {reason}.") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold a JSON object.")
    return config


def _map_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], mmap.mmap]:
    """Maps a safetensors file, whose header the safetensors library checks first."""
    try:
        with safe_open(path, "numpy"):
            pass  # opening checks lengths, offsets and shapes of everything in the header
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = np.frombuffer(mapping, np.uint8)
        header_size = int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8 : 8 + header_size].tobytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: copy the whole folder.") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or altered ({error}): copy the folder again.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    data = data[8 + header_size :]
    header.pop("__metadata__", None)
    foreign = sorted({entry["dtype"] for entry in header.values()} - set(_DTYPES))
    if foreign:
        raise CheckpointError(
            f"{path} holds tensors of type {', '.join(foreign)}, and the format knows only I8, U8 and F32: "
            f"compress the model again."
        )
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        view = data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = np.require(
            view, requirements=["C", "A"]
        )  # copies only what a forged offset misaligned
    return tensors, mapping


def _own_name(name: str, content: bytes) -> bytes:
    if name not in _OWN_FILES or name in (CONFIG_FILE, TENSOR_FILE):
        raise CheckpointError(f"{name!r} is not a tokenizer file that a checkpoint may hold.")
    if name != TOKENIZER_FILE:
        return content
    tokenizer = json.loads(content)
    tokenizer["padding"] = tokenizer["truncation"] = None
    return json.dumps(tokenizer, ensure_ascii=False).encode()


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _open_to_umask(folder: Path) -> None:
    """mkdtemp makes folders that only their owner can read; a checkpoint is an ordinary folder."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
