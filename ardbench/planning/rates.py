"""How fast a device is, in FLOP/s: by the runs that it has trained and evaluated, or else by the speed tables.

Images of one size tell nothing of another: small ones may reach a hundredth of the FLOP/s. The tables are
what `benchmarks/speed/training.py` and `scaling.py` write; only rows of a device of the same name tell anything.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from io import StringIO
from pathlib import Path
from statistics import median

import torch

from ardbench import data, models
from ardbench.campaigns.cells import Cell
from ardbench.config import Recipe
from ardbench.engine.device import describe, hardware_name
from ardbench.errors import ArdbenchError
from ardbench.evaluation.cost import flop
from ardbench.evaluation.verdicts import file_name, load_verdicts
from ardbench.methods import available, available_modules
from ardbench.planning.counting import StepCounter
from ardbench.runs import Run

TABLES = Path("results/speed")
"""Where the speed tables lie, <device>.csv and scaling-<device>.csv: below the working directory, beside those of suites."""
SCALED, SHAPE = "pgd-at", "cifar10"
"""The method of the scaling table, and the data set whose shape the images of the other have."""
SAMPLES = 20
"""Evaluations that are read for each protocol and student; more of them tell no more."""


@dataclass(frozen=True)
class Trained:
    """A run with finished epochs."""

    run: Run
    counted: StepCounter

    @property
    def student(self) -> tuple[str, str, str]:
        """Architecture, and the precision of attack and outer step."""
        return _student(self.run.recipe)

    @property
    def size(self) -> int:
        """The side of its images."""
        return data.info(self.run.recipe.data.name).size

    @cached_property
    def rate(self) -> float:
        """The FLOP/s of its median epoch, since some may have stood beside other work; counted when it is asked for."""
        rows = self.run.metrics
        speed = median(row["images"] / row["seconds"] for row in rows)
        return float(speed * self.counted.flop(self.run.recipe, self.run.teachers, range(len(rows))))


@dataclass(frozen=True)
class Evaluated:
    """What one evaluation took; `flop` are counted as those of a planned one."""

    protocol: str
    student: str
    size: int
    flop: float
    seconds: float


@dataclass(frozen=True)
class Timed:
    """The FLOP/s of a row of a speed table; `precision` is that of attack and outer step, `size` the side of its images."""

    method: str
    student: str
    precision: str
    size: int
    rate: float


@dataclass(frozen=True)
class Rates:
    """What is known of a device."""

    trained: Sequence[Trained] = ()
    evaluated: Sequence[Evaluated] = ()
    table: Callable[[], Sequence[Timed]] = tuple
    """Reads the speed tables, where no run of the same student tells."""

    def training(self, cell: Cell) -> tuple[float | None, str]:
        """Return the rate of the run itself, else of its like on images of its size, and where it comes from, in words.

        The median where there are several.
        """
        method, student = cell.recipe.composition, _student(cell.recipe)
        there = [one for one in self.trained if one.size == data.info(cell.recipe.data.name).size]
        told: list[tuple[str, Sequence[Trained | Timed]]] = [
            ("reached by the run itself", [one for one in there if one.run.path == cell.run.path]),
            ("reached by the same method and student",
             [one for one in there if (one.run.recipe.composition, one.student) == (method, student)]),
            ("reached by the same student", [one for one in there if one.student == student]),
            ("reached by the same student in another precision", [one for one in there if one.student[0] == student[0]]),
        ]  # fmt: skip
        if not any(chosen for _, chosen in told):
            told = [*self._tabulated(cell.recipe), ("reached by all runs on images of this size", there)]
        for source, chosen in told:
            if chosen:
                return median(one.rate for one in chosen), source
        return None, ""

    def evaluation(self, protocol: str, student: str, size: int) -> float | None:
        """Return the rate of evaluations of the same protocol and student, else of the protocol, else of all.

        Args:
            size: the side of the images; those of others tell nothing.
        """
        there = [e for e in self.evaluated if e.size == size]
        of_protocol = [e for e in there if e.protocol == protocol]
        like = [e for e in of_protocol if e.student == student] or of_protocol or there
        return sum(e.flop for e in like) / sum(e.seconds for e in like) if like else None

    def _tabulated(self, recipe: Recipe) -> list[tuple[str, list[Timed]]]:
        """Return the rows with a recipe's student and size of images, nearest first.

        The rate of another student may be 20 times as high.
        """
        precision = recipe.precision.outer if recipe.precision.outer == recipe.precision.attack else None
        size = data.info(recipe.data.name).size
        rows = [row for row in self.table() if (row.student, row.size) == (recipe.student, size)]
        alike = [row for row in rows if row.precision == precision]
        like = [row for row in alike if row.method == recipe.composition]
        by = "by the speed table, same student"
        return [(f"{by}, method and precision", like), (f"{by} and precision", alike), (by, rows)]


def measured(
    runs: Iterable[Run], device: torch.device, protocols: Collection[str], counted: StepCounter, tables: Path = TABLES
) -> Rates:
    """Return how fast this device is.

    Args:
        runs: that tell it, where they were made on this device.
        protocols: of which evaluations are wanted.
        tables: the folder of speed tables.

    Raises:
        ArdbenchError: a run directory or the table is damaged.
    """
    trained: list[Trained] = []
    evaluated: list[Evaluated] = []
    for run in runs:
        if run.metrics and _countable(run):
            trained += [Trained(run, counted)] if _made_on(run, device) else []
            evaluated += _evaluations(run, device, protocols, evaluated)
    paths = [tables / f"{kind}{device.type}.csv" for kind in ("", "scaling-")]
    return Rates(
        trained, evaluated, cache(lambda: [row for path in paths for row in read_table(path, hardware_name(device))])
    )


def read_table(path: Path, name: str) -> list[Timed]:
    """Return the rows of a speed table that were measured on the device called `name`; none where there is no file.

    Raises:
        ArdbenchError: a row is damaged.
    """
    if not path.is_file():
        return []
    try:
        reader = csv.DictReader(StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ArdbenchError(f"{path} cannot be read as a speed table ({error}): restore or delete it.") from None
    found = []
    try:
        for row in reader:
            told = _row(row)
            found += [told] if told and row["name"] == name else []
    except (csv.Error, KeyError, ValueError, ArdbenchError) as error:
        why = f"there is no column {error}" if isinstance(error, KeyError) else error
        raise ArdbenchError(f"{path}, line {reader.line_num}: {why}; mend or delete that line.") from None
    return found


def _row(row: dict[str, str]) -> Timed | None:
    """Return what a row tells, or None where it holds no TFLOP/s."""
    if None in row or None in row.values():
        raise ValueError("the row is longer or shorter than the head of the table")
    if not row.get("tflops"):
        return None
    rate = float(row["tflops"]) * 1e12
    if not 0 < rate < math.inf:
        raise ValueError(f"tflops is {row['tflops']}, which no device reaches")
    method, precision = (SCALED, row["precision"]) if "precision" in row else (row["method"], row["variant"])
    return Timed(method, row["model"], precision, data.info(row.get("dataset", SHAPE)).size, rate)


def _evaluations(
    run: Run, device: torch.device, protocols: Collection[str], known: Sequence[Evaluated]
) -> list[Evaluated]:
    """Return what a run's evaluations took; one that was taken over from the same network took nothing."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    student, dataset = run.recipe.student, run.recipe.data.name
    size = data.info(dataset).size
    found = []
    for protocol in protocols:
        there = sum((one.protocol, one.student, one.size) == (protocol, student, size) for one in known)
        stem = file_name(protocol).removesuffix(".json")
        paths = [*run.path.glob(f"eval/*/{stem}.json"), *run.path.glob(f"eval/*/{stem}-n*[0-9].json")]
        for path in sorted(paths)[: max(0, SAMPLES - there)]:
            verdicts = load_verdicts(path)
            if verdicts.protocol == protocol and verdicts.seconds and verdicts.environment.get("device") == named:
                cost = flop(protocol, verdicts.n, student, dataset)
                found.append(Evaluated(protocol, student, size, cost, verdicts.seconds))
    return found


def _student(recipe: Recipe) -> tuple[str, str, str]:
    return recipe.student, recipe.precision.attack, recipe.precision.outer


def _made_on(run: Run, device: torch.device) -> bool:
    made = run.environment
    if made.get("processes", 1) > 1:  # torchrun's, each with a device
        return False
    if device.type == "cpu":  # its name is the number of threads, which --jobs changes
        return made.get("device") == "cpu"
    return made.get("device_name") == describe(device)


def _countable(run: Run) -> bool:
    """Return whether method and networks are still known here; RobustBench's networks are none of ours."""
    names = [run.recipe.student, *(teacher.model.partition("@")[0] for teacher in run.teachers)]
    modules = all(one["name"] in available_modules() for one in run.recipe.modules)
    return modules and run.recipe.method["name"] in available() and all(models.known(name) for name in names)
