"""`ardbench train`: a run without teachers."""

from __future__ import annotations

from typing import Any

import rich_click as click

from ardbench.cli import options


@click.command()
@options.recipe_argument
@options.changes
@options.tensorboard
@options.running
def train(**words: Any) -> None:
    """Train a network that needs no teacher, such as a robust teacher itself.

    RECIPE is a name from `ardbench list recipes`, NAME@VARIANT, a TOML file, or a method (with --dataset). The run
    directory is printed first and the next command last. Typing the same command again continues or, when all is done,
    does nothing.
    """
    from ardbench.cli.training import Wanted, execute
    from ardbench.errors import ArdbenchError
    from ardbench.methods import method_class

    wanted = Wanted(**words)
    recipe = wanted.resolved()
    method = recipe.method["name"]
    if roles := [role for role in method_class(method).roles if isinstance(role, str)]:
        asked = " ".join(f"--teacher {role}=SOURCE" for role in roles)
        raise ArdbenchError(f"{method} learns from teachers: type `ardbench distill {wanted.recipe} {asked}` instead.")
    execute(wanted, recipe, ())
