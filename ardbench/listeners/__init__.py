"""Who hears of long work, all by the interface of `ardbench.progress`: the screen, log files, trackers of experiments."""

from __future__ import annotations

import click


def say(text: str) -> None:
    """Print a line about the work, as opposed to its result, on stderr."""
    click.echo(text, err=True)
