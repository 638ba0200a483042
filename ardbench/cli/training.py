"""What `train` and `distill` share: from the words of a command line to a finished run directory."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.exceptions import Exit

from ardbench.cli import STOPPED
from ardbench.cli.log_file import Log
from ardbench.cli.options import FAST, check_makeable
from ardbench.cli.output import Output, say, speaking_once, typed_again
from ardbench.cli.progress import shown
from ardbench.cli.tensorboard import Board
from ardbench.errors import ArdbenchError

if TYPE_CHECKING:
    import torch

    from ardbench.config import Recipe
    from ardbench.runs import Run, Teacher


@dataclass(frozen=True)
class Wanted:
    """What was typed; the fields are the options."""

    recipe: str
    student: str | None
    dataset: str | None
    seed: int | None
    epochs: int | None
    sets: tuple[str, ...]
    fast: bool
    device: str
    data_root: Path | None
    runs: Path
    time_limit: float | None
    quiet: bool
    log_file: Path | None
    tensorboard: Path | None
    as_json: bool

    def resolved(self) -> Recipe:
        """Return the recipe with its changes."""
        from ardbench.recipes import resolve

        sets = (*(FAST if self.fast else ()), *self.sets)
        return resolve(
            self.recipe, dataset=self.dataset, student=self.student, seed=self.seed, epochs=self.epochs, sets=sets
        )


def execute(wanted: Wanted, recipe: Recipe, teachers: Sequence[Teacher]) -> None:
    """Train the run, or what is missing of it; print its directory first and the next command last.

    Of the processes that torchrun started, each calls it and the first prints.
    """
    with speaking_once():
        _execute(wanted, recipe, teachers)


def _execute(wanted: Wanted, recipe: Recipe, teachers: Sequence[Teacher]) -> None:
    from ardbench.runs import Run

    output, log, board = Output(wanted.as_json), Log.to(wanted.log_file), Board.to(wanted.tensorboard)
    run = Run.place(wanted.runs, recipe, teachers)
    before = run.done is not None
    if not before:
        check_makeable("--runs", wanted.runs)
    output.line(str(run.path))
    _check_existing(run, recipe, teachers)
    if before:
        output.line("Already done: this recipe, seed and teachers have been trained; nothing was changed.")
        board.draw([run])
    elif not _train(wanted, recipe, teachers, run, output, log, board):
        again = typed_again()
        output.line(f"Stopped and saved after {len(run.metrics)} of {recipe.schedule.epochs} epochs.")
        output.line(f"To go on, type the same command again: {again}")
        output.document(_facts(run, finished=False, already_done=False, following=again))
        raise Exit(STOPPED)
    following = _evaluation(wanted, run)
    output.line(_summary(run))
    output.line(f"Next: {following}")
    output.document(_facts(run, finished=True, already_done=before, following=following))


def _train(
    wanted: Wanted, recipe: Recipe, teachers: Sequence[Teacher], run: Run, output: Output, log: Log, board: Board
) -> bool:
    from ardbench import processes
    from ardbench.engine.device import choose, describe
    from ardbench.engine.train import train

    device, begun = choose(wanted.device), len(run.metrics)
    with (
        processes.joined(),
        output.working(),
        shown(wanted.quiet) as screen,
        log.of(run.path.name, screen) as logged,
        board.of(run, logged) as progress,
    ):
        together = processes.size()
        say(f"Device: {describe(device)}{f', {together} processes' if together > 1 else ''}")
        finished = train(
            recipe, teachers, run, device, data_root=wanted.data_root, time_limit=wanted.time_limit, progress=progress
        )
    log.write("finished" if finished else "stopped", run.path.name)
    if finished and (rows := run.metrics[begun:]):
        with output.working():
            speed = _speed(recipe, teachers, rows, device, together)
        output.line(f"Speed: {speed}.")
    return finished


def _speed(
    recipe: Recipe, teachers: Sequence[Teacher], rows: Sequence[dict[str, Any]], device: torch.device, processes: int
) -> str:
    """Return how fast these epochs were and, where a step can be counted, how near that is to the devices' limit."""
    import torch

    from ardbench.engine.device import matrix_rate
    from ardbench.planning.counting import StepCounter

    images, seconds = (sum(row[name] for row in rows) for name in ("images", "seconds"))
    text = f"{images / seconds:,.1f} images/s"
    try:
        flop = StepCounter().flop(recipe, teachers, range(rows[0]["epoch"], rows[-1]["epoch"] + 1))
    except ArdbenchError:  # a method of another package may look at values
        return text
    rate, precision = flop * images / seconds, recipe.precision
    bf16 = precision.outer == "bf16" or (recipe.attack is not None and precision.attack == "bf16")
    share = rate / processes / matrix_rate(device, torch.bfloat16 if bf16 else torch.float32)
    products = "bf16" if bf16 else "TF32" if precision.tf32 and device.type == "cuda" else "fp32"
    return f"{text}, {rate / 1e12:.3g} TFLOP/s, {100 * share:.0f} % of what this device reaches in {products} products"


def _check_existing(run: Run, recipe: Recipe, teachers: Sequence[Teacher]) -> None:
    """Refuse the directory of another recipe, and one whose teachers or finished weights have changed since."""
    if not (run.path / "config.json").exists():
        return
    run.create(recipe, teachers, {})
    if run.stale:
        raise ArdbenchError(
            f"{run.path} learnt from a teacher whose weights have changed: move or delete it to train it again."
        )
    for checkpoint in (run.done or {}).get("weights", {}):
        run.intact(checkpoint)


def _evaluation(wanted: Wanted, run: Run) -> str:
    root = ["--data-root", str(wanted.data_root)] if wanted.data_root else []
    return shlex.join(["ardbench", "eval", str(run.path), *root])


def _summary(run: Run) -> str:
    """Return what a finished run has cost and, if it was validated, how it stands."""
    done, row = run.done or {}, (run.metrics or [{}])[-1]
    text = f"Finished: {done.get('epochs')} epochs in {done.get('seconds', 0.0):.1f} s on {done.get('device')}"
    for where, words in (("val", "validation"), ("test", "test")):
        if f"{where}_clean" in row:
            clean, robust = 100 * row[f"{where}_clean"], 100 * row[f"{where}_robust"]
            text += f"; {words} accuracy at the end {clean:.1f} % clean, {robust:.1f} % robust"
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
