"""Many runs in the order of their graph: trained and measured one after the other, or several at once in processes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ardbench.engine.stopping import stopping
from ardbench.errors import ArdbenchError
from ardbench.models import zoo
from ardbench.progress import Progress
from ardbench.runs import Teacher, sha256_of
from ardbench.suites import Cell

if TYPE_CHECKING:
    import torch

POLL = 0.2
"""Seconds between two looks at Ctrl-C and the time limit while processes work."""

Kind = Literal["started", "task", "update", "note", "row", "trained", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Event:
    """What a cell is doing.

    Args:
        cell: its position in the plan.
        kind: started, trained, finished, stopped (and saved), failed; or task, update, note, row as in `Progress`.
        text: of a task, a note or a failure.
        done, total, unit, numbers: of a task.
        metrics: of a row.
    """

    cell: int
    kind: Kind
    text: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What all cells share.

    Args:
        device: by name, as --device takes it.
        data_root: where data sets lie; None takes the default.
        threads: of each process on the CPU; None leaves torch's own.
        batch: of evaluations, as `ardbench eval` has it; it decides the noise of the attacks.
    """

    device: str
    data_root: Path | None = None
    threads: int | None = None
    batch: int = 500


@dataclass
class Outcome:
    """How a campaign ended: whether it was stopped before its end, and the cells that were refused, with the reason."""

    stopped: bool = False
    failed: dict[int, str] = field(default_factory=dict)


Listener = Callable[[Event], None]


def reproduce(
    cells: Sequence[Cell], settings: Settings, on_event: Listener, *, jobs: int = 1, time_limit: float | None = None
) -> Outcome:
    """Train and measure what is missing of the cells, every teacher before its students.

    A cell that is refused is remembered and its students are left out; the others go on.

    Args:
        cells: a plan, as `ardbench.suites.plan` returns it.
        on_event: hears what every cell does, in this process.
        jobs: how many cells at once; 1 works in this process, more in processes of their own.
        time_limit: seconds after which everything is saved and stopped.

    Raises:
        ArdbenchError: a finished run learnt from a teacher that has changed since.
    """
    stale = next((cell for cell in cells if cell.state == "stale"), None)
    if stale is not None:
        raise ArdbenchError(
            f"{stale.run.path} learnt from a teacher whose weights have changed: move or delete it to train it again."
        )
    deadline = None if time_limit is None else time.monotonic() + time_limit
    campaign = _Campaign(cells, settings, on_event, deadline)
    if jobs == 1:
        campaign.here()
    else:
        campaign.in_processes(jobs)
    return campaign.outcome


def unfinished(cells: Sequence[Cell]) -> list[int]:
    """Return the positions of the cells that are not trained or not measured in full."""
    return [index for index, cell in enumerate(cells) if cell.state != "done" or cell.missing]


def work(
    cell: Cell, settings: Settings, tell: Callable[[Kind], None], progress: Progress, time_limit: float | None
) -> bool:
    """Train and measure one cell; return whether all of it is done (False: stopped and saved).

    Raises:
        ArdbenchError: whatever the user can mend.
    """
    from ardbench.engine.device import choose
    from ardbench.engine.train import train

    began = time.monotonic()
    device = choose(settings.device)
    if cell.state != "done":
        root, teachers = settings.data_root, tuple(map(present, cell.teachers))
        if not train(cell.recipe, teachers, cell.run, device, data_root=root, time_limit=time_limit, progress=progress):
            return False
        tell("trained")
    left = None if time_limit is None else time_limit - (time.monotonic() - began)
    with stopping(left) as stop:
        return _measure(cell, settings, device, progress, stop)


