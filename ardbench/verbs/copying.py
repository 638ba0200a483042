"""Finished runs that lie elsewhere: what a campaign takes from other folders and leaves in one. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from ardbench.campaigns.cells import Cell
from ardbench.campaigns.copies import bring, check, differ, standing
from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.runs import Run, check_makeable


def check_folders(beside: Sequence[Path], keep: Path | None, unfinished: bool) -> None:
    """Refuse folders that cannot be taken from or left in; one that is kept in may still have to be made."""
    for folder in beside:
        if folder != keep and not folder.is_dir():
            raise ArdbenchError(f"--from {folder} is no folder: give one in which run directories lie.")
    if unfinished and keep is None:
        raise ArdbenchError("--unfinished says what --keep leaves: give --keep FOLDER with it, or leave it out.")
    if keep is not None:
        check_makeable("--keep", keep)


def check_taken(cells: Sequence[Cell], root: Path) -> None:
    """Check what a plan would take from elsewhere, and say how many runs that is.

    Raises:
        ArdbenchError: one of them is damaged.
    """
    elsewhere = [cell.run for cell in cells if cell.run.path.parent != root]
    for run in elsewhere:
        check(run)
    if elsewhere:
        say(f"{len(elsewhere)} of {len(cells)} runs would be taken from where --from says.")


def take(cells: Sequence[Cell], root: Path, beside: Sequence[Path]) -> None:
    """Copy under `root` what is further in one of the folders.

    Args:
        cells: a plan under `root`.

    Raises:
        ArdbenchError: one of them is damaged, or another process writes the run.
    """
    for folder in beside:
        taken = 0
        for cell in cells:
            source, run = Run(folder / cell.run.path.name), Run(root / cell.run.path.name)
            if standing(source) < max(standing(run), (1, 0)):
                continue
            if differ(source, run):
                say(f"{run.path} was finished with other weights than in {folder}, and stays as it is.")
                continue
            with nullcontext() if run.done else run.lock():
                taken += bool(bring(source, run))
        if taken:
            say(f"Took {counted(taken)} from {folder}.")


def leave(cells: Sequence[Cell], folder: Path, unfinished: bool) -> None:
    """Copy what is finished into a folder, and what is not if that is wanted and no other process writes it."""
    kept = 0
    for run in (cell.run for cell in cells):
        target, far = Run(folder / run.path.name), standing(run)[0]
        if far == 2 or (far == 1 and unfinished and not run.held):
            if differ(run, target):
                say(f"{target.path} was finished with other weights than {run.path}, and stays as it is.")
            else:
                kept += bool(bring(run, target, renew=True))
    if kept:
        say(f"Kept {counted(kept)} in {folder}.")


def counted(runs: int) -> str:
    """Return a number of runs in words."""
    return f"{runs} run{'' if runs == 1 else 's'}"
