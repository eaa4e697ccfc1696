"""Damages checkpoint folders: an engine answers, or it is a SecateurError.

python tests/fuzzing.py checkpoints --seconds 60 --seed 1
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from tiny_checkpoint import Numbers, family_config, tiny_config, tiny_tensors, tiny_tokenizer

from secateur import Engine
from secateur.checkpoint import BF16, FAMILIES
from secateur.errors import SecateurError

Generator = np.random.Generator
Files = dict[str, bytes]

TENSORS, CONFIG = "model.safetensors", "config.json"
HUGE = "a number of 5000 digits"
NUMBERS = [-1, 0, 1, 2, 3, 30, 1000, 2**31 - 1, 2**31, 2**32, 2**60, 2**63, 2**64, HUGE, 0.5, 1e-40, 1e400]
VALUES = [
    *NUMBERS,
    float("nan"),
    None,
    True,
    "",
    "bert",
    "gelu",
    "block4",
    "x" * 5000,
    [],
    {},
    [1, 2],
    {"0": "a"},
]
DTYPES = ["I8", "U8", "F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "", "f32"]
SPECIALS = [0, 1, -1, 127, -127, -128, 255, 1e-45, 1e-38, 1e-30, 1e15, 1e30, 3e38, np.nan, np.inf, -np.inf]
NUMBER_KINDS: list[Numbers] = ["int8", "float32", "mixed", "bfloat16", "dynamic", "mixed inputs"]
SHAPES: list[dict[str, Any]] = [
    {},
    {"num_hidden_layers": 1, "hidden_act": "relu"},
    {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 36, "num_hidden_layers": 1},
    {"hidden_size": 12, "num_attention_heads": 3, "vocab_size": 20, "max_position_embeddings": 300},
    {"hidden_size": 30, "num_attention_heads": 2, "intermediate_size": 62},  # more than the engine can run
]


def fuzz_checkpoint(rng: Generator) -> str:
    """One checkpoint, damaged once or several times, read and asked."""
    numbers = NUMBER_KINDS[rng.integers(0, len(NUMBER_KINDS))]
    if rng.random() < 0.5:
        config = tiny_config(numbers, **SHAPES[rng.integers(0, len(SHAPES))])
    else:
        family = list(FAMILIES)[rng.integers(0, len(FAMILIES))]
        config = family_config(family, list(FAMILIES[family].heads)[rng.integers(0, 5)], numbers)
    density = None if config.get("hidden_size", 32) % 4 else [None, 0.0, 0.5, 1.0][rng.integers(0, 4)]
    tensors = tiny_tensors(config, int(rng.integers(0, 100)), density, numbers)
    if rng.random() < 0.3:
        _damage_values(rng, tensors)
    files = {
        CONFIG: json.dumps(config).encode(),
        TENSORS: _saved(tensors),
        "tokenizer.json": tiny_tokenizer(),
    }
    for _ in range(rng.integers(0, 3)):
        DAMAGES[rng.integers(0, len(DAMAGES))](rng, files)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if rng.random() < 0.05:
            _damage_folder(rng, folder)
        return _use(rng, folder)
    finally:
        shutil.rmtree(folder)


def _saved(tensors: dict[str, np.ndarray]) -> bytes:
    """Returns a safetensors file; the library's writer for numpy takes bfloat16 for uint16."""
    bf16 = {name for name, tensor in tensors.items() if tensor.dtype == BF16}
    plain = {name: t.view(np.uint16) if name in bf16 else t for name, t in tensors.items()}
    content = save(plain, {"format": "pt"})
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    for name in bf16:
        header[name]["dtype"] = "BF16"
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _use(rng: Generator, folder: Path) -> str:
    max_tokens = int(rng.integers(1, 60)) if rng.random() < 0.3 else None
    try:
        engine = Engine.from_pretrained(
            folder, num_threads=1 + int(rng.random() < 0.1), max_tokens=max_tokens
        )
    except SecateurError as error:
        _must_say_something(error)
        return "folders refused"
    if rng.random() < 0.1:  # what happens to the file now is no business of the engine
        os.truncate(folder / TENSORS, 0)
    for _ in range(2):
        longest = min(engine.max_length, max_tokens or engine.max_length, 100)
        lengths = rng.integers(1, longest + 1, rng.integers(1, 6))
        # No padding ids, which families that count positions from them refuse.
        outputs = engine([rng.integers(min(2, engine.vocab_size - 1), engine.vocab_size, n) for n in lengths])
        assert len(outputs) == len(lengths)
        assert all(row.dtype == np.float32 for row in outputs)
    return "engines that answer"


