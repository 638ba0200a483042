"""Several cells at once on a cluster: each a task of Ray, begun again elsewhere when its worker or its node is lost."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench import plugins
from ardbench.campaigns.graph import POLL, Event, Settings, attend
from ardbench.engine.stopping import stopping
from ardbench.errors import ArdbenchError

if TYPE_CHECKING:
    from ardbench.campaigns.cells import Cell
    from ardbench.runs import Run

PATIENCE = 15.0
"""Seconds for which a node looks for a file that another has just written: shared folders tell of it with a delay."""

LEASE = 120.0
"""Seconds for which a retried run waits for its lock: a shared folder frees that of a dead node after a while."""


@dataclass(frozen=True)
class Share:
    """What one run takes of a node.

    Args:
        gpus: up to 1; runs share a GPU where two of them need less than one.
        cpus: cores, and threads where it works on the CPU.
    """

    gpus: float
    cpus: int

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"
        return f"{self.gpus:g} GPU and {cpus}" if self.gpus else cpus


@dataclass
class Job:
    """A cell that was given to the cluster: how often it was lost, and where it works, once that is known."""

    index: int
    cell: Cell
    lost: int = 0
    node: str = ""


def connect(address: str | None) -> str:
    """Connect to the cluster at an address, or else to one that has a node on this machine, or else start Ray here.

    Returns:
        Which of them it is, in words.

    Raises:
        ArdbenchError: Ray is not installed, or nothing answers at the address.
    """
    ray = _ray()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if shared := os.environ.get(plugins.VARIABLE):
        quiet["runtime_env"] = {"env_vars": {plugins.VARIABLE: shared}}
    named = address not in (None, "", "auto")
    try:
        if named:
            _knock(str(address))
        ray.init(address=address or "auto", **quiet)
        where = f"Connected to the Ray cluster at {ray.get_runtime_context().gcs_address}"
    except (OSError, RuntimeError, ValueError) as error:
        if named:
            raise ArdbenchError(
                f"No Ray cluster answers at {address} ({error}): give the HOST:PORT that `ray start --head` printed, type "
                "the command on a node of the cluster, and set RAY_AUTH_MODE=token if the cluster asks for one."
            ) from None
        ray.init(address="local", include_dashboard=False, **quiet)
        where = "No Ray cluster has a node on this machine, so Ray was started on it alone"
    there = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{where} (nodes: {nodes}, CPUs: {there.get('CPU', 0):g}, GPUs: {there.get('GPU', 0):g})."


def _knock(address: str) -> None:
    """Raise an OSError or a ValueError where nothing listens at HOST:PORT; Ray itself would ask for minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


def has_gpus() -> bool:
    """Return whether a node of the cluster has a GPU."""
    return bool(_ray().cluster_resources().get("GPU"))


def has_room(share: Share) -> bool:
    """Return whether a node of the cluster is large enough for one run."""
    alive = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
    return any(node.get("CPU", 0) >= share.cpus and node.get("GPU", 0) >= share.gpus for node in alive)


