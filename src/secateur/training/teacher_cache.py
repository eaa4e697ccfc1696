"""What a teacher says of every training row, computed once, kept on disk, and found again by a second run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.errors import CheckpointError
from secateur.tasks import Task
from secateur.training.encoding import Features
from secateur.training.evaluation import model_outputs

__all__ = ["TeacherCache", "check_folder"]

_NAME = "outputs"
# Entries of a config that say where a model came from, not what it does.
_ORIGINS = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


class TeacherCache:
    """A folder of teachers' outputs, one file for each teacher and encoded data set.

    A file's name is a hash of the teacher's weights and config and of the token ids: other weights, other
    rows, another length limit or another tokenizer are another file, and nothing in the folder gets old.

    Args:
        folder: Made when the first outputs are computed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def outputs(self, teacher: Any, task: Task, features: Features) -> Sequence[Tensor]:
        """Returns the teacher's outputs, computed where there is no file.

        Args:
            teacher: The dense model.
            task: The task; not one whose inputs change from step to step, as masked language modelling.
            features: The training features, unaltered.

        Returns:
            [F] (L,), (S, L) or (H,) float32, views of one tensor.

        Raises:
            CheckpointError: The file cannot be written.
        """
        path = self.folder / f"teacher-{_key(teacher, features)}.safetensors"
        sizes = [len(ids) if task.head == "token" else 1 for ids in features.input_ids]
        with suppress(OSError, SafetensorError, KeyError):  # a file that is damaged is written again
            flat = load_file(path)[_NAME]
            if _is_sound(flat, sum(sizes), _width(teacher, task)):
                return _split(flat, sizes, task)
        self._make()
        arrays = model_outputs(teacher, task, features.encoded)
        flat = torch.from_numpy(np.concatenate(arrays) if task.head == "token" else np.stack(arrays))
        self._write(path, flat)
        return _split(flat, sizes, task)

    def _make(self) -> None:
        """Makes the folder before the teacher is run, which may take minutes."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"The folder {self.folder} for the teacher's outputs cannot be made "
                f"({error.strerror or error}): give another one."
            ) from None

    def _write(self, path: Path, flat: Tensor) -> None:
        draft = path.with_suffix(f".{os.getpid()}.draft")
        try:
            save_file({_NAME: flat.contiguous()}, draft)
            os.replace(draft, path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise CheckpointError(
                f"The teacher's outputs ({flat.numel() * 4 / 1e6:.0f} MB) cannot be written to {self.folder} "
                f"({error}): make room, or give another folder."
            ) from error


def check_folder(folder: Path) -> None:
    """Says early, before any training, that a folder cannot be made.

    Raises:
        CheckpointError: It, or what it would lie in, is no folder.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not there.is_dir():
        raise CheckpointError(f"{there} is not a folder: give another place for the teacher's outputs.")


def _width(teacher: Any, task: Task) -> int:
    config = teacher.config
    return int(config.hidden_size if task.head == "embedding" else config.num_labels)


def _is_sound(flat: Tensor, rows: int, width: int) -> bool:
    return (
        tuple(flat.shape) == (rows, width)
        and flat.dtype == torch.float32
        and bool(torch.isfinite(flat).all())
    )


def _split(flat: Tensor, sizes: list[int], task: Task) -> Sequence[Tensor]:
    return torch.split(flat, sizes) if task.head == "token" else list(flat)


def _key(teacher: Any, features: Features) -> str:
    digest = hashlib.sha256()
    config = {key: value for key, value in teacher.config.to_dict().items() if key not in _ORIGINS}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(teacher.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    types = features.token_type_ids or ()
    for part in (features.input_ids, types):
        digest.update(np.array([len(ids) for ids in part], np.int64).tobytes())
        digest.update(np.array([one for ids in part for one in ids], np.int64).tobytes())
    return digest.hexdigest()[:32]
