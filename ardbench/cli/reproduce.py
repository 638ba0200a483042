"""`ardbench reproduce`: everything that a suite's tables need, in the right order, and then the tables."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from click.exceptions import Exit

from ardbench.cli import STOPPED, options
from ardbench.cli.output import Output, say, table, typed_again
from ardbench.cli.planning import planned
from ardbench.errors import ArdbenchError

if TYPE_CHECKING:
    from ardbench.engine.campaign import Outcome
    from ardbench.suites import Cell


@click.command()
@click.argument("suite", shell_complete=options.complete_suite)
@click.option("--dry-run", is_flag=True, help="Print what is done, what is missing and in which order, and do nothing.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="How many runs at once; without it one on CUDA, and as many as there are cores on the CPU.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    metavar="FOLDER",
    help="Where the tables are written.",
)
@options.device
@options.data_root
@options.runs
@options.time_limit
@options.quiet
def reproduce(
    suite: str, dry_run: bool, jobs: int | None, out: Path, device: str, data_root: Path | None, runs: Path,
    time_limit: float | None, quiet: bool,
) -> None:  # fmt: skip
    """Train and measure what is missing of a suite, teachers first, and write and print its tables.

    A second call does nothing but make the tables again. A run that is refused is reported at the end, and those that
    do not learn from it go on.
    """
    began = time.monotonic()
    _, cells = planned(suite, runs)
    output = Output(as_json=False)
    if dry_run:
        _print_plan(cells, output)
        return
    outcome = _execute(cells, device, data_root, jobs, time_limit, quiet)
    _tables(suite, runs, out, output)
    _, cells = planned(suite, runs)
    output.line(f"This call took {_clock(time.monotonic() - began)}; {_spent(cells)}.")
    _end(outcome, cells, output)


def _print_plan(cells: Sequence[Cell], output: Output) -> None:
    from ardbench.suites import plan_table

    rows = plan_table(cells)
    output.show(table(list(rows[0]), [list(row.values()) for row in rows], ["seed", "epochs"]))
    to_train = sum(cell.state != "done" for cell in cells)
    to_measure = sum(len(cell.missing) for cell in cells)
    output.line(
        f"{len(cells)} runs: {to_train} to train, {to_measure} evaluations missing; rows stand in working order."
    )


def _execute(
    cells: Sequence[Cell], device: str, data_root: Path | None, jobs: int | None, time_limit: float | None, quiet: bool
) -> Outcome:
    """Do what is missing; without anything missing not even torch is imported."""
    from ardbench.engine import campaign

    count = len(campaign.unfinished(cells))
    if not count:
        say("Nothing is missing: the tables are made again from what is there.")
        return campaign.Outcome()
    from ardbench.cli.campaign import listening
    from ardbench.engine.device import choose, describe

    chosen = choose(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = min(jobs or (1 if chosen.type == "cuda" else cores), count)
    threads = max(1, cores // at_once) if at_once > 1 else None
    say(f"Device: {describe(chosen)}; {count} of {len(cells)} runs are to be done, {at_once} at once.")
    settings = campaign.Settings(chosen.type, data_root, threads)
    with listening(cells, quiet) as listen:
        return campaign.reproduce(cells, settings, listen, jobs=at_once, time_limit=time_limit)


def _tables(suite: str, runs: Path, out: Path, output: Output) -> None:
    from ardbench.cli.report import of_suite
    from ardbench.reports import collect, console, write

    name, chosen, labels = of_suite(suite, runs)
    frame = collect(chosen, labels)
    paths = write(frame, out, name, chosen)
    output.show(console(frame))
    for path in paths:
        output.line(str(path))


def _spent(cells: Sequence[Cell]) -> str:
    """Return what all runs together have cost, as their own files tell."""
    from ardbench.reports.results import evaluations, training_seconds

    begun = [cell.run for cell in cells if cell.state != "missing"]
    training = sum(map(training_seconds, begun))
    measuring = sum(verdicts.seconds or 0.0 for run in begun for _, _, verdicts in evaluations(run))
    return f"all runs together {_clock(training)} of training and {_clock(measuring)} of evaluation"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def _end(outcome: Outcome, cells: Sequence[Cell], output: Output) -> None:
    """Say what did not come to its end, with the exit code for it."""
    if outcome.failed:
        for index, reason in outcome.failed.items():
            say(f"{cells[index].name} (seed {cells[index].recipe.seed}) was refused: {reason}")
        count = f"{len(outcome.failed)} of {len(cells)} runs"
        raise ArdbenchError(f"{count} were refused: mend what they say and type the same command again.")
    if outcome.stopped:
        output.line(f"Stopped and saved. To go on, type the same command again: {typed_again()}")
        raise Exit(STOPPED)
