"""How a campaign stands: a board of its runs, kept by what they tell, and the file of it that another shell reads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter

from ardbench.errors import ArdbenchError
from ardbench.progress import EPOCH, in_words
from ardbench.runs import checked, read_json, write_json

if TYPE_CHECKING:
    from ardbench.campaigns.cells import Cell
    from ardbench.campaigns.graph import Event

EVERY = 2.0
"""Seconds between two versions of the file that --status reads."""

RESTING = {"retried": 1, "stopped": 1, "refused": 1, "waiting": 2, "done": 3}
"""The states in which nothing is computed, by where they stand in the table; those at work come first."""

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


def title(cell: Cell) -> str:
    """Return what a cell is called on the screen."""
    return f"{cell.name} s{cell.recipe.seed}"


def board_file(suite: str, runs: Path) -> Path:
    """Return the file that tells how a campaign stands while it is under way."""
    return runs / f"campaign-{suite}.json"


def read_board(path: Path) -> Board:
    """Return the board in a file.

    Raises:
        ArdbenchError: the file is damaged.
    """
    holds = ("board of a campaign", "delete it; the campaign writes it again while it is under way")
    board: Board = checked(TypeAdapter(Board), read_json(path), path, *holds)
    return board
