"""Where the runs of a suite work: this machine, or a cluster of Ray. Torch-free until they do."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.listeners.drawn import clock
from ardbench.listeners.log_file import Log
from ardbench.listeners.tracking import Tracking

if TYPE_CHECKING:
    from ardbench.campaigns.cells import Cell
    from ardbench.campaigns.graph import Outcome
    from ardbench.planning.forecast import Seconds

RETRIES = 10
"""How often a run goes on after its worker or node was lost."""


@dataclass(frozen=True)
class Engine:
    """Where the runs work, and how long.

    Raises:
        ArdbenchError: options that do not go together, or Ray is not installed.
    """

    device: str
    data_root: Path | None
    deadline: float | None
    engine: str = "local"
    jobs: int | None = None
    address: str | None = None
    gpus_per_run: float | None = None
    cpus_per_run: int | None = None
    retries: int | None = None

    def __post_init__(self) -> None:
        of_ray = ("address", "gpus_per_run", "cpus_per_run", "retries")
        given = next((name for name in of_ray if getattr(self, name) is not None), None)
        if self.engine == "local" and given:
            raise ArdbenchError(
                f"--{given.replace('_', '-')} is for a cluster: give --engine ray with it, or leave it out."
            )
        if self.address is not None and not re.fullmatch(r"[^\s/:]+:\d+", self.address):
            raise ArdbenchError(
                f"--address {self.address} is no HOST:PORT: give what `ray start --head` printed, such as 10.0.0.1:6379."
            )
        if self.gpus_per_run is not None and math.isnan(self.gpus_per_run):
            raise ArdbenchError("--gpus-per-run nan is no share of a GPU: give a number from 0 to 1, such as 0.5.")
        if self.gpus_per_run is not None and self.device == ("cpu" if self.gpus_per_run else "cuda"):
            raise ArdbenchError(
                f"--gpus-per-run {self.gpus_per_run:g} and --device {self.device} exclude each other: leave one out."
            )
        if self.engine == "ray" and find_spec("ray") is None:
            raise ArdbenchError("--engine ray needs Ray: pip install 'ardbench[ray]'.")

    def execute(
        self, suite: str, cells: Sequence[Cell], runs: Path, quiet: bool, log: Log, tracking: Tracking
    ) -> tuple[Outcome, str]:
        """Do what is missing; return how it ended, and how long it was predicted to take and took, if that is known.

        Without anything missing not even torch is imported.
        """
        from ardbench.campaigns import graph

        count = len(graph.unfinished(cells))
        if not count:
            say("Nothing is missing: the tables are made again from what is there.")
            return graph.Outcome(), ""
        work = self._on_ray if self.engine == "ray" else self._here
        return work(suite, cells, runs, quiet, log, tracking, count)

    def _here(
        self, suite: str, cells: Sequence[Cell], runs: Path, quiet: bool, log: Log, tracking: Tracking, count: int
    ) -> tuple[Outcome, str]:
        import torch

        from ardbench.campaigns import graph
        from ardbench.campaigns.local import Processes
        from ardbench.engine.device import choose, describe
        from ardbench.listeners.campaign import listening
        from ardbench.planning.forecast import Watch, predict

        device = choose(self.device)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        gpus = torch.cuda.device_count() if device.type == "cuda" else 0
        jobs = min(self.jobs or gpus or cores, count)
        threads = max(1, cores // jobs) if jobs > 1 else None
        say(f"Device: {describe(device)}; {count} of {len(cells)} runs are to be done, {jobs} at once.")
        reason, expected = "nothing measured on this device yet", None
        try:
            expected = predict(cells, runs, device, jobs)
        except ArdbenchError as error:
            reason = str(error).rstrip(".")
        settings = graph.Settings(device.type, self.data_root, threads)
        pool = Processes(jobs, settings, gpus) if jobs > 1 else None
        watch = Watch(cells)
        with listening(suite, cells, runs, quiet) as listen:
            hear = log.hearing(cells, tracking.hearing(cells, listen))
            outcome = graph.reproduce(cells, settings, hear, pool, deadline=self.deadline)
        if outcome.stopped or outcome.failed:
            return outcome, ""
        return outcome, _compared(expected, watch.read(), jobs) if expected else f"No prediction: {reason}."

    def _on_ray(
        self, suite: str, cells: Sequence[Cell], runs: Path, quiet: bool, log: Log, tracking: Tracking, count: int
    ) -> tuple[Outcome, str]:
        from ardbench import data
        from ardbench.campaigns import cluster, graph
        from ardbench.campaigns.board import board_file
        from ardbench.listeners.campaign import listening

        say(cluster.connect(self.address or os.environ.get("RAY_ADDRESS")))
        gpus = self.gpus_per_run
        if gpus is None:
            gpus = float(self.device == "cuda" or (self.device == "auto" and cluster.has_gpus()))
        share = cluster.Share(gpus, self.cpus_per_run or 1)
        say(f"Device: {'cuda' if gpus else 'cpu'}; {count} of {len(cells)} runs are to be done, each with {share}.")
        if not cluster.has_room(share):
            say(f"No node has {share} to give: the runs wait until one with them joins the cluster.")
        root = data.data_root(self.data_root).absolute()
        settings = graph.Settings("cuda" if gpus else "cpu", root, share.cpus)
        whole = cluster.with_whole_paths(cells)
        with listening(suite, cells, runs, quiet) as listen:
            retries = RETRIES if self.retries is None else self.retries
            pool = cluster.Cluster(settings, board_file(suite, runs), share, retries, self.jobs)
            hear = log.hearing(cells, tracking.hearing(cells, listen))
            return graph.reproduce(whole, settings, hear, pool, deadline=self.deadline), ""


def _compared(expected: Seconds, taken: Seconds, jobs: int) -> str:
    """Return how long the runs were predicted to take and took, and their parts, each run taken alone."""
    parts = [
        f"{name} {clock(took)}, predicted {clock(predicted)}"
        for name, predicted, took in (
            ("training", expected.training, taken.training),
            ("evaluation", expected.evaluation, taken.evaluation),
        )
    ]
    return (
        f"Predicted {clock(expected.wall)}, took {clock(taken.wall)} with {jobs} at once ({'; '.join(parts)}; "
        "loading and checks are not predicted)."
    )
