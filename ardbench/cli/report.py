"""`ardbench report`: tables from run directories, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
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
def report(what: tuple[str, ...], runs: Path, out: Path | None) -> None:
    """Make tables of what was measured: of one suite, of the runs named, or of all runs under --runs."""
    from ardbench.reports import collect, console, write

    name, chosen, labels = _chosen(what, runs)
    output = Output(as_json=False)
    frame = collect(chosen, labels)
    if out is None:
        output.show(console(frame))
        return
    for path in write(frame, out, name, chosen):
        output.line(str(path))


def _chosen(what: tuple[str, ...], root: Path) -> tuple[str, list[Run], dict[str, str]]:
    """Return what the report is called, its runs, and how a suite calls them."""
    from ardbench.runs import Run, all_runs

    if len(what) == 1 and not Path(what[0]).is_dir():
        return of_suite(what[0], root)
    found = [Run.open(Path(text)) for text in what] or all_runs(root)
    if not found:
        raise ArdbenchError(f"There is no run under {root}: train one first, or give --runs with the folder of runs.")
    return "report", found, {}


def of_suite(name: str, root: Path) -> tuple[str, list[Run], dict[str, str]]:
    """Return a suite's name, its runs, and from each run directory's name to what the suite calls it."""
    from ardbench.cli.planning import planned

    suite, cells = planned(name, root)
    return suite.name, [cell.run for cell in cells], {cell.run.path.name: cell.name for cell in cells}
