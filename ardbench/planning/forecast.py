"""How long a campaign takes: predicted before it, and afterwards as its runs tell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path

import torch

from ardbench.campaigns.cells import Cell
from ardbench.campaigns.graph import teaching, unfinished
from ardbench.evaluation.verdicts import file_name, load_verdicts
from ardbench.planning.estimate import estimate


@dataclass(frozen=True)
class Seconds:
    """What a campaign takes.

    Args:
        wall: from its begin to its end.
        training, evaluation: of all runs together, each taken alone.
    """

    wall: float
    training: float
    evaluation: float


def predict(cells: Sequence[Cell], root: Path, device: torch.device, jobs: int) -> Seconds | None:
    """Return what the rest of a plan will take, or None where nothing tells how fast the device is.

    Args:
        root: the folder of runs.
        jobs: how many runs at once.

    Raises:
        ArdbenchError: as `estimate`.
    """
    each = [(0.0, 0.0) if not work.flop else work.seconds for work in estimate(cells, root, device)]
    known = [seconds for seconds in each if seconds is not None]
    if len(known) < len(each):
        return None
    training, evaluation = (sum(part) for part in zip(*known, strict=True))
    return Seconds(makespan(cells, known, jobs), training, evaluation)


class Watch:
    """Begins when it is made, before a campaign, and tells afterwards what was done of its plan since."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells, self._trained, self._began = cells, _trained(cells), time.monotonic()

    def read(self) -> Seconds:
        """Return what everything took that the plan had missing; all of it is there now."""
        wall = time.monotonic() - self._began
        verdicts = [
            load_verdicts(cell.run.path / "eval" / checkpoint / file_name(protocol, n))
            for cell in self._cells
            for checkpoint, protocol, n in cell.missing
        ]
        return Seconds(wall, _trained(self._cells) - self._trained, sum(one.seconds for one in verdicts))


def makespan(cells: Sequence[Cell], seconds: Sequence[tuple[float, float]], jobs: int) -> float:
    """Return when the last cell is done, if each takes so long to be trained and evaluated, in the campaign's order."""
    waiting, teachers = unfinished(cells), [teaching(cell, cells) for cell in cells]
    trained = {index: 0.0 for index, cell in enumerate(cells) if cell.state == "done"}
    free = [0.0] * jobs
    while waiting:
        ready = {
            i: max((trained[t] for t in teachers[i]), default=0.0) for i in waiting if teachers[i] <= trained.keys()
        }
        now = max(heappop(free), min(ready.values()))
        index = next(i for i in ready if ready[i] <= now)
        waiting.remove(index)
        training, evaluation = seconds[index]
        trained.setdefault(index, now + training)
        heappush(free, now + training + evaluation)
    return max(free)


def _trained(cells: Sequence[Cell]) -> float:
    return float(sum(row["seconds"] for cell in cells for row in cell.run.metrics))
