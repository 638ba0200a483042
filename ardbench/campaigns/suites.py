"""Suites: which runs and evaluations make a table, as a TOML file says it. Torch-free."""

from __future__ import annotations

import os
import re
import reprlib
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator, model_validator

from ardbench import teachers
from ardbench.campaigns.varied import varied_runs
from ardbench.config import Count, Section
from ardbench.errors import ArdbenchError, unknown
from ardbench.evaluation.derived import check_measured
from ardbench.evaluation.protocols import protocol
from ardbench.models import zoo
from ardbench.recipes import flat, told
from ardbench.runs import known_checkpoint
from ardbench.untrusted import Line, read_toml

Seeds = Annotated[tuple[Count, ...], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$", max_length=100)]
"""Of a run or a suite: files are called by it."""
Images = Annotated[int, Field(ge=1)]
Checkpoint = Annotated[str, AfterValidator(known_checkpoint)]


class SuiteRun(Section):
    """One run of a suite, once per seed; data set, student and settings are the recipe's unless given."""

    name: Name
    recipe: str
    dataset: str | None = None
    student: str | None = None
    teachers: tuple[str, ...] = ()
    """Runs of the suite, or outside networks (anything with ":" or "/"), in the order of the method's roles."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Changes to the recipe, as `--set` takes them."""
    seeds: Seeds | None = None
    """None: the suite's seeds, or the first of them for a run that teaches others."""
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Several values of keys that `set` takes, and of `seed`: a run for each choice of one of each, NAME@KEY=VALUE,..."""
    evaluate: bool = True

    @field_validator("vary", mode="before")
    @classmethod
    def _lists_values(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        found = dict(flat(value))
        for key, values in found.items():
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(f"{key} = {told(values)} is no list of values: write {key} = [VALUE, VALUE]")
        return found

    @model_validator(mode="after")
    def _varies_its_seed_once(self) -> SuiteRun:
        if self.seeds and "seed" in self.vary:
            raise ValueError("seeds and vary.seed are the same: give one of them")
        return self


class Choice(Section):
    """Which of a suite's teachers fall least for each other's adversarial examples: measured once they are there."""

    size: Annotated[int, Field(ge=2)]
    """Teachers in the set to choose."""
    n: Images | None = None
    """Test images to attack, class-balanced; None: all."""


class Suite(Section):
    """A list of runs and what to measure on each."""

    name: Name
    title: Line
    dataset: str | None = None
    """Of every run that names none itself; None: the recipe's own."""
    seeds: Seeds = (0,)
    protocols: Annotated[tuple[str, ...], Field(min_length=1)]
    checkpoints: Annotated[tuple[Checkpoint, ...], Field(min_length=1)] = ("last",)
    derived: tuple[str, ...] = ()
    """Columns that its tables have besides, of `ardbench.evaluation.derived`."""
    n: Images | dict[str, Images] | None = None
    """Test images to measure on, the same class-balanced ones for every run, or so many by protocol; else all."""
    batch: Images = 500
    """Images that an evaluation works on at a time; it decides the noise of the attacks."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Changes to the recipe of every run; a run's own go over them."""
    transfer: Choice | None = None
    runs: Annotated[tuple[SuiteRun, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_each_run_once(self) -> Suite:
        names = [run.name for run in self.runs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two runs are called {twice!r}: rename one of them")
        return self

    @model_validator(mode="after")
    def _has_teachers_to_choose_from(self) -> Suite:
        count = len({teacher for run in self.runs for teacher in run.teachers})
        if self.transfer and self.transfer.size > count:
            raise ValueError(
                f"transfer.size is {self.transfer.size}, but the runs name {count} in all as teachers: make it smaller"
            )
        return self

    @model_validator(mode="after")
    def _counts_images_of_its_protocols(self) -> Suite:
        strange = (
            next((name for name in self.n if name not in self.protocols), None) if isinstance(self.n, dict) else None
        )
        if strange is not None:
            raise ValueError(
                f"n names {strange!r}, and the protocols are {', '.join(self.protocols)}: name one of them"
            )
        return self

    def images_of(self, protocol: str, test_images: int) -> int | None:
        """Return how many of so many test images a protocol is measured on; None: all."""
        n = self.n.get(protocol) if isinstance(self.n, dict) else self.n
        return None if n == test_images else n

    def seeds_of(self, run: SuiteRun) -> tuple[int, ...]:
        """Return the seeds of a run: its own, one for a teacher, or the suite's."""
        teaches = any(run.name in other.teachers for other in self.runs)
        return run.seeds or (self.seeds[:1] if teaches else self.seeds)


def benchmarks_folder() -> Path:
    """Return the folder of suites and published numbers: inside an installed package, beside it in a checkout."""
    package = Path(str(files("ardbench")))
    return next(
        (path for path in (package / "benchmarks", package.parent / "benchmarks") if path.is_dir()),
        package / "benchmarks",
    )


def suite_names() -> list[str]:
    """Return the names of the built-in suites."""
    return sorted(path.stem for path in (benchmarks_folder() / "suites").glob("*.toml"))


def load_suite(name_or_path: str) -> Suite:
    """Return a built-in suite by name, or the one in a TOML file.

    Raises:
        ArdbenchError: one sentence naming what is unknown, missing, doubled or circular.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    elif name_or_path in suite_names():
        path = benchmarks_folder() / "suites" / f"{name_or_path}.toml"
    elif Path(name_or_path).is_file():
        raise ArdbenchError(
            f"{name_or_path} is a file and no suite (FILE.toml): weights are measured with `ardbench eval`, and compared."
        )
    else:
        raise unknown("suite", name_or_path, suite_names())
    try:
        document = read_toml(path)
    except tomllib.TOMLDecodeError as error:
        raise ArdbenchError(f"Suite {path} is not valid TOML: {error}.") from None
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no path, or nested without end
        raise ArdbenchError(
            f"Suite {path} cannot be read ({error}): give a TOML file in UTF-8 or a name from `ardbench list suites`."
        ) from None
    try:
        suite = _beside(Suite.model_validate({"name": path.stem} | document), path.parent)
    except ValidationError as error:
        raise _explained(error, path.stem) from None
    for protocol_name in suite.protocols:
        protocol(protocol_name)
    check_measured(suite.derived, list(product(suite.checkpoints, suite.protocols)))
    suite = suite.model_copy(update={"runs": tuple(one for run in suite.runs for one in varied_runs(run))})
    ordered(suite)
    return suite


def _beside(suite: Suite, folder: Path) -> Suite:
    """Return a suite whose files of recipes and teachers are those beside it, if they are there, wherever it is used from."""

    def found(text: str, ends: str) -> str:
        names = [text[: at.start()] for at in re.finditer(ends, text)]
        return str(folder / text) if any(name and os.path.exists(folder / name) for name in names) else text

    def file(teacher: str) -> bool:
        return is_outside(teacher) and not teacher.startswith((zoo.PREFIX, teachers.ROBUSTBENCH))

    runs = [
        run.model_copy(
            update={
                "recipe": found(run.recipe, r"(?<=\.toml)(@|$)"),
                "teachers": tuple(found(one, "[:@#]|$") if file(one) else one for one in run.teachers),
            }
        )
        for run in suite.runs
    ]
    return suite.model_copy(update={"runs": tuple(runs)})


def ordered(suite: Suite) -> list[SuiteRun]:
    """Return the runs in the suite's order, each teacher no later than just before its student.

    Raises:
        ArdbenchError: a teacher is unknown, or runs teach each other in a circle.
    """
    named = {run.name: run for run in suite.runs}
    graph: dict[str, list[str]] = {}
    for run in suite.runs:
        within = [teacher for teacher in run.teachers if not is_outside(teacher)]
        strange = next((teacher for teacher in within if teacher not in named), None)
        if strange is not None:
            raise unknown(f"teacher of run {run.name!r} in suite {suite.name}:", strange, named.keys() - {run.name})
        graph[run.name] = within
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise ArdbenchError(
            f"Suite {suite.name}: runs teach each other in a circle ({circle}); remove one of these teachers."
        ) from None
    order: list[SuiteRun] = []

    def put(name: str) -> None:
        if name not in {run.name for run in order}:
            for teacher in graph[name]:
                put(teacher)
            order.extend(run for run in suite.runs if run.name == name)

    for name in named:
        put(name)
    return order


def is_outside(teacher: str) -> bool:
    return ":" in teacher or "/" in teacher


def _explained(error: ValidationError, suite: str) -> ArdbenchError:
    """Return one complaint as one sentence: an unknown key first, because a misspelt key is also a missing one."""
    found = error.errors()
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: type[BaseModel] = SuiteRun if first["loc"][0] == "runs" else Suite
        return unknown(f"key in suite {suite}, {where}:", str(first["loc"][-1]), section.model_fields)
    if first["type"] == "missing":
        return ArdbenchError(f"In suite {suite}: {where} is missing.")
    said = first["msg"].removeprefix("Value error, ")
    given = f"{where} = {reprlib.repr(first['input'])}: " if where else ""
    return ArdbenchError(f"In suite {suite}: {given}{said[0].lower()}{said[1:]}.")
