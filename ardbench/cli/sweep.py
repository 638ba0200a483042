"""`ardbench sweep`: one recipe with several values of a few keys, as a suite that names itself."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import rich_click as click

from ardbench.cli import engines, options
from ardbench.errors import ArdbenchError

PROTOCOLS = ("clean", "pgd20")
"""What is measured unless it is said otherwise: enough to see which values matter."""


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
    default=PROTOCOLS,
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
    from ardbench.campaigns.suites import planned
    from ardbench.campaigns.varied import sweep_suite
    from ardbench.cli.reproduce import reproduce
    from ardbench.recipes import parsed
    from ardbench.runs import write_atomic
    from ardbench.verbs.training import FAST

    given = dict(map(parsed, (*(FAST if fast else ()), *sets))) | ({"schedule.epochs": epochs} if epochs else {})
    measured = {"protocols": list(protocols), "checkpoints": list(checkpoints), "n": n}
    name, text = sweep_suite(recipe, texts, teachers, dataset=dataset, student=student, given=given, measured=measured)
    if words["status"] and not board_file(name, runs).exists():
        raise ArdbenchError(f"No {name} is under way in {runs}: type it without --status to begin it or to go on.")
    context: click.Context = click.get_current_context()  # type: ignore[assignment]
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.toml"
        write_atomic(file, text.encode())
        _, cells = planned(str(file), runs)
        try:
            context.invoke(reproduce, suite=str(file), runs=runs, **words)
        finally:
            if any(cell.run.path.is_dir() for cell in cells):  # what is refused leaves nothing
                write_atomic(runs / file.name, text.encode())
