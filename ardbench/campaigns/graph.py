"""Many runs in the order of their graph: trained and measured one after the other, or several at once in a pool."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ardbench.campaigns.cells import Cell
from ardbench.engine.stopping import late, stopping
from ardbench.errors import ArdbenchError
from ardbench.faults import behind, raised
from ardbench.models import zoo
from ardbench.progress import Progress
from ardbench.runs import Teacher, sha256_of

if TYPE_CHECKING:
    import torch

POLL = 0.2
"""Seconds between two looks at Ctrl-C and the time limit while a pool works."""

Kind = Literal[
    "started", "task", "update", "note", "warning", "row", "trained", "retried", "finished", "stopped", "failed"
]


@dataclass(frozen=True)
class Event:
    """What a cell is doing.

    Args:
        cell: its position in the plan.
        kind: started, trained, retried (lost, and begun again from what was saved), finished, stopped (and saved),
            failed; or task, update, note, warning, row as in `Progress`.
        text: of a task, a note, a warning, a retry or a failure.
        done, total, unit, numbers: of a task.
        metrics: of a row.
        node: where it works, if there is more than one place.
        at: when it was, by the clock of that place, in seconds.
    """

    cell: int
    kind: Kind
    text: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    node: str = ""
    at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Settings:
    """What all cells share.

    Args:
        device: by name, as --device takes it.
        data_root: where data sets lie; None takes the default.
        threads: of each process on the CPU; None leaves torch's own.
    """

    device: str
    data_root: Path | None = None
    threads: int | None = None


@dataclass
class Outcome:
    """How a campaign ended: whether it was stopped before its end, and the cells that were refused, with the reason."""

    stopped: bool = False
    failed: dict[int, str] = field(default_factory=dict)


Listener = Callable[[Event], None]


class Pool(Protocol):
    """Where several cells work at once: processes of this machine, or a cluster."""

    @property
    def working(self) -> Sized:
        """The cells that were started and have not ended."""

    @property
    def room(self) -> int:
        """How many more may be started now."""

    def start(self, index: int, cell: Cell) -> None:
        """Begin a cell, with its position in the plan."""

    def events(self) -> Iterable[Event]:
        """Return what happens within about `POLL` seconds; the last event of a cell is finished, stopped or failed."""

    def stop(self) -> None:
        """Ask every cell to save and stop."""

    def close(self) -> None:
        """End, with whatever still works."""


def reproduce(
    cells: Sequence[Cell],
    settings: Settings,
    on_event: Listener,
    pool: Pool | None = None,
    *,
    deadline: float | None = None,
) -> Outcome:
    """Train and measure what is missing of the cells, every teacher before its students.

    A cell that is refused, or whose code raises, is remembered and its students are left out; the others go on.

    Args:
        cells: a plan, as `ardbench.campaigns.cells.plan` returns it.
        on_event: hears what every cell does, in this process.
        pool: works on several at once, and is closed at the end; None works in this process, one after the other.
        deadline: by `time.monotonic`, when everything is saved and stopped.

    Raises:
        ArdbenchError: a finished run learnt from a teacher that has changed since.
    """
    stale = next((cell for cell in cells if cell.state == "stale"), None)
    if stale is not None:
        raise ArdbenchError(
            f"{stale.run.path} learnt from a teacher whose weights have changed: move or delete it to train it again."
        )
    campaign = _Campaign(cells, on_event, deadline)
    if pool is None:
        campaign.here(settings)
    else:
        campaign.in_pool(pool)
    return campaign.outcome


def unfinished(cells: Sequence[Cell]) -> list[int]:
    """Return the positions of the cells that are not trained or not measured in full: the first seed of every run first."""
    before = Counter[str]()
    turns = []
    for index, cell in enumerate(cells):
        turns.append((before[cell.name], index))
        before[cell.name] += 1
    return [index for _, index in sorted(turns) if cells[index].state != "done" or cells[index].missing]


def work(
    cell: Cell, settings: Settings, tell: Callable[[Kind], None], progress: Progress, deadline: float | None
) -> bool:
    """Train and measure one cell; return whether all of it is done (False: stopped and saved).

    Raises:
        ArdbenchError: whatever the user can mend.
    """
    from ardbench.data import lying_in
    from ardbench.engine.device import choose
    from ardbench.engine.train import train

    device, root = choose(settings.device), settings.data_root
    with lying_in(root):
        if cell.state != "done":
            teachers = tuple(map(present, cell.teachers))
            if not train(cell.recipe, teachers, cell.run, device, data_root=root, deadline=deadline, progress=progress):
                return False
            tell("trained")
        with stopping(deadline) as stop:
            return _measure(cell, settings, device, progress, stop)


def _measure(
    cell: Cell, settings: Settings, device: torch.device, progress: Progress, stop: Callable[[], bool]
) -> bool:
    """Measure what is missing of a trained cell; return whether all of it is there (False: stopped)."""
    from ardbench.data.load import load
    from ardbench.engine.networks import of_run
    from ardbench.evaluation.measure import evaluate
    from ardbench.evaluation.network_checks import examine
    from ardbench.evaluation.trust import ENOUGH, FOR_CHECKS, judged_in
    from ardbench.evaluation.verdicts import Paused

    if not cell.missing:
        return True
    split = load(cell.recipe.data.name, device, settings.data_root).test
    run = cell.run

    def place(checkpoint: str) -> tuple[Path, dict[str, str]]:
        return run.path / "eval" / checkpoint, {"weights": sha256_of(run.weights(checkpoint))}

    for checkpoint, n in dict.fromkeys((checkpoint, n) for checkpoint, _, n in cell.missing):
        net = of_run(run, checkpoint, device)
        store, key = place(checkpoint)
        twin = place(other) if (other := run.twin(checkpoint)) else None
        names = [protocol for where, protocol, count in cell.missing if (where, count) == (checkpoint, n)]
        wanted = [(name, n) for name in names]
        if names != ["clean"]:  # what only the checks need costs little beside an attack
            some = n if (n or len(split)) <= ENOUGH else ENOUGH
            wanted = list(dict.fromkeys([("clean", n), *wanted, *((name, some) for name in FOR_CHECKS)]))
        for name, images in wanted:
            try:
                evaluate(
                    net, split, name, cell.recipe.evaluation,
                    batch=cell.batch, n=images, store=store, key=key, twin=twin, progress=progress, stop=stop,
                )  # fmt: skip
            except Paused as paused:
                progress.note(str(paused))
                return False
        for images in dict.fromkeys((n, *judged_in(store))):  # what was measured now tells of the others as well
            examine(net, split, store, images, key)
    return True


def present(teacher: Teacher) -> Teacher:
    """Return a planned teacher with the sha256 of its weights, now that they are there.

    Raises:
        ArdbenchError: it is one of the zoo, whose file was not there when the student's hash was made.
    """
    if teacher.identity.startswith(zoo.PREFIX):
        raise ArdbenchError(zoo.entry(teacher.identity).absence)
    weights = Path(teacher.weights).resolve()
    return dataclasses.replace(teacher, weights=str(weights), sha256=sha256_of(weights))


class _Campaign:
    """The state of one call: what is to be done, what is trained, and how it ended."""

    def __init__(self, cells: Sequence[Cell], on_event: Listener, deadline: float | None) -> None:
        self.cells, self.on_event, self.deadline = cells, on_event, deadline
        self.waiting = unfinished(cells)
        self.trained = {index for index, cell in enumerate(cells) if cell.state == "done"}
        self.teachers = [teaching(cell, cells) for cell in cells]
        self.outcome = Outcome()

    def here(self, settings: Settings) -> None:
        """Work in this process, one cell after the other."""
        while not self.outcome.stopped and (ready := self._ready()):
            index = ready[0]
            self.waiting.remove(index)
            self._hear(attend(index, self.cells[index], settings, self._hear, self.deadline))
            if late(self.deadline) and self.waiting:
                self.outcome.stopped = True

    def in_pool(self, pool: Pool) -> None:
        """Work in a pool; Ctrl-C, SIGTERM and the time limit reach each cell once."""
        asked = False
        with contextlib.closing(pool), stopping(None) as stop:
            while True:
                if not asked and (stop() or late(self.deadline)):
                    asked = True
                    self.outcome.stopped |= bool(pool.working or self._ready())
                    pool.stop()
                for index in [] if asked else self._ready()[: pool.room]:
                    self.waiting.remove(index)
                    pool.start(index, self.cells[index])
                if not pool.working:
                    return
                for event in pool.events():
                    self._hear(event)

    def _hear(self, event: Event) -> None:
        if event.kind == "trained":
            self.trained.add(event.cell)
        elif event.kind == "stopped":
            self.outcome.stopped = True
        elif event.kind == "failed":
            self.outcome.failed[event.cell] = event.text
        self.on_event(event)

    def _ready(self) -> list[int]:
        return [index for index in self.waiting if self.teachers[index] <= self.trained]


def teaching(cell: Cell, cells: Sequence[Cell]) -> set[int]:
    """Return the cells whose runs teach this one."""
    folders = {Path(teacher.weights).resolve().parent for teacher in cell.teachers}
    return {index for index, other in enumerate(cells) if other.run.path.resolve() in folders}


def attend(
    index: int, cell: Cell, settings: Settings, send: Listener, deadline: float | None = None, *, node: str = ""
) -> Event:
    """Do the work of one cell, telling what happens, and return how it ended."""

    def tell(kind: Kind) -> None:
        send(Event(index, kind, node=node))

    tell("started")
    try:
        done = work(cell, settings, tell, _Relay(index, send), deadline)
    except ArdbenchError as error:
        if text := behind(error):
            send(Event(index, "note", text, node=node))
        return Event(index, "failed", str(error), node=node)
    except Exception as error:  # a fault in somebody's code ends one run, and not the campaign
        send(Event(index, "note", "".join(traceback.format_exception(error)), node=node))
        return Event(index, "failed", raised(error), node=node)
    return Event(index, "finished" if done else "stopped", node=node)


class _Relay(Progress):
    """A listener that turns what it hears into events, a few a second."""

    def __init__(self, cell: int, send: Listener) -> None:
        self.cell, self.send = cell, send
        self.sent = 0.0
        self.total, self.unit = 0, ""

    def task(self, description: str, total: int, unit: str = "images") -> None:
        """Tell it."""
        self.total, self.unit = total, unit
        self.send(Event(self.cell, "task", description, 0, total, unit))

    def update(self, done: int, **numbers: float) -> None:
        """Tell it if the last time is a moment ago, or the task is over."""
        now = time.monotonic()
        if now - self.sent > POLL or done >= self.total:
            self.sent = now
            self.send(Event(self.cell, "update", done=done, total=self.total, unit=self.unit, numbers=numbers))

    def note(self, text: str) -> None:
        """Tell it."""
        self.send(Event(self.cell, "note", text))

    def warn(self, text: str) -> None:
        """Tell it."""
        self.send(Event(self.cell, "warning", text))

    def row(self, metrics: dict[str, Any]) -> None:
        """Tell it."""
        self.send(Event(self.cell, "row", metrics=metrics))
