"""What `train` and `distill` share: from the words of a command line to a finished run directory."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.exceptions import Exit

from ardbench.cli import STOPPED
from ardbench.cli.output import Output, speaking_once, typed_again
from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.listeners.log_file import Log
from ardbench.listeners.screen import shown
from ardbench.listeners.tracking import Tracking

if TYPE_CHECKING:
    from ardbench.config import Recipe
    from ardbench.runs import Run
    from ardbench.verbs.training import Training


@dataclass(frozen=True)
class Wanted:
    """What was typed; the fields are the options."""

    recipe: str
    student: str | None
    dataset: str | None
    seeds: tuple[tuple[int, ...], ...]
    epochs: int | None
    sets: tuple[str, ...]
    fast: bool
    keep_every: int | None
    dry_run: bool
    device: str
    data_root: Path | None
    runs: Path
    deadline: float | None
    quiet: bool
    log_file: Path | None
    tensorboard: Path | None
    wandb: str | None
    mlflow: str | None
    as_json: bool
    diagnostics: bool = False

    def resolved(self) -> list[Recipe]:
        """Return the recipe with its changes, once for each seed."""
        from ardbench.verbs.training import resolved

        seeds: list[int | None] = [seed for several in self.seeds for seed in several]
        twice = next((seed for index, seed in enumerate(seeds) if seed in seeds[:index]), None)
        if twice is not None:
            raise ArdbenchError(f"--seed names {twice} twice: leave one out.")
        words = {"dataset": self.dataset, "student": self.student, "epochs": self.epochs}
        found = [resolved(self.recipe, self.fast, self.sets, words | {"seed": seed}) for seed in seeds or [None]]
        if len({recipe.seed for recipe in found}) < len(found):
            raise ArdbenchError("--set seed= has the last word over --seed: give one of them.")
        if self.diagnostics:
            found = [recipe.model_copy(update={"diagnostics": True}) for recipe in found]
        if self.keep_every:
            found = [recipe.model_copy(update={"keep_every": self.keep_every}) for recipe in found]
        return found


def execute(wanted: Wanted, teachers: Sequence[str], check: Callable[[Recipe, str], None]) -> None:
    """Train a run for each seed, or what is missing of it; print its directory first and the next command last.

    Of the processes that torchrun started, each calls it and the first prints.

    Args:
        check: refuses a recipe of the other command.
    """
    with speaking_once():
        from ardbench.verbs.training import prepared

        recipes = wanted.resolved()
        for recipe in recipes:
            check(recipe, wanted.recipe)
        output, log = Output(wanted.as_json), Log.to(wanted.log_file)
        tracking = Tracking.to(wanted.tensorboard, wanted.wandb, wanted.mlflow)
        trainings = [prepared(recipe, teachers, wanted.runs) for recipe in recipes]
        if wanted.dry_run:
            from ardbench.cli.costs import show_training

            show_training(trainings, wanted.device, wanted.runs, output)
            return
        facts = _execute(wanted, trainings, output, log, tracking)
        output.document(facts[0] if len(trainings) == 1 else {"runs": facts})
        if not facts[-1]["finished"]:
            raise Exit(STOPPED)


def _execute(
    wanted: Wanted, trainings: Sequence[Training], output: Output, log: Log, tracking: Tracking
) -> list[dict[str, Any]]:
    """Train one after the other and return what became of each; one that is stopped is the last."""
    facts: list[dict[str, Any]] = []
    for training in trainings:  # even out of time none is left out: the processes of torchrun stop together, in a run
        facts.append(_one(wanted, training, output, log, tracking))
        if not facts[-1]["finished"]:
            break
    return facts


def _one(wanted: Wanted, training: Training, output: Output, log: Log, tracking: Tracking) -> dict[str, Any]:
    """Train a run and return what became of it."""
    from ardbench.recipes import moved

    run, recipe, before = training.run, training.recipe, training.run.done is not None
    output.line(str(run.path))
    if note := moved(wanted.recipe, recipe):
        say(note)
    if before:
        output.line("Already done: this recipe, seed and teachers have been trained; nothing was changed.")
        if recipe.keep_every and not any(name.startswith("epoch-") for name in run.checkpoints):
            output.line(
                "Its epochs were not kept while it trained: for --keep-every train it again below another --runs."
            )
        tracking.draw([run])
    elif not _train(wanted, training, output, log, tracking):
        again = typed_again()
        output.line(f"Stopped and saved after {len(run.metrics)} of {recipe.schedule.epochs} epochs.")
        output.line(f"To go on, type the same command again: {again}")
        return _facts(run, finished=False, already_done=False, following=again)
    following = _evaluation(wanted, run)
    output.line(_summary(run))
    output.line(f"Next: {following}")
    return _facts(run, finished=True, already_done=before, following=following)


def _train(wanted: Wanted, training: Training, output: Output, log: Log, tracking: Tracking) -> bool:
    from ardbench import processes
    from ardbench.engine.device import choose, describe

    run = training.run
    device, begun = choose(wanted.device), len(run.metrics)
    with (
        processes.joined(),
        output.working(),
        shown(wanted.quiet) as screen,
        log.of(run.path.name, screen) as logged,
        tracking.of(run, logged) as progress,
    ):
        together = processes.size()
        say(f"Device: {describe(device)}{f', {together} processes' if together > 1 else ''}")
        finished = training.work(device, wanted.data_root, wanted.deadline, progress)
        rows = run.metrics[begun:]
        if finished and rows:
            speed = training.speed(rows, device)
    log.write("finished" if finished else "stopped", run.path.name)
    if finished and rows:
        output.line(f"Speed: {speed}.")
    return finished


def _evaluation(wanted: Wanted, run: Run) -> str:
    root = ["--data-root", str(wanted.data_root)] if wanted.data_root else []
    return shlex.join(["ardbench", "eval", str(run.path), *root])


def _summary(run: Run) -> str:
    """Return what a finished run has cost and, if it was validated, how it stands."""
    done, row = run.done or {}, (run.metrics or [{}])[-1]
    epochs, planned = done.get("epochs"), run.recipe.schedule.epochs
    early = "" if epochs == planned else f" of {planned}, as selection.patience ended it,"
    text = f"Finished: {epochs} epochs{early} in {done.get('seconds', 0.0):.1f} s on {done.get('device')}"
    for where, words in (("val", "validation"), ("test", "test")):
        if f"{where}_clean" in row:
            clean, robust = 100 * row[f"{where}_clean"], 100 * row[f"{where}_robust"]
            text += f"; {words} accuracy at the end {clean:.1f} % clean, {robust:.1f} % under {run.recipe.selection.protocol}"
    best = done.get("best_epoch", -1)
    return f"{text}; best epoch {best + 1}." if "best" in run.checkpoints else f"{text}."


def _facts(run: Run, *, finished: bool, already_done: bool, following: str) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "identity": run.identity,
        "finished": finished,
        "already_done": already_done,
        "done": run.done,
        "metrics": run.metrics,
        "checkpoints": run.checkpoints,
        "next": following,
    }
