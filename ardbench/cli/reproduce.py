"""`ardbench reproduce`: everything that a suite's tables need, in the right order, and then the tables."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from ardbench.cli import STOPPED, copying, engines, options
from ardbench.cli.output import Output, clock, digits, table, typed_again
from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.listeners.log_file import Log
from ardbench.listeners.tracking import Tracking

if TYPE_CHECKING:
    import pandas as pd

    from ardbench.campaigns.graph import Outcome
    from ardbench.campaigns.suites import Cell, Choice, Suite
    from ardbench.planning.estimate import Estimate
    from ardbench.reports.reference import Reference

COSTS = ("M images", "PFLOP", "hours")
"""The columns of what is missing."""


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
    from ardbench.campaigns.suites import carried, planned
    from ardbench.runs import check_makeable

    began = time.monotonic()
    where = engines.Engine(**engine, device=device, data_root=data_root, deadline=deadline)
    if status and dry_run:
        raise ArdbenchError("--status tells what is under way and --dry-run what is missing: give one of them.")
    if status:
        from ardbench.cli.campaign import show_board

        show_board(suite, runs, Output(as_json=False))
        return
    copying.check_folders(beside, keep, unfinished)
    found, cells = planned(suite, runs, beside if dry_run else ())
    for text in carried(found, cells):
        say(text)
    if tflops is not None and not math.isfinite(tflops):
        raise ArdbenchError(f"--tflops {tflops} is no speed: give the TFLOP/s that the device reaches, such as 20.")
    if dry_run:
        copying.check_taken(cells, runs)
        _print_plan(found, cells, runs, device, tflops)
        return
    if tflops is not None:
        raise ArdbenchError("--tflops tells what a plan would take: give --dry-run with it, or leave it out.")
    if out is not None:
        check_makeable("--out", out)
    if out is None or any(cell.state != "done" for cell in cells):
        check_makeable("--runs", runs)
    out, reference = out or runs / "tables", _reference(found.name)  # read before --out may write it
    if beside:
        copying.take(cells, runs, beside)
        found, cells = planned(suite, runs)
    if keep is not None:
        copying.leave(cells, keep, unfinished)  # of a call that was killed
    output = Output(as_json=False)
    log, tracking = Log.to(log_file), Tracking.to(tensorboard, wandb, mlflow)
    tracking.draw([cell.run for cell in cells if cell.state == "done"])
    outcome, comparison = where.execute(found.name, cells, runs, quiet, log, tracking)
    found, cells = planned(suite, runs)
    if keep is not None:
        copying.leave(cells, keep, unfinished)
    frame = _tables(found, cells, out, output)
    if found.transfer and not (outcome.stopped or outcome.failed):
        here = "auto" if where.engine == "ray" else device  # the nodes may have other devices
        _transfer(found, found.transfer, cells, here, data_root, runs, out, quiet, output, log)
    if reference is not None:
        _compare(frame, reference, output)
    if comparison:
        output.line(comparison)
    output.line(f"This call took {clock(time.monotonic() - began)}; {_spent(cells)}.")
    _end(outcome, cells, output)


def _print_plan(suite: Suite, cells: Sequence[Cell], runs: Path, device: str, tflops: float | None) -> None:
    """Print the plan and what it costs; without anything missing not even torch is imported."""
    from ardbench.campaigns.graph import unfinished
    from ardbench.campaigns.suites import awaited, plan_table
    from ardbench.models import zoo

    output, every = Output(as_json=False), ", ".join(suite.protocols)
    columns = ["run", "recipe", "seed", "state", "epochs", "evaluations", *COSTS]
    rows = []
    for row in plan_table(cells):
        evaluations = row["missing evaluations"].replace(every, "all")
        rows.append(row | {"evaluations": evaluations} | dict.fromkeys(COSTS, ""))
    words = _add_estimates(rows, cells, runs, device, tflops) if unfinished(cells) else []
    output.show(table(columns, [[row[name] for name in columns] for row in rows], ["seed", "epochs", *COSTS]))
    to_train = sum(cell.state != "done" for cell in cells)
    to_measure = sum(len(cell.missing) for cell in cells)
    output.line(
        f"{len(cells)} runs: {to_train} to train, {to_measure} evaluations missing (all: {every}); "
        "rows stand in working order."
    )
    for line in [*words, *(zoo.entry(source).absence for source in awaited(cells))]:
        output.line(line)


def _add_estimates(
    rows: Sequence[dict[str, str]], cells: Sequence[Cell], runs: Path, device: str, tflops: float | None
) -> list[str]:
    """Write into the rows what is missing of the cells, and return the totals in words."""
    from ardbench.engine.device import choose, describe
    from ardbench.planning.estimate import estimate

    chosen = choose(device)
    try:
        found = estimate(cells, runs, chosen, tflops)
    except ArdbenchError as error:
        return [f"No estimate: {error}"]
    for row, cost in zip(rows, found, strict=True):
        numbers = (cost.images / 1e6, cost.flop / 1e15, cost.hours)
        row.update((name, digits(number)) for name, number in zip(COSTS, numbers, strict=True) if number)
    return _total(found, runs, describe(chosen))


def _total(found: Sequence[Estimate], runs: Path, device: str) -> list[str]:
    """Return what all rows come to, how fast that was taken to go, and what is assumed."""
    from ardbench.planning.rates import TABLES

    trained, evaluated = (
        digits(sum(images) / 1e6) for images in ([c.trained for c in found], [c.evaluated for c in found])
    )
    work = (
        f"To do: {trained} M images of training and {evaluated} M of evaluation, "
        f"{digits(sum(c.flop for c in found) / 1e15)} PFLOP, if half of the images stand up to AutoAttack."
    )
    rates = sorted(c.rate / 1e12 for c in found if c.rate)
    if not rates:
        return [
            work,
            f"No hours: no run in {runs} was trained on {device} on images of this size, and no speed table in "
            f"{TABLES} has the TFLOP/s of these students on it; give "
            "--tflops NUMBER, the TFLOP/s that training reaches.",
        ]
    speed = " to ".join(dict.fromkeys(map(digits, (rates[0], rates[-1]))))
    sources = ", ".join(f"{source} ({n})" for source, n in Counter(c.source for c in found if c.rate).items())
    hours = digits(sum(c.hours or 0 for c in found))
    without = sum(c.rate is None and c.flop > 0 for c in found)
    left_out = f"; {without} runs are left out, since nothing tells the rate of their students" if without else ""
    return [
        work,
        f"{hours} h for one run after the other, at {speed} TFLOP/s {sources}, {_evaluating(found)}{left_out}.",
    ]


def _evaluating(found: Sequence[Estimate]) -> str:
    rates = sorted(c.evaluation_rate / 1e12 for c in found if c.evaluation_rate)
    if not rates:
        return "evaluation as fast as training"
    return f"evaluation at {' to '.join(dict.fromkeys(map(digits, (rates[0], rates[-1]))))} reached by earlier ones"


def _tables(suite: Suite, cells: Sequence[Cell], out: Path, output: Output) -> pd.DataFrame:
    """Write and print the tables; of runs that vary one with the varied values as columns. Return the results."""
    from ardbench.campaigns.varied import chosen
    from ardbench.reports import collect_suite, console, write
    from ardbench.reports.rendering import markdown, marked
    from ardbench.reports.sweep import sweep_table
    from ardbench.runs import write_atomic

    frame = collect_suite(cells, derived=suite.derived)
    paths = write(frame, out, suite.name, [cell.run for cell in cells])
    varied = {run.name: chosen(run) for run in suite.runs if run.vary}
    if varied:
        made, path = sweep_table(frame, cells, varied), out / f"{suite.name}.sweep.md"
        write_atomic(path, f"# {marked(suite.name)}\n\n{markdown([made])}".encode())
        lines = [[f"{cell.text} {cell.detail}{cell.mark}".strip() for cell in row.entries] for row in made.rows]
        output.show(table(made.header, lines, made.header[made.labels :]))
        for note in made.footnotes:
            output.line(note)
        paths.append(path)
    if len(varied) < len(suite.runs):
        output.show(console(frame, [cell.run for cell in cells]))
    for path in paths:
        output.line(str(path))
    return frame


def _reference(suite: str) -> Reference | None:
    """Return the results that the suite's are held against, if they are there and can be read."""
    from ardbench.reports.reference import Reference

    try:
        return Reference.of(suite)
    except ArdbenchError as error:
        say(f"No comparison: {error}")
        return None


