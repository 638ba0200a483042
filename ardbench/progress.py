"""How long work tells what it is doing; the base class says nothing, the command line draws bars."""

from __future__ import annotations

import re
from typing import Any

EPOCH = re.compile(r"epoch (\d+)/(\d+)")
"""What the task of an epoch is called."""
BETWEEN = " · "
"""Stands between numbers in words."""


class Progress:
    """A silent listener. Numbers are plain floats, already read from the device."""

    def task(self, description: str, total: int, unit: str = "images") -> None:
        """A new piece of work begins: `total` counts `unit`s."""

    def update(self, done: int, **numbers: float) -> None:
        """`done` units of the current task are finished (within a batch as far as it is, if that is known); `numbers` stand
        beside the bar (loss terms, points left)."""

    def note(self, text: str) -> None:
        """A line that stays on the screen."""

    def warn(self, text: str) -> None:
        """A note on what may be wrong with a result, which stays also where all else is silent."""
        self.note(text)

    def row(self, metrics: dict[str, Any]) -> None:
        """An epoch is over: its row of metrics.jsonl."""


class Several(Progress):
    """Listeners that hear the same."""

    def __init__(self, *listeners: Progress) -> None:
        self.listeners = listeners

    def task(self, description: str, total: int, unit: str = "images") -> None:
        """Tell all."""
        for one in self.listeners:
            one.task(description, total, unit)

    def update(self, done: int, **numbers: float) -> None:
        """Tell all."""
        for one in self.listeners:
            one.update(done, **numbers)

    def note(self, text: str) -> None:
        """Tell all."""
        for one in self.listeners:
            one.note(text)

    def warn(self, text: str) -> None:
        """Tell all."""
        for one in self.listeners:
            one.warn(text)

    def row(self, metrics: dict[str, Any]) -> None:
        """Tell all."""
        for one in self.listeners:
            one.row(metrics)


def in_words(numbers: dict[str, float]) -> str:
    """Return numbers as "loss 1.234 · left 87"."""
    return BETWEEN.join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