def with_whole_paths(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with paths that mean the same in every working folder."""
    return [
        dataclasses.replace(
            cell,
            run=dataclasses.replace(cell.run, path=cell.run.path.absolute()),
            teachers=tuple(dataclasses.replace(t, weights=str(Path(t.weights).absolute())) for t in cell.teachers),
        )
        for cell in cells
    ]


class Cluster:
    """A pool on the cluster that this process is connected to.

    Args:
        settings: with a device, and paths that mean the same on every node.
        shared: a file in the folder of runs that is there as long as the pool; a node that does not see it refuses.
        share: what each run takes.
        retries: how often a run is begun again after its worker or node was lost.
        jobs: how many at once; None gives Ray all that are ready.
    """

    def __init__(self, settings: Settings, shared: Path, share: Share, retries: int, jobs: int | None = None) -> None:
        ray = _ray()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.settings, self.shared, self.retries, self.jobs = settings, shared.absolute(), retries, jobs
        self.working: dict[Any, Job] = {}
        self.stopped = False
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.post = ray.remote(_Post).options(num_cpus=0, scheduling_strategy=here).remote()
        self.task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0, max_calls=1)(_on_node)

    @property
    def room(self) -> int:
        """How many more may be started now."""
        return sys.maxsize if self.jobs is None else self.jobs - len(self.working)

    def start(self, index: int, cell: Cell) -> None:
        """Hand a cell to Ray, which begins it where there is room."""
        self._submit(Job(index, cell))

    def events(self) -> Iterator[Event]:
        """Yield what is told; of a run that was lost, that it is tried again."""
        ray = _ray()
        over, _ = ray.wait(list(self.working), timeout=POLL)
        jobs = {job.index: job for job in self.working.values()}
        for event in ray.get(self.post.take.remote()):
            if event.cell in jobs:  # a lost run may live on for a moment
                jobs[event.cell].node = event.node
                yield event
        for task in over:
            yield self._end(task, self.working.pop(task))

    def stop(self) -> None:
        """Ask every task to save and stop; one that has not begun never does."""
        self.stopped = True
        for task in self.working:
            _ray().cancel(task)  # in its process this is Ctrl-C

    def close(self) -> None:
        """Leave the cluster, which ends what still works, or end Ray where it was started for this."""
        _ray().shutdown()

    def _submit(self, job: Job) -> None:
        words = (job.index, job.cell, self.settings, self.post, self.shared, job.lost > 0, sys.argv)
        self.working[self.task.remote(*words)] = job

    def _end(self, task: Any, job: Job) -> Event:
        """Return how a task ended, or hand it to Ray again if it was lost."""
        from ray import exceptions

        try:
            event: Event = _ray().get(task)
            if event.kind != "stopped" or self.stopped:
                return event
            reason = f"it was asked to stop on {job.node}"
        except exceptions.RayError as error:
            if self.stopped:  # a cancellation may end it anywhere
                return Event(job.index, "stopped", node=job.node)
            if isinstance(error, exceptions.RayTaskError):
                return Event(job.index, "failed", f"its task ended with {error.cause!r}.", node=job.node)
            where = f" on {job.node}" if job.node else ""
            reason = f"its worker{where} was lost ({type(error).__name__})"
        job.lost += 1
        if job.lost > self.retries:
            return Event(job.index, "failed", f"{reason}, and no retry of {self.retries} is left.", node=job.node)
        text = f"{reason}: goes on from what was saved, retry {job.lost} of {self.retries}"
        lost_on, job.node = job.node, ""
        self._submit(job)
        return Event(job.index, "retried", text, node=lost_on)


class _Post:
    """An actor beside the campaign: keeps what the nodes tell until it is taken."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def put(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)

    def take(self) -> list[Event]:
        """Return what was told since the last time."""
        taken, self.events = self.events, []
        return taken


def _on_node(
    index: int, cell: Cell, settings: Settings, post: Any, shared: Path, again: bool, argv: list[str]
) -> Event:
    """Do the work of one cell in a worker of Ray, in which Ctrl-C arrives only as the task's cancellation."""
    ray = _ray()
    node, sys.argv = _node(), argv
    told: list[Any] = []

    def send(event: Event) -> None:
        told[:] = [post.put.remote(dataclasses.replace(event, node=node))]  # Ray lends the cores of a task that waits

    try:
        if not _appears(shared):
            raise ArdbenchError(
                f"{node} does not see {shared.parent} as the machine does on which the command was typed: give --runs a "
                "folder that all nodes share."
            )
        _load(settings)
        if again:
            _wait_for(cell.run)
        ended = attend(index, cell, settings, send, node=node)
    except ArdbenchError as error:
        ended = Event(index, "failed", str(error), node=node)
    except KeyboardInterrupt:
        ended = Event(index, "stopped", node=node)
    ray.get(told)
    return ended


def _load(settings: Settings) -> None:
    """Import what every cell needs, and ask to be stopped only then: an import that is interrupted may end in any way.

    Raises:
        KeyboardInterrupt: the task was cancelled meanwhile.
    """
    with stopping(None) as asked:
        import torch

        for name in ("engine.train", "evaluation.measure", "evaluation.network_checks"):
            import_module(f"ardbench.{name}")
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        if asked():
            raise KeyboardInterrupt


def _node() -> str:
    """Return the name that `ray start --node-name` gave this node, or else its machine's."""
    ray = _ray()
    mine = ray.get_runtime_context().get_node_id()
    facts = next(node for node in ray.nodes() if node["NodeID"] == mine)
    named = facts["NodeName"] != facts["NodeManagerAddress"]
    return str(facts["NodeName"] if named else facts["NodeManagerHostname"])


def _appears(path: Path) -> bool:
    """Return whether a file is there, or comes within a moment."""
    until = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(POLL)
    return True


def _wait_for(run: Run) -> None:
    """Wait until nobody holds a run: the process that was lost may live on for a moment, and its lock for longer."""
    until = time.monotonic() + LEASE
    while run.held and time.monotonic() < until:
        time.sleep(POLL)


def _ray() -> Any:
    """Return Ray, or refuse where it is not installed."""
    try:
        import ray
    except ImportError:
        raise ArdbenchError("--engine ray needs Ray: pip install 'ardbench[ray]'.") from None
    return ray
