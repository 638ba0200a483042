"""What is missing of a plan, in images, FLOP and hours, before any of it is done.

FLOP are counted (`engine/counting.py`); hours are these by the FLOP/s that finished epochs have reached, each run after
the other on one device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

import torch

from ardbench import data, models
from ardbench.config import Recipe, epoch_at
from ardbench.engine.counting import StepCounter
from ardbench.engine.device import describe
from ardbench.evaluation.protocols import AutoAttack, Clean, protocol
from ardbench.methods import available
from ardbench.models.cost import cost
from ardbench.runs import Run, all_runs, read_json
from ardbench.suites import Cell

ROBUST = 0.5
"""The share of test images that AutoAttack is taken to spend all its attacks on; the others fall to the first ones."""


@dataclass(frozen=True)
class Estimate:
    """What is missing of a cell.

    Args:
        trained, evaluated: images, each as often as it is shown or measured; validation during training is evaluation.
        training, evaluation: FLOP.
        rate: FLOP/s; None where none is known.
        source: where the rate comes from, in words.
    """

    trained: int
    evaluated: int
    training: float
    evaluation: float
    rate: float | None = None
    source: str = ""

    @property
    def images(self) -> int:
        """Of training and evaluation together."""
        return self.trained + self.evaluated

    @property
    def flop(self) -> float:
        """Of training and evaluation together."""
        return self.training + self.evaluation

    @property
    def hours(self) -> float | None:
        """On one device, with evaluation as fast as training."""
        return None if self.rate is None else self.flop / self.rate / 3600


def estimate(cells: Sequence[Cell], root: Path, device: torch.device, tflops: float | None = None) -> list[Estimate]:
    """Return what is missing of each cell.

    Args:
        root: the folder of runs; those made on `device` tell how fast it is.
        tflops: TFLOP/s to believe instead.

    Raises:
        ArdbenchError: a step cannot be counted, or a run directory is damaged.
    """
    counted = StepCounter()
    reached = measured(root, device, counted) if tflops is None else []
    rows = []
    for cell in cells:
        row = _work(cell, counted)
        rate, source = (tflops * 1e12, "as given with --tflops") if tflops else _rate(cell, reached)
        rows.append(replace(row, rate=rate, source=source) if row.flop else row)
    return rows


def forwards(name: str, classes: int) -> float:
    """Return what a protocol costs on one image, in forwards of the network; a backward to the image counts as one.

    AutoAttack's numbers are those of a point that stays robust, times `ROBUST`, and hold for 100 steps and 9 targets.
    """
    rules = protocol(name)
    if isinstance(rules, Clean):
        return 1
    if not isinstance(rules, AutoAttack):
        return 1 + rules.restarts * (2 * rules.steps + 1)
    restarts, samples = 5 if rules.configured == "plus" else 1, 20 if rules.configured == "rand" else 1
    apgd = 202 * restarts * samples + 2
    costs = {"apgd-ce": apgd, "apgd-dlr": apgd, "apgd-t": 1829, "fab-t": 2729, "square": 5004}
    costs["fab"] = (202 + 100 * classes) * restarts + 2  # a backward per class and step
    return 1 + ROBUST * sum(costs[attack] for attack in rules.attacks)


def images_per_epoch(recipe: Recipe) -> int:
    """Return how many training images an epoch shows."""
    left = data.info(recipe.data.name).train_images - recipe.data.validation
    images = min(left, recipe.data.train_images or left)
    return images - images % recipe.data.batch if recipe.data.drop_last else images


def _work(cell: Cell, counted: StepCounter) -> Estimate:
    recipe, info = cell.recipe, data.info(cell.recipe.data.name)
    total = recipe.schedule.epochs
    begun = {"done": total, "partial": len(cell.run.metrics)}.get(cell.state, 0)
    epochs = range(begun, total)
    trained = len(epochs) * images_per_epoch(recipe)
    training = trained * counted.flop(recipe, cell.teachers, epochs) if trained else 0.0
    tested = cell.n or info.test_images
    measures = Counter({name: tested * times for name, times in Counter(n for _, n in cell.missing).items()})
    for name in ("clean", recipe.selection.protocol):
        measures[name] += _validated(recipe, epochs)
    passes = sum(images * forwards(name, info.num_classes) for name, images in measures.items())
    evaluation = passes * _forward(recipe.student, recipe.data.name) if passes else 0.0
    return Estimate(trained, measures.total(), training, evaluation)


def _validated(recipe: Recipe, epochs: range) -> int:
    """Return the images that a run classifies to select its checkpoint at the ends of these epochs, as the loop does."""
    selection, total = recipe.selection, recipe.schedule.epochs
    images = data.info(recipe.data.name).test_images if selection.by == "best-test" else recipe.data.validation
    start = epoch_at(selection.start, total)
    due = [e for e in epochs if (e >= start and (e + 1) % selection.every == 0) or e + 1 == total]
    return len(due) * images


@cache
def _forward(model: str, dataset: str) -> int:
    return 2 * cost(model, data.info(dataset)).macs


# Rates ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """The FLOP/s that the finished epochs of a run have reached."""

    run: Path
    method: str
    student: str
    rate: float


def measured(root: Path, device: torch.device, counted: StepCounter) -> list[Measured]:
    """Return how fast the runs below `root` were that were trained on this device."""
    found = []
    for run in all_runs(root):
        if run.metrics and _made_on(run, device) and _countable(run):
            images, seconds = (sum(row[name] for row in run.metrics) for name in ("images", "seconds"))
            flop = images * counted.flop(run.recipe, run.teachers, range(len(run.metrics)))
            found.append(Measured(run.path, run.recipe.method["name"], run.recipe.student, flop / seconds))
    return found


def _made_on(run: Run, device: torch.device) -> bool:
    made = read_json(run.path / "env.json")
    if device.type == "cpu":  # its name is the number of threads, which --jobs changes
        return made.get("device") == "cpu"
    return made.get("device_name") == describe(device)


def _countable(run: Run) -> bool:
    """Return whether method and teachers are still known here; RobustBench's networks are none of ours."""
    models_known = all(teacher.model.partition("@")[0] in models.MODELS for teacher in run.teachers)
    return run.recipe.method["name"] in available() and models_known


def _rate(cell: Cell, reached: Sequence[Measured]) -> tuple[float | None, str]:
    """Return the rate of the run itself, else of its like, else of all; the median where there are several."""
    like = (cell.recipe.method["name"], cell.recipe.student)
    for source, chosen in (
        ("reached by the run itself", [m for m in reached if m.run == cell.run.path]),
        ("reached by the same method and student", [m for m in reached if (m.method, m.student) == like]),
        ("reached by all runs there", reached),
    ):
        if chosen:
            return median(m.rate for m in chosen), source
    return None, ""
