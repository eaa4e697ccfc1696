"""The parser of `secateur recipe ...`; imports nothing heavy, as `secateur.cli` asks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["recipe_app"]

recipe_app = typer.Typer(help="Check, draw and list recipes.")

JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON; - for stdout.")
]


@recipe_app.callback(invoke_without_command=True)
def _help_by_itself(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@recipe_app.command()
def check(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in recipe or a YAML file.")],
    rows: Annotated[int | None, typer.Option(min=1, help="Training rows; shows steps beside epochs.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows a step, instead of the recipe's.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it: one HTML file that needs no network.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Show what a recipe will do and when; name everything that is wrong with it."""
    from secateur.commands.recipe import check as run

    run(recipe, rows, batch_size, plot, json_file)


@recipe_app.command("list")
def list_recipes(json_file: JsonFile = None) -> None:
    """List the recipes that come with the package."""
    from secateur.commands.recipe import list_recipes as run

    run(json_file)


@recipe_app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from secateur.commands.recipe import show_schema

    show_schema()