def _must_say_something(error: Exception) -> None:
    assert str(error).strip()
    assert len(str(error)) < 10_000


def _damage_values(rng: Generator, tensors: dict[str, np.ndarray]) -> None:
    """Keeps the file sound, but not what its numbers mean, or their shape."""
    names = list(tensors)
    for _ in range(rng.integers(1, 4)):
        name = names[rng.integers(0, len(names))]
        array = np.array(tensors.get(name, np.zeros(1, np.float32)))
        if array.dtype == BF16 and rng.random() < 0.5:  # any bits are a bfloat16
            bits = array.reshape(-1).view(np.uint16)
            bits[rng.integers(0, max(bits.size, 1), min(bits.size, 2))] = rng.integers(0, 2**16)
            tensors[name] = array
            continue
        array = array.view(np.uint16) if array.dtype == BF16 else array
        flat = array.reshape(-1)
        kind = rng.random()
        if kind < 0.7 and flat.size:
            places = rng.integers(0, flat.size, rng.integers(1, 3)) if rng.random() < 0.5 else slice(None)
            with np.errstate(all="ignore"):
                flat[places] = np.float64(SPECIALS[rng.integers(0, len(SPECIALS))]).astype(array.dtype)
            tensors[name] = array
        elif kind < 0.8:
            tensors[name] = np.ascontiguousarray(array[: rng.integers(0, len(array) + 1)])
        elif kind < 0.85:
            tensors[name] = array.reshape(-1) if array.ndim > 1 else array[None]
        elif kind < 0.9:
            dtypes = (np.int8, np.uint8, np.float32, np.float16, np.int64)
            with np.errstate(all="ignore"):
                tensors[name] = array.astype(dtypes[rng.integers(0, 5)])
        elif kind < 0.95:
            tensors.pop(name, None)
        else:
            tensors[name.replace("weight", "weight_mask") if rng.random() < 0.5 else "extra"] = array


def _edit_config(rng: Generator, files: Files) -> None:
    try:
        config = json.loads(files[CONFIG])
    except (ValueError, RecursionError):
        return  # damaged before
    if not isinstance(config, dict):
        return
    record = config
    if rng.random() < 0.3 and isinstance(config.get("quantization_config"), dict):
        record = config["quantization_config"]
    if record is not config and rng.random() < 0.2:
        record["activations"] = ["u8_static", "s8_dynamic", "mixed", "f32"][rng.integers(0, 4)]
    keys = [*record, "pruned_heads", "is_decoder", "problem_type", "position_embedding_type"]
    for _ in range(rng.integers(1, 4)):
        key = keys[rng.integers(0, len(keys))]
        if rng.random() < 0.2:
            record.pop(key, None)
        else:
            record[key] = VALUES[rng.integers(0, len(VALUES))]
    files[CONFIG] = _dumps(config)


def _dumps(value: Any) -> bytes:
    """Returns JSON; HUGE becomes a number, as Python reads and writes none of so many digits."""
    return json.dumps(value).replace(f'"{HUGE}"', "1" + "0" * 5000).encode()


