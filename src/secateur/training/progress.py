"""One progress bar for a Trainer's run, in place of its own bars and printed dictionaries."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

__all__ = ["RunProgress", "show_progress_"]


class RunProgress(TrainerCallback):  # type: ignore[misc]
    """Draws a bar on a terminal, and writes a line at every tenth of the run elsewhere.

    Args:
        label: What is being done.
        console: Where to draw; standard error by default.
    """

    def __init__(self, label: str, console: Console | None = None) -> None:
        self._label = label
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._started = 0.0
        self._tenth = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the bar; called by the Trainer."""
        self._started = time.monotonic()
        self._tenth = 0
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(self._label, total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the bar; called by the Trainer."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)
            return
        tenth = 10 * state.global_step // max(state.max_steps, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            seconds = time.monotonic() - self._started
            self._console.print(
                f"{self._label}: step {state.global_step} of {state.max_steps}, {seconds:.0f} s",
                highlight=False,
                soft_wrap=True,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops the bar; called by the Trainer."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def show_progress_(trainer: Trainer, label: str | None) -> None:
    """Replaces a Trainer's own output.

    Args:
        trainer: The Trainer, before it runs.
        label: What is being done; None shows nothing.
    """
    for own in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(own)
    if label is not None:
        trainer.add_callback(RunProgress(label))
