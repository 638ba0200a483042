"""`ardbench report`: tables and figures from run directories, without torch."""

from __future__ import annotations

import gc
from pathlib import Path

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError
from ardbench.listeners import say

GARBAGE = 100_000
"""Objects after which Python looks for garbage: what a report reads lives to its end, and looking took a tenth of its time."""
OF_TABLES = ("columns", "no_intervals", "fit_width", "published")
"""Options that figures have not."""


@click.command()
@click.argument("what", metavar="[SUITE|SUBJECT...|CSV]", nargs=-1, shell_complete=options.complete_suite)
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
@options.students
@click.option(
    "--columns",
    metavar="NAME,NAME...",
    help="Show these columns alone, in this order, such as run,clean,aa; tables without their numbers are left out. Made where "
    "they are named: worst-class, nsd, nrr, overfitting (of aa, or nsd:PROTOCOL), aa-estimated, minus-aa (of pgd20).",
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
@click.option(
    "--as",
    "named",
    multiple=True,
    metavar="'METHOD, STUDENT'",
    help="Put the published numbers of this method and student beside a network that is no run, such as 'rslad, resnet18'; "
    "once for each of them, in their order.",
)
@options.measured_on
@options.data_root
def report(
    what: tuple[str, ...], runs: Path, out: Path | None, protocols: tuple[str, ...], checkpoints: tuple[str, ...],
    columns: str | None, no_intervals: bool, fit_width: bool, published: Path | None, curves: bool, tradeoff: bool,
    html: Path | None, named: tuple[str, ...], dataset: str | None, data_root: Path | None, students: tuple[str, ...],
) -> None:  # fmt: skip
    """Make tables of what was measured: of one suite, of the runs named, of all runs under --runs, or of a report's CSV.

    Beside runs, and alone, stand networks that `eval` has measured and that are none: FILE:ARCH, an exported folder,
    zoo:NAME.

    Figures of a run lie in its directory, those of a suite beside the runs, and others in --out. --html shows images that
    `eval --keep-adversarial` has kept, where their data set is at hand.
    """
    from ardbench.reports import View, renderable
    from ardbench.verbs import reporting

    gc.set_threshold(GARBAGE)
    shown = tuple(name.strip() for name in columns.split(",")) if columns is not None else ()
    view = View(protocols, checkpoints, shown, not no_intervals, fit_width)
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
        paths = reporting.draw(what, runs=runs, out=out, curves=curves, tradeoff=tradeoff, view=view, students=students)
    else:
        made = reporting.report(
            what, runs=runs, out=out, html=html, view=view, published=published, data_root=data_root,
            dataset=dataset, named=named, students=students,
        )  # fmt: skip
        paths = list(made.paths)
        for remark in made.remarks:
            say(remark)
        if not paths:
            output.show(renderable(made.tables))
    for path in paths:
        output.line(str(path))
