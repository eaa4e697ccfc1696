"""What `compress` says before it starts: what will happen, and how long it will take."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secateur.recipe.plan import StepPlan
from secateur.recipe.timeline import time_line_table
from secateur.training.encoding import Features, Padder
from secateur.training.estimate import Estimate, estimate
from secateur.training.progress import say

__all__ = ["announce"]

_WIDTH = 160  # of what is no terminal: a log shall not fold a table's rows


def announce(
    plan: StepPlan,
    network: Any,
    features: Features,
    padder: Padder,
    *,
    notes: tuple[str, ...] = (),
    **timed: Any,
) -> Estimate:
    """Prints a recipe's time line, notes and an estimate of the time on standard error.

    Args:
        plan: The recipe on the run.
        network: See `estimate`.
        features: See `estimate`.
        padder: See `estimate`.
        notes: Sentences between the two.
        **timed: See `estimate`.

    Returns:
        The estimate.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        console = Console(stderr=True, width=_WIDTH)
    title, columns, rows = time_line_table(plan, len(features))
    table = Table()
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)
    for note in notes:
        say(note, console)
    made = estimate(network, features, padder, plan, **timed)
    say(str(made), console)
    return made
