"""`secateur student`: a smaller model, taught on plain texts before it learns a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur.commands.console import hush_libraries, note
from secateur.errors import MissingExtraError

__all__ = ["run"]


def run(
    model: str,
    data: str,
    out: Path,
    recipe: str,
    max_length: int | None,
    seed: int,
    save_every: int,
    resume: bool,
    threads: int | None,
) -> None:
    """Makes and teaches the student; see `secateur.training.general.teach_student`.

    Raises:
        SecateurError: Something that was given cannot be used; nothing is written then.
    """
    hush_libraries()
    try:
        import torch

        from secateur.training.general import teach_student
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Teaching needs {error.name}, which is not installed: pip install 'secateur[train]'."
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    options: dict[str, Any] = {
        "max_length": max_length,
        "seed": seed,
        "save_every": save_every,
        "resume": resume,
    }
    folder = teach_student(model, data, out, recipe, **options)
    note(f"The student is in {folder}: go on with secateur compress --model TEACHER --student {folder}.")
