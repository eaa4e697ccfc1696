"""A manifest.json beside the data: what they are for, and the names of their labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import DataError
from secateur.tasks import TASKS

__all__ = ["Manifest", "read_manifest"]

_FILE = "manifest.json"
_OTHER_NAMES = {
    "classification": "text-classification",
    "pair-classification": "text-classification",
    "regression": "text-classification",
    "ner": "token-classification",
    "language-modelling": "fill-mask",
    "masked-lm": "fill-mask",
}


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Attributes:
        task: The name of a task of ours; None where it names none that is known.
        labels: Labels in the order of the integers that stand for them.
    """

    task: str | None = None
    labels: list[str] | None = None


def read_manifest(source: Path) -> Manifest:
    """Reads the manifest of a folder, or that beside a file; an empty one where there is none.

    Raises:
        DataError: It is no JSON object, or its labels are no list of names.
    """
    path = (source if source.is_dir() else source.parent) / _FILE
    if not path.is_file():
        return Manifest()
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): correct or remove it.") from None
    if not isinstance(said, dict):
        raise DataError(f'{path} must be a JSON object, as {{"task": ..., "labels": [...]}}.')
    task, labels = said.get("task"), said.get("labels")
    if labels is not None and not (
        isinstance(labels, list) and labels and all(isinstance(one, (str, int)) for one in labels)
    ):
        raise DataError(f"{path}: 'labels' must be a list of names in the order of their numbers.")
    names = None if labels is None else [str(one).strip() for one in labels]
    if names is not None and (len(set(names)) < len(names) or "" in names):
        raise DataError(f"{path}: each of the 'labels' must have a name of its own.")
    name = _OTHER_NAMES.get(task, task) if isinstance(task, str) else None
    return Manifest(name if name in TASKS else None, names)
