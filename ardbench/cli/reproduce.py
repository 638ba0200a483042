"""`ardbench reproduce`: everything that a suite's tables need, in the right order, and then the tables."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from ardbench.cli import STOPPED, copying, engines, options
from ardbench.cli.output import Output, typed_again
from ardbench.errors import ArdbenchError
from ardbench.listeners.drawn import clock, table
from ardbench.listeners.log_file import Log
from ardbench.listeners.tracking import Tracking

if TYPE_CHECKING:
    from ardbench.campaigns.cells import Cell
    from ardbench.reports.reference import Comparison
    from ardbench.verbs.reproducing import Made


@click.command()
@click.argument("suite", shell_complete=options.complete_suite)
@click.option("--dry-run", is_flag=True, help="Print what is done, what is missing and what it costs, and do nothing.")
@click.option(
    "--status", is_flag=True, help="Print how the suite stands that another shell is working on, and do nothing."
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    help="With --dry-run: the TFLOP/s that the device reaches, in place of what earlier runs tell.",
)
@copying.chosen
@engines.chosen
@options.out
@options.device
@options.data_root
@options.runs
@options.deadline
@options.quiet
@options.log_file
@options.tracking
def reproduce(
    suite: str, dry_run: bool, status: bool, tflops: float | None, beside: tuple[Path, ...], keep: Path | None,
    unfinished: bool, out: Path | None, device: str, data_root: Path | None, runs: Path, deadline: float | None, quiet: bool,
    log_file: Path | None, tensorboard: Path | None, wandb: str | None, mlflow: str | None, **engine: Any,
) -> None:  # fmt: skip
    """Train and measure what is missing of a suite, teachers first, and write and print its tables.

    SUITE is a name from `ardbench list suites` or a TOML file. A second call does nothing but make the tables again. A
    run that is refused or fails is reported at the end, and those that do not learn from it go on. Where results/SUITE.csv
    is there, every number is held against it: match, within noise or off.

    `--from results/SUITE/runs --keep results/SUITE/runs` begins with the committed runs and leaves new ones beside them.

    On Ray a run whose worker or node is lost goes on elsewhere from what it saved.
    """
    from ardbench.verbs.engines import Engine
    from ardbench.verbs.reproducing import campaign

    began = time.monotonic()
    where = Engine(**engine, device=device, data_root=data_root, deadline=deadline)
    if status and dry_run:
        raise ArdbenchError("--status tells what is under way and --dry-run what is missing: give one of them.")
    if tflops is not None and not math.isfinite(tflops):
        raise ArdbenchError(f"--tflops {tflops} is no speed: give the TFLOP/s that the device reaches, such as 20.")
    if tflops is not None and not dry_run:
        raise ArdbenchError("--tflops tells what a plan would take: give --dry-run with it, or leave it out.")
    output = Output(as_json=False)
    if status:
        from ardbench.cli.campaign import show_board

        show_board(suite, runs, output)
        return
    if dry_run:
        from ardbench.cli.plan import show_plan

        show_plan(suite, runs, beside, keep, unfinished, device, tflops, output)
        return
    log, tracking = Log.to(log_file), Tracking.to(tensorboard, wandb, mlflow)
    work = campaign(suite, where, runs, out, beside, keep, unfinished)
    outcome, made = work.work(quiet, log, tracking), work.made()
    _show(made, work.cells, output)
    from ardbench.cli.transfer import heard, show

    if matrix := work.transfer(lambda name: heard(name, quiet, output, log)):
        show(matrix, output, work.out / f"{work.suite.name}-transfer")
    if made.comparison is not None:
        _compare(made.comparison, output)
    if work.predicted:
        output.line(work.predicted)
    output.line(f"This call took {clock(time.monotonic() - began)}; {_spent(work.cells)}.")
    work.check()
    if outcome.stopped:
        output.line(f"Stopped and saved. To go on, type the same command again: {typed_again()}")
        raise Exit(STOPPED)


def _show(made: Made, cells: Sequence[Cell], output: Output) -> None:
    """Print the tables and the files that they were written to."""
    from ardbench.reports import console

    if made.swept is not None:
        header, labels = made.swept.header, made.swept.labels
        lines = [[f"{cell.text} {cell.detail}{cell.mark}".strip() for cell in row.entries] for row in made.swept.rows]
        output.show(table(header, lines, header[labels:]))
        for note in made.swept.footnotes:
            output.line(note)
    if made.whole:
        output.show(console(made.frame, [cell.run for cell in cells]))
    for path in made.paths:
        output.line(str(path))


def _compare(comparison: Comparison, output: Output) -> None:
    """Print each number's difference from the reference, and how many agree."""
    if comparison.held:
        header, *rows = comparison.table()
        output.line(f"Difference from {comparison.path} in points")
        output.show(table(header, rows, [header[1], *header[3:]]))
    output.line(comparison.sentence())


def _spent(cells: Sequence[Cell]) -> str:
    """Return what all runs together have cost, as their own files tell."""
    from ardbench.reports.evaluations import evaluations, training_seconds

    begun = [cell.run for cell in cells if cell.state != "missing"]
    training = sum(map(training_seconds, begun))
    measuring = sum(verdicts.seconds or 0.0 for run in begun for _, _, verdicts in evaluations(run))
    return f"all runs together {clock(training)} of training and {clock(measuring)} of evaluation"
