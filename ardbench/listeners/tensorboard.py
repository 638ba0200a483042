"""--tensorboard: the rows of metrics.jsonl as curves of TensorBoard, beside each other run by run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.progress import Progress, Several

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.utils.tensorboard import SummaryWriter

    from ardbench.campaigns.graph import Event
    from ardbench.campaigns.suites import Cell
    from ardbench.runs import Run

COMPARED = ("val_clean", "val_robust", "test_clean", "test_robust")
"""The numbers that stand beside the hyperparameters."""


class Board:
    """A folder that TensorBoard shows, with a folder for each run in it; without a path nothing is written."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def to(cls, folder: Path | None) -> Board:
        """Return the board of a folder; of the processes that torchrun started the first writes.

        Raises:
            ArdbenchError: TensorBoard is not installed, or the folder cannot be written.
        """
        from ardbench.runs import check_makeable

        if folder is not None:
            if find_spec("tensorboard") is None:
                raise ArdbenchError(
                    "--tensorboard needs a package that is not installed: type `pip install 'ardbench[tensorboard]'`, or "
                    "leave it out."
                )
            check_makeable("--tensorboard", folder)
        return cls(None if int(os.environ.get("RANK", "0")) else folder)

    def draw(self, runs: Sequence[Run]) -> None:
        """Draw what runs have trained before."""
        for run in runs:
            with self.of(run, Progress()):
                pass

    @contextlib.contextmanager
    def of(self, run: Run, other: Progress) -> Iterator[Progress]:
        """Yield a listener that draws one run and passes on to another."""
        if self.folder is None:
            yield other
            return
        curves = Curves(run, self.folder)
        try:
            yield Several(other, curves)
            curves.draw()
        finally:
            curves.close()

    def hearing(self, cells: Sequence[Cell], other: Callable[[Event], None]) -> Callable[[Event], None]:
        """Return what hears the events of a campaign, draws its runs, and passes on to another."""
        if self.folder is None:
            return other
        folder, drawn = self.folder, dict[int, Curves]()

        def hear(event: Event) -> None:
            if event.kind == "started" and cells[event.cell].state != "done":
                drawn[event.cell] = Curves(cells[event.cell].run, folder)
            elif event.kind in ("row", "trained") and event.cell in drawn:
                drawn[event.cell].draw()
            if event.kind in ("trained", "stopped", "failed") and event.cell in drawn:
                drawn.pop(event.cell).close()
            other(event)

        return hear


class Curves(Progress):
    """A listener that keeps the curves of one run, which tell what its metrics.jsonl tells.

    A step is an epoch, counted from 1; its time is when the run was made and the seconds that it has trained since; a tag
    is the name of a number in the row, such as `loss`, or `diagnostics/teachers/0/adv`. Accuracies by class are left out.
    When a run goes on, a new file of events tells all of it and voids those before: no epoch is missing or doubled.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here: a broken installation shows before the work

        self.run, self.folder, self.make = run, folder / run.path.name, SummaryWriter
        self.writer: SummaryWriter | None = None
        self.told, self.time = 0, 0.0
        self.broken = False

    def row(self, metrics: dict[str, Any]) -> None:
        """Draw what has come."""
        self.draw()

    def draw(self) -> None:
        """Write the rows that are not drawn yet; a folder that cannot be written any more does not stop the work."""
        rows = self.run.metrics[self.told :]
        if self.broken or not rows:
            return
        try:
            writer = self.writer = self.writer or self._open()
            for row in rows:
                self.time += row.get("seconds", 0.0)
                for tag, number in numbers(row):
                    writer.add_scalar(tag, number, row["epoch"] + 1, self.time)
            writer.flush()
        except OSError as error:
            self.broken = True
            say(
                f"--tensorboard {self.folder} cannot be written any more ({error.strerror}): the work goes on without it."
            )
        self.told += len(rows)

    def close(self) -> None:
        """Close the file."""
        if self.writer is not None:
            with contextlib.suppress(OSError):  # it has been said
                self.writer.close()

    def _open(self) -> SummaryWriter:
        """Return a new file, begun with the hyperparameters."""
        from torch.utils.tensorboard.summary import hparams

        self.time = (self.run.path / "config.json").stat().st_mtime
        writer = self.make(self.folder, purge_step=0)
        events: Any = writer.file_writer
        chosen = dict(hyperparameters(self.run))
        for summary in hparams(chosen, dict.fromkeys(COMPARED))[:2]:  # type: ignore[no-untyped-call]
            events.add_summary(summary)
        return writer


def numbers(told: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a row of metrics with their tags."""
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
