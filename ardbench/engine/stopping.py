"""Asking long work to stop: Ctrl-C, SIGTERM and the time limit, in one question."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopping(time_limit: float | None) -> Iterator[Callable[[], bool]]:
    """Yield a question that turns True at Ctrl-C, SIGTERM or the time limit; a second Ctrl-C stops at once."""
    deadline = None if time_limit is None else time.monotonic() + time_limit
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    main = threading.current_thread() is threading.main_thread()
    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield lambda: asked.is_set() or (deadline is not None and time.monotonic() >= deadline)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
