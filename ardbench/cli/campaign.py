"""How a campaign is shown: one live table on a terminal, plain lines elsewhere, and a file for --status in another shell."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter

from ardbench.cli.output import Output, clock, say, table
from ardbench.cli.progress import EPOCH, in_words
from ardbench.cli.status import ago
from ardbench.errors import ArdbenchError
from ardbench.runs import checked, read_json, write_json

if TYPE_CHECKING:
    from rich.console import Console, Group

    from ardbench.engine.campaign import Event
    from ardbench.suites import Cell

EVERY = 2.0
"""Seconds between two versions of the file that --status reads."""

SILENT = 30.0
"""Seconds after which nobody writes that file any more."""

RESTING = {"retried": 1, "stopped": 1, "refused": 1, "waiting": 2, "done": 3}
"""The states in which nothing is computed, by where they stand in the table; those at work come first."""

COLUMNS = ("run", "state", "epoch", "images", "images/s", "left", "node", "numbers")

Words = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""What a terminal shows and does not obey."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass
class Row:
    """A run in the table.

    Args:
        state: training, the protocol that it is measured under, or one of `RESTING`.
        epoch: "3/12".
        images: of the task at hand, "640/1437".
        speed: images a second in the task at hand.
        left: seconds until the training, or the measurement at hand, is over.
        node: where it works, or worked last.
        numbers: loss terms, points left.
    """

    run: Words
    state: Words = "waiting"
    epoch: Words = ""
    images: Words = ""
    speed: Amount | None = None
    left: Amount | None = None
    node: Words = ""
    numbers: Words = ""

    def rest(self, state: str) -> None:
        """Change to a state in which nothing is computed."""
        self.state, self.images, self.speed, self.left, self.numbers = state, "", None, None, ""


@dataclass
class Board:
    """How all runs of a campaign stand: what the table shows and the file for --status holds; times are Unix time."""

    suite: Words
    rows: list[Row]
    began: Amount = 0.0
    written: Amount = 0.0

    def counts(self) -> str:
        """Return how many runs are in which state, in one line."""
        states = [row.state for row in self.rows]
        resting = {name: states.count(name) for name in reversed(RESTING)}
        working = len(states) - sum(resting.values())
        told = [f"{number} {name}" for name, number in {"at work": working, **resting}.items() if number]
        return f"{self.suite}: {len(states)} runs, {', '.join(told)}"

    def shown(self, now: float) -> Group:
        """Return the table, those at work first, and the counts above it, so that a small screen cuts what is done."""
        from rich.console import Group

        rows = sorted(self.rows, key=lambda row: RESTING.get(row.state, 0))
        cells = [
            (
                row.run, row.state, row.epoch, row.images, None if row.speed is None else f"{row.speed:,.0f}",
                None if row.left is None else clock(row.left), row.node, row.numbers,
            )
            for row in rows
        ]  # fmt: skip
        used = [i for i, name in enumerate(COLUMNS) if name not in ("node", "numbers") or any(c[i] for c in cells)]
        grid = table([COLUMNS[i] for i in used], [[c[i] for i in used] for c in cells], COLUMNS[2:6])
        return Group(f"{self.counts()}, {clock(now - self.began)}", grid)


class Scribe:
    """Keeps a board up to date with what a campaign tells."""

    def __init__(self, suite: str, cells: Sequence[Cell]) -> None:
        done = {index for index, cell in enumerate(cells) if cell.state == "done" and not cell.missing}
        rows = [Row(title(cell), "done" if index in done else "waiting") for index, cell in enumerate(cells)]
        self.board = Board(suite, rows, time.time())
        self.tasks: dict[int, Event] = {}
        self.first: dict[int, tuple[float, int]] = {}

    def hear(self, event: Event) -> None:
        """Write down an event."""
        row = self.board.rows[event.cell]
        row.node = event.node or row.node
        match event.kind:
            case "started":
                row.rest("begins")
            case "task":
                training = EPOCH.fullmatch(event.text)
                row.state = "training" if training else event.text
                row.epoch = event.text.removeprefix("epoch ") if training else row.epoch
                self.tasks[event.cell] = event
                self.first.pop(event.cell, None)
            case "update":
                self._update(row, event)
            case "finished":
                row.rest("done")
            case "failed":
                row.rest("refused")
            case "stopped" | "retried":
                row.rest(event.kind)

    def _update(self, row: Row, event: Event) -> None:
        began, before = self.first.setdefault(event.cell, (event.at, event.done))
        if event.at > began and event.done > before:
            row.speed = (event.done - before) / (event.at - began)
        row.images, row.numbers = f"{event.done}/{event.total}", in_words(event.numbers)
        to_do = event.total - event.done
        if found := EPOCH.fullmatch(self.tasks[event.cell].text):
            to_do += (int(found[2]) - int(found[1])) * event.total
        row.left = to_do / row.speed if row.speed else None

    @contextlib.contextmanager
    def kept(self, path: Path) -> Iterator[None]:
        """Write the board to a file every few seconds, and remove the file at the end.

        Raises:
            ArdbenchError: it cannot be written.
        """
        over = threading.Event()

        def write() -> None:
            self.board.written = time.time()
            write_json(path, asdict(self.board))

        def keep() -> None:
            while not over.wait(EVERY):
                with contextlib.suppress(ArdbenchError):  # a full disk is told by those who lose something
                    write()

        write()
        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def listening(suite: str, cells: Sequence[Cell], runs: Path, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """Yield what hears the events of a campaign, shows them as stderr allows, and keeps the file for --status."""
    scribe = Scribe(suite, cells)
    with scribe.kept(board_file(suite, runs)), contextlib.ExitStack() as stack:
        show: Callable[[Event], None] | None = None
        if not quiet:
            lines = CampaignLines(cells)
            show = stack.enter_context(_live(scribe.board, lines)) if sys.stderr.isatty() else lines

        def hear(event: Event) -> None:
            scribe.hear(event)
            if show is not None:
                show(event)

        yield hear


@contextlib.contextmanager
def _live(board: Board, lines: CampaignLines) -> Iterator[CampaignLines]:
    """Yield what prints lines above the live table of a board."""
    from rich.console import Console
    from rich.live import Live

    screen: Console = Console(stderr=True, highlight=False)
    with Live(
        get_renderable=lambda: board.shown(time.time()), console=screen, refresh_per_second=2, transient=True
    ) as live:
        lines.say = lambda text: live.console.print(text, markup=False)
        yield lines


def title(cell: Cell) -> str:
    """Return what a cell is called on the screen."""
    return f"{cell.name} s{cell.recipe.seed}"


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
        if event.kind in ("failed", "note", "retried"):
            self.say(f"{name}: {event.text}")


def board_file(suite: str, runs: Path) -> Path:
    """Return the file that tells how a campaign stands while it is under way."""
    return runs / f"campaign-{suite}.json"


def show_board(suite: str, runs: Path, output: Output) -> None:
    """Print how a campaign stands that another process works on.

    Raises:
        ArdbenchError: none is under way.
    """
    from ardbench.suites import load_suite

    path = board_file(load_suite(suite).name, runs)
    if not path.exists():
        raise ArdbenchError(
            f"No campaign of {suite} is under way in {runs}: `ardbench reproduce {suite}` begins one or goes on, and with "
            "--dry-run it tells what is done."
        )
    holds = ("board of a campaign", "delete it; the campaign writes it again while it is under way")
    board: Board = checked(TypeAdapter(Board), read_json(path), path, *holds)
    age = max(0.0, time.time() - board.written)
    output.show(board.shown(board.written))
    output.line(
        f"Told {ago(age)} ago." + ("" if age < SILENT else " Nobody works on it any more: type its command again.")
    )
