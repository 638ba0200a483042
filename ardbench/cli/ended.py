"""What `train` and `distill` say of a run at their end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench import plugins

if TYPE_CHECKING:
    from ardbench.runs import Run


def evaluation(data_root: Path | None, run: Run) -> str:
    """Return the command that measures a run."""
    root = ["--data-root", str(data_root)] if data_root else []
    return shlex.join(["ardbench", *plugins.words(), "eval", str(run.path), *root])


def summary(run: Run) -> str:
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


def facts_of(run: Run, *, finished: bool, already_done: bool, following: str) -> dict[str, Any]:
    """Return what --json prints of a run."""
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