def _flip_bytes(rng: Generator, files: Files) -> None:
    name = (CONFIG, TENSORS)[rng.integers(0, 2)]
    content = bytearray(files[name])
    if not content:
        return
    end = len(content)
    if name == TENSORS and rng.random() < 0.5:
        end = min(end, 8 + int.from_bytes(content[:8], "little"))
    for place in rng.integers(0, end, rng.integers(1, 5)):
        content[place] = rng.integers(0, 256)
    files[name] = bytes(content)


def _cut_or_append(rng: Generator, files: Files) -> None:
    name = (CONFIG, TENSORS)[rng.integers(0, 2)]
    content = files[name]
    if rng.random() < 0.6:
        files[name] = content[: rng.integers(0, len(content) + 1)]
    else:
        files[name] = content + bytes(rng.integers(0, 256, rng.integers(1, 100), np.uint8))


def _forge_length(rng: Generator, files: Files) -> None:
    lengths = [0, 1, 7, 2**20, 10**8, 2**31, 2**32, 2**60, 2**63, 2**64 - 1, 2**64 - 8]
    files[TENSORS] = struct.pack("<Q", lengths[rng.integers(0, len(lengths))]) + files[TENSORS][8:]


def _edit_header(rng: Generator, files: Files) -> None:
    content = files[TENSORS]
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
        names = [name for name in header if isinstance(header[name], dict) and name != "__metadata__"]
        name, other = (names[index] for index in rng.integers(0, len(names), 2))
    except (ValueError, TypeError, RecursionError):
        return  # damaged before
    entry = header[name]
    suffix = b""
    kind = rng.integers(0, 10)
    if kind == 0:
        entry["dtype"] = DTYPES[rng.integers(0, len(DTYPES))]
    elif kind == 1:
        entry["shape"] = _sizes(rng, entry.get("shape"))
    elif kind == 2:
        entry["data_offsets"] = _sizes(rng, entry.get("data_offsets"))
    elif kind == 3:
        header[name], header[other] = header[other], header[name]
    elif kind == 4:
        header[name] = dict(header[other])
    elif kind == 5:
        header[str(rng.integers(0, 9))] = header.pop(name)
    elif kind == 6:
        header["__metadata__"] = VALUES[rng.integers(0, len(VALUES))]
    elif kind == 7:
        header[name] = VALUES[rng.integers(0, len(VALUES))]
    elif kind == 8:  # shape and offsets agree, but on what the file does not hold
        entry["shape"], entry["data_offsets"] = [2**40, 2**20], [0, 2**60]
        entry["dtype"] = "I8"
    else:
        suffix = b" " * int(rng.integers(1, 20))
    text = _dumps(header) + suffix
    if rng.random() < 0.1:  # a name twice
        text = text[:1] + _dumps({name: entry})[1:-1] + b"," + text[1:]
    files[TENSORS] = struct.pack("<Q", len(text)) + text + content[8 + size :]


def _sizes(rng: Generator, given: Any) -> Any:
    if not isinstance(given, list) or rng.random() < 0.3:
        return VALUES[rng.integers(0, len(VALUES))]
    sizes = list(given)
    if sizes and rng.random() < 0.7:
        sizes[rng.integers(0, len(sizes))] = VALUES[rng.integers(0, len(VALUES))]
    elif rng.random() < 0.5:
        sizes = sizes[::-1]
    else:
        sizes.append(int(rng.integers(0, 3)))
    return sizes


def _damage_folder(rng: Generator, folder: Path) -> None:
    """Puts something else than a file in the place of one."""
    path = folder / (CONFIG, TENSORS)[rng.integers(0, 2)]
    path.unlink()
    makers: list[Callable[[], Any]] = [
        lambda: None,
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("/proc/self/mem"),
        lambda: path.symlink_to("/proc/self/maps"),
        lambda: path.symlink_to(folder / "nothing"),
    ]
    makers[rng.integers(0, len(makers))]()


DAMAGES: list[Callable[[Generator, Files], None]] = [
    _edit_config,
    _flip_bytes,
    _cut_or_append,
    _forge_length,
    _edit_header,
    _edit_header,
    _edit_config,
]
