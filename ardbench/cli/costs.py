"""What `--dry-run` prints of a training or an evaluation, and the warning before hours of AutoAttack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.cli.output import Output
from ardbench.listeners import say
from ardbench.listeners.drawn import digits, table

if TYPE_CHECKING:
    import torch

    from ardbench.verbs.measuring import Measuring
    from ardbench.verbs.training import Training

COSTS = ("M images", "PFLOP", "hours")
HOUR = 3600.0
LARGE = 1e13
"""FLOP below which no device computes for an hour."""
SHORT = 1.0
"""Seconds of a trial before an evaluation that was asked for."""
FEW = 1000
"""The test images that are offered where all of them take hours."""


def show_training(trainings: Sequence[Training], device: str, runs: Path, output: Output) -> None:
    """Print what is missing of some runs of one recipe and what it costs here."""
    from ardbench.campaigns.suites import Cell, state_of
    from ardbench.engine.device import choose, describe
    from ardbench.planning import trial
    from ardbench.planning.estimate import estimate

    chosen = choose(device)
    cells = [Cell("", one.run, one.recipe, one.teachers, state_of(one.run), ()) for one in trainings]
    found = estimate(cells, runs, chosen)
    unknown = next((cell for cell, cost in zip(cells, found, strict=True) if cost.flop and cost.rate is None), None)
    if unknown is not None:
        say(f"No run below {runs} tells how fast {describe(chosen)} trains this: trying {trial.SECONDS:.0f} s of it.")
        rate = trial.training(unknown.recipe, unknown.teachers, chosen)
        found = [replace(cost, rate=cost.rate or rate, source=cost.source or "by a trial") for cost in found]
    rows = [
        {
            "run": cell.run.path.name,
            "state": cell.state,
            "epochs": f"{len(cell.run.metrics)}/{cell.recipe.schedule.epochs}",
            "images": cost.images,
            "flop": cost.flop,
            "hours": (cost.hours or 0.0) if cost.flop else 0.0,
            "rate": cost.rate,
            "source": cost.source,
        }
        for cell, cost in zip(cells, found, strict=True)
    ]
    _show(rows, ("run", "state", "epochs"), output)
    if first := next((cost for cost in found if cost.flop and cost.rate), None):
        output.line(f"At {digits((first.rate or 0) / 1e12)} TFLOP/s {first.source}, on {describe(chosen)}.")
    if trainings[0].recipe.selection.patience is not None:
        output.line("selection.patience may end it sooner.")
    output.document({"device": describe(chosen), "runs": rows})


def show_evaluation(jobs: Sequence[Measuring], device: str, output: Output) -> None:
    """Print what evaluations cost here and measure nothing."""
    from ardbench.engine.device import choose, describe
    from ardbench.planning import trial
    from ardbench.verbs.costing import planned, rates_of

    chosen, rows = choose(device), list[dict[str, Any]]()
    for job in jobs:
        asked = planned(job)
        rates = rates_of(asked, chosen, trial.SECONDS)
        rows += [
            {
                "subject": job.subject.name,
                "checkpoint": one.checkpoint,
                "protocol": one.rules.name,
                "state": one.state,
                "images": one.images if one.flop else 0,
                "flop": one.flop,
                "hours": one.flop / rates[one.rules.name] / HOUR if one.flop else 0.0,
            }
            for one in asked
        ]
    labels = ("checkpoint", "protocol", "state")
    _show(rows, labels if len(jobs) == 1 else ("subject", *labels), output)
    output.line(f"On {describe(chosen)}, if half of the images stand up to AutoAttack.")
    output.document({"device": describe(chosen), "evaluations": rows})


def warn_of_hours(jobs: Sequence[Measuring], device: torch.device) -> None:
    """Say before it begins that AutoAttack takes hours, and which --n takes less."""
    from ardbench import models, processes
    from ardbench.evaluation.protocols import AutoAttack
    from ardbench.verbs.costing import planned, rates_of

    hours, images = 0.0, 0
    for job in jobs:
        if not models.known(job.subject.model):  # an object, of which nothing is known
            continue
        attacks = [one for one in planned(job) if isinstance(one.rules, AutoAttack) and one.flop]
        if attacks and sum(one.flop for one in attacks) >= LARGE:
            rates, images = rates_of(attacks, device, SHORT), attacks[0].images
            hours += sum(one.flop / rates[one.rules.name] for one in attacks) / HOUR / processes.size()
    if hours < 1:
        return
    less = "a smaller --n takes less, in proportion"
    if images > FEW:
        wider = (images / FEW) ** 0.5
        less = f"--n {FEW} takes about {digits(hours * FEW / images)} h, its intervals {digits(wider)} times as wide"
    say(f"AutoAttack on {images:,} images takes about {digits(hours)} h here: {less}.")


def _show(rows: Sequence[dict[str, Any]], labels: Sequence[str], output: Output) -> None:
    """Print a row of costs each, and their sums where there are several."""
    lines = [[*(row[name] for name in labels), *_costs([row])] for row in rows]
    if len(rows) > 1:
        lines.append(["all", *[None] * (len(labels) - 1), *_costs(rows)])
    output.show(table([*labels, *COSTS], lines, COSTS))


def _costs(rows: Sequence[dict[str, Any]]) -> list[str]:
    units = {"images": 1e6, "flop": 1e15, "hours": 1.0}
    return [digits(sum(row[name] for row in rows) / unit) for name, unit in units.items()]
