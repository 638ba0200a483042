"""Asking long work to stop: Ctrl-C, SIGTERM and the deadline, in one question."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ardbench.errors import ArdbenchError


def after(seconds: float | None) -> float | None:
    """Return the deadline so many seconds from now, by `time.monotonic`; None where there is no limit."""
    if seconds is None:
        return None
    if not isinstance(seconds, int | float) or not seconds >= 0:
        raise ArdbenchError(f"time_limit = {seconds!r} is no number of seconds from 0 on: give one, such as 540.")
    return time.monotonic() + seconds


def late(deadline: float | None) -> bool:
    """Return whether a deadline is over."""
    return deadline is not None and time.monotonic() >= deadline


@contextmanager
def stopping(deadline: float | None) -> Iterator[Callable[[], bool]]:
    """Yield a question that turns True at Ctrl-C, SIGTERM or the deadline; a second Ctrl-C stops at once."""
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    main = threading.current_thread() is threading.main_thread()
    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield lambda: asked.is_set() or late(deadline)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
