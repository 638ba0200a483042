"""--wandb: runs followed in a project of Weights & Biases, online or, with WANDB_MODE=offline, in ./wandb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError
from ardbench.listeners.tracking import hyperparameters, numbers

if TYPE_CHECKING:
    from ardbench.runs import Run


class Wandb:
    """A project; whose account it is in, and whether anything is sent, wandb's own settings say.

    Raises:
        ArdbenchError: nobody is logged in, where it would send.
    """

    def __init__(self, project: str) -> None:
        import wandb

        self.project = project
        try:
            wandb.login(verify=False)
        except wandb.errors.Error as error:
            raise ArdbenchError(
                f"{self.told} has no account to write to ({str(error).splitlines()[0]}): type `wandb login`, or set "
                "WANDB_MODE=offline and send the runs later with `wandb sync`."
            ) from None

    @property
    def told(self) -> str:
        """What was typed."""
        return f"--wandb {self.project}"

    def open(self, run: Run) -> Followed:
        """Return the run of wandb that is called by the identity of ours; it goes on where it was."""
        import wandb

        return Followed(
            wandb.init(
                project=self.project, id=run.identity[:32], name=run.path.name, config=dict(hyperparameters(run)),
                resume="allow", allow_val_change=True, reinit="create_new", settings=wandb.Settings(console="off"),
            )
        )  # fmt: skip


class Followed:
    """A run of wandb."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.first = int(run.step)
        """The step from which it has nothing: wandb takes none twice."""

    def write(self, row: Mapping[str, Any], at: float) -> None:
        """Log a row, unless an earlier sitting did."""
        if (step := row["epoch"] + 1) >= self.first:
            self.run.log({**dict(numbers(row)), "epoch": step, "_timestamp": at}, step=step)

    def flush(self) -> None:
        """Nothing is to be done: wandb sends by itself, a step once the next has come."""

    def close(self, finished: bool) -> None:
        """End the run; that of an unfinished one counts as failed, until it goes on."""
        self.run.finish(exit_code=0 if finished else 1)