def _measure(
    cell: Cell, settings: Settings, device: torch.device, progress: Progress, stop: Callable[[], bool]
) -> bool:
    """Measure what is missing of a trained cell; return whether all of it is there (False: stopped)."""
    from ardbench.data.load import load
    from ardbench.engine.networks import of_run
    from ardbench.evaluation.measure import evaluate
    from ardbench.evaluation.network_checks import examine
    from ardbench.evaluation.trust import FOR_CHECKS
    from ardbench.evaluation.verdicts import Paused

    if not cell.missing:
        return True
    split = load(cell.recipe.data.name, device, settings.data_root).test
    run = cell.run

    def place(checkpoint: str) -> tuple[Path, dict[str, str]]:
        return run.path / "eval" / checkpoint, {"weights": sha256_of(run.weights(checkpoint))}

    for checkpoint in dict.fromkeys(checkpoint for checkpoint, _ in cell.missing):
        net = of_run(run, checkpoint, device)
        store, key = place(checkpoint)
        twin = place(other) if (other := run.twin(checkpoint)) else None
        names = [protocol for where, protocol in cell.missing if where == checkpoint]
        if names != ["clean"]:  # what only the checks need costs little beside an attack
            names += [name for name in FOR_CHECKS if name not in names]
        for name in names:
            try:
                evaluate(
                    net, split, name, cell.recipe.evaluation,
                    batch=settings.batch, n=cell.n, store=store, key=key, twin=twin, progress=progress, stop=stop,
                )  # fmt: skip
            except Paused as paused:
                progress.note(str(paused))
                return False
        examine(net, split, store, cell.n, key)
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

    def __init__(self, cells: Sequence[Cell], settings: Settings, on_event: Listener, deadline: float | None) -> None:
        self.cells, self.settings, self.on_event, self.deadline = cells, settings, on_event, deadline
        self.waiting = unfinished(cells)
        self.trained = {index for index, cell in enumerate(cells) if cell.state == "done"}
        self.teachers = [teaching(cell, cells) for cell in cells]
        self.outcome = Outcome()

    def here(self) -> None:
        """Work in this process, one cell after the other."""
        while not self.outcome.stopped and (ready := self._ready()):
            index = ready[0]
            self.waiting.remove(index)
            _run(index, self.cells[index], self.settings, self._left(), self._hear)
            if self.deadline is not None and time.monotonic() >= self.deadline and self.waiting:
                self.outcome.stopped = True

    def in_processes(self, jobs: int) -> None:
        """Work in at most `jobs` processes; Ctrl-C, SIGTERM and the time limit reach each of them once."""
        running: dict[Connection, tuple[int, BaseProcess]] = {}
        with stopping(None) as asked:
            try:
                while True:
                    late = self.deadline is not None and time.monotonic() >= self.deadline
                    if (asked() or late) and not self.outcome.stopped:
                        self.outcome.stopped = bool(running or self._ready())
                        _ask_to_stop(running)
                    ready = [] if asked() or late else self._ready()
                    for index in ready[: jobs - len(running)]:
                        self.waiting.remove(index)
                        running |= dict([self._start(index)])
                    if not running:
                        return
                    for connection in wait(list(running), POLL):
                        self._receive(connection, running)  # type: ignore[arg-type]
            finally:
                _ask_to_stop(running)
                for _, process in running.values():
                    process.join()

    def _start(self, index: int) -> tuple[Connection, tuple[int, BaseProcess]]:
        context = get_context("spawn")  # CUDA and torch's threads do not survive a fork
        ours, theirs = context.Pipe(duplex=False)
        words = (index, self.cells[index], self.settings, self._left(), theirs)
        process = context.Process(target=_in_process, args=words)
        process.start()
        theirs.close()
        return ours, (index, process)

    def _receive(self, connection: Connection, running: dict[Connection, tuple[int, BaseProcess]]) -> None:
        """Pass on an event; at the end of its connection a process is over."""
        index, process = running[connection]
        try:
            self._hear(connection.recv())
        except EOFError:
            del running[connection]
            process.join()
            if process.exitcode == -signal.SIGTERM:  # asked before it had begun
                self._hear(Event(index, "stopped"))
            elif process.exitcode:
                self._hear(Event(index, "failed", f"its process ended with exit code {process.exitcode}."))

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

    def _left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def teaching(cell: Cell, cells: Sequence[Cell]) -> set[int]:
    """Return the cells whose runs teach this one."""
    folders = {Path(teacher.weights).resolve().parent for teacher in cell.teachers}
    return {index for index, other in enumerate(cells) if other.run.path.resolve() in folders}


def _run(index: int, cell: Cell, settings: Settings, time_limit: float | None, send: Listener) -> None:
    """Do the work of one cell and tell how it ended."""
    send(Event(index, "started"))
    try:
        done = work(cell, settings, lambda kind: send(Event(index, kind)), _Relay(index, send), time_limit)
        send(Event(index, "finished" if done else "stopped"))
    except ArdbenchError as error:
        send(Event(index, "failed", str(error)))


def _in_process(index: int, cell: Cell, settings: Settings, time_limit: float | None, connection: Connection) -> None:
    """Do the work of one cell in a process of its own, in which Ctrl-C arrives only by way of the parent."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)

    def send(event: Event) -> None:
        with contextlib.suppress(BrokenPipeError):  # without a parent there is nobody to tell, but still a run to save
            connection.send(event)

    try:
        _run(index, cell, settings, time_limit, send)
    except KeyboardInterrupt:
        send(Event(index, "stopped"))


def _end_with_parent() -> None:
    """Wait for the parent to be gone, however it ended, and then save and stop."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _ask_to_stop(running: dict[Connection, tuple[int, BaseProcess]]) -> None:
    for _, process in running.values():
        process.terminate()


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

    def row(self, metrics: dict[str, Any]) -> None:
        """Tell it."""
        self.send(Event(self.cell, "row", metrics=metrics))
