"""`secateur recipe check`, `list` and `schema`: what a recipe says, before anything runs."""

from __future__ import annotations

import math
from pathlib import Path

from secateur.bench.results import write_text
from secateur.commands.console import note, output, print_table, show_json
from secateur.errors import MissingExtraError, RecipeError

try:
    from secateur.recipe import BUILTIN_RECIPES, Recipe, load_recipe
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"Recipes need {error.name}, which is not installed: pip install 'secateur[train]'."
    ) from error
from secateur.recipe.plan import StepPlan
from secateur.recipe.plot import plot_page, require_plotly
from secateur.recipe.schema import recipe_schema_text
from secateur.recipe.stages import PruningStage
from secateur.recipe.timeline import time_line_table, timeline
from secateur.recipe.times import counts_steps

__all__ = ["check", "list_recipes", "print_time_line", "show_schema"]

_FINE = 1000  # steps an epoch where the data are not known: times in epochs come out to a thousandth


def check(
    name: str, rows: int | None, batch_size: int | None, plot: Path | None, json_file: Path | None
) -> None:
    """Prints what a recipe will do, on a time line.

    Args:
        name: Name or path of the recipe.
        rows: Training rows; None shows epochs only.
        batch_size: Instead of the recipe's.
        plot: An HTML file to draw into.
        json_file: Where to write the time line as JSON.

    Raises:
        RecipeError: The recipe is wrong, or does not fit that many rows.
        MissingExtraError: Plotly is not installed, and a plot was asked for.
    """
    if plot is not None:
        require_plotly()
    written = load_recipe(name)
    recipe = written if batch_size is None else _with_batch_size(written, batch_size)
    if rows is None and _counts_steps(recipe):
        raise RecipeError(
            f"The recipe {recipe.name!r} counts in steps, so only the size of the data tells when they "
            "are: give --rows N, the number of training rows."
        )
    if rows is None:
        plan = StepPlan.of(recipe, _FINE, math.ceil(recipe.training.epochs * _FINE))
    else:
        recipe = recipe.stretched(rows)
        plan = StepPlan.for_rows(recipe, rows)
    in_steps = rows is not None
    if plot is not None:
        write_text(plot, plot_page(plan, in_steps))
    if show_json(json_file, _as_json(plan, in_steps)):
        return
    print_time_line(plan, rows)
    if recipe.training.epochs != written.training.epochs:
        note(
            f"{rows} rows are so few that the run goes from {written.training.epochs:g} to "
            f"{recipe.training.epochs:.4g} epochs (min_steps, small_data)."
        )
    if rows is None and recipe.training.min_steps > 0:
        least = _least_rows(recipe)
        note(
            f"With fewer than {least:,} rows the run gets another length (min_steps, small_data): "
            "give --rows N to see it, and the steps."
        )
    if plot is not None:
        output().print(f"Drawn in {plot}", markup=False, highlight=False, soft_wrap=True)


def print_time_line(plan: StepPlan, rows: int | None) -> None:
    """Prints what a recipe does, as a table.

    Args:
        plan: The recipe on the run.
        rows: Training rows; None leaves out steps, which are not real then.
    """
    print_table(*time_line_table(plan, rows))


def list_recipes(json_file: Path | None) -> None:
    """Prints the recipes that come with the package."""
    recipes = [load_recipe(name) for name in BUILTIN_RECIPES]
    if not show_json(json_file, {recipe.name: recipe.model_dump(mode="json") for recipe in recipes}):
        print_table("", ("recipe", "what it does"), [(recipe.name, recipe.description) for recipe in recipes])


def show_schema() -> None:
    """Prints the JSON Schema of a recipe."""
    output().out(recipe_schema_text(), end="", highlight=False)


def _with_batch_size(recipe: Recipe, batch_size: int) -> Recipe:
    changes: dict[str, object] = {"training": recipe.training.model_copy(update={"batch_size": batch_size})}
    if recipe.small_data is not None and recipe.small_data.batch_size is not None:
        changes["small_data"] = recipe.small_data.model_copy(update={"batch_size": batch_size})
    return recipe.model_copy(update=changes)


def _counts_steps(recipe: Recipe) -> bool:
    keys = ("start_epoch", "end_epoch", "freeze_epoch", "update_every", "rewind_epoch")
    times = [getattr(stage, key, None) for stage in recipe.stages for key in keys]
    times += [time for stage in recipe.stages_of(PruningStage) for time, _ in stage.steps or ()]
    return any(map(counts_steps, times))


def _least_rows(recipe: Recipe) -> int:
    """Returns the fewest rows with which the run is not stretched."""
    steps_per_epoch = math.ceil(recipe.training.min_steps / recipe.training.epochs)
    return (steps_per_epoch - 1) * recipe.training.batch_size + 1


def _as_json(plan: StepPlan, in_steps: bool) -> dict[str, object]:
    """Returns the time line; steps are left out where the data are not known."""
    found = []
    for event in timeline(plan):
        one: dict[str, object] = {"kind": event.kind, "what": event.what}
        one["epochs"] = [event.start / plan.steps_per_epoch, event.end / plan.steps_per_epoch]
        if in_steps:
            one["steps"] = [event.start, event.end]
        if event.before:
            one |= {"from": event.before, "to": event.after}
        found.append(one)
    result: dict[str, object] = {"recipe": plan.recipe.model_dump(mode="json")}
    if in_steps:
        result |= {"steps": plan.total_steps, "steps_per_epoch": plan.steps_per_epoch}
    return {**result, "timeline": found}
