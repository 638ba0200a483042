"""--mlflow: runs followed by MLflow, on a server or in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError
from ardbench.listeners.tracking import hyperparameters, numbers

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ardbench.runs import Run

EXPERIMENT = "ardbench"
IDENTITY = "ardbench.identity"
"""The tag by which a run that goes on is found again."""
PARAMS = 100
"""Parameters that MLflow takes at once."""


class Mlflow:
    """A tracking server or store; the experiment is called ardbench.

    Raises:
        ArdbenchError: it cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.uri = uri
        try:
            self.client: MlflowClient = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(EXPERIMENT)
            self.experiment = found.experiment_id if found else self.client.create_experiment(EXPERIMENT)
        except Exception as error:  # of the package, of the network, of a data base
            raise ArdbenchError(
                f"{self.told} cannot be reached ({(str(error) or type(error).__name__).splitlines()[0]}): give the URI of a "
                "server that runs, such as http://127.0.0.1:5000, or of a file, such as sqlite:///mlflow.db."
            ) from None

    @property
    def told(self) -> str:
        """What was typed."""
        return f"--mlflow {self.uri}"

    def open(self, run: Run) -> Followed:
        """Return the run of MLflow that has the identity of ours, a new one unless there is one."""
        query = f"tags.`{IDENTITY}` = '{run.identity}'"
        found = self.client.search_runs([self.experiment], query, max_results=1)
        if found:
            name = found[0].info.run_id
            self.client.update_run(name, status="RUNNING")
            return Followed(self.client, name, int(found[0].data.metrics.get("epoch", 0)))
        begun = int((run.path / "config.json").stat().st_mtime * 1000)
        made = self.client.create_run(self.experiment, begun, {IDENTITY: run.identity}, run.path.name)
        self._describe(made.info.run_id, run)
        return Followed(self.client, made.info.run_id, 0)

    def _describe(self, name: str, run: Run) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)) for key, value in hyperparameters(run)]
        for at in range(0, len(params), PARAMS):
            self.client.log_batch(name, params=params[at : at + PARAMS])


class Followed:
    """A run of MLflow that has been told so many epochs."""

    def __init__(self, client: MlflowClient, name: str, told: int) -> None:
        self.client, self.name, self.told = client, name, told

    def write(self, row: Mapping[str, Any], at: float) -> None:
        """Log a row, unless an earlier sitting did: MLflow would keep both."""
        from mlflow.entities import Metric

        if (step := row["epoch"] + 1) > self.told:
            told = {name: float(value) for name, value in numbers(row) if math.isfinite(value)}
            # the epoch last in the same message: it tells how far all of them are
            metrics = [Metric(name, value, int(at * 1000), step) for name, value in (*told.items(), ("epoch", step))]
            self.client.log_batch(self.name, metrics=metrics)
            self.told = step

    def flush(self) -> None:
        """Nothing is to be done: each row was written at once."""

    def close(self, finished: bool) -> None:
        """End the run; an unfinished one counts as killed, until it goes on."""
        self.client.set_terminated(self.name, "FINISHED" if finished else "KILLED")
