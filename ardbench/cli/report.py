"""`ardbench report`: tables from run directories, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.cli.planning import planned
from ardbench.errors import ArdbenchError

if TYPE_CHECKING:
    from ardbench.runs import Run


@click.command()
@click.argument("what", metavar="[SUITE|RUN...]", nargs=-1, shell_complete=options.complete_suite)
@options.runs
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write the tables there as Markdown, CSV and LaTeX with their provenance; without it they are printed.",
)
@click.option(
    "--curves",
    is_flag=True,
    help="Draw what the runs told over their epochs, and accuracies by class, as PNG and SVG, in place of the tables.",
)
def report(what: tuple[str, ...], runs: Path, out: Path | None, curves: bool) -> None:
    """Make tables of what was measured: of one suite, of the runs named, or of all runs under --runs.

    With --curves the files lie in the run's own directory, or for several runs in --out.
    """
    from ardbench.reports import collect, collect_suite, console, write
    from ardbench.reports.curves import draw

    output = Output(as_json=False)
    if curves:
        for path in draw(_chosen(what, runs), out):
            output.line(str(path))
        return
    if len(what) == 1 and not Path(what[0]).is_dir():
        suite, cells = planned(what[0], runs)
        name, chosen, frame = suite.name, [cell.run for cell in cells], collect_suite(cells)
    else:
        name, chosen = "report", _chosen(what, runs)
        frame = collect(chosen)
    if out is None:
        output.show(console(frame, chosen))
        return
    for path in write(frame, out, name, chosen):
        output.line(str(path))


def _chosen(what: tuple[str, ...], root: Path) -> list[Run]:
    from ardbench.runs import Run, all_runs

    found = [Run.open(Path(text)) for text in what] or all_runs(root)
    if not found:
        raise ArdbenchError(f"There is no run under {root}: train one first, or give --runs with the folder of runs.")
    return found
