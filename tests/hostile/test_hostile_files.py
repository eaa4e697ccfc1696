"""Files that are no plain files, that change while they are read, or whose header lies."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_checkpoint import tiny_config, tiny_tensors, write_tiny_checkpoint

from secateur import Engine
from secateur.checkpoint import folder as folder_module
from secateur.checkpoint import read_checkpoint, tensor_file
from secateur.errors import CheckpointError

Header = dict[str, Any]
TENSORS = "model.safetensors"
SCALE = "bert.encoder.layer.0.attention.self.query.input_scale"
BIAS = "bert.encoder.layer.0.attention.self.query.bias"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model")


def _header(folder: Path) -> tuple[Header, bytes]:
    content = (folder / TENSORS).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _write(folder: Path, header: Header | bytes, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / TENSORS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def _swap_bytes_of_two(header: Header) -> None:
    """Both tensors point at the first one's bytes."""
    header[BIAS]["data_offsets"] = [0, 128]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h[SCALE].update(shape=[2**40, 2**30]), "the offsets of tensor .* do not fit its shape"),
        (lambda h: h[SCALE].update(shape=[2**62, 4]), "the offsets of tensor .* do not fit its shape"),
        (lambda h: h[SCALE].update(shape=[2**64]), "no sound shape or offsets"),
        (lambda h: h[SCALE].update(shape=[-1]), "no sound shape or offsets"),
        (lambda h: h[SCALE].update(shape=[1.0]), "no sound shape or offsets"),
        (lambda h: h[SCALE].update(shape=[True]), "no sound shape or offsets"),
        (lambda h: h[SCALE].update(shape=[1] * 9), "no sound shape or offsets"),
        (lambda h: h[SCALE].update(shape="1"), "no sound shape or offsets"),
        (lambda h: h[SCALE].pop("shape"), "no sound shape or offsets"),
        (lambda h: h[SCALE].update(data_offsets=[0]), "no sound shape or offsets"),
        (lambda h: h[SCALE].update(data_offsets=[-4, 0]), "no sound shape or offsets"),
        (lambda h: h[SCALE].update(data_offsets=[4, 0]), "the offsets of tensor .* do not fit its shape"),
        (lambda h: h[SCALE].update(data_offsets=[2**60, 2**60 + 4]), "does not begin where"),
        (lambda h: h[SCALE].update(shape=[0], data_offsets=[0, 0]), "does not begin where"),
        (_swap_bytes_of_two, "does not begin where"),
        (lambda h: h.update(more={"dtype": "U8", "shape": [0], "data_offsets": [7, 7]}), "does not begin"),
        (lambda h: h.update(more=3), "its entry more has no type"),
        (lambda h: h.update(more={"dtype": ["U8"]}), "its entry more has no type"),
    ],
)
def test_a_header_that_lies_is_refused(folder: Path, change: Callable[[Header], Any], message: str) -> None:
    header, data = _header(folder)
    change(header)
    _write(folder, header, data)
    with pytest.raises(CheckpointError, match=f"is truncated or altered .*{message}"):
        read_checkpoint(folder)


def test_bytes_that_no_tensor_claims_are_refused(folder: Path) -> None:
    header, data = _header(folder)
    _write(folder, header, data + b"\0")
    with pytest.raises(CheckpointError, match=r"its tensors take \d+ bytes, but it holds \d+"):
        read_checkpoint(folder)


def test_a_name_may_not_stand_twice(folder: Path) -> None:
    """Readers would differ in which of the two they take."""
    header, data = _header(folder)
    text = json.dumps(header)
    _write(folder, f'{{"{SCALE}": {json.dumps(header[BIAS])}, {text[1:]}'.encode(), data)
    with pytest.raises(CheckpointError, match="a name stands in it twice"):
        read_checkpoint(folder)


