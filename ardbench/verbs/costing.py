"""What an evaluation would cost, before it is made. Torch-free until a rate is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ardbench import data
from ardbench.evaluation.protocols import Protocol
from ardbench.evaluation.verdicts import file_name, load_verdicts
from ardbench.listeners import say
from ardbench.verbs.measuring import Measuring

if TYPE_CHECKING:
    import torch

BATCH = 100
"""Images at a time in a trial: one batch may not take minutes on a small machine."""


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

    names = sorted({one.rules.name for one in asked if one.flop})
    if not names:
        return {}
    subject, runs = asked[0].job.subject, asked[0].job.runs
    known = measured(runs, device, names, StepCounter())
    found = {name: known.evaluation(name, subject.model, data.info(subject.dataset).size) for name in names}
    if None in found.values():
        say(f"No evaluation below {runs} tells how fast this is: trying {seconds:.0f} s of forwards and backwards.")
        net, batch = subject.network(asked[0].checkpoint, device), min(BATCH, asked[0].images)
        tried = trial.attacking(net, subject.model, subject.dataset, batch, seconds)
        return {name: rate or tried for name, rate in found.items()}
    return {name: rate for name, rate in found.items() if rate}
