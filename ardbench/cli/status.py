"""`ardbench status`: how far the runs of a folder are, without torch."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError

if TYPE_CHECKING:
    from ardbench.runs import Run

COLUMNS = ("run", "state", "epoch", "accuracy %", "written", "images/s", "peak GiB", "evaluations")
"""The first are what one looks for first: a narrow terminal has no room for the last."""
NUMBERS = ("epoch", "images/s", "peak GiB", "written")
FACTS = ("epoch", "epochs", "images_per_second", "peak_memory", "accuracy", "split")
HELD = ("clean", "robust")
"""What `val_` and `test_` stand before in a row of metrics."""


@click.command()
@click.argument("folder", metavar="[RUNS]", type=click.Path(file_okay=False, path_type=Path), default=Path("runs"))
@click.option("--details", is_flag=True, help="Show a block of lines for each run, whatever the width.")
@options.as_json
def status(folder: Path, details: bool, as_json: bool) -> None:
    """Show how far each run of a folder is, or one run: done, training, stopped, begun, or damaged.

    RUNS is `runs` unless given. A run is training while a live process on this machine holds its lock, stopped where its
    command goes on from what was saved, and begun where nothing was saved yet. The speed and the accuracies (on
    validation images, or on test images where there are none) are the last that its metrics tell, the memory
    is the most. A run whose files are damaged is named with its reason, and the others are shown all the same.
    """
    from ardbench.exports import export_in
    from ardbench.runs import EXPORTS_ARE_FOR, Run, all_runs

    if export_in(folder):
        raise ArdbenchError(f"{folder} is an exported network and no run: {EXPORTS_ARE_FOR}.")
    runs = [Run(folder.resolve())] if (folder / "config.json").is_file() else all_runs(folder)
    if not runs:
        raise ArdbenchError(f"There is no run under {folder}: train one first, or give the folder of runs.")
    facts = [_facts(run) for run in runs]
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


def _facts(run: Run) -> dict[str, Any]:
    """Return how a run stands; of a damaged one no more than its name, age and reason."""
    facts: dict[str, Any] = dict.fromkeys(FACTS)
    facts = {"run": run.path.name, "state": "damaged", **facts, "evaluations": [], "age": _age(run.path), "reason": ""}
    try:
        return facts | _read(run)
    except (ArdbenchError, OSError) as error:
        return facts | {"reason": str(error)}


def _read(run: Run) -> dict[str, Any]:
    """Return what the files of a run say.

    Raises:
        ArdbenchError: one of them is damaged.
    """
    from ardbench.campaigns.suites import of_present_weights
    from ardbench.reports.results import evaluations

    rows, done = run.metrics, run.done
    last = rows[-1] if rows else {}
    measured: dict[str, Any] = next((row for row in reversed(rows) if _splits(row)), {})
    split = next(iter(_splits(measured)), None)
    return {
        "state": "done"
        if done
        else "training"
        if run.held
        else "stopped"
        if (run.path / "last.state").is_file()
        else "begun",
        "epoch": len(rows),
        "epochs": run.recipe.schedule.epochs,
        "images_per_second": last.get("images_per_second"),
        "peak_memory": max((row.get("peak_memory", 0) for row in rows), default=None),
        "accuracy": {name: measured[f"{split}_{name}"] for name in HELD} if split else None,
        "split": split,
        "evaluations": [
            {
                "checkpoint": checkpoint,
                "protocol": one.protocol,
                "accuracy": one.accuracy,
                "n": one.n,
                "stale": not of_present_weights(run, checkpoint, one),
            }
            for checkpoint, _, one in evaluations(run)
        ],
    }


def _splits(row: dict[str, Any]) -> list[str]:
    """Return which of validation and test images a row tells accuracies of."""
    return [split for split in ("val", "test") if all(f"{split}_{name}" in row for name in HELD)]


def _age(path: Path) -> float:
    """Return the seconds since a run was last written; its lock is opened by whoever looks."""
    last = path.stat().st_mtime
    for file in path.rglob("*"):
        with contextlib.suppress(OSError):  # of a run that is being written, some are gone by now
            last = last if file.name == "lock" else max(last, file.stat().st_mtime)
    return max(0.0, time.time() - last)


def _row(facts: dict[str, Any]) -> tuple[str | None, ...]:
    speed, memory, accuracy = (facts[name] for name in ("images_per_second", "peak_memory", "accuracy"))
    held = f"{facts['split']} " + " / ".join(f"{100 * value:.1f}" for value in accuracy.values()) if accuracy else None
    counted = None if facts["epochs"] is None else f"{facts['epoch']}/{facts['epochs']}"
    return (
        facts["run"], facts["state"], counted, held, f"{ago(facts['age'])} ago", f"{speed:,.0f}" if speed else None,
        f"{memory / 2**30:.1f}" if memory else None, _measured(facts["evaluations"]),
    )  # fmt: skip


def _measured(evaluations: list[dict[str, Any]]) -> str:
    """Return "last: clean 45.0, pgd20 12.5; best: ..."."""
    found: dict[str, list[str]] = {}
    for one in evaluations:
        text = f"{one['protocol']} {100 * one['accuracy']:.1f}{' (stale)' if one['stale'] else ''}"
        found.setdefault(one["checkpoint"], []).append(text)
    return "; ".join(f"{checkpoint}: {', '.join(texts)}" for checkpoint, texts in found.items())


def ago(seconds: float) -> str:
    """Return a length of time in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
