"""How long work tells what it is doing; the base class says nothing, the command line draws bars."""

from __future__ import annotations


class Progress:
    """A silent listener. Numbers are plain floats, already read from the device."""

    def task(self, description: str, total: int, unit: str = "images") -> None:
        """A new piece of work begins: `total` counts `unit`s."""

    def update(self, done: int, **numbers: float) -> None:
        """`done` units of the current task are finished; `numbers` stand beside the bar (loss terms, points left)."""

    def note(self, text: str) -> None:
        """A line that stays on the screen."""
