"""A path or name to the records of each split, and what is said beside them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from secateur.data.files import SUFFIXES, read_records, suffix_of
from secateur.data.hub import HubData, is_hub_id, load_from_hub
from secateur.data.manifest import Manifest, read_manifest
from secateur.data.record import Record
from secateur.errors import DataError
from secateur.tasks import (
    TASKS,
    FillMask,
    QuestionAnswering,
    SentenceEmbeddings,
    Task,
    TextClassification,
    TokenClassification,
)

__all__ = ["PACKAGED", "SPLITS", "Part", "Source", "guess_task", "open_source"]

_PACKAGED_FOLDER = Path(__file__).parent / "packaged"
PACKAGED = ("assistant_intents",)

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
SPLITS = tuple(_SPLIT_NAMES)
_PARQUET = ".parquet"


@dataclass(frozen=True)
class Part:
    """The records of one split, and where they come from."""

    where: str
    records: list[Record]


@dataclass(frozen=True)
class Source:
    """A data set as it lies somewhere.

    Attributes:
        parts: By split, train first.
        manifest: What is said beside the data.
        names: Labels by column, where the data set itself names them.
        notes: Splits that are not used.
    """

    parts: dict[str, Part]
    manifest: Manifest = Manifest()  # noqa: RUF009
    names: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def open_source(
    path: str | os.PathLike[str], task: type[Task] | None, cache: str | os.PathLike[str] | None
) -> Source:
    """Reads a file, a folder, a packaged set or one of the hub.

    Args:
        path: Which.
        task: What the rows are for, if that is known.
        cache: See `load_from_hub`.

    Raises:
        DataError: There is no such thing, or it cannot be read.
    """
    source = Path(path)
    if not source.exists() and str(path) in PACKAGED:
        source = _PACKAGED_FOLDER / str(path)
    if source.is_dir():
        return _folder(source, task, cache)
    if source.exists():
        if source.name.lower().endswith(_PARQUET):
            return _from_hub(load_from_hub(str(source), cache), str(source), read_manifest(source))
        return Source({"train": Part(str(source), read_records(source, task))}, read_manifest(source))
    if is_hub_id(str(path)) and not _is_file_name(source):
        return _from_hub(load_from_hub(str(path), cache), str(path), Manifest())
    raise DataError(
        f"{path} does not exist; give a data file, a folder, or the packaged set {', '.join(PACKAGED)}, "
        f"or a data set of the hub as org/name."
    )


def guess_task(record: Record, roles: Collection[str] = ()) -> type[Task]:
    """Says what a record is for; text classification where nothing fits.

    Args:
        record: The first of a data set; its columns tell.
        roles: Those that the user gives columns for; a role that one task alone has settles it.
    """
    for role in roles:
        having = [task for task in TASKS.values() if role in task.columns]
        if len(having) == 1:
            return having[0]
    present = [str(name) for name in record.values]
    for task in (TokenClassification, QuestionAnswering):
        found = task.guess(present)
        if set(task.columns) - task.optional <= set(found):
            lists = [record.values[column] for role, column in found.items() if role in ("tags", "answers")]
            if all(isinstance(value, (list, dict)) for value in lists):
                return task
    if "label" in TextClassification.guess(present):
        return TextClassification
    if "text_pair" in SentenceEmbeddings.guess(present):
        return SentenceEmbeddings
    return FillMask if len(present) == 1 and FillMask.guess(present) else TextClassification


def _folder(folder: Path, task: type[Task] | None, cache: str | os.PathLike[str] | None) -> Source:
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.iterdir()):
        suffix = suffix_of(file)
        if suffix is not None and file.is_file():
            stem = file.name.lower().removesuffix(".gz").removesuffix(suffix)
            split = next((name for name, usual in _SPLIT_NAMES.items() if stem in usual), None)
            if split is not None:
                by_split[split].append(file)
    for split, found in by_split.items():
        if len(found) > 1:
            raise DataError(
                f"{folder} has several {split} files ({', '.join(f.name for f in found)}): keep one."
            )
    if not by_split and next(folder.rglob(f"*{_PARQUET}"), None) is not None:
        return _from_hub(load_from_hub(str(folder), cache), str(folder), read_manifest(folder))
    if not by_split:
        present = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) or "nothing"
        raise DataError(
            f"{folder} has no train, validation or test file; it must be called so, with one of the endings "
            f"{', '.join(SUFFIXES)}, also with .gz. Found: {present}."
        )
    files = {split: by_split[split][0] for split in _SPLIT_NAMES if split in by_split}
    parts = {split: Part(str(file), read_records(file, task)) for split, file in files.items()}
    return Source(parts, read_manifest(folder))


def _from_hub(data: HubData, where: str, manifest: Manifest) -> Source:
    chosen = {split: name for split in _SPLIT_NAMES if (name := _split_like(split, data.splits)) is not None}
    if not chosen:
        raise DataError(
            f"{where} has only splits called {', '.join(data.splits) or 'nothing'}; it needs train, "
            f"validation or test."
        )
    parts = {split: Part(f"{where} ({name})", data.splits[name]) for split, name in chosen.items()}
    empty = [split for split, part in parts.items() if not part.records]
    unused = [name for name in data.splits if name not in chosen.values()]
    notes = [f"The split {name} is not used." for name in unused]
    return Source({split: parts[split] for split in parts if split not in empty}, manifest, data.names, notes)


def _is_file_name(path: Path) -> bool:
    return suffix_of(path) is not None or path.name.lower().endswith((_PARQUET, ".gz"))


def _split_like(split: str, names: Iterable[str]) -> str | None:
    """Returns the split of a usual name, else the first whose name begins with one, as validation_matched."""
    given = list(names)
    exact = [name for name in given if name.lower() in _SPLIT_NAMES[split]]
    return next(iter([*exact, *(name for name in given if name.lower().startswith(f"{split}_"))]), None)
