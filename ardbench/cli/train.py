"""`ardbench train`: a run without teachers."""

from __future__ import annotations

from typing import Any

import rich_click as click

from ardbench.cli import options


@click.command()
@options.recipe_or_extend
@options.training
@options.tracking
@options.running
def train(**words: Any) -> None:
    """Train a network that needs no teacher, such as a robust teacher itself.

    RECIPE is a name from `ardbench list recipes`, NAME@VARIANT, a TOML file, or a method with --dataset, for any
    data set. The run directory is printed first and the next command last. Typing the same command again continues or,
    when all is done, does nothing. --init begins with trained weights, --extend goes on with a run.
    `ardbench sweep` trains a recipe with several values of anything else than the seed.
    """
    from ardbench.cli.training import Wanted, execute
    from ardbench.verbs.training import check_untaught

    execute(Wanted(**words), (), check_untaught)
