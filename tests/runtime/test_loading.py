"""Engines of one process share packed weights; what was replaced is loaded anew."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from child import run_in_child
from tiny_checkpoint import edit_config, write_tiny_checkpoint

from secateur import Engine
from secateur.errors import CheckpointError
from secateur.runtime import loading

native = pytest.importorskip("secateur._engine")
ISAS = list(native.cpu_info()["isas"])
IDS = [[3, 5, 7, 1], [2]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were read, in order."""
    found: list[str] = []
    read = loading.read_checkpoint

    def counted(folder: str | os.PathLike[str]) -> object:
        found.append(str(folder))
        return read(folder)

    monkeypatch.setattr(loading, "read_checkpoint", counted)
    return found


def test_a_second_engine_packs_nothing(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    (tmp_path / "link").symlink_to(folder)
    first = Engine.from_pretrained(folder, num_threads=1)
    others = [
        Engine.from_pretrained(folder, num_threads=2),
        Engine.from_pretrained(tmp_path / "link", num_threads=1, max_tokens=30),
        Engine.from_pretrained(folder, num_threads=1, isa=first.isa),
    ]
    assert reads == [str(folder)]
    for other in others:
        assert other._model.packed is first._model.packed
        np.testing.assert_array_equal(other(IDS), first(IDS))
    others[0].labels.clear()
    others[0].config["id2label"].clear()
    assert first.labels == ["alarm", "table", "time"]
    assert len(first.config["id2label"]) == 3


def test_another_instruction_set_packs_anew(folder: Path, reads: list[str]) -> None:
    engines = [Engine.from_pretrained(folder, num_threads=1, isa=isa) for isa in ISAS]
    assert len(reads) == len(ISAS)
    assert [engine.isa for engine in engines] == ISAS


def test_a_model_goes_with_its_last_engine(folder: Path, reads: list[str]) -> None:
    engine = Engine.from_pretrained(folder, num_threads=1)
    kept = len(loading._loaded)
    del engine
    gc.collect()
    assert len(loading._loaded) == kept - 1
    Engine.from_pretrained(folder, num_threads=1)
    assert len(reads) == 2


def test_a_replaced_folder_is_loaded_anew(folder: Path, reads: list[str]) -> None:
    old = Engine.from_pretrained(folder, num_threads=1)
    before = old(IDS)
    write_tiny_checkpoint(folder, seed=1)
    new = Engine.from_pretrained(folder, num_threads=1)
    assert len(reads) == 2
    assert not np.array_equal(new(IDS), before)
    np.testing.assert_array_equal(old(IDS), before)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_written_in_place_is_noticed(tmp_path: Path, reads: list[str], name: str) -> None:
    """As `cp` writes: the file stays the same inode, and here also keeps size and time of modification."""
    folder = write_tiny_checkpoint(tmp_path / "dense", density=None)
    edit_config(folder, id2label={"0": "alarm", "1": "table", "2": "time"})  # in the form of the other's
    old = Engine.from_pretrained(folder, num_threads=1)
    before = old(IDS)
    other = write_tiny_checkpoint(tmp_path / "other", density=None, seed=1)
    edit_config(other, id2label={"0": "alarm", "1": "table", "2": "tame"})
    status = (folder / name).stat()
    shutil.copyfile(other / name, folder / name)
    os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (folder / name).stat().st_ino == status.st_ino
    assert (folder / name).stat().st_size == status.st_size
    new = Engine.from_pretrained(folder, num_threads=1)
    assert len(reads) == 2
    assert new.labels[2] == ("tame" if name == "config.json" else "time")
    assert np.array_equal(new(IDS), before) == (name == "config.json")
    np.testing.assert_array_equal(old(IDS), before)


def test_a_file_cut_off_in_place_does_not_hurt_an_engine(folder: Path) -> None:
    engine = Engine.from_pretrained(folder, num_threads=1)
    before = engine(IDS)
    os.truncate(folder / "model.safetensors", 0)
    np.testing.assert_array_equal(engine(IDS), before)
    with pytest.raises(CheckpointError, match="too short for a header"):
        Engine.from_pretrained(folder, num_threads=1)


def test_callers_that_load_at_once_share(folder: Path, reads: list[str]) -> None:
    engines: list[Engine] = []
    callers = [
        threading.Thread(target=lambda: engines.append(Engine.from_pretrained(folder, num_threads=1)))
        for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert reads == [str(folder)]
    assert len({id(engine._model) for engine in engines}) == 1


@pytest.mark.filterwarnings("ignore:This process")  # Python 3.12+ warns of fork with threads: the point
def test_a_child_loads_while_its_parent_was_loading(folder: Path) -> None:
    with loading._loading:
        run_in_child(lambda: Engine.from_pretrained(folder, num_threads=1).inspect())
