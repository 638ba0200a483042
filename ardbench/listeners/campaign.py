"""How a campaign is shown while it works: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ardbench.campaigns.board import RESTING, Board, Scribe, board_file, title
from ardbench.listeners import say
from ardbench.listeners.drawn import clock, table

if TYPE_CHECKING:
    from rich.console import Console, Group

    from ardbench.campaigns.cells import Cell
    from ardbench.campaigns.graph import Event

COLUMNS = ("run", "state", "epoch", "images", "images/s", "left", "node", "numbers")


def shown(board: Board, now: float) -> Group:
    """Return the table, those at work first, and the counts above it, so that a small screen cuts what is done."""
    from rich.console import Group

    rows = sorted(board.rows, key=lambda row: RESTING.get(row.state, 0))
    cells = [
        (
            row.run, row.state, row.epoch, row.images, None if row.speed is None else f"{row.speed:,.0f}",
            None if row.left is None else clock(row.left), row.node, row.numbers,
        )
        for row in rows
    ]  # fmt: skip
    used = [i for i, name in enumerate(COLUMNS) if name not in ("node", "numbers") or any(c[i] for c in cells)]
    grid = table([COLUMNS[i] for i in used], [[c[i] for i in used] for c in cells], COLUMNS[2:6])
    return Group(f"{board.counts()}, {clock(now - board.began)}", grid)


@contextlib.contextmanager
def listening(suite: str, cells: Sequence[Cell], runs: Path, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """Yield what hears the events of a campaign, shows them as stderr allows, and keeps the file for --status."""
    scribe = Scribe(suite, cells)
    with scribe.kept(board_file(suite, runs)), contextlib.ExitStack() as stack:
        show = lines = CampaignLines(cells)
        if not quiet and sys.stderr.isatty():
            show = stack.enter_context(_live(scribe.board, lines))

        def hear(event: Event) -> None:
            scribe.hear(event)
            if not quiet or event.kind == "warning":
                show(event)

        yield hear


@contextlib.contextmanager
def _live(board: Board, lines: CampaignLines) -> Iterator[CampaignLines]:
    """Yield what prints lines above the live table of a board."""
    from rich.console import Console
    from rich.live import Live

    screen: Console = Console(stderr=True, highlight=False)
    with Live(
        get_renderable=lambda: shown(board, time.time()), console=screen, refresh_per_second=2, transient=True
    ) as live:
        lines.say = lambda text: live.console.print(text, markup=False)
        yield lines


class CampaignLines:
    """One plain line when a run begins, is trained, is tried again, and ends."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        self.began: dict[int, float] = {}
        self.say: Callable[[str], None] = say

    def __call__(self, event: Event) -> None:
        """Print what is worth a line."""
        name = title(self.cells[event.cell])
        if event.kind == "started":
            self.began.setdefault(event.cell, time.monotonic())
            self.say(f"{name}: started" + (f" on {event.node}" if event.node else ""))
        if event.kind in ("trained", "finished", "stopped") and event.cell in self.began:
            self.say(f"{name}: {event.kind} after {time.monotonic() - self.began[event.cell]:.1f} s")
        if event.kind in ("failed", "note", "warning", "retried"):
            self.say(f"{name}: {event.text}")
