"""What `--dry-run` prints of a training or an evaluation, and the warning before hours of AutoAttack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.cli.output import Output
from ardbench.listeners.drawn import digits, table

if TYPE_CHECKING:
    from ardbench.verbs.measuring import Measuring
    from ardbench.verbs.training import Training

COSTS = ("M images", "PFLOP", "hours")


def show_training(trainings: Sequence[Training], device: str, runs: Path, output: Output) -> None:
    """Print what is missing of some runs of one recipe and what it costs here."""
    from ardbench.engine.device import choose, describe
    from ardbench.verbs.costing import of_trainings

    chosen = choose(device)
    rows = of_trainings(trainings, chosen, runs)
    _show(rows, ("run", "state", "epochs"), output)
    if first := next((row for row in rows if row["flop"] and row["rate"]), None):
        output.line(f"At {digits(first['rate'] / 1e12)} TFLOP/s {first['source']}, on {describe(chosen)}.")
    if trainings[0].recipe.selection.patience is not None:
        output.line("selection.patience may end it sooner.")
    output.document({"device": describe(chosen), "runs": rows})


def show_evaluation(jobs: Sequence[Measuring], device: str, output: Output) -> None:
    """Print what evaluations cost here and measure nothing."""
    from ardbench.engine.device import choose, describe
    from ardbench.verbs.costing import of_evaluations

    chosen = choose(device)
    rows = of_evaluations(jobs, chosen)
    labels = ("checkpoint", "protocol", "state")
    _show(rows, labels if len(jobs) == 1 else ("subject", *labels), output)
    output.line(f"On {describe(chosen)}, if half of the images stand up to AutoAttack.")
    output.document({"device": describe(chosen), "evaluations": rows})


def _show(rows: Sequence[dict[str, Any]], labels: Sequence[str], output: Output) -> None:
    """Print a row of costs each, and their sums where there are several."""
    lines = [[*(row[name] for name in labels), *_costs([row])] for row in rows]
    if len(rows) > 1:
        lines.append(["all", *[None] * (len(labels) - 1), *_costs(rows)])
    output.show(table([*labels, *COSTS], lines, COSTS))


def _costs(rows: Sequence[dict[str, Any]]) -> list[str]:
    units = {"images": 1e6, "flop": 1e15, "hours": 1.0}
    return [digits(sum(row[name] for row in rows) / unit) for name, unit in units.items()]
