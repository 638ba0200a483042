"""What `ardbench reproduce --dry-run` prints: the runs of a suite, what is missing of them, and what that costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError
from ardbench.listeners.drawn import digits, table

if TYPE_CHECKING:
    from ardbench.campaigns.cells import Cell
    from ardbench.campaigns.suites import Suite
    from ardbench.planning.estimate import Estimate

COSTS = ("M images", "PFLOP", "hours")
"""The columns of what is missing."""


def show_plan(
    name: str, runs: Path, beside: Sequence[Path], keep: Path | None, unfinished: bool, device: str, tflops: float | None,
    output: Output,
) -> None:  # fmt: skip
    """Print the plan of a suite and what it costs; without anything missing not even torch is imported."""
    from ardbench.campaigns.cells import carried, planned
    from ardbench.listeners import say
    from ardbench.verbs import copying

    copying.check_folders(beside, keep, unfinished)
    suite, cells = planned(name, runs, beside)
    for text in carried(suite, cells):
        say(text)
    copying.check_taken(cells, runs)
    _print(suite, cells, runs, device, tflops, output)


def _print(suite: Suite, cells: Sequence[Cell], runs: Path, device: str, tflops: float | None, output: Output) -> None:
    from ardbench.campaigns.cells import awaited, plan_table
    from ardbench.campaigns.graph import unfinished as missing
    from ardbench.models import zoo

    every = ", ".join(suite.protocols)
    columns = ["run", "recipe", "seed", "state", "epochs", "evaluations", *COSTS]
    rows = []
    for row in plan_table(cells):
        evaluations = row["missing evaluations"].replace(every, "all")
        rows.append(row | {"evaluations": evaluations} | dict.fromkeys(COSTS, ""))
    words = _add_estimates(rows, cells, runs, device, tflops) if missing(cells) else []
    output.show(table(columns, [[row[name] for name in columns] for row in rows], ["seed", "epochs", *COSTS]))
    to_train = sum(cell.state != "done" for cell in cells)
    to_measure = sum(len(cell.missing) for cell in cells)
    output.line(
        f"{len(cells)} runs: {to_train} to train, {to_measure} evaluations missing (all: {every}); "
        "from top to bottom, the first seed of every run before the second."
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