@pytest.mark.parametrize("length", [3 * 10**4, 2**31, 2**60, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_is_refused(folder: Path, length: int) -> None:
    content = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(struct.pack("<Q", max(length, len(content))) + content[8:])
    with pytest.raises(CheckpointError, match="its header claims"):
        read_checkpoint(folder)


def test_a_huge_tensor_of_holes_takes_no_memory(folder: Path) -> None:
    """A file may be larger than any disk without holding anything."""
    header, data = _header(folder)
    end = len(data) + 2**43
    header["extra"] = {"dtype": "I8", "shape": [2**43], "data_offsets": [len(data), end]}
    _write(folder, header, data)
    try:
        os.truncate(folder / TENSORS, (folder / TENSORS).stat().st_size + 2**43)
    except OSError:
        pytest.skip("this file system has no files of 8 TB")
    with pytest.raises(CheckpointError, match="is too large for the memory of this machine"):
        read_checkpoint(folder)


@pytest.mark.timeout(60)  # a pipe without a writer blocks for ever, /dev/zero never ends
@pytest.mark.parametrize("name", [TENSORS, "config.json"])
def test_what_is_no_ordinary_file_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    makers: dict[str, Callable[[], Any]] = {
        "it is not an ordinary file": lambda: os.mkfifo(path),
        "is not an ordinary file": lambda: path.symlink_to("/dev/zero"),
        "not an ordinary file": lambda: path.mkdir(),
        "cannot be read: Too many levels": lambda: path.symlink_to(path),
        "has no ": lambda: path.symlink_to(folder / "nothing"),
    }
    path.rename(folder.parent / name)
    for message, make in makers.items():
        make()
        with pytest.raises(CheckpointError, match=message):
            Engine.from_pretrained(folder)
        path.rmdir() if path.is_dir() else path.unlink()
    path.symlink_to(folder.parent / name)  # as the hub's cache does it
    assert read_checkpoint(folder).labels == ["alarm", "table", "time"]


def test_a_config_beyond_all_measure_is_refused(folder: Path) -> None:
    os.truncate(folder / "config.json", 2**40)
    with pytest.raises(CheckpointError, match="has 1099511627776 bytes, far too many for a config"):
        read_checkpoint(folder)


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = tensor_file._read_tensor

    def cut_first(*arguments: Any) -> Any:
        os.truncate(folder / TENSORS, 10_000)
        return read(*arguments)

    monkeypatch.setattr(tensor_file, "_read_tensor", cut_first)
    with pytest.raises(CheckpointError, match="it ends too early"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", [TENSORS, "config.json"])
def test_a_folder_that_changes_while_it_is_read_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def write_after(path: Path) -> Any:
        found = tensor_file.read_tensors(path)
        with (folder / name).open("r+b") as file:
            file.write(b"{")
        return found

    monkeypatch.setattr(folder_module, "read_tensors", write_after)
    with pytest.raises(CheckpointError, match="was changed while it was read: load it again"):
        read_checkpoint(folder)


def test_tensors_cannot_be_written_to(folder: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        read_checkpoint(folder).tensors[BIAS][0] = 1


@pytest.mark.parametrize(
    ("names", "value", "message"),
    [
        (["input_scale", "weight_scale"], 1e30, "input_scale times weight_scale is too large"),
        (["bias"], 3e38, None),
        (["query_scale", "key_scale"], 1e30, "query_scale times key_scale is too large"),
    ],
)
def test_scales_whose_product_overflows_are_refused(
    folder: Path, names: list[str], value: float, message: str | None
) -> None:
    tensors = tiny_tensors(tiny_config())
    for name, tensor in tensors.items():
        if "layer.0.attention" in name and name.rpartition(".")[2] in names:
            tensors[name] = np.full_like(tensor, value)
    save_file(tensors, folder / TENSORS)
    if message is None:
        assert Engine.from_pretrained(folder, num_threads=1)([[1, 2, 3]]).shape == (1, 3)
    else:
        with pytest.raises(CheckpointError, match=f"cannot be run: .*{message}"):
            Engine.from_pretrained(folder, num_threads=1)
