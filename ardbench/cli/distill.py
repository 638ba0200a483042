"""`ardbench distill`: a run that learns from teachers."""

from __future__ import annotations

from typing import Any

import rich_click as click

from ardbench.cli import options


@click.command()
@options.recipe_argument
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="[ROLE=]SOURCE",
    help="A run directory, RUN@CHECKPOINT (last, best or averaged), an exported folder, FILE:ARCH such as wrn.pt:wrn-34-10, "
    "FILE#PART:ARCH of a file with several networks, FILE:ARCH+mean=NUMBERS+std=NUMBERS of one whose code normalises pixels, "
    "zoo:NAME of `ardbench list teachers`, or robustbench:NAME; once for each "
    "teacher.",
)
@click.option(
    "--diagnostics",
    is_flag=True,
    help="Log for each epoch who of teachers and peer is right on x and on the student's x'; the run stays the same.",
)
@options.changes
@options.tracking
@options.running
def distill(teachers: tuple[str, ...], diagnostics: bool, **words: Any) -> None:
    """Distill a student from one or several trained teachers, or together with a peer.

    RECIPE is a name from `ardbench list recipes`, NAME@VARIANT, a TOML file, or a method (with --dataset). The run
    directory is printed first and the next command last. Typing the same command again continues or, when all is done,
    does nothing.
    """
    from ardbench.cli.training import Wanted, execute
    from ardbench.verbs.training import check_taught

    wanted = Wanted(**words)
    recipe = wanted.resolved()
    check_taught(recipe, wanted.recipe)
    execute(wanted, recipe.model_copy(update={"diagnostics": recipe.diagnostics or diagnostics}), teachers)
