"""What trainings and evaluations would cost, before they are made. Torch-free until a rate is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench import data
from ardbench.evaluation.protocols import AutoAttack, Protocol
from ardbench.evaluation.verdicts import file_name, load_verdicts
from ardbench.listeners import say
from ardbench.listeners.drawn import digits
from ardbench.verbs.measuring import Measuring

if TYPE_CHECKING:
    import torch

    from ardbench.verbs.training import Training

BATCH = 100
"""Images at a time in a trial: one batch may not take minutes on a small machine."""
HOUR = 3600.0
LARGE = 1e13
"""FLOP below which no device computes for an hour."""
SHORT = 1.0
"""Seconds of a trial before an evaluation that was asked for."""
FEW = 1000
"""The test images that are offered where all of them take hours."""


def of_trainings(trainings: Sequence[Training], device: torch.device, runs: Path) -> list[dict[str, Any]]:
    """Return what is missing of runs of one recipe, a row each: images, FLOP, hours, the rate in FLOP/s and who tells it."""
    from ardbench.campaigns.cells import Cell, state_of
    from ardbench.engine.device import describe
    from ardbench.planning import trial
    from ardbench.planning.estimate import estimate

    cells = [Cell("", one.run, one.recipe, one.teachers, state_of(one.run), ()) for one in trainings]
    found = estimate(cells, runs, device)
    unknown = next((cell for cell, cost in zip(cells, found, strict=True) if cost.flop and cost.rate is None), None)
    if unknown is not None:
        say(f"No run below {runs} tells how fast {describe(device)} trains this: trying {trial.SECONDS:.0f} s of it.")
        rate = trial.training(unknown.recipe, unknown.teachers, device)
        found = [replace(cost, rate=cost.rate or rate, source=cost.source or "by a trial") for cost in found]
    return [
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


def of_evaluations(jobs: Sequence[Measuring], device: torch.device) -> list[dict[str, Any]]:
    """Return what is missing of evaluations, a row for each checkpoint and protocol: images, FLOP and hours."""
    from ardbench.planning import trial

    rows = list[dict[str, Any]]()
    for job in jobs:
        asked = planned(job)
        rates = rates_of(asked, device, trial.SECONDS)
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
    return rows


def warn_of_hours(jobs: Sequence[Measuring], device: torch.device) -> None:
    """Say before it begins that AutoAttack takes hours, and which --n takes less."""
    from ardbench import models, processes

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


@dataclass(frozen=True)
class Planned:
    """An evaluation that was asked for."""

    job: Measuring
    checkpoint: str
    rules: Protocol
    images: int
    flop: float
    """0 where it is not missing."""
    state: str
    """missing, stored, or `as best` where the checkpoint best is the same network and is measured first."""


def planned(job: Measuring) -> list[Planned]:
    """Return what a measuring would do, as far as it is not done already."""
    from ardbench.evaluation.cost import flop

    subject, asked, found = job.subject, job.question, list[Planned]()
    images = asked.n or data.info(subject.dataset).test_images
    for checkpoint in subject.checkpoints:
        store, weights = subject.store(checkpoint, job.threat, asked.seed), subject.key(checkpoint)["weights"]
        twin = subject.run and subject.run.twin(checkpoint)
        same = twin is not None and twin in [one.checkpoint for one in found]
        for one in asked.rules:
            file = store / file_name(one.name, asked.n)
            there = file.is_file() and load_verdicts(file).key.get("weights") == weights
            state = "stored" if there else f"as {twin}" if same else "missing"
            cost = flop(one, images, subject.model, subject.dataset) if state == "missing" else 0.0
            found.append(Planned(job, checkpoint, one, images, cost, state))
    return found


def rates_of(asked: Sequence[Planned], device: torch.device, seconds: float) -> dict[str, float]:
    """Return the FLOP/s of each protocol that is missing of a subject, as earlier evaluations or a trial tell."""
    from ardbench.planning import trial
    from ardbench.planning.counting import StepCounter
    from ardbench.planning.rates import measured
    from ardbench.runs import all_runs

    names = sorted({one.rules.name for one in asked if one.flop})
    if not names:
        return {}
    subject, runs = asked[0].job.subject, asked[0].job.runs
    known = measured(all_runs(runs), device, names, StepCounter())
    found = {name: known.evaluation(name, subject.model, data.info(subject.dataset).size) for name in names}
    if None in found.values():
        say(f"No evaluation below {runs} tells how fast this is: trying {seconds:.0f} s of forwards and backwards.")
        net, batch = subject.network(asked[0].checkpoint, device), min(BATCH, asked[0].images)
        tried = trial.attacking(net, subject.model, subject.dataset, batch, seconds)
        return {name: rate or tried for name, rate in found.items()}
    return {name: rate for name, rate in found.items() if rate}
