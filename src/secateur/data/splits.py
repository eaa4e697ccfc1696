"""A file or folder to the three splits of a data set, with everything that looks wrong counted or refused."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.data.carving import carve
from secateur.data.checks import contradictions, leaks, repeats
from secateur.data.files import SUFFIXES, read_records, suffix_of
from secateur.data.rows import Table, adapt_, read_table
from secateur.errors import DataError
from secateur.tasks import Task, TextClassification, task_named

__all__ = ["PACKAGED", "Splits", "load_splits"]

_PACKAGED_FOLDER = Path(__file__).parent / "packaged"
PACKAGED = ("assistant_intents",)

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}


@dataclass(frozen=True)
class Splits:
    """A data set ready for training and measuring.

    Attributes:
        name: Where it came from.
        task: What is learnt from it; knows the labels.
        train: Rows to learn from; empty where the set has none.
        validation: Rows to choose by.
        test: Rows to report on.
        out_of_scope: Test rows labelled out of scope where that is no trained label; never part of `test`.
        columns: The column of each role.
        leaks: Texts that occur in two splits, by pair of splits.
        notes: What was decided on the way, and what looks wrong, one sentence each.
    """

    name: str
    task: Task
    train: list[Any]
    validation: list[Any]
    test: list[Any]
    out_of_scope: list[Any] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    leaks: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The task's labels, in the order of the logits."""
        return self.task.labels

    def describe(self) -> str:
        """Returns a few lines for the user: sizes, labels, columns, and what to look at."""
        sizes = f"train {len(self.train)}, validation {len(self.validation)}, test {len(self.test)}"
        if self.out_of_scope:
            sizes += f", out of scope {len(self.out_of_scope)}"
        columns = ", ".join(f"{role} {column!r}" for role, column in self.columns.items())
        lines = [
            f"{self.name}: {self.task.name}, {sizes} rows",
            *self.task.describe(self.train),
            f"columns: {columns}",
            *self.notes,
        ]
        lines += [
            f"{count} {'text occurs' if count == 1 else 'texts occur'} in both {pair}."
            for pair, count in self.leaks.items()
            if count
        ]
        return "\n".join(lines)


def load_splits(
    path: str | os.PathLike[str],
    task: str | type[Task] | Task | None = None,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
) -> Splits:
    """Loads a data set.

    Args:
        path: A CSV, TSV or JSON lines file, plain or `.gz`; or a folder with one such file for each split;
            or the name of a packaged set. Where there are training rows, what has no file of its own is
            split off them: 10 % a split, by label, chosen by a hash of the text, so that the order of the
            rows does not matter.
        task: What the rows are for: a name, a class, or a task with its labels, as that of a model.
        columns: Role to column; the others are looked for by their usual names.
        kind: One of the task's kinds; None finds out.

    Returns:
        The splits.

    Raises:
        DataError: If something is missing, unreadable, empty or cannot be learnt from.
        UnsupportedError: There is no such task.
    """
    source = _locate(path)
    notes: list[str] = []
    wanted = task_named(task) if isinstance(task, str) else task or TextClassification
    chosen = type(wanted) if isinstance(wanted, Task) else wanted
    files = _split_files(source) if source.is_dir() else {"train": source}
    tables: dict[str, Table] = {}
    known = dict(columns or {})
    for split, file in files.items():
        tables[split] = read_table(chosen, str(file), read_records(file), known)
        known = tables[split].columns
    learnt_from = next(iter(tables.values()))
    try:
        meant = wanted if isinstance(wanted, Task) else chosen.from_rows(learnt_from.rows, kind=kind)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    for table in tables.values():
        adapt_(table, meant)
    parts = {split: table.rows for split, table in tables.items()}
    if "train" in parts:
        _note_oddities(chosen, parts["train"], "validation" in parts and "test" in parts, notes)
    missing = [split for split in ("test", "validation") if split not in parts]
    if missing and "train" in parts:
        parts |= carve(chosen, parts["train"], missing, notes)
    parts = {split: parts.get(split, []) for split in _SPLIT_NAMES}
    apart = _take_out_of_scope_(meant, parts, notes)
    for split in ("validation", "test") if wanted is chosen else ():  # a model's labels are its own affair
        _check_known(tables[split].source if split in tables else str(source), parts[split], meant)
    return Splits(
        name=str(path),
        task=meant,
        **parts,
        out_of_scope=apart,
        columns=known,
        leaks=leaks(chosen, parts),
        notes=notes,
    )


def _locate(path: str | os.PathLike[str]) -> Path:
    source = Path(path)
    if source.exists():
        return source
    if str(path) in PACKAGED:
        return _PACKAGED_FOLDER / str(path)
    raise DataError(
        f"{path} does not exist; give a data file, a folder, or the packaged set {', '.join(PACKAGED)}."
    )


def _split_files(folder: Path) -> dict[str, Path]:
    """Finds the file of each split by its name; train comes first, because it decides the columns."""
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
    if not by_split:
        present = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) or "nothing"
        raise DataError(
            f"{folder} has no train, validation or test file; it must be called so, with one of the endings "
            f"{', '.join(SUFFIXES)}, also with .gz. Found: {present}."
        )
    return {split: by_split[split][0] for split in _SPLIT_NAMES if split in by_split}


def _note_oddities(task: type[Task], train: Sequence[Any], kept: bool, notes: list[str]) -> None:
    """Says how many training rows are repeated, where they are kept, and how many contradict each other."""
    again, torn = repeats(train), contradictions(task, train)
    if again and kept:
        notes.append(f"{again} training {'row repeats' if again == 1 else 'rows repeat'} an earlier one.")
    if torn:
        occur = "training text occurs" if torn == 1 else "training texts occur"
        notes.append(f"{torn} {occur} with different labels.")


def _take_out_of_scope_(task: Task, parts: dict[str, list[Any]], notes: list[str]) -> list[Any]:
    """Takes rows that the task cannot know out of validation and test; returns those of test."""
    if not isinstance(task, TextClassification):
        return []
    apart = [row for row in parts["test"] if task.is_out_of_scope(row)]
    for split in ("validation", "test"):
        kept = [row for row in parts[split] if not task.is_out_of_scope(row)]
        if split == "validation" and len(kept) < len(parts[split]):
            notes.append(f"{len(parts[split]) - len(kept)} out-of-scope validation rows are not used.")
        parts[split] = kept
    return apart


def _check_known(source: str, rows: Sequence[Any], task: Task) -> None:
    unknown = task.unknown(rows)
    if unknown:
        raise DataError(
            f"{source}: the label {unknown[0]!r} occurs in no training row"
            f"{f' (and {len(unknown) - 1} other labels neither)' if len(unknown) > 1 else ''}: "
            f"add training rows for it or delete its rows."
        )
