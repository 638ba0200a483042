"""How several runs at once are shown: a bar for each that works, or one line when something is over."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ardbench.cli.output import say
from ardbench.cli.progress import bars, in_words

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID

    from ardbench.engine.campaign import Event
    from ardbench.suites import Cell


@contextlib.contextmanager
def listening(cells: Sequence[Cell], quiet: bool) -> Iterator[Callable[[Event], None]]:
    """Yield what hears the events of a campaign and shows them as stderr allows."""
    if quiet:
        yield lambda event: None
    elif sys.stderr.isatty():
        with bars() as display:
            yield CampaignBars(cells, display)
    else:
        yield CampaignLines(cells)


def title(cell: Cell) -> str:
    """Return what a cell is called on the screen."""
    return f"{cell.name} s{cell.recipe.seed}"


class CampaignLines:
    """One plain line when a run begins, is trained, and ends."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        self.began: dict[int, float] = {}

    def __call__(self, event: Event) -> None:
        """Print what is worth a line."""
        name = title(self.cells[event.cell])
        if event.kind == "started":
            self.began[event.cell] = time.monotonic()
        if event.kind in ("started", "trained", "finished", "stopped"):
            seconds = time.monotonic() - self.began.get(event.cell, time.monotonic())
            say(f"{name}: {event.kind}" + (f" after {seconds:.1f} s" if event.kind != "started" else ""))
        if event.kind in ("failed", "note"):
            say(f"{name}: {event.text}")


class CampaignBars:
    """A bar for the whole, and below it one for each run that works."""

    def __init__(self, cells: Sequence[Cell], display: Display) -> None:
        self.cells, self.display = cells, display
        self.rows: dict[int, TaskID] = {}
        done = sum(cell.state == "done" and not cell.missing for cell in cells)
        self.whole = display.add_task("runs", total=len(cells), completed=done, unit="runs", numbers="")

    def __call__(self, event: Event) -> None:
        """Show the event."""
        name = title(self.cells[event.cell])
        row = self.rows.get(event.cell)
        if event.kind == "started":
            self.rows[event.cell] = self.display.add_task(f"{name} · begins", total=None, unit="images", numbers="")
        elif event.kind == "task" and row is not None:
            self.display.reset(
                row, total=event.total, description=f"{name} · {event.text}", unit=event.unit, numbers=""
            )
        elif event.kind == "update" and row is not None:
            self.display.update(row, completed=event.done, numbers=in_words(event.numbers))
        elif event.kind in ("note", "failed"):
            self.display.console.print(f"{name}: {event.text}", markup=False)
        if event.kind in ("finished", "stopped", "failed") and row is not None:
            self.display.remove_task(self.rows.pop(event.cell))
        if event.kind == "finished":
            self.display.advance(self.whole)
            self.display.console.print(f"{name}: finished", markup=False)
