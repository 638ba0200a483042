"""Who hears of long work, all by the interface of `ardbench.progress`: the screen, log files, trackers of experiments."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a line about the work, as opposed to its result, on stderr; where bars are drawn there, above them."""
    print(text, file=sys.stderr, flush=True)  # click would write to the stream beneath the one that keeps the bars
