"""Command lines in processes of their own, which are forks of one that has imported what they need.

They can be ended as any process can, and begin to work in a tenth of the time that imports take.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import socket
import sys
from multiprocessing.connection import Connection

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "ardbench.verbs.training",
        "ardbench.engine.train",
        "ardbench.planning.counting",
        "sklearn.datasets",
        "torch._dynamo",
    ]
)


class Forked:
    """A command line at work in a process of its own, and the lines that it prints."""

    def __init__(self, *words: str, **environment: str) -> None:
        """Start `python FILE WORDS...`, or `ardbench WORDS...` where the first word is no file."""
        heard, said = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(target=_work, args=(words, environment, said))
        self._process.start()
        said.close()
        self.lines = os.fdopen(os.dup(heard.fileno()), encoding="utf-8")

    @property
    def code(self) -> int | None:
        """Return the exit code, or minus the signal that ended it; None while it works."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> None:
        """Wait for its end, no longer than so many seconds."""
        self._process.join(seconds)

    def send(self, number: int) -> None:
        """Send a signal, which a process that has ended does not hear."""
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)


def together(number: int, *words: str) -> None:
    """Run so many processes to their end, which work together as those that torchrun starts."""
    shared = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared["LOCAL_WORLD_SIZE"] = shared["WORLD_SIZE"]
    processes = [Forked(*words, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(number)]
    for process in processes:
        with process.lines:
            said = process.lines.read()
        process.wait()
        assert process.code == 0, said


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _work(words: tuple[str, ...], environment: dict[str, str], said: Connection) -> None:
    """Be what `python` would be on one thread, with both streams in one pipe."""
    torch.set_num_threads(1)
    os.environ |= environment | {"COLUMNS": "500"}
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    said.close()
    if words[0].endswith(".py"):
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.argv = ["ardbench", *words]
        runpy.run_module("ardbench", run_name="__main__")
