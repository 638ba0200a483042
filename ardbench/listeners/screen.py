"""How long work is shown: one line per epoch or attack that is over, above bars on a terminal, or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ardbench.listeners import say
from ardbench.progress import BETWEEN, EPOCH, Progress, in_words

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.progress import Progress as Display
    from rich.progress import TaskID
    from rich.text import Text

WIDE = 100
"""Columns of a terminal from which on bars are drawn twice as long."""


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[Progress]:
    """Yield the listener that fits stderr: bars, lines, or warnings alone."""
    if quiet:
        yield Quiet()
    elif sys.stderr.isatty() or in_notebook():
        with bars() as display, contextlib.closing(Bars(display)) as drawn:
            yield drawn
    else:
        with contextlib.closing(Lines()) as lines:
            yield lines


def heard_by(progress: Progress | None) -> AbstractContextManager[Progress]:
    """Return the listener that a caller of Python gave, or else the one that fits where the caller is."""
    return shown(quiet=False) if progress is None else nullcontext(progress)


def in_notebook() -> bool:
    """Return whether bars can be drawn in the notebook that this runs in."""
    from importlib.util import find_spec

    from rich.console import Console

    return Console().is_jupyter and find_spec("ipywidgets") is not None


def bars() -> Display:
    """Return a display of bars on stderr: what, how much, how fast, how long still, and as many of its numbers as fit."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Display
    from rich.table import Column
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed and speed >= 1 else "", style="cyan")

    class Numbers(ProgressColumn):
        def render(self, task: Task) -> Terms:
            return Terms(task.fields["numbers"], "dim")

    console = Console(stderr=True, highlight=False)
    return Display(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24 if console.width >= WIDE else 12),
        MofNCompleteColumn(),
        Speed(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        Numbers(table_column=Column(no_wrap=False)),  # so that rich takes the width that is missing from here first
        console=console,
        transient=True,
    )


class Quiet(Progress):
    """Warnings alone."""

    def warn(self, text: str) -> None:
        """Print the line."""
        say(text)


@dataclass(frozen=True)
class Terms:
    """Numbers as `in_words` tells them, of which the first that fit into one line are shown, each whole."""

    words: str
    style: str = ""

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement(0, len(self.words))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        words = self.words
        while len(words) > options.max_width:
            words = words.rpartition(BETWEEN)[0]
        yield Text(words, self.style)


class Lines(Progress):
    """A plain line on stderr when a task is over; for an epoch, with the accuracies that were measured after it."""

    def __init__(self) -> None:
        self.description, self.unit = "", ""
        self.done, self.total, self.began = 0, 0, 0.0
        self.numbers: dict[str, float] = {}

    def task(self, description: str, total: int, unit: str = "images") -> None:
        """Tell how the task before ended."""
        self.close()
        self.description, self.total, self.unit, self.began = description, total, unit, time.monotonic()

    def update(self, done: int, **numbers: float) -> None:
        """Remember the last numbers."""
        self.done, self.numbers = done, numbers

    def row(self, metrics: dict[str, Any]) -> None:
        """Tell how the epoch ended."""
        measured = {name: value for name, value in metrics.items() if name.startswith(("val_", "test_"))}
        self.numbers = measured | self.numbers
        self.close()

    def note(self, text: str) -> None:
        """Print the line."""
        say(text)

    def close(self) -> None:
        """Tell how the last task ended, if it did anything."""
        if self.done:
            seconds = time.monotonic() - self.began
            text = f"{self.description}: {self.done}/{self.total} {self.unit} in {seconds:.1f} s"
            self._over(BETWEEN.join(filter(None, (text, in_words(self.numbers)))))
        self.done, self.numbers = 0, {}

    def _over(self, text: str) -> None:
        say(text)


class Bars(Lines):
    """One bar for the task at hand and, while training, one for the whole run, below the lines of what is over."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self.display = display
        self.current: TaskID | None = None
        self.overall: TaskID | None = None
        self.before = 0

    def task(self, description: str, total: int, unit: str = "images") -> None:
        """Replace the bar of the task before by its line."""
        super().task(description, total, unit)
        if self.current is not None:
            self.display.remove_task(self.current)
        if found := EPOCH.fullmatch(description):
            epoch, epochs = map(int, found.groups())
            self.before = (epoch - 1) * total
            if self.overall is None:
                self.overall = self._add("training", epochs * total, unit, completed=self.before)
        self.current = self._add(description, total, unit)

    def update(self, done: int, **numbers: float) -> None:
        """Move the bars."""
        super().update(done, **numbers)
        if self.current is None:
            return
        self.display.update(self.current, completed=done, numbers=in_words(numbers))
        if self.overall is not None:
            self.display.update(self.overall, completed=self.before + done)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self.display.console.print(text, markup=False)

    def _over(self, text: str) -> None:
        console = self.display.console
        console.print(Terms(text) if len(text.partition(BETWEEN)[0]) <= console.width else text, markup=False)

    def _add(self, description: str, total: int, unit: str, completed: int = 0) -> TaskID:
        return self.display.add_task(description, total=total, completed=completed, unit=unit, numbers="")
