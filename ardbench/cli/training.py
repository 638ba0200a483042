"""What `train` and `distill` share: from the words of a command line to a finished run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.exceptions import Exit

from ardbench.cli import STOPPED, costs
from ardbench.cli.ended import evaluation, facts_of, summary
from ardbench.cli.output import Output, speaking_once, typed_again
from ardbench.data import own
from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.listeners.log_file import Log
from ardbench.listeners.screen import shown
from ardbench.listeners.tracking import Tracking

if TYPE_CHECKING:
    from ardbench.config import Recipe
    from ardbench.verbs.training import Training


@dataclass(frozen=True)
class Wanted:
    """What was typed; the fields are the options."""

    recipe: str
    student: str | None
    dataset: str | None
    size: int | None
    test_share: float | None
    seeds: tuple[tuple[int, ...], ...]
    epochs: int | None
    init: str | None
    extend: str | None
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
        named = own.named(self.dataset, size=self.size, test_share=self.test_share)
        words = {"dataset": named, "student": self.student, "epochs": self.epochs}
        fixed, begin = (self.recipe, self.fast, self.sets), (self.init, self.extend)
        found = [resolved(*fixed, words | {"seed": seed}, *begin) for seed in seeds or [None]]
        if len({recipe.seed for recipe in found}) < len(found):
            raise ArdbenchError("--set seed= has the last word over --seed: give one of them.")
        wishes = {"diagnostics": self.diagnostics, "keep_every": self.keep_every}
        return [recipe.model_copy(update={key: wish for key, wish in wishes.items() if wish}) for recipe in found]


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
            costs.show_training(trainings, wanted.device, wanted.runs, output)
            return
        facts: list[dict[str, Any]] = []
        for training in trainings:  # even out of time none is left out: torchrun's processes stop together, in a run
            facts.append(_one(wanted, training, output, log, tracking))
            if not facts[-1]["finished"]:
                break
        output.document(facts[0] if len(trainings) == 1 else {"runs": facts})
        if not facts[-1]["finished"]:
            raise Exit(STOPPED)


def _one(wanted: Wanted, training: Training, output: Output, log: Log, tracking: Tracking) -> dict[str, Any]:
    """Train a run and return what became of it."""
    from ardbench.verbs.training import remark

    run, recipe, before = training.run, training.recipe, training.run.done is not None
    output.line(str(run.path))
    if note := remark(wanted.recipe, recipe):
        say(note)
    if before:
        output.line("Already done: this recipe, seed and teachers have been trained; nothing was changed.")
        if recipe.keep_every and not any(name.startswith("epoch-") for name in run.checkpoints):
            output.line("Its epochs were not kept while it trained: to keep them train it again below another --runs.")
        tracking.draw([run])
    elif not _train(wanted, training, output, log, tracking):
        again = typed_again()
        output.line(f"Stopped and saved after {len(run.metrics)} of {recipe.schedule.epochs} epochs.")
        output.line(f"To go on, type the same command again: {again}")
        return facts_of(run, finished=False, already_done=False, following=again)
    following = evaluation(wanted.data_root, run)
    output.line(summary(run))
    output.line(f"Next: {following}")
    return facts_of(run, finished=True, already_done=before, following=following)


def _train(wanted: Wanted, training: Training, output: Output, log: Log, tracking: Tracking) -> bool:
    from ardbench import processes
    from ardbench.engine.device import choose, describe

    run, device, begun = training.run, choose(wanted.device), len(training.run.metrics)
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
