"""Finished runs that lie elsewhere: what `ardbench reproduce` takes with --from and leaves with --keep. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ardbench.cli import options
from ardbench.errors import ArdbenchError
from ardbench.listeners import say

if TYPE_CHECKING:
    from ardbench.campaigns.suites import Cell

chosen = options.together(
    click.option(
        "--from",
        "beside",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FOLDER",
        help="Take runs that are further in this folder than under --runs, such as committed ones; may be repeated.",
    ),
    click.option(
        "--keep",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Leave every finished run there as it can be committed: without trainer state and folders of this machine.",
    ),
    click.option(
        "--unfinished",
        is_flag=True,
        help="With --keep: those that are not finished as well, with their trainer state, to go on on another machine.",
    ),
)


def check_folders(beside: Sequence[Path], keep: Path | None, unfinished: bool) -> None:
    """Refuse folders that cannot be taken from or left in; one that is kept in may still have to be made."""
    for folder in beside:
        if folder != keep and not folder.is_dir():
            raise ArdbenchError(f"--from {folder} is no folder: give one in which run directories lie.")
    if unfinished and keep is None:
        raise ArdbenchError("--unfinished says what --keep leaves: give --keep FOLDER with it, or leave it out.")
    if keep is not None:
        from ardbench.runs import check_makeable

        check_makeable("--keep", keep)


def check_taken(cells: Sequence[Cell], root: Path) -> None:
    """Check what a plan would take from elsewhere, and say how many runs that is.

    Raises:
        ArdbenchError: one of them is damaged.
    """
    from ardbench.campaigns.copies import check

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
    from ardbench.campaigns.copies import bring, differ, standing
    from ardbench.runs import Run

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
    from ardbench.campaigns.copies import bring, differ, standing
    from ardbench.runs import Run

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
