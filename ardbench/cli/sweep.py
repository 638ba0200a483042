"""`ardbench sweep`: one recipe with several values of a few keys, as a suite that names itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from ardbench.cli import engines, options
from ardbench.errors import ArdbenchError
from ardbench.verbs import SWEPT


@click.command()
@options.recipe_argument
@click.option(
    "--over",
    "texts",
    multiple=True,
    required=True,
    metavar="KEY=VALUE,VALUE",
    help="Train with each of these values, such as optimizer.lr=0.05,0.1 or seed=0..2; may be repeated, and then with every "
    "choice of one of each.",
)
@options.teachers
@options.student
@options.dataset
@options.epochs
@options.fast
@options.sets
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    default=SWEPT,
    show_default=True,
    metavar="NAME",
    help="What to measure on the test images of each run; may be repeated.",
)
@click.option("--n", type=click.IntRange(min=1), help="Measure on a class-balanced subset of so many test images.")
@click.option(
    "--checkpoint",
    "checkpoints",
    type=options.Checkpoint(),
    multiple=True,
    metavar="CHECKPOINT",
    help="What to measure of each run: last, best, averaged or epoch-N; without it the selected one.",
)
@click.option("--dry-run", is_flag=True, help="Print what is done, what is missing and what it costs, and do nothing.")
@click.option("--status", is_flag=True, help="Print how the sweep stands that another shell is working on.")
@engines.chosen
@options.out
@options.device
@options.data_root
@options.runs
@options.deadline
@options.quiet
@options.log_file
@options.tracking
def sweep(
    recipe: str, texts: tuple[str, ...], teachers: tuple[str, ...], student: str | None,
    dataset: str | None, epochs: int | None, fast: bool, sets: tuple[str, ...], protocols: tuple[str, ...], n: int | None,
    checkpoints: tuple[str, ...], runs: Path, **words: Any,
) -> None:  # fmt: skip
    """Train a recipe with several values of a few keys, measure each run, and print a table with these values as columns.

    The sweep is a suite with a name of its own, whose file lies beside its runs: typing the same command again goes on or,
    when all is done, makes the table again; `ardbench compare FILE:RUN`, `report` and `reproduce` take the file.
    """
    from ardbench.campaigns.board import board_file
    from ardbench.cli.reproduce import reproduce
    from ardbench.verbs.reproducing import sweep_file

    context: click.Context = click.get_current_context()  # type: ignore[assignment]
    with sweep_file(
        recipe, texts, runs, teachers=teachers, dataset=dataset, student=student, epochs=epochs, fast=fast, sets=sets,
        protocols=protocols, checkpoints=checkpoints, n=n,
    ) as (name, file):  # fmt: skip
        if words["status"] and not board_file(name, runs).exists():
            raise ArdbenchError(f"No {name} is under way in {runs}: type it without --status to begin it or to go on.")
        context.invoke(reproduce, suite=str(file), runs=runs, **words)