def _compare(frame: pd.DataFrame, reference: Reference, output: Output) -> None:
    """Print each number's difference from the reference, and how many agree."""
    comparison = reference.hold(frame)
    if comparison.held:
        header, *rows = comparison.table()
        output.line(f"Difference from {comparison.path} in points")
        output.show(table(header, rows, [header[1], *header[3:]]))
    output.line(comparison.sentence())


def _transfer(
    suite: Suite, choice: Choice, cells: Sequence[Cell], device: str, data_root: Path | None, runs: Path, out: Path,
    quiet: bool, output: Output, log: Log,
) -> None:  # fmt: skip
    """Measure the suite's teachers against each other, if that was not done before, and print and write the matrix."""
    from ardbench.cli.transfer import heard, show
    from ardbench.reports.transfer import Matrix
    from ardbench.verbs.transferring import answered, ask, teachers_of

    question = ask(teachers_of(suite, cells), choice.size, n=choice.n)
    measured = answered(question, runs, device, data_root, lambda name: heard(name, quiet, output, log))
    show(Matrix(question, measured, choice.size), output, out / f"{suite.name}-transfer")


def _spent(cells: Sequence[Cell]) -> str:
    """Return what all runs together have cost, as their own files tell."""
    from ardbench.reports.evaluations import evaluations, training_seconds

    begun = [cell.run for cell in cells if cell.state != "missing"]
    training = sum(map(training_seconds, begun))
    measuring = sum(verdicts.seconds or 0.0 for run in begun for _, _, verdicts in evaluations(run))
    return f"all runs together {clock(training)} of training and {clock(measuring)} of evaluation"


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
