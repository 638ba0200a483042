"""`ardbench new`: files to start from."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ardbench.cli import options


@click.group()
def new() -> None:
    """Write a file to start from, and say what to type next."""


@new.command()
@click.argument("recipe", metavar="METHOD|RECIPE", shell_complete=options.complete_recipe)
@options.dataset
@options.student
@options.facts_root
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.toml",
    help="Where it is written; without it here, named after recipe and data set.",
)
def recipe(recipe: str, dataset: str | None, student: str | None, out: Path | None) -> None:
    """Write the recipe of a method on a data set as a commented TOML file to edit.

    A method that has none of its own for the data set starts from its default recipe.
    """
    from ardbench.verbs.drafting import save

    path, following = save(recipe, dataset, student, out)
    click.echo(path)
    click.echo(f"Next: {following}")


@new.command()
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="FOLDER",
    help="Where the files are written; without it, here.",
)
def method(name: str, out: Path) -> None:
    """Write a method as a plugin's file that works as it stands, and a suite that sets it beside RSLAD."""
    from ardbench.verbs.first_method import save

    plugin, suite, following = save(name, out)
    click.echo(plugin)
    click.echo(suite)
    for command in following:
        click.echo(f"Next: {command}")
