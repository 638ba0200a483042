"""Suites: which runs and evaluations make a table, in which order, and what of it is there already. Torch-free."""

from __future__ import annotations

import os
import re
import reprlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files
from itertools import product
from pathlib import Path
from types import EllipsisType
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator, model_validator

from ardbench import data, teachers
from ardbench.campaigns.copies import standing
from ardbench.campaigns.varied import chosen, varied_runs
from ardbench.config import Count, Recipe, Section
from ardbench.errors import ArdbenchError, unknown
from ardbench.evaluation.derived import check_measured
from ardbench.evaluation.protocols import protocol
from ardbench.evaluation.verdicts import Verdicts, file_name, load_verdicts
from ardbench.models import zoo
from ardbench.recipes import flat, moved, resolve, told
from ardbench.runs import CHECKPOINTS, EPOCH, Run, Teacher, known_checkpoint
from ardbench.starts import begun
from ardbench.untrusted import Line, read_toml

Seeds = Annotated[tuple[Count, ...], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$", max_length=100)]
"""Of a run or a suite: files are called by it."""
Images = Annotated[int, Field(ge=1)]
Checkpoint = Annotated[str, AfterValidator(known_checkpoint)]
State = Literal["done", "partial", "missing", "stale"]
Roles = Callable[[str], tuple[str | EllipsisType, ...]]
Outside = Callable[[str, str], Teacher]


class Resolve(Protocol):
    """What `ardbench.recipes.resolve` offers to a plan."""

    def __call__(
        self, name: str, *, dataset: str | None, student: str | None, seed: int | None, sets: Mapping[str, Any]
    ) -> Recipe: ...


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


@dataclass(frozen=True)
class Cell:
    """One run of a plan.

    Args:
        name: of the run in the suite; cells that differ in the seed share it.
        run: where it lies, whether it exists or not.
        recipe: resolved, with its seed.
        teachers: in the order of the method's roles; weights that are not there yet have no sha256.
        state: done, partial (begun), missing, or stale (a teacher has changed since: move or delete it to retrain).
        missing: the (checkpoint, protocol, n) that are still to be evaluated, on n test images; None: all.
    """

    name: str
    run: Run
    recipe: Recipe
    teachers: tuple[Teacher, ...]
    state: State
    missing: tuple[tuple[str, str, int | None], ...]


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
    _ordered(suite)
    return suite


def plan(
    suite: Suite,
    root: Path,
    resolve: Resolve,
    roles: Roles | None = None,
    outside: Outside | None = None,
    beside: Sequence[Path] = (),
) -> list[Cell]:
    """Return the cells of a suite, every teacher before its students, otherwise in the suite's order.

    A teacher that is not trained yet has the identity of its planned run, so that its students have a name already.

    Args:
        suite: what to run.
        root: the folder of run directories.
        resolve: `ardbench.recipes.resolve`.
        roles: from a method's name to its teachers' roles; the method's own unless given.
        outside: from (source, role) to a teacher that is no run of the suite.
        beside: other folders of run directories; a run that is further in one of them than under `root` lies there.
    """
    planner = _Planner(suite, (root, *beside), resolve, roles or _roles_of_method, outside, {})
    places: dict[Path, str] = {}
    for run in _ordered(suite):
        for seed in suite.seeds_of(run):
            cell = planner.cell(run, seed)
            if cell.run.path in places:
                raise ArdbenchError(
                    f"Suite {suite.name}: {places[cell.run.path]!r} and {run.name!r} are the same run "
                    "(recipe, student, seed and teachers agree): remove one."
                )
            places[cell.run.path] = run.name
            planner.cells.setdefault(run.name, []).append(cell)
    return [cell for named in planner.cells.values() for cell in named]


def planned(name: str, root: Path, beside: Sequence[Path] = ()) -> tuple[Suite, list[Cell]]:
    """Return a suite and its plan; teachers that are no run of the suite may still be absent from the zoo."""
    suite = load_suite(name)
    return suite, plan(suite, root, resolve, outside=teachers.planned_outside, beside=beside)


def carried(suite: Suite, cells: Sequence[Cell]) -> list[str]:
    """Return what recipes of unfinished runs carry to a data set that they were not written for, each sentence once."""
    typed = {run.name: run.recipe for run in suite.runs}
    return list(filter(None, dict.fromkeys(moved(typed[c.name], c.recipe) for c in cells if c.state != "done")))


def plan_table(cells: Sequence[Cell]) -> list[dict[str, str]]:
    """Return one row per cell for people: run, recipe, seed, state, epochs, missing evaluations, directory."""
    return [
        {
            "run": cell.name,
            "recipe": cell.recipe.name,
            "seed": str(cell.recipe.seed),
            "state": _state_in_words(cell),
            "epochs": _epochs(cell),
            "missing evaluations": "; ".join(f"{name}: {', '.join(which)}" for name, which in _by_checkpoint(cell)),
            "directory": cell.run.path.name,
        }
        for cell in cells
    ]


def awaited(cells: Sequence[Cell]) -> list[str]:
    """Return the teachers of the zoo whose files are not here yet."""
    return sorted({t.source for cell in cells for t in cell.teachers if t.identity.startswith(zoo.PREFIX)})


def state_of(run: Run) -> State:
    """Return whether a run is done, begun, not there, or stale."""
    if not (run.path / "config.json").is_file():
        return "missing"
    if run.stale:
        return "stale"
    return "partial" if run.done is None else "done"


def of_present_weights(run: Run, checkpoint: str, verdicts: Verdicts) -> bool:
    """Return whether an evaluation was made of the weights that the finished run has now, as far as both say."""
    present = (run.done or {}).get("weights", {}).get(checkpoint)
    measured = verdicts.key.get("weights")
    return present is None or measured is None or bool(measured == present)


def expected_checkpoints(recipe: Recipe) -> tuple[str, ...]:
    """Return the checkpoints that a finished run of this recipe has, unless its patience ends it before some of them."""
    there = {"last": True, "best": recipe.selection.by != "last", "averaged": recipe.average.kind != "none"}
    every, total = recipe.keep_every or 0, recipe.schedule.epochs
    kept = [f"epoch-{epoch}" for epoch in range(every, total + 1, every)] if every else []
    return (*(name for name in CHECKPOINTS if there[name]), *kept)


@dataclass(frozen=True)
class _Planner:
    """What `plan` was given, and the cells planned so far by the names of their runs."""

    suite: Suite
    roots: tuple[Path, ...]
    resolve: Resolve
    roles: Roles
    outside: Outside | None
    cells: dict[str, list[Cell]]

    def cell(self, run: SuiteRun, seed: int) -> Cell:
        """Return one run at one seed; its teachers within the suite are planned already."""
        sets = dict(flat(self.suite.set)) | dict(flat(run.set)) | chosen(run)
        dataset = run.dataset or self.suite.dataset
        recipe = begun(self.resolve(run.recipe, dataset=dataset, student=run.student, seed=seed, sets=sets))
        roles = _roles_for(run, recipe, self.roles)
        taught_by = tuple(self.teacher(source, role) for source, role in zip(run.teachers, roles, strict=True))
        images = data.info(recipe.data.name).test_images
        counts = self.suite.n if isinstance(self.suite.n, dict) else {"": self.suite.n}
        keys = {f"n.{name}" if name else "n": count for name, count in counts.items()}
        for key, given in (keys | {"transfer.n": self.suite.transfer and self.suite.transfer.n}).items():
            if given and given > images:
                raise ArdbenchError(
                    f"Suite {self.suite.name}: {key} = {given} is more than the {images} test images of "
                    f"{recipe.data.name}: give at most {images}."
                )

        def missing(place: Run) -> tuple[tuple[str, str, int | None], ...]:
            return _missing(self.suite, place, recipe, images) if run.evaluate else ()

        places = [Run.place(root, recipe, taught_by) for root in self.roots]
        place = max(places, key=lambda one: (standing(one), -len(missing(one)))) if places[1:] else places[0]
        return Cell(run.name, place, recipe, taught_by, state_of(place), missing(place))

    def teacher(self, source: str, role: str) -> Teacher:
        """Return a run of the suite (its first seed) or an outside network as a teacher."""
        if source in self.cells:
            return _teacher_run(self.cells[source][0], role)
        if self.outside is None:
            raise ArdbenchError(
                f"Suite {self.suite.name}: teacher {source!r} is no run of the suite; only those can teach here."
            )
        return self.outside(source, role)


def _roles_for(run: SuiteRun, recipe: Recipe, roles: Roles) -> tuple[str, ...]:
    """Return one role per teacher of a run, or say how many teachers the method wants."""
    wanted, given = roles(recipe.method["name"]), len(run.teachers)
    more = bool(wanted) and wanted[-1] is Ellipsis
    named = tuple(role for role in wanted if isinstance(role, str))
    if given == len(named) or (more and given > len(named)):
        return named + named[-1:] * (given - len(named))
    described = f"{len(named)}{' or more' if more else ''} ({', '.join(named)})" if named else "none"
    raise ArdbenchError(
        f"Run {run.name!r}: the method {recipe.method['name']} wants {described} as teachers, but {given} are named."
    )


def _roles_of_method(name: str) -> tuple[str | EllipsisType, ...]:
    from ardbench.methods import method_class

    return method_class(name).roles


def _teacher_run(cell: Cell, role: str) -> Teacher:
    """Return a run of the suite as a teacher, trained or not: its identity is known before its weights are."""
    if cell.run.done is not None:
        return teachers.of_run(cell.run, role, source=cell.name)
    identity = cell.recipe.identity([teacher.identity for teacher in cell.teachers])
    return replace(teachers.planned(cell.run, cell.recipe, identity, role), source=cell.name)


def _beside(suite: Suite, folder: Path) -> Suite:
    """Return a suite whose files of recipes and teachers are those beside it, if they are there, wherever it is used from."""

    def found(text: str, ends: str) -> str:
        names = [text[: at.start()] for at in re.finditer(ends, text)]
        return str(folder / text) if any(name and os.path.exists(folder / name) for name in names) else text

    def file(teacher: str) -> bool:
        return _is_outside(teacher) and not teacher.startswith((zoo.PREFIX, teachers.ROBUSTBENCH))

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


def _missing(suite: Suite, run: Run, recipe: Recipe, images: int) -> tuple[tuple[str, str, int | None], ...]:
    """Return the evaluations that are not there or no longer hold, of those checkpoints that the recipe makes."""
    made = (run.done or {}).get("epochs", recipe.schedule.epochs)  # fewer by selection.patience
    checkpoints = [name for name in suite.checkpoints if name in expected_checkpoints(recipe) and _reached(name, made)]
    wanted = [(where, name, suite.images_of(name, images)) for where in checkpoints for name in suite.protocols]
    return tuple(one for one in wanted if not _evaluated(run, recipe, *one))


def _reached(checkpoint: str, epochs: int) -> bool:
    found = EPOCH.fullmatch(checkpoint)
    return found is None or int(found[1]) <= epochs


def _evaluated(run: Run, recipe: Recipe, checkpoint: str, name: str, n: int | None) -> bool:
    path = run.path / "eval" / checkpoint / file_name(name, n)
    if not path.is_file():
        return False
    verdicts = load_verdicts(path)
    rules = protocol(name)
    same_threat = name == "clean" or verdicts.threat == rules.under(recipe.evaluation).model_dump(mode="json")
    return same_threat and verdicts.version == rules.version and of_present_weights(run, checkpoint, verdicts)


def _ordered(suite: Suite) -> list[SuiteRun]:
    """Return the runs with teachers first, or refuse unknown teachers and circles."""
    named = {run.name: run for run in suite.runs}
    graph: dict[str, list[str]] = {}
    for run in suite.runs:
        within = [teacher for teacher in run.teachers if not _is_outside(teacher)]
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
    while sorter.is_active():
        ready = sorter.get_ready()
        order += [run for run in suite.runs if run.name in ready]
        sorter.done(*ready)
    return order


def _is_outside(teacher: str) -> bool:
    return ":" in teacher or "/" in teacher


def _state_in_words(cell: Cell) -> str:
    """Return the state with what a person must do about it: retrain, or bring the file of a teacher."""
    if cell.state == "stale":
        return f"stale: move or delete {cell.run.path} to retrain"
    return f"{cell.state}, needs a file" if cell.state != "done" and awaited([cell]) else cell.state


def _epochs(cell: Cell) -> str:
    total = cell.recipe.schedule.epochs
    return f"{len(cell.run.metrics)}/{total}" if cell.state == "partial" else str(total)


def _by_checkpoint(cell: Cell) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for checkpoint, name, _ in cell.missing:
        found.setdefault(checkpoint, []).append(name)
    return list(found.items())


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
