"""`ardbench report`: tables and figures from run directories, without torch."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError
from ardbench.listeners import say

if TYPE_CHECKING:
    from ardbench.reports.transfer import Matrix

GARBAGE = 100_000
"""Objects after which Python looks for garbage: what a report reads lives to its end, and looking took a tenth of its time."""
OF_TABLES = ("columns", "no_intervals", "fit_width", "published")
"""Options that figures have not."""


@click.command()
@click.argument("what", metavar="[SUITE|RUN...|CSV]", nargs=-1, shell_complete=options.complete_suite)
@options.runs
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write the tables there as Markdown, CSV and LaTeX with their provenance; without it they are printed.",
)
@click.option("--protocol", "protocols", multiple=True, metavar="NAME", help="Show this protocol; may be repeated.")
@click.option(
    "--checkpoint", "checkpoints", multiple=True, metavar="NAME", help="Show this checkpoint; may be repeated."
)
@click.option(
    "--columns",
    metavar="NAME,NAME...",
    help="Show these columns alone, in this order, such as run,clean,aa; tables without their numbers are left out. Made where "
    "they are named: worst-class, nsd, nrr, overfitting (of aa, or nsd:PROTOCOL).",
)
@click.option("--no-intervals", is_flag=True, help="Show numbers without [low, high]; a note says how wide these are.")
@click.option(
    "--fit-width",
    is_flag=True,
    help="LaTeX as wide as the line at most: intervals below numbers, teachers below runs, scaled if need be (graphicx).",
)
@click.option(
    "--published",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="CSV",
    help="Put these published numbers beside runs too; columns as in benchmarks/published.csv.",
)
@click.option(
    "--curves",
    is_flag=True,
    help="Draw what the runs told over their epochs, seeds as a mean in a band, and accuracies by class, as PNG, SVG and PDF, "
    "in place of the tables.",
)
@click.option(
    "--tradeoff",
    is_flag=True,
    help="Draw clean against aa accuracy (or --protocol) with intervals, as PNG, SVG and PDF.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write one page that needs no other file: tables to sort, figures, trust checks, costs, provenance.",
)
@options.data_root
def report(
    what: tuple[str, ...], runs: Path, out: Path | None, protocols: tuple[str, ...], checkpoints: tuple[str, ...],
    columns: str | None, no_intervals: bool, fit_width: bool, published: Path | None, curves: bool, tradeoff: bool,
    html: Path | None, data_root: Path | None,
) -> None:  # fmt: skip
    """Make tables of what was measured: of one suite, of the runs named, of all runs under --runs, or of a report's CSV.

    Figures of a run lie in its directory, those of a suite beside the runs, and others in --out. --html shows images that
    `eval --keep-adversarial` has kept, where their data set is at hand.
    """
    from ardbench.reports import View, renderable
    from ardbench.verbs import reporting

    gc.set_threshold(GARBAGE)
    named = tuple(name.strip() for name in columns.split(",")) if columns is not None else ()
    view = View(protocols, checkpoints, named, not no_intervals, fit_width)
    output = Output(as_json=False)
    if curves or tradeoff:
        flag = "--curves" if curves else "--tradeoff"
        if html is not None:
            raise ArdbenchError(
                f"{flag} draws figures in place of what --html writes, a page that has them: leave one out."
            )
        given = (columns is not None, no_intervals, fit_width, published is not None)
        if of_tables := next((name for name, one in zip(OF_TABLES, given, strict=True) if one), None):
            raise ArdbenchError(f"--{of_tables.replace('_', '-')} is for tables, and {flag} draws: leave one out.")
        paths = reporting.draw(what, runs=runs, out=out, curves=curves, tradeoff=tradeoff, view=view)
    else:
        matrix = _matrix(what, runs) if html else None
        made = reporting.report(
            what, runs=runs, out=out, html=html, view=view, published=published, data_root=data_root, matrix=matrix
        )
        paths = list(made.paths)
        for remark in made.remarks:
            say(remark)
        if not paths:
            output.show(renderable(made.tables))
    for path in paths:
        output.line(str(path))


def _matrix(what: Sequence[str], runs: Path) -> Matrix | None:
    """Return how a suite's teachers transfer, if one was named and that was measured."""
    from ardbench.campaigns.suites import planned
    from ardbench.evaluation.matrix import load_transfer
    from ardbench.reports.transfer import Matrix
    from ardbench.verbs.transferring import ask, teachers_of

    if len(what) != 1 or Path(what[0]).is_dir() or what[0].endswith(".csv"):
        return None
    suite, cells = planned(what[0], runs)
    if suite.transfer is None or not all(one.sha256 for cell in cells for one in cell.teachers):
        return None
    question = ask(teachers_of(suite, cells), suite.transfer.size, n=suite.transfer.n)
    place = question.place(runs)
    return Matrix(question, load_transfer(place), suite.transfer.size) if place.is_file() else None
