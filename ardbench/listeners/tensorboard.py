"""--tensorboard: the rows of metrics.jsonl as curves of TensorBoard, beside each other run by run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.listeners.tracking import hyperparameters, numbers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ardbench.runs import Run

COMPARED = ("val_clean", "val_robust", "test_clean", "test_robust")
"""The numbers that stand beside the hyperparameters."""


class TensorBoard:
    """A folder that TensorBoard shows, with a folder for each run in it.

    Raises:
        ArdbenchError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        from ardbench.runs import check_makeable

        check_makeable("--tensorboard", folder)
        from torch.utils import tensorboard  # here: a broken installation shows before the work

        self.folder, self.make = folder, tensorboard.SummaryWriter

    @property
    def told(self) -> str:
        """What was typed."""
        return f"--tensorboard {self.folder}"

    def open(self, run: Run) -> Curves:
        """Return the curves of a run, a new file in its folder."""
        return Curves(run, self.make(self.folder / run.path.name, purge_step=0))


class Curves:
    """A file of events, begun with the hyperparameters; it tells all of its run and voids those before it.

    Accuracies by class are left out.
    """

    def __init__(self, run: Run, writer: SummaryWriter) -> None:
        from torch.utils.tensorboard.summary import hparams

        self.writer = writer
        events: Any = self.writer.file_writer
        chosen = dict(hyperparameters(run))
        for summary in hparams(chosen, dict.fromkeys(COMPARED))[:2]:  # type: ignore[no-untyped-call]
            events.add_summary(summary)

    def write(self, row: Mapping[str, Any], at: float) -> None:
        """Add a point to each curve."""
        for tag, number in numbers(row):
            self.writer.add_scalar(tag, number, row["epoch"] + 1, at)

    def flush(self) -> None:
        """Write the points to the file."""
        self.writer.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self.writer.close()
