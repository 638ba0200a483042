"""--log-file: what happens, as JSON lines that other programs follow."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError, whole
from ardbench.faults import behind
from ardbench.listeners import say
from ardbench.progress import EPOCH, Progress, Several

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ardbench.campaigns.cells import Cell
    from ardbench.campaigns.graph import Event

EVERY = 1.0
"""Seconds between two lines on the progress of one task."""


class Log:
    """A file of JSON lines, each appended whole; without a path nothing is written.

    Every line has `time` (UTC), `event` and `run`; where a campaign works in several places, those of its runs' begin
    and end have `node`. Further keys by event:

        started, finished, stopped, trained    nothing more
        failed      text: the refusal; traceback: of what the code of a method from outside raised
        retried     text: what was lost, and how often
        task        task, total, unit; epoch (from 1) and epochs while training
        update      task, done, total, unit, epoch where it trains, and numbers; about one a second, and the task's last
        epoch       epoch (from 1) and metrics, the row of metrics.jsonl
        measured    what `eval --json` has in a row of its results
        note        text
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @classmethod
    def to(cls, path: Path | None) -> Log:
        """Return the log of a path, to which can be appended; of the processes that torchrun started the first writes.

        Raises:
            ArdbenchError: it cannot be written.
        """
        if path is not None:
            exists = path.exists()
            if not (exists or path.parent.is_dir()) or not os.access(path if exists else path.parent, os.W_OK):
                raise ArdbenchError(f"--log-file {path} cannot be written: give a file in a folder that is there.")
        return cls(None if int(os.environ.get("RANK", "0")) else path)

    def write(self, event: str, run: str, **facts: Any) -> None:
        """Append a line; what is not finite is written as null."""
        if self.path is None:
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "run": run, **facts}
        try:
            with self.path.open("ab", buffering=0) as file:  # one write of the whole line: processes may share a file
                file.write(whole(json.dumps(_finite(line), allow_nan=False, ensure_ascii=False)).encode() + b"\n")
        except OSError as error:
            say(f"--log-file {self.path} cannot be written any more ({error.strerror}): the work goes on without it.")
            self.path = None

    @contextlib.contextmanager
    def of(self, run: str, screen: Progress) -> Iterator[Progress]:
        """Yield a listener that writes of one run and passes on to the screen; its beginning and end are written too."""
        if self.path is None:
            yield screen
            return
        self.write("started", run)
        try:
            yield Several(screen, Writing(self, run))
        except ArdbenchError as error:
            facts = {"traceback": text} if (text := behind(error)) else {}
            self.write("failed", run, text=str(error), **facts)
            raise

    def hearing(self, cells: Sequence[Cell], screen: Callable[[Event], None]) -> Callable[[Event], None]:
        """Return what hears the events of a campaign, writes them, and passes them on to the screen."""
        if self.path is None:
            return screen
        listeners: dict[int, Writing] = {}

        def hear(event: Event) -> None:
            run = cells[event.cell].run.path.name
            one = listeners.setdefault(event.cell, Writing(self, run))
            match event.kind:
                case "task":
                    one.task(event.text, event.total, event.unit)
                case "update":
                    one.update(event.done, **event.numbers)
                case "note" | "warning":
                    one.note(event.text)
                case "row":
                    one.row(event.metrics)
                case kind:
                    facts = {"text": event.text, "node": event.node}
                    self.write(kind, run, **{name: fact for name, fact in facts.items() if fact})
            screen(event)

        return hear


class Writing(Progress):
    """A listener that writes what one run tells."""

    def __init__(self, log: Log, run: str) -> None:
        self.log, self.run = log, run
        self.about: dict[str, Any] = {}
        self.written = -math.inf

    def task(self, description: str, total: int, unit: str = "images") -> None:
        """Write that a task begins."""
        found = EPOCH.fullmatch(description)
        epoch = {"epoch": int(found[1]), "epochs": int(found[2])} if found else {}
        self.about, self.written = {"task": description, "total": total, "unit": unit, **epoch}, -math.inf
        self.log.write("task", self.run, **self.about)

    def update(self, done: int, **numbers: float) -> None:
        """Write how far the task is, if the last line on it is a moment ago or it is over."""
        now = time.monotonic()
        if now - self.written >= EVERY or done >= self.about.get("total", 0):
            self.written = now
            self.log.write("update", self.run, **self.about, done=done, numbers=numbers)

    def note(self, text: str) -> None:
        """Write the note."""
        self.log.write("note", self.run, text=text)

    def row(self, metrics: dict[str, Any]) -> None:
        """Write the row, its epoch counted from 1 as everywhere in the log."""
        self.log.write("epoch", self.run, epoch=metrics["epoch"] + 1, metrics=metrics)


def _finite(value: Any) -> Any:
    """Return a document that JSON can hold: NaN and the infinities are null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
