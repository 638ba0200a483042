"""Where runs are followed besides the screen: TensorBoard, Weights & Biases, MLflow, all by one interface."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.progress import Progress, Several

if TYPE_CHECKING:
    from ardbench.campaigns.cells import Cell
    from ardbench.campaigns.graph import Event
    from ardbench.runs import Run


class Sink(Protocol):
    """One run in one tracker, open."""

    def write(self, row: Mapping[str, Any], at: float) -> None:
        """Keep a row of metrics.jsonl: its numbers under the tags of `numbers`, its epoch counted from 1 as the step.

        Args:
            row: of a run's epochs in their order, from its first.
            at: seconds since 1970: when the run was made, and what it has trained since.
        """

    def flush(self) -> None:
        """Show what was kept to who looks on."""

    def close(self, finished: bool) -> None:
        """Let go of it: the run is finished, or goes on another time."""


class Tracker(Protocol):
    """A place in which runs are followed."""

    @property
    def told(self) -> str:
        """What was typed, such as "--mlflow URI"."""

    def open(self, run: Run) -> Sink:
        """Return the sink of a run; it may hold epochs of an earlier sitting, and is told all of them again."""


class Following(Progress):
    """A listener that tells one tracker what metrics.jsonl of one run tells: no epoch is missing, whatever has happened.

    A tracker that fails does not stop the work: it is said once.
    """

    def __init__(self, run: Run, tracker: Tracker) -> None:
        self.run, self.tracker = run, tracker
        self.sink: Sink | None = None
        self.told, self.time = 0, 0.0
        self.broken = False

    def row(self, metrics: dict[str, Any]) -> None:
        """Tell what has come."""
        self.draw()

    def draw(self) -> None:
        """Tell the rows that are not told yet."""
        rows = self.run.metrics[self.told :]
        if self.broken or not rows:
            return
        with self._noticing():
            if self.sink is None:
                self.time = (self.run.path / "config.json").stat().st_mtime
                self.sink = self.tracker.open(self.run)
            for row in rows:
                self.time += row.get("seconds", 0.0)
                self.sink.write(row, self.time)
            self.sink.flush()
        self.told += len(rows)

    def close(self) -> None:
        """Let go of the sink."""
        if self.sink is not None and not self.broken:
            with self._noticing():
                self.sink.close(self.run.done is not None)

    @contextlib.contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a package of others raises
            self.broken = True
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
            about = f"{self.tracker.told} cannot be written any more for {self.run.path.name}"
            say(f"{about} ({reason}): the work goes on without it.")


class Tracking:
    """Trackers that follow the same runs; without any nothing is written."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self.trackers = trackers

    @classmethod
    def to(cls, tensorboard: str | Path | None, wandb: str | None, mlflow: str | None) -> Tracking:
        """Return the trackers that were asked for; of the processes that torchrun started the first tells them.

        Raises:
            ArdbenchError: a package is not installed, or a place cannot be written or reached.
        """
        found: list[Tracker] = []
        first = not int(os.environ.get("RANK", "0"))
        if tensorboard is not None:
            needed("--tensorboard", "tensorboard")
            from ardbench.listeners.tensorboard import TensorBoard

            found.append(TensorBoard(Path(tensorboard)))
        if wandb is not None:
            needed("--wandb", "wandb")
            from ardbench.listeners.wandb import Wandb

            found += [Wandb(wandb)] if first else []
        if mlflow is not None:
            needed("--mlflow", "mlflow")
            from ardbench.listeners.mlflow import Mlflow

            found += [Mlflow(mlflow)] if first else []
        return cls(found if first else ())

    def draw(self, runs: Sequence[Run]) -> None:
        """Tell what runs have trained before."""
        for run in runs:
            with self.of(run, Progress()):
                pass

    @contextlib.contextmanager
    def of(self, run: Run, other: Progress) -> Iterator[Progress]:
        """Yield a listener that follows one run and passes on to another."""
        following = [Following(run, tracker) for tracker in self.trackers]
        try:
            yield Several(other, *following) if following else other
            for one in following:
                one.draw()
        finally:
            for one in following:
                one.close()

    def hearing(self, cells: Sequence[Cell], other: Callable[[Event], None]) -> Callable[[Event], None]:
        """Return what hears the events of a campaign, follows its runs, and passes on to another."""
        if not self.trackers:
            return other
        followed = dict[int, list[Following]]()

        def hear(event: Event) -> None:
            if event.kind == "started" and cells[event.cell].state != "done":
                followed[event.cell] = [Following(cells[event.cell].run, tracker) for tracker in self.trackers]
            for one in followed.get(event.cell, ()) if event.kind in ("row", "trained") else ():
                one.draw()
            for one in followed.pop(event.cell, ()) if event.kind in ("trained", "stopped", "failed") else ():
                one.close()
            other(event)

        return hear


def needed(flag: str, package: str) -> None:
    """Refuse an option whose package is not installed; the package is an extra of its own name."""
    if find_spec(package) is None:
        raise ArdbenchError(
            f"{flag} needs a package that is not installed: type `pip install 'ardbench[{package}]'`, or leave it out."
        )


def numbers(told: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a row of metrics with their tags, such as "diagnostics/teachers/0/adv"."""
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{above}{name}/")
        elif isinstance(value, list):
            yield from numbers(
                {str(i): one for i, one in enumerate(value) if isinstance(one, Mapping)}, f"{above}{name}/"
            )
        elif isinstance(value, int | float) and name != "epoch":
            yield f"{above}{name}", value


def hyperparameters(run: Run) -> Iterator[tuple[str, bool | float | str]]:
    """Yield the values of a run's recipe, each called as --set calls it, and its teachers."""
    from ardbench.recipes import flat

    for name, value in flat(run.recipe.model_dump(mode="json", exclude_none=True)):
        yield name, json.dumps(value) if isinstance(value, list) else value
    for i, teacher in enumerate(run.teachers):
        yield f"teachers.{i}", f"{teacher.role}={teacher.source}"
