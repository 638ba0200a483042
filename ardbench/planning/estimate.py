"""What is missing of a plan, in images, FLOP and hours, before any of it is done.

FLOP are counted (`planning/counting.py`, `evaluation/cost.py`); hours are these by the FLOP/s that the device has reached
(`planning/rates.py`), each run after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ardbench import data
from ardbench.campaigns.cells import Cell
from ardbench.config import Recipe, epoch_at
from ardbench.data.epoch import Epoch
from ardbench.evaluation.cost import flop
from ardbench.planning.counting import StepCounter
from ardbench.planning.rates import TABLES, Rates, measured
from ardbench.runs import all_runs
from ardbench.starts import parent_of


@dataclass(frozen=True)
class Estimate:
    """What is missing of a cell.

    Args:
        trained, evaluated: images, each as often as it is shown or measured; validation during training is evaluation.
        training, evaluation: FLOP.
        rate: FLOP/s of training; None where none is known.
        source: where the rate comes from, in words.
        evaluation_rate: FLOP/s of evaluation where that was measured; None: as fast as training.
    """

    trained: int
    evaluated: int
    training: float
    evaluation: float
    rate: float | None = None
    source: str = ""
    evaluation_rate: float | None = None

    @property
    def images(self) -> int:
        """Of training and evaluation together."""
        return self.trained + self.evaluated

    @property
    def flop(self) -> float:
        """Of training and evaluation together."""
        return self.training + self.evaluation

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Of training and of evaluation, on one device; None where no rate is known."""
        if self.rate is None:
            return None
        return self.training / self.rate, self.evaluation / (self.evaluation_rate or self.rate)

    @property
    def hours(self) -> float | None:
        """Of training and evaluation together."""
        return None if self.seconds is None else sum(self.seconds) / 3600


def estimate(
    cells: Sequence[Cell], root: Path, device: torch.device, tflops: float | None = None, tables: Path = TABLES
) -> list[Estimate]:
    """Return what is missing of each cell.

    Args:
        root: the folder of runs; those made on `device` tell how fast it is, beside those of the cells, wherever these lie.
        tflops: TFLOP/s to believe instead.
        tables: the folder of speed tables, which tell where no run does.

    Raises:
        ArdbenchError: a step cannot be counted, or a run directory or the device's speed table is damaged.
    """
    counted = StepCounter()
    measures = [_measures(cell) for cell in cells]
    wanted = {name for one in measures for name, images in one.items() if images}
    runs = {run.path.name: run for run in (*all_runs(root), *(cell.run for cell in cells if cell.state != "missing"))}
    rates = Rates() if tflops else measured(runs.values(), device, sorted(wanted), counted, tables)
    return [_estimate(cell, one, rates, tflops, counted) for cell, one in zip(cells, measures, strict=True)]


def images_per_epoch(recipe: Recipe) -> int:
    """Return how many training images an epoch shows, extra ones included."""
    left = data.info(recipe.data.name).train_images - recipe.data.validation
    return Epoch.of(recipe.data, min(left, recipe.data.train_images or left)).shown


def _estimate(cell: Cell, measures: Counter[str], rates: Rates, tflops: float | None, counted: StepCounter) -> Estimate:
    recipe, epochs = cell.recipe, _missing_epochs(cell)
    trained = len(epochs) * images_per_epoch(recipe)
    training = trained * counted.flop(recipe, cell.teachers, epochs) if trained else 0.0
    passes = {name: flop(name, images, recipe.student, recipe.data.name) for name, images in measures.items() if images}
    evaluation = sum(passes.values())
    work = (trained, measures.total(), training, evaluation)
    if not training + evaluation:
        return Estimate(*work)
    if tflops:
        return Estimate(*work, tflops * 1e12, "as given with --tflops")
    reached = {name: rates.evaluation(name, recipe.student, data.info(recipe.data.name).size) for name in passes}
    seconds = sum(passes[name] / rate for name, rate in reached.items() if rate)
    return Estimate(*work, *rates.training(cell), evaluation / seconds if seconds else None)


def _missing_epochs(cell: Cell) -> range:
    """Return the epochs of a cell that are still to be trained."""
    total, start = cell.recipe.schedule.epochs, cell.recipe.start
    before = parent_of(start).recipe.schedule.epochs if start and start.kind == "extend" else 0
    return range({"done": total, "partial": len(cell.run.metrics)}.get(cell.state, before), total)


def _measures(cell: Cell) -> Counter[str]:
    """Return how many images are still to be measured under each protocol, validation included."""
    tested = data.info(cell.recipe.data.name).test_images
    measures = Counter[str]()
    for _, name, n in cell.missing:
        measures[name] += n or tested
    for name in ("clean", cell.recipe.selection.protocol):
        measures[name] += _validated(cell.recipe, _missing_epochs(cell))
    return measures


def _validated(recipe: Recipe, epochs: range) -> int:
    """Return the images that a run classifies at the ends of these epochs, as the loop does."""
    selection, total, tested = recipe.selection, recipe.schedule.epochs, data.info(recipe.data.name).test_images
    images = tested if selection.by == "best-test" else recipe.data.validation
    if not images:
        return tested * (total - 1 in epochs)
    start = epoch_at(selection.start, total)
    due = [e for e in epochs if (e >= start and (e + 1) % selection.every == 0) or e + 1 == total]
    return len(due) * images
