"""The errors a user can meet, each with one sentence: what was given, what is allowed, what to do.

    SecateurError
    ├── RecipeError        a recipe that says something impossible or unknown
    ├── StructureError     a model whose modules are not where its family puts them
    ├── CheckpointError    a folder that is not a sound Secateur checkpoint
    ├── UnsupportedError   sound input that this version cannot handle
    ├── DataError          bad rows, columns, labels, texts or token ids (also a ValueError)
    └── MissingExtraError  an optional dependency is not installed (also an ImportError)

The command line prints the message and exits with status 2. Anything else that escapes is our bug.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "DataError",
    "MissingExtraError",
    "RecipeError",
    "SecateurError",
    "StructureError",
    "UnsupportedError",
    "problem_list",
]

_MAX_PROBLEMS_SHOWN = 20


class SecateurError(Exception):
    """Base of every error that Secateur raises on purpose."""


class RecipeError(SecateurError):
    """A recipe is unreadable, has an unknown key or asks for something impossible."""


class StructureError(SecateurError):
    """A model's modules are not laid out as its family says."""


class CheckpointError(SecateurError):
    """A folder is not a Secateur checkpoint, or is truncated, altered or inconsistent."""


class UnsupportedError(SecateurError):
    """The input is sound, but this version of Secateur does not handle it."""


class DataError(SecateurError, ValueError):
    """Data given by the user cannot be used as they are."""


class MissingExtraError(SecateurError, ImportError):
    """A feature needs an optional dependency that is not installed."""


def problem_list(subject: str, problems: Iterable[str]) -> str:
    """Joins everything that is wrong with one thing into one message.

    Args:
        subject: What is wrong, for example the folder's name.
        problems: At least one clause, without a full stop.

    Returns:
        One sentence for a single problem, else a list of at most 20 with the rest counted.
    """
    found = list(problems)
    if len(found) == 1:
        return f"{subject}: {found[0]}."
    shown = [f"  - {problem}" for problem in found[:_MAX_PROBLEMS_SHOWN]]
    if len(found) > _MAX_PROBLEMS_SHOWN:
        shown.append(f"  - and {len(found) - _MAX_PROBLEMS_SHOWN} more")
    return "\n".join([f"{subject}: {len(found)} problems:", *shown])
