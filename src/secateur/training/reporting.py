"""TensorBoard and the like hear of a run through the stock Trainer's own reporters."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from secateur.errors import MissingExtraError, UnsupportedError

__all__ = ["Reporting"]

_TENSORBOARD_FOLDER = "TENSORBOARD_LOGGING_DIR"


@dataclass(frozen=True)
class Reporting:
    """Who else hears what a run logs.

    Attributes:
        names: The Trainer's names for them: `tensorboard`, `mlflow`, `wandb` and the like.
        folder: Where TensorBoard's files go; the others have settings of their own.
        run_name: What the run is called there.
    """

    names: tuple[str, ...] = ()
    folder: Path | None = None
    run_name: str = "secateur"

    @classmethod
    def to(cls, names: Sequence[str], folder: Path) -> Reporting:
        """Returns the reporters of these names.

        Args:
            names: As in the class; none reports to nobody.
            folder: As in the class; its name without a suffix is what the run is called.

        Raises:
            UnsupportedError: The Trainer knows none of such a name.
            MissingExtraError: It is not installed.
        """
        for name in names:
            if name not in INTEGRATION_TO_CALLBACK:
                known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
                raise UnsupportedError(f"There is no reporter {name!r}; the Trainer knows {known}.")
            if name not in get_available_reporting_integrations():
                raise MissingExtraError(
                    f"Reporting to {name} needs a package that is not installed: pip install {name}."
                )
        return cls(tuple(dict.fromkeys(names)), folder, folder.stem)

    @contextmanager
    def arguments(self, stage: str) -> Iterator[dict[str, Any]]:
        """Gives a Trainer's arguments, for as long as it runs.

        Args:
            stage: What is being done; every stage gets its own folder and name.
        """
        if not self.names:
            yield {"report_to": "none"}
            return
        values: dict[str, Any] = {"report_to": list(self.names), "run_name": f"{self.run_name}/{stage}"}
        if self.folder is None:
            yield values
            return
        folder = str(self.folder / stage)
        if "logging_dir" in {field.name for field in fields(TrainingArguments)}:
            yield {**values, "logging_dir": folder}
            return
        # transformers 5 takes it from nowhere else
        before = os.environ.get(_TENSORBOARD_FOLDER)
        os.environ[_TENSORBOARD_FOLDER] = folder
        try:
            yield values
        finally:
            if before is None:
                del os.environ[_TENSORBOARD_FOLDER]
            else:
                os.environ[_TENSORBOARD_FOLDER] = before
