"""What a run shows of itself: its plan, and one line of progress in place of the Trainer's own output."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

__all__ = ["RunProgress", "say", "show_progress_"]


class RunProgress(TrainerCallback):  # type: ignore[misc]
    """Draws a bar on a terminal, and writes a line at every tenth of the run elsewhere.

    Both show what the Trainer logged last (loss, learning rate, and sparsity where the run prunes) and, anew
    at every tenth of the run, a score.

    Args:
        label: What is being done.
        console: Where to draw; standard error by default.
        score: Gives the score; None shows none.
    """

    def __init__(
        self, label: str, console: Console | None = None, score: Callable[[], float | None] | None = None
    ) -> None:
        self._label = label
        self._console = console or Console(stderr=True)
        self._score = score
        self._bar: Progress | None = None
        self._task: Any = None
        self._started = 0.0
        self._tenth = 0
        self._values: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the bar; called by the Trainer."""
        self._started = time.monotonic()
        self._tenth = 10 * state.global_step // max(state.max_steps, 1)
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(
                self._label, total=state.max_steps, completed=state.global_step, values=""
            )
            self._bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Takes loss, learning rate and sparsity; called by the Trainer."""
        for key, name, form in _LOGGED:
            if logs and key in logs:
                self._values[name] = format(float(logs[key]), form)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the bar; called by the Trainer."""
        tenth = 10 * state.global_step // max(state.max_steps, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            found = self._score() if self._score is not None else None
            if found is not None:
                self._values["score"] = f"{found:.4f}"
            if self._bar is None:
                self._print(state)
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, values=self._shown())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops the bar; called by the Trainer."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, state: Any) -> None:
        seconds = time.monotonic() - self._started
        parts = [f"step {state.global_step} of {state.max_steps}, {seconds:.0f} s", self._shown()]
        say(f"{self._label}: {', '.join(part for part in parts if part)}", self._console)

    def _shown(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._values.items())


_LOGGED = (
    ("loss", "loss", ".4g"),
    ("sparsity", "sparsity", ".1%"),
    ("learning_rate", "learning rate", ".2e"),
)


def say(text: str, console: Console | None = None) -> None:
    """Prints lines on standard error, as they are."""
    (console or Console(stderr=True)).print(text, markup=False, highlight=False, soft_wrap=True)


def show_progress_(
    trainer: Trainer, label: str | None, score: Callable[[], float | None] | None = None
) -> None:
    """Replaces a Trainer's own output.

    Args:
        trainer: The Trainer, before it runs.
        label: What is being done; None shows nothing.
        score: Gives the score to show.
    """
    for own in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(own)
    if label is not None:
        trainer.add_callback(RunProgress(label, score=score))
