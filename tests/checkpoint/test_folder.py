from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tiny_checkpoint import (
    Numbers,
    edit_config,
    tiny_config,
    tiny_tensors,
    tiny_tokenizer,
    write_tiny_checkpoint,
)

from secateur.checkpoint import check_target, read_checkpoint, replacement, write_checkpoint
from secateur.errors import CheckpointError


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
@pytest.mark.parametrize("density", [0.0, 0.5, None])
def test_what_was_written_is_read(tmp_path: Path, density: float | None, numbers: Numbers) -> None:
    config = tiny_config(numbers)
    tensors = tiny_tensors(config, density=density, numbers=numbers)
    folder = write_checkpoint(
        tmp_path / "deep" / "model",
        config,
        tensors,
        {"tokenizer.json": tiny_tokenizer(), "vocab.txt": b"[PAD]\n"},
        recipe_yaml="name: balanced\n",
        metrics={"accuracy": 0.9},
        card="# A model\n",
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "recipe.yaml",
        "tokenizer.json",
        "vocab.txt",
    ]
    checkpoint = read_checkpoint(folder)
    assert checkpoint.config == config
    assert checkpoint.labels == ["alarm", "table", "time"]
    assert checkpoint.quantization.sparsity == 0.5
    assert checkpoint.quantization.numbers == numbers
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)
        assert checkpoint.tensors[name].dtype == tensor.dtype


def test_tensors_share_the_mapped_file(tmp_path: Path) -> None:
    tensors = read_checkpoint(write_tiny_checkpoint(tmp_path / "model")).tensors
    assert not any(tensor.flags.owndata or tensor.flags.writeable for tensor in tensors.values())
    assert all(tensor.flags.aligned and tensor.flags.c_contiguous for tensor in tensors.values())


def test_files_are_what_others_expect(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert tokenizer["padding"] is None
    assert tokenizer["truncation"] is None
    with safe_open(folder / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses a file without it
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("swap", [True, False])
def test_an_older_checkpoint_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool) -> None:
    if not swap:
        monkeypatch.setattr(replacement, "_exchange", lambda first, second: False)
    folder = write_tiny_checkpoint(tmp_path / "model", seed=0)
    old = read_checkpoint(folder)
    kept = old.tensors["classifier.bias"].copy()
    write_tiny_checkpoint(folder, seed=1)
    np.testing.assert_array_equal(old.tensors["classifier.bias"], kept)  # a running engine keeps its file
    assert not np.array_equal(read_checkpoint(folder).tensors["classifier.bias"], kept)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_link_to_a_checkpoint_stays_a_link(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    (tmp_path / "link").symlink_to(folder)
    write_tiny_checkpoint(tmp_path / "link", seed=1)
    assert (tmp_path / "link").is_symlink()
    assert json.loads((folder / "metrics.json").read_text()) == {"seed": 1}


def test_an_empty_folder_is_a_good_place(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    read_checkpoint(write_tiny_checkpoint(tmp_path / "model"))


def test_nothing_foreign_is_ever_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.write_text("a file")
    with pytest.raises(CheckpointError, match="is a file"):
        check_target(folder)
    folder.unlink()
    write_tiny_checkpoint(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"something other than a Secateur checkpoint \(notes\.txt\)"):
        write_tiny_checkpoint(folder)
    (folder / "notes.txt").unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]  # a plain Hugging Face model
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="something other than a Secateur checkpoint"):
        write_tiny_checkpoint(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_broken_checkpoint_is_never_written(tmp_path: Path) -> None:
    config = tiny_config()
    tensors = tiny_tensors(config)
    tensors["classifier.bias"] = np.float32([np.nan, 0, 0])
    del tensors["bert.pooler.dense.bias"]
    with pytest.raises(CheckpointError) as caught:
        write_checkpoint(tmp_path / "model", config, tensors, {})
    assert str(caught.value).splitlines() == [
        "The new checkpoint breaks the format: 2 problems:",
        "  - tensor bert.pooler.dense.bias is missing",
        "  - tensor classifier.bias holds NaN or infinity",
    ]
    with pytest.raises(CheckpointError, match=r"'\.\./evil' is not a tokenizer file"):
        write_checkpoint(tmp_path / "model", config, tiny_tensors(config), {"../evil": b""})
    assert list(tmp_path.iterdir()) == []


def test_a_failing_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", seed=0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("secateur.checkpoint.folder.sync_folder", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: No space left on device\."):
        write_tiny_checkpoint(folder, seed=1)
    assert json.loads((folder / "metrics.json").read_text()) == {"seed": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_default_labels_may_be_left_out(tmp_path: Path) -> None:
    config = tiny_config()
    del config["id2label"]
    folder = write_checkpoint(tmp_path / "model", config, tiny_tensors(config), {})
    assert read_checkpoint(folder).labels == ["LABEL_0", "LABEL_1"]
    edit_config(folder, id2label={"0": "a", "1": "b"})
    assert read_checkpoint(folder).labels == ["a", "b"]
