"""Which columns of the data hold what, as the command line names them."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.errors import DataError
from secateur.tasks import TASKS, Task

__all__ = ["columns_of", "named_columns"]

# What --text and --label mean for tasks whose roles are called otherwise.
_TEXT_ROLES = ("text", "tokens", "context")
_LABEL_ROLES = ("label", "tags", "answers", "similarity")


def columns_of(
    task: type[Task] | None, given: Sequence[str] | None, text: str | None = None, label: str | None = None
) -> dict[str, str]:
    """Reads what `--column ROLE=COLUMN`, `--text` and `--label` gave.

    Args:
        task: What the rows are for; None where the data will tell.
        given: Role and column with = between them.
        text: The column of the text, or of what the task has instead.
        label: The column of the label, or of what the task has instead.

    Returns:
        Role to column.

    Raises:
        DataError: One has another form, a role comes twice, or the task has no such role.
    """
    if task is None:
        columns = named_columns(text, label)
        allowed = dict.fromkeys(role for known in TASKS.values() for role in known.columns)
        hint = f"the roles of all tasks are {', '.join(allowed)}"
    else:
        columns = _by_task(task, text, label)
        allowed = dict.fromkeys(task.columns)
        hint = _roles(task)
    for pair in given or ():
        role, _, column = pair.partition("=")
        if role not in allowed or not column:
            raise DataError(f"--column {pair} is not ROLE=COLUMN; {hint}.")
        if role in columns:
            raise DataError(f"--column {pair}: the column of {role} is given twice.")
        columns[role] = column
    return columns


def _by_task(task: type[Task], text: str | None, label: str | None) -> dict[str, str]:
    columns = {}
    for option, column, roles in (("--text", text, _TEXT_ROLES), ("--label", label, _LABEL_ROLES)):
        role = next((role for role in roles if role in task.columns), None)
        if column is not None and role is None:
            raise DataError(f"{option} {column}: {task.name} has no such role; {_roles(task)}.")
        if column is not None and role is not None:
            columns[role] = column
    return columns


def named_columns(text: str | None, label: str | None) -> dict[str, str]:
    """Returns the columns of text and label that the user names, by role."""
    return {role: column for role, column in (("text", text), ("label", label)) if column is not None}


def _roles(task: type[Task]) -> str:
    return f"the roles of {task.name} are {', '.join(task.columns)}"
