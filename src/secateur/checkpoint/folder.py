"""Reading and writing a checkpoint folder: all is checked before use, and written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from secateur.checkpoint.config import QUANT_METHOD, QuantizationConfig, parse_quantization
from secateur.checkpoint.layout import layout_problems
from secateur.checkpoint.replacement import replace_folder, sync_folder
from secateur.checkpoint.shape import ModelShape, parse_labels, parse_shape
from secateur.checkpoint.source import FileIdentity, identify, open_regular
from secateur.checkpoint.tensor_file import read_tensors, write_tensors
from secateur.errors import CheckpointError, problem_list

__all__ = [
    "CONFIG_FILE",
    "TENSOR_FILE",
    "TOKENIZER_FILE",
    "Checkpoint",
    "CheckpointIdentity",
    "check_target",
    "identify_checkpoint",
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
_MAX_CONFIG_BYTES = 64_000_000  # a million labels fit


class CheckpointIdentity(NamedTuple):
    """Which files a checkpoint was read from; equal only where nothing was changed or replaced."""

    config: FileIdentity
    tensors: FileIdentity


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint.

    Attributes:
        folder: Where it lies.
        config: The parsed config.json.
        quantization: Its `quantization_config`.
        shape: Its sizes.
        tensors: Every tensor by name, read-only.
        labels: Names of the outputs in the order of the logits; none where the head has none.
        identity: The files it was read from.
    """

    folder: Path
    config: dict[str, Any]
    quantization: QuantizationConfig
    shape: ModelShape
    tensors: dict[str, NDArray[Any]]
    labels: list[str]
    identity: CheckpointIdentity


def identify_checkpoint(folder: str | os.PathLike[str]) -> CheckpointIdentity | None:
    """Returns which files a folder holds now, without reading them; None where one is missing."""
    config, tensors = identify(Path(folder) / CONFIG_FILE), identify(Path(folder) / TENSOR_FILE)
    return None if config is None or tensors is None else CheckpointIdentity(config, tensors)


def read_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Reads and checks a checkpoint folder.

    Args:
        folder: A folder written by `write_checkpoint`.

    Returns:
        The checkpoint, in memory of its own: what happens to the files later does not matter.

    Raises:
        CheckpointError: If the folder is missing, no Secateur checkpoint or damaged; names every problem.
            Also if it is replaced or written to while it is read.
        UnsupportedError: If it is sound but of a model family that this version cannot run.
    """
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a folder: give the folder that `secateur compress --out` wrote."
        )
    config, config_identity = _read_config(path / CONFIG_FILE)
    quantization = parse_quantization(config, str(path))
    shape = parse_shape(config, str(path))
    labels = parse_labels(config, shape, str(path))
    tensors, tensor_identity = read_tensors(path / TENSOR_FILE)
    identity = CheckpointIdentity(config_identity, tensor_identity)
    if identify_checkpoint(path) != identity:
        raise CheckpointError(f"{path} was changed while it was read: load it again.")
    problems = layout_problems(tensors, shape, quantization, len(labels))
    if problems:
        raise CheckpointError(problem_list(f"{path} is not a sound checkpoint", problems))
    return Checkpoint(path, config, quantization, shape, tensors, labels, identity)


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
    labels = parse_labels(config, shape, "The new checkpoint")
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
        # transformers refuses a file without this entry
        write_tensors(temporary / TENSOR_FILE, tensors, {"format": "pt"})
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
        entry = _read_config(folder / CONFIG_FILE)[0].get("quantization_config")
    except CheckpointError:
        return False
    return isinstance(entry, dict) and entry.get("quant_method") == QUANT_METHOD


def _read_config(path: Path) -> tuple[dict[str, Any], FileIdentity]:
    try:
        with open_regular(path) as (file, identity):
            if identity.size > _MAX_CONFIG_BYTES:
                raise CheckpointError(f"{path} has {identity.size} bytes, far too many for a config.")
            config = json.loads(file.readall())
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
    return config, identity


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
