"""Several cells at once in processes of this machine, each with a CUDA device of its own where there are several."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from ardbench.campaigns.graph import POLL, Event, Settings, attend

if TYPE_CHECKING:
    from ardbench.campaigns.cells import Cell


@dataclass(frozen=True)
class Job:
    """A cell that works in a process, on the CUDA device of this number where there are several."""

    cell: int
    process: BaseProcess
    gpu: int | None


class Processes:
    """A pool of at most `jobs` processes.

    Args:
        gpus: the CUDA devices that they take in turn, so that no two share one unless there are more jobs than devices.
    """

    def __init__(self, jobs: int, settings: Settings, gpus: int = 1) -> None:
        self.jobs, self.settings, self.gpus = jobs, settings, gpus
        self.working: dict[Connection, Job] = {}

    @property
    def room(self) -> int:
        """How many more may be started now."""
        return self.jobs - len(self.working)

    def start(self, index: int, cell: Cell) -> None:
        """Begin a cell on the device with the fewest others."""
        taken = [job.gpu for job in self.working.values()]
        gpu = min(range(self.gpus), key=taken.count) if self.gpus > 1 else None
        context = get_context("spawn")  # CUDA and torch's threads do not survive a fork
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_in_process, args=(index, cell, self.settings, gpu, theirs))
        process.start()
        theirs.close()
        self.working[ours] = Job(index, process, gpu)

    def events(self) -> Iterator[Event]:
        """Yield what is told; at the end of its connection a process is over."""
        for connection in wait(list(self.working), POLL):
            assert isinstance(connection, Connection)
            try:
                yield connection.recv()
            except EOFError:
                job = self.working.pop(connection)
                job.process.join()
                if job.process.exitcode == -signal.SIGTERM:  # asked before it had begun
                    yield Event(job.cell, "stopped")
                elif job.process.exitcode:
                    yield Event(job.cell, "failed", f"its process ended with exit code {job.process.exitcode}.")

    def stop(self) -> None:
        """Ask every process to save and stop."""
        for job in self.working.values():
            job.process.terminate()

    def close(self) -> None:
        """Ask those that still work, and wait for them."""
        self.stop()
        for job in self.working.values():
            job.process.join()


def _in_process(index: int, cell: Cell, settings: Settings, gpu: int | None, connection: Connection) -> None:
    """Do the work of one cell in a process of its own, in which Ctrl-C arrives only by way of the parent."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if settings.threads is not None or gpu is not None:
        import torch

        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        if gpu is not None:
            torch.cuda.set_device(gpu)  # which "cuda" means from here on

    def send(event: Event) -> None:
        with contextlib.suppress(BrokenPipeError):  # without a parent there is nobody to tell, but still a run to save
            connection.send(event)

    try:
        send(attend(index, cell, settings, send, node="" if gpu is None else f"cuda:{gpu}"))
    except KeyboardInterrupt:
        send(Event(index, "stopped"))


def _end_with_parent() -> None:
    """Wait for the parent to be gone, however it ended, and then save and stop."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
