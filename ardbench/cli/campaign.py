"""What `--status` prints of a campaign that another shell works on."""

from __future__ import annotations

import time
from pathlib import Path

from ardbench.campaigns.board import board_file, read_board
from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError
from ardbench.listeners.campaign import shown
from ardbench.listeners.drawn import ago

SILENT = 30.0
"""Seconds after which nobody writes that file any more."""


def show_board(suite: str, runs: Path, output: Output) -> None:
    """Print how a campaign stands that another process works on.

    Raises:
        ArdbenchError: none is under way.
    """
    from ardbench.campaigns.suites import load_suite

    path = board_file(load_suite(suite).name, runs)
    if not path.exists():
        raise ArdbenchError(
            f"No campaign of {suite} is under way in {runs}: `ardbench reproduce {suite}` begins one or goes on, and with "
            "--dry-run it tells what is done."
        )
    board = read_board(path)
    age = max(0.0, time.time() - board.written)
    output.show(shown(board, board.written))
    output.line(
        f"Told {ago(age)} ago." + ("" if age < SILENT else " Nobody works on it any more: type its command again.")
    )
