"""`ardbench distill`: a run that learns from teachers."""

from __future__ import annotations

from typing import Any

import rich_click as click

from ardbench.cli import options


@click.command()
@options.recipe_or_extend
@options.teachers
@click.option(
    "--diagnostics",
    is_flag=True,
    help="Log for each epoch who of teachers and peer is right on x and on the student's x'; the run stays the same.",
)
@options.training
@options.tracking
@options.running
def distill(teachers: tuple[str, ...], diagnostics: bool, **words: Any) -> None:
    """Distill a student from one or several trained teachers, or together with a peer.

    RECIPE is a name from `ardbench list recipes`, NAME@VARIANT, a TOML file, or a method with --dataset, for any
    data set. The run directory is printed first and the next command last. Typing the same command again continues or,
    when all is done, does nothing. --init begins with trained weights, --extend goes on with a run.
    `ardbench sweep` trains a recipe with several values of anything else than the seed.
    """
    from ardbench.cli.training import Wanted, execute
    from ardbench.verbs.training import check_taught

    execute(Wanted(**words, diagnostics=diagnostics), teachers, check_taught)
