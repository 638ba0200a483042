"""`ardbench status`: how far the runs of a folder are, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError
from ardbench.listeners.drawn import ago

COLUMNS = ("run", "state", "epoch", "accuracy %", "written", "images/s", "peak GiB", "evaluations")
"""The first are what one looks for first: a narrow terminal has no room for the last."""
NUMBERS = ("epoch", "images/s", "peak GiB", "written")


@click.command()
@click.argument("what", metavar="[RUNS|SUBJECT]", default="runs")
@click.option("--details", is_flag=True, help="Show a block of lines for each run, whatever the width.")
@options.measured_on
@options.facts_root
@options.runs
@options.as_json
def status(what: str, details: bool, dataset: str | None, runs: Path, as_json: bool) -> None:
    """Show how far each run of a folder is, or one run: done, training, stopped, begun, or damaged.

    RUNS is `runs` unless given; of a network that is no run (FILE:ARCH, an exported folder, zoo:NAME) it says what was
    measured. A run is training while a live process on this machine holds its lock, stopped where its
    command goes on from what was saved, and begun where nothing was saved yet. The speed and the accuracies (on
    validation images, or on test images where there are none) are the last that its metrics tell, the memory
    is the most. A run whose files are damaged is named with its reason, and the others are shown all the same.
    """
    from ardbench.runs import Run, all_runs
    from ardbench.subjects import Words, find, is_file, is_named
    from ardbench.verbs.standing import standing, standing_of_other

    if is_named(what):
        facts = [
            standing_of_other(one) for one in find(what, Words(dataset=dataset if is_file(what) else None, runs=runs))
        ]
    else:
        folder = Path(what)
        several = [Run(folder.resolve())] if (folder / "config.json").is_file() else all_runs(folder)
        if not several:
            raise ArdbenchError(f"There is no run under {folder}: train one first, or give the folder of runs.")
        facts = [standing(run) for run in several]
    output = Output(as_json)
    rows = [_row(one) for one in facts]
    if details:
        for name, *row in rows:
            told = [f"  {column}: {cell}" for column, cell in zip(COLUMNS[1:], row, strict=True) if cell]
            output.line("\n".join([str(name), *told]))
    else:
        output.show_rows(COLUMNS, rows, NUMBERS, "--details")
    for one in facts:
        if one["reason"]:
            output.line(f"{one['run']}: {one['reason']}")
    output.document({"runs": facts})


def _row(facts: dict[str, Any]) -> tuple[str | None, ...]:
    speed, memory, accuracy = (facts[name] for name in ("images_per_second", "peak_memory", "accuracy"))
    held = f"{facts['split']} " + " / ".join(f"{100 * value:.1f}" for value in accuracy.values()) if accuracy else None
    counted = None if facts["epochs"] is None else f"{facts['epoch']}/{facts['epochs']}"
    return (
        facts["run"], facts["state"], counted, held, f"{ago(facts['age'])} ago" if facts["age"] is not None else None,
        f"{speed:,.0f}" if speed else None,
        f"{memory / 2**30:.1f}" if memory else None, _measured(facts["evaluations"]),
    )  # fmt: skip


def _measured(evaluations: list[dict[str, Any]]) -> str:
    """Return "last: clean 45.0, pgd20 12.5; best: ..."."""
    found: dict[str, list[str]] = {}
    for one in evaluations:
        subset = f"n = {one['n']}" if one["n"] < one["total"] else ""
        notes = ", ".join(filter(None, [one.get("threat"), subset, "stale" if one["stale"] else ""]))
        text = f"{one['protocol']} {100 * one['accuracy']:.1f}" + (f" ({notes})" if notes else "")
        found.setdefault(one["checkpoint"], []).append(text)
    return "; ".join(f"{checkpoint}: {', '.join(texts)}" for checkpoint, texts in found.items())
