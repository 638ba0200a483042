"""`ardbench.train` and `ardbench.distill`: from a recipe and its changes to a finished run. Torch-free until it trains."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ardbench.config import Recipe, Start
from ardbench.data import heeds_data_root
from ardbench.engine.stopping import after, late
from ardbench.errors import ArdbenchError
from ardbench.faults import outside, place
from ardbench.listeners.tracking import Tracking
from ardbench.methods import method_class
from ardbench.recipes import moved, resolve
from ardbench.runs import Run, Teacher, check_makeable
from ardbench.starts import begun, extended, parent_of, with_object
from ardbench.subjects import is_object, teaching
from ardbench.teachers import of_object, resolve_teachers
from ardbench.verbs import texts

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ardbench.progress import Progress

Taught: TypeAlias = "str | Path | Run | nn.Module"
"""What can teach: a run, what `--teacher` takes, or a network."""
FAST = ("precision.attack=bf16", "precision.outer=bf16", "precision.cuda_graph=auto")
"""What `fast` stands for; a `set` beside it has the last word."""


@heeds_data_root
def train(
    recipe: str | Path = "",
    *,
    dataset: str | None = None,
    student: str | nn.Module | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    init: str | Path | Run | None = None,
    extend: str | Path | Run | None = None,
    fast: bool = False,
    set: str | Sequence[str] | Mapping[str, Any] = (),
    device: str = "auto",
    data_root: str | Path | None = None,
    runs: str | Path = "runs",
    time_limit: float | None = None,
    progress: Progress | None = None,
    tensorboard: str | Path | None = None,
    wandb: str | None = None,
    mlflow: str | None = None,
) -> Run:
    """Train a network that needs no teacher, or what is missing of it, and return its run.

    Args:
        recipe: a name from `ardbench list recipes`, NAME@VARIANT, the path of a TOML file, or a method (with `dataset`).
        dataset, student, seed, epochs: replace the recipe's own; milestones and phases are shares, so they scale. A student
            may be a network, of which a copy is trained from its present weights; these and its class name the run.
        init: a run, or what `--init` takes, with whose weights the student begins; of another size, the head is drawn anew.
        extend: a finished run, which goes on until it has `epochs` epochs in all; nothing else of these is given.
        fast: attack and train in bf16; another run than without.
        set: one or several "section.key=value" strings, or a mapping of the same, such as {"attack.steps": 7}.
        device: "auto", "cuda" or "cpu".
        data_root: the folder of the data sets; None takes $ARDBENCH_DATA or else ./data.
        runs: the folder in which run directories lie.
        time_limit: seconds after which it saves and returns the unfinished run (its `done` is None).
        progress: hears of the work; None shows bars, or lines where stderr is no terminal; `Progress()` is silent.
        tensorboard, wandb, mlflow: a folder, a project and a URI that follow every epoch; each wants its extra.

    Raises:
        ArdbenchError: one sentence on what can be mended.
        KeyboardInterrupt: after everything was saved; the same call goes on.
    """
    deadline = after(time_limit)
    net, name = (student, None) if is_object(student) else (None, student)
    words = {"dataset": dataset, "student": name, "seed": seed, "epochs": epochs}
    recipe = str(recipe)
    asked = resolved(recipe, fast, set, words, init, extend)
    check_untaught(asked, recipe)
    tracking, job = Tracking.to(tensorboard, wandb, mlflow), prepared(asked, (), runs, net)
    return job.finished(device, data_root, deadline, progress, tracking, remark(recipe, asked))


@heeds_data_root
def distill(
    recipe: str | Path = "",
    *,
    teachers: Taught | Sequence[Taught] = (),
    dataset: str | None = None,
    student: str | nn.Module | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    init: str | Path | Run | None = None,
    extend: str | Path | Run | None = None,
    fast: bool = False,
    diagnostics: bool = False,
    set: str | Sequence[str] | Mapping[str, Any] = (),
    device: str = "auto",
    data_root: str | Path | None = None,
    runs: str | Path = "runs",
    time_limit: float | None = None,
    progress: Progress | None = None,
    tensorboard: str | Path | None = None,
    wandb: str | None = None,
    mlflow: str | None = None,
) -> Run:
    """Distill a student from trained teachers, or together with a peer, and return its run.

    Args:
        teachers: one or several: runs, or what `--teacher` takes: RUN, RUN@CHECKPOINT, an export, FILE:ARCH, zoo:NAME,
            SUITE:NAME of one seed, each with ROLE= before it where the order does not say; or networks that take pixels
            (b, C, H, W) in [0, 1] and give logits (b, K). A network is known by its class and weights, so only the same
            one goes on with a run.
        diagnostics: log for each epoch who of teachers and peer is right on x and x'; the run stays the same.
        recipe, dataset, student, seed, epochs, init, extend, fast, set, device, data_root, runs, time_limit, progress,
            tensorboard, wandb, mlflow: as in `train`.

    Raises:
        ArdbenchError, KeyboardInterrupt: as `train`.
    """
    deadline = after(time_limit)
    net, name = (student, None) if is_object(student) else (None, student)
    words = {"dataset": dataset, "student": name, "seed": seed, "epochs": epochs}
    recipe = str(recipe)
    asked = resolved(recipe, fast, set, words, init, extend)
    check_taught(asked, recipe)
    tracking = Tracking.to(tensorboard, wandb, mlflow)
    job = prepared(asked.model_copy(update={"diagnostics": asked.diagnostics or diagnostics}), teachers, runs, net)
    return job.finished(device, data_root, deadline, progress, tracking, remark(recipe, asked))


def resolved(
    recipe: str,
    fast: bool,
    sets: str | Sequence[str] | Mapping[str, Any],
    words: Mapping[str, Any],
    init: str | Path | Run | None = None,
    extend: str | Path | Run | None = None,
) -> Recipe:
    """Return a recipe with its changes; `words` are those that `ardbench.recipes.resolve` takes by name.

    Args:
        init, extend: where the student begins, as `train` takes them.
    """
    if extend is not None:
        others = {"a recipe": recipe, "init": init, "fast": fast, "set": sets} | dict(words)
        given = [name for name, value in others.items() if value not in (None, "", False, (), {}) and name != "epochs"]
        if given:
            raise ArdbenchError(f"A run that is extended keeps its recipe: give epochs alone, without {given[0]}.")
        return extended(_place(extend), words["epochs"])
    if not recipe:
        raise ArdbenchError("There is nothing to train: name a recipe, or a run to extend.")
    if isinstance(sets, str):
        sets = texts(sets)
    if fast and isinstance(sets, Mapping):
        sets = dict(one.split("=") for one in FAST) | dict(sets)
    elif fast:
        sets = (*FAST, *sets)
    found = resolve(recipe, **words, sets=sets)
    return found if init is None else found.model_copy(update={"start": Start(source=_place(init))})


def remark(typed: str, recipe: Recipe) -> str:
    """Return what a user should know of a recipe before it trains, in one sentence; else nothing."""
    return moved(typed, recipe) if typed else ""


def _place(what: str | Path | Run) -> str:
    return str(what.path if isinstance(what, Run) else what)


@dataclass(frozen=True)
class Training:
    """A run that is to be trained, or has been.

    Args:
        recipe: resolved.
        teachers: in the order of the method's roles.
        run: where it lies.
        given: teachers that are network objects, by identity.
    """

    recipe: Recipe
    teachers: tuple[Teacher, ...]
    run: Run
    given: Mapping[str, nn.Module] = field(default_factory=dict)

    def work(self, device: torch.device, data_root: Path | None, deadline: float | None, progress: Progress) -> bool:
        """Train what is missing; return whether the run is finished (False: stopped and saved)."""
        from ardbench.engine.train import train

        return train(
            self.recipe, self.teachers, self.run, device, data_root=data_root, deadline=deadline, progress=progress,
            given=self.given,
        )  # fmt: skip

    def finished(
        self,
        device: str,
        data_root: str | Path | None,
        deadline: float | None,
        progress: Progress | None,
        tracking: Tracking,
        warning: str = "",
    ) -> Run:
        """Train what is missing and return the run; what was stopped by hand raises, and what ran out of time does not."""
        from ardbench.engine.device import choose
        from ardbench.listeners.screen import heard_by

        if self.run.done is not None:
            tracking.draw([self.run])
            return self.run
        root = None if data_root is None else Path(data_root)
        with heard_by(progress) as heard, tracking.of(self.run, heard) as listener:
            if warning:
                listener.warn(warning)
            whole = self.work(choose(device), root, deadline, listener)
        if not whole and not late(deadline):
            raise KeyboardInterrupt(f"{self.run.path} is saved: the same call goes on.")
        return self.run

    def speed(self, rows: Sequence[Mapping[str, Any]], device: torch.device) -> str:
        """Return how fast some epochs were and, where a step can be counted, how near that is to the devices' limit.

        Args:
            rows: of metrics.jsonl.
        """
        import torch

        from ardbench import processes
        from ardbench.engine.device import matrix_rate
        from ardbench.evaluation.batch_size import fitting
        from ardbench.planning.counting import StepCounter

        images, seconds = (sum(row[name] for row in rows) for name in ("images", "seconds"))
        text = f"{images / seconds:,.1f} images/s"
        epochs = range(rows[0]["epoch"], rows[-1]["epoch"] + 1)
        try:
            flop = StepCounter().flop(self.recipe, self.teachers, epochs)
        except ArdbenchError:  # a method of another package may look at values
            return text
        rate, precision = flop * images / seconds, self.recipe.precision
        bf16 = precision.outer == "bf16" or (self.recipe.attack is not None and precision.attack == "bf16")
        text += f", {rate / 1e12:.3g} TFLOP/s"
        reached = fitting(partial(matrix_rate, device, torch.bfloat16 if bf16 else torch.float32))
        if reached is None:  # others use the device; the run is finished all the same
            return text
        share = rate / processes.size() / reached
        products = "bf16" if bf16 else "TF32" if precision.tf32 and device.type == "cuda" else "fp32"
        return f"{text}, {100 * share:.0f} % of what this device reaches in {products} products"


def prepared(
    recipe: Recipe,
    teachers: Taught | Sequence[Taught],
    runs: str | Path,
    student: nn.Module | None = None,
) -> Training:
    """Return the run of a recipe and its teachers, after everything that can be refused before torch is loaded.

    Args:
        student: in place of the recipe's, or of a run that is extended, whose own was an object too.

    Raises:
        ArdbenchError: teachers that do not fit the method, a folder that cannot be written, a directory of another recipe,
            or one whose teachers or finished weights have changed since.
    """
    if student is not None:
        recipe = with_object(recipe, student)
    recipe, method = begun(recipe), recipe.method["name"]
    told = [teaching(one, Path(runs)) for one in several(teachers)]
    if recipe.start is not None and recipe.start.kind == "extend":
        taught = _going_on(recipe.start, told)
    else:
        taught = resolve_teachers(told, method, method_class(method).roles, recipe)
    objects = [one for one in (*told, student) if one is not None and not isinstance(one, str)]
    given = {of_object(one).identity: one for one in objects}
    run = Run.place(Path(runs), recipe, taught)
    if run.done is None:
        check_makeable("--runs", Path(runs))
        _refuse_other_source(recipe, run)
    if (run.path / "config.json").exists():
        run.create(recipe, taught, {})
        if run.stale:
            raise ArdbenchError(
                f"{run.path} learnt from a teacher whose weights have changed: move or delete it to train it again."
            )
        for checkpoint in (run.done or {}).get("weights", {}):
            run.intact(checkpoint)
    return Training(recipe, taught, run, given)


def _going_on(start: Start, told: Sequence[str | nn.Module]) -> tuple[Teacher, ...]:
    """Return the teachers of a run that goes on: its own, of which those that are objects are given again."""
    before = parent_of(start)
    if named := next((one for one in told if isinstance(one, str)), None):
        raise ArdbenchError(f"{before.path} goes on with its own teachers: leave out {named}.")
    return before.teachers


def _refuse_other_source(recipe: Recipe, run: Run) -> None:
    """Refuse to begin beside an unfinished run that is otherwise in nothing but the source of what comes from outside."""
    alike = f"{glob.escape(run.path.name.rpartition('-')[0])}-*"
    for other in (Run(path.parent) for path in sorted(run.path.parent.glob(f"{alike}/config.json")) if recipe.outside):
        ours, theirs = recipe.outside, other.recipe.outside
        if other.done is None and theirs != ours and other.recipe.model_copy(update={"outside": ours}) == recipe:
            changed = ", ".join(key for key, sha256 in ours.items() if theirs.get(key) != sha256)
            raise ArdbenchError(
                f"{other.path} is unfinished and was begun with another source of {changed}: put that back to go on with it, "
                "or move or delete it to train with the new one."
            )


def several(teachers: Taught | Sequence[Taught]) -> tuple[Taught, ...]:
    """Return one teacher or several as several: a network that is a sequence of layers is one."""
    if isinstance(teachers, str | Path | Run) or is_object(teachers):
        return (teachers,)
    return tuple(teachers)


def check_untaught(recipe: Recipe, typed: str) -> None:
    """Refuse to train, without teachers, by a method that learns from some."""
    method = recipe.method["name"]
    if roles := [role for role in method_class(method).roles if isinstance(role, str)]:
        asked = " ".join(f"--teacher {role}=SOURCE" for role in roles) if typed else _again(recipe)
        raise ArdbenchError(
            f"{method} learns from teachers: type `ardbench distill {f'{typed} {asked}'.strip()}` instead."
        )


def check_taught(recipe: Recipe, typed: str) -> None:
    """Refuse to distill by a method that takes neither a teacher nor a peer."""
    method = recipe.method["name"]
    kind = method_class(method)
    if not (kind.roles or kind.peer):
        why = f" (its class has roles = (): {place(kind)})" if outside(kind) else ""
        raise ArdbenchError(f"{method} takes no teacher{why}: type `ardbench train {typed or _again(recipe)}` instead.")


def _again(recipe: Recipe) -> str:
    return f"--extend {recipe.start.source} --epochs {recipe.schedule.epochs}" if recipe.start else ""
