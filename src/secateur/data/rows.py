"""Records to rows of a task: which column holds what, and whose fault it is where one cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.data.record import Record
from secateur.errors import DataError
from secateur.tasks import Task

__all__ = ["Table", "adapt_", "find_columns", "read_table"]

_LONGEST_CLAUSE = 400


@dataclass
class Table:
    """Rows with the places they come from.

    Attributes:
        source: The file, or what else it is, for messages.
        rows: What the task's `parse` made.
        lines: Where each row stands in the source.
        columns: Role to column.
    """

    source: str
    rows: list[Any]
    lines: list[int]
    columns: dict[str, str]


def read_table(
    task: type[Task],
    source: str,
    records: Sequence[Record],
    columns: Mapping[str, str] | None = None,
    guesses: bool = True,
) -> Table:
    """Makes rows of records.

    Args:
        task: Whose rows.
        source: Where the records come from, for messages.
        records: At least one.
        columns: Role to column, as far as they are known; others are looked for by their usual names.
        guesses: Whether optional roles are, too.

    Raises:
        DataError: A column is missing, or a record cannot be used.
    """
    found = find_columns(task, source, list(map(str, records[0].values)), columns or {}, guesses)
    rows = []
    for record in records:
        given = {role: record.values.get(column) for role, column in found.items()}
        lacking = [role for role in found if given[role] is None and role not in task.optional]
        if lacking:
            raise DataError(f"{source}, line {record.line}: the row has no {found[lacking[0]]!r}.")
        try:
            rows.append(task.parse(given))
        except DataError as error:
            raise _placed(error, source, record.line, found) from None
    return Table(source, rows, [record.line for record in records], found)


def adapt_(table: Table, task: Task) -> None:
    """Brings a table's rows into the form of the task's kind, in place.

    Raises:
        DataError: A row is not of this kind.
    """
    for index, row in enumerate(table.rows):
        try:
            table.rows[index] = task.adapt(row)
        except DataError as error:
            raise _placed(error, table.source, table.lines[index], table.columns) from None


def find_columns(
    task: type[Task], source: str, present: Sequence[str], wanted: Mapping[str, str], guesses: bool = True
) -> dict[str, str]:
    """Says which column holds which role.

    Args:
        task: Whose roles.
        source: Where the columns come from, for messages.
        present: The columns there are.
        wanted: Role to column as the user says, or as another split has it.
        guesses: Whether optional roles are looked for that `wanted` does not name.

    Raises:
        DataError: A role is not the task's, a column does not exist, or none has a usual name.
    """
    shown = ", ".join(present)
    for role, column in wanted.items():
        if role not in task.columns:
            raise DataError(
                f"{task.name} has no column role {role!r}; its roles are {', '.join(task.columns)}."
            )
        if column not in present:
            raise DataError(f"{source} has no column {column!r}; its columns are: {shown}.")
    found = task.guess(present, wanted)
    if not guesses:
        found = {role: found[role] for role in found if role in wanted or role not in task.optional}
    for role, usual in task.columns.items():
        if role not in found and role not in task.optional:
            option = f"--{role}" if role in ("text", "label") else f"--column {role}=NAME"
            raise DataError(
                f"{source} has none of the columns {', '.join(usual)}; its columns are: {shown}. "
                f"Name the right one with {option}."
            )
    return {role: found[role] for role in task.columns if role in found}


def _placed(error: DataError, source: str, line: int, columns: Mapping[str, str]) -> DataError:
    """Puts the place in front of a clause of the task, and the column in place of the role."""
    clause = str(error)
    for role, column in columns.items():
        if clause.startswith(f"{role!r}"):
            clause = f"{column!r}{clause[len(repr(role)) :]}"
            break
    if len(clause) > _LONGEST_CLAUSE:  # it quotes a text
        clause = f"{clause[: _LONGEST_CLAUSE // 2]} ... {clause[-_LONGEST_CLAUSE // 2 :]}"
    return DataError(f"{source}, line {line}: {clause}.")
