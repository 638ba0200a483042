"""Cells: the runs of a suite with their places and teachers, and what of them is there already. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal, Protocol

from ardbench import data, teachers
from ardbench.campaigns.copies import standing
from ardbench.campaigns.suites import Suite, SuiteRun, load_suite, ordered
from ardbench.campaigns.varied import chosen
from ardbench.config import Recipe
from ardbench.errors import ArdbenchError
from ardbench.evaluation.protocols import protocol
from ardbench.evaluation.verdicts import Verdicts, file_name, load_verdicts
from ardbench.models import zoo
from ardbench.recipes import flat, moved, resolve
from ardbench.runs import CHECKPOINTS, EPOCH, Run, Teacher
from ardbench.starts import begun

State = Literal["done", "partial", "missing", "stale"]
Roles = Callable[[str], tuple[str | EllipsisType, ...]]
Outside = Callable[[str, str], Teacher]


class Resolve(Protocol):
    """What `ardbench.recipes.resolve` offers to a plan."""

    def __call__(
        self, name: str, *, dataset: str | None, student: str | None, seed: int | None, sets: Mapping[str, Any]
    ) -> Recipe: ...


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
        batch: of its evaluations.
    """

    name: str
    run: Run
    recipe: Recipe
    teachers: tuple[Teacher, ...]
    state: State
    missing: tuple[tuple[str, str, int | None], ...]
    batch: int = 500


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
    for run in ordered(suite):
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
        return Cell(run.name, place, recipe, taught_by, state_of(place), missing(place), self.suite.batch)

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
