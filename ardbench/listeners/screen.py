"""How long work is shown: bars on a terminal, otherwise at most one line per epoch or attack, or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ardbench.listeners import say
from ardbench.progress import EPOCH, Progress, in_words

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[Progress]:
    """Yield the listener that fits stderr: bars, lines, or warnings alone."""
    if quiet:
        yield Quiet()
    elif sys.stderr.isatty():
        with bars() as display:
            yield Bars(display)
    else:
        lines = Lines()
        yield lines
        lines.close()


def bars() -> Display:
    """Return a display of bars on stderr: what, how much, how fast, how long still, and its numbers."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Display
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed and speed >= 1 else "", style="cyan")

    return Display(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[numbers]}", style="dim"),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )


class Quiet(Progress):
    """Warnings alone."""

    def warn(self, text: str) -> None:
        """Print the line."""
        say(text)


class Bars(Progress):
    """One bar for the task at hand and, while training, one for the whole run."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self.current: TaskID | None = None
        self.overall: TaskID | None = None
        self.before = 0

    def task(self, description: str, total: int, unit: str = "images") -> None:
        """Replace the bar of the task before."""
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
        if self.current is None:
            return
        self.display.update(self.current, completed=done, numbers=in_words(numbers))
        if self.overall is not None:
            self.display.update(self.overall, completed=self.before + done)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self.display.console.print(text, markup=False)

    def _add(self, description: str, total: int, unit: str, completed: int = 0) -> TaskID:
        return self.display.add_task(description, total=total, completed=completed, unit=unit, numbers="")


class Lines(Progress):
    """A plain line on stderr when a task is over."""

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

    def note(self, text: str) -> None:
        """Print the line."""
        say(text)

    def close(self) -> None:
        """Tell how the last task ended, if it did anything."""
        if self.done:
            seconds = time.monotonic() - self.began
            text = f"{self.description}: {self.done}/{self.total} {self.unit} in {seconds:.1f} s"
            say(" · ".join(filter(None, (text, in_words(self.numbers)))))
        self.done, self.numbers = 0, {}
