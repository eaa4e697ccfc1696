"""Records to the three splits of a data set, with everything that looks wrong counted or refused."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.data.carving import carve
from secateur.data.checks import contradictions, leaks, repeats
from secateur.data.rows import Table, adapt_, find_columns, read_table
from secateur.data.sources import PACKAGED, SPLITS, Part, Source, guess_task, open_source
from secateur.errors import DataError
from secateur.tasks import Task, TextClassification, task_named

__all__ = ["PACKAGED", "Splits", "load_splits"]

_NAMED = ("label", "tags")  # the roles that hold labels


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
            *self.task.describe(self.train or self.validation or self.test),
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
    cache: str | os.PathLike[str] | None = None,
) -> Splits:
    """Loads a data set.

    Args:
        path: A file, plain or `.gz`; a folder with one file for each split; the name of a packaged set; or a
            data set of the hub as `org/name` or `org/name:config`. Where there are training rows, what has no
            file of its own is split off them: 10 % a split, by label, chosen by a hash of the text, so that
            the order of the rows does not matter.
        task: What the rows are for: a name, a class, or a task with its labels, as that of a model. None
            takes what a manifest.json beside the data says, else what the columns look like.
        columns: Role to column; the others are looked for by their usual names.
        kind: One of the task's kinds; None finds out.
        cache: Where downloads from the hub stay; None keeps none.

    Returns:
        The splits.

    Raises:
        DataError: If something is missing, unreadable, empty or cannot be learnt from.
        UnsupportedError: There is no such task.
        MissingExtraError: The data lie on the hub or in parquet files, and `datasets` is not installed.
    """
    wanted = task_named(task) if isinstance(task, str) else task
    given = type(wanted) if isinstance(wanted, Task) else wanted
    source = open_source(path, given, cache)
    notes = list(source.notes)
    first = next(iter(source.parts.values()))
    chosen = given or _task_of(source, first, columns or {})
    known = dict(columns or {})
    tables: dict[str, Table] = {}
    for split, part in source.parts.items():
        found = find_columns(chosen, part.where, list(map(str, part.records[0].values)), known, not tables)
        if _is_unlabelled(part, found, source) and split != "train":
            notes.append(f"{split} has no labels and is not used.")
            continue
        tables[split] = read_table(chosen, part.where, part.records, known, guesses=not tables)
        known = tables[split].columns
    if isinstance(wanted, Task):
        meant = wanted
    else:
        try:
            learnt_from = next(iter(tables.values())).rows
            meant = chosen.from_rows(learnt_from, kind=kind, names=_names(source, known))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    for table in tables.values():
        adapt_(table, meant)
    parts = {split: table.rows for split, table in tables.items()}
    if "train" in parts:
        _note_oddities(chosen, parts["train"], "validation" in parts and "test" in parts, notes)
    missing = [split for split in ("test", "validation") if split not in parts]
    if missing and "train" in parts:
        parts |= carve(chosen, parts["train"], missing, notes)
    parts = {split: parts.get(split, []) for split in SPLITS}
    apart = _take_out_of_scope_(meant, parts, notes)
    for split, rows in parts.items():
        where = tables[split].source if split in tables else str(path)
        _check_known(where, rows, meant, isinstance(wanted, Task))
    return Splits(
        name=str(path),
        task=meant,
        **parts,
        out_of_scope=apart,
        columns=known,
        leaks=leaks(chosen, parts),
        notes=notes,
    )


def _task_of(source: Source, part: Part, columns: Mapping[str, str]) -> type[Task]:
    named = source.manifest.task
    return guess_task(part.records[0], columns) if named is None else task_named(named)


def _names(source: Source, columns: Mapping[str, str]) -> list[str] | None:
    """Returns the labels that the data set or its manifest names, if any."""
    own = [source.names[columns[role]] for role in _NAMED if columns.get(role) in source.names]
    return own[0] if own else source.manifest.labels


def _is_unlabelled(part: Part, columns: Mapping[str, str], source: Source) -> bool:
    """Says whether all labels are -1, as data sets of the hub mark those that are kept secret."""
    column = columns.get("label")
    return column in source.names and all(record.values.get(column) in (-1, None) for record in part.records)


def _note_oddities(task: type[Task], train: Sequence[Any], kept: bool, notes: list[str]) -> None:
    """Says how many training rows are repeated, where they are kept, and how many contradict each other."""
    again, torn = repeats(train), contradictions(task, train)
    if again and kept:
        notes.append(f"{again} training {'row repeats' if again == 1 else 'rows repeat'} an earlier one.")
    if torn:
        occur = "training text occurs" if torn == 1 else "training texts occur"
        notes.append(f"{torn} {occur} in rows that contradict each other.")


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


def _check_known(source: str, rows: Sequence[Any], task: Task, is_given: bool) -> None:
    unknown = task.unknown(rows)
    if not unknown:
        return
    others = f" (and {len(unknown) - 1} other labels neither)" if len(unknown) > 1 else ""
    if is_given:
        raise DataError(
            f"{source}: the model does not know the label {unknown[0]!r}{others}: give data with the labels "
            f"it was trained on."
        )
    raise DataError(
        f"{source}: the label {unknown[0]!r} occurs in no training row{others}: "
        f"add training rows for it or delete its rows."
    )
