"""--wandb and --mlflow: every epoch is told once, over several sittings, to the packages and to what stands for them."""

from __future__ import annotations

import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from cli_call import call
from test_figures import PEER, made

import ardbench
from ardbench.campaigns.cells import Cell
from ardbench.campaigns.graph import Event
from ardbench.errors import ArdbenchError
from ardbench.listeners.tracking import Tracking
from ardbench.progress import Progress
from ardbench.runs import Run, write_json

Points = list[tuple[int, float]]


class FakeWandb:
    """What wandb.ai keeps, and the module that writes to it; a step that was logged before is dropped, as there."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module: Any = ModuleType("wandb")
        module.__spec__ = SimpleNamespace(name="wandb")
        module.errors = SimpleNamespace(Error=type("Error", (Exception,), {}))
        module.login, module.init, module.Settings = lambda verify: True, self.init, dict
        monkeypatch.setitem(sys.modules, "wandb", module)

    def init(self, **words: Any) -> Any:
        one = self.kept.setdefault(
            words["id"], {"points": {}, "config": words["config"], "name": words["name"], "codes": []}
        )

        def log(row: dict[str, float], step: int) -> None:
            assert step > max(one["points"], default=0), "wandb takes no step twice"
            one["points"][step] = row

        step = max(one["points"], default=-1) + 1
        return SimpleNamespace(step=step, log=log, finish=lambda exit_code: one["codes"].append(exit_code))


class FakeMlflow:
    """What a server of MLflow keeps, and the module that writes to it; a metric that is logged twice is there twice."""

    def __init__(self) -> None:
        self.runs: list[SimpleNamespace] = []
        self.experiment: str | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module: Any = ModuleType("mlflow")
        module.__spec__ = SimpleNamespace(name="mlflow")
        module.MlflowClient = lambda tracking_uri: self
        entities: Any = ModuleType("mlflow.entities")
        entities.Param = lambda key, value: (key, value)
        entities.Metric = lambda key, value, timestamp, step: (key, value, timestamp, step)
        monkeypatch.setitem(sys.modules, "mlflow", module)
        monkeypatch.setitem(sys.modules, "mlflow.entities", entities)

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="7") if self.experiment == name else None

    def create_experiment(self, name: str) -> str:
        self.experiment = name
        return "7"

    def search_runs(self, experiments: list[str], query: str, max_results: int) -> list[Any]:
        return [one for one in self.runs if f"'{one.tags['ardbench.identity']}'" in query][:max_results]

    def create_run(self, experiment: str, start: int, tags: dict[str, str], name: str) -> Any:
        info = SimpleNamespace(run_id=str(len(self.runs)), status="RUNNING", run_name=name)
        data = SimpleNamespace(metrics={}, params={})
        self.runs.append(SimpleNamespace(info=info, data=data, tags=tags, history=[]))
        return self.runs[-1]

    def update_run(self, run: str, status: str) -> None:
        self.runs[int(run)].info.status = status

    set_terminated = update_run

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        one = self.runs[int(run)]
        one.data.params |= dict(params)
        one.history += metrics
        one.data.metrics |= {key: value for key, value, *_ in metrics}


def grow(run: Run, epochs: int) -> None:
    """Let a run have so many epochs, with a loss of 10 - epoch."""
    row = dict(run.metrics[0])
    rows = [row | {"epoch": epoch, "loss": 9.0 - epoch, "seconds": 2.0} for epoch in range(epochs)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


def sit(run: Run, tracking: Tracking, until: int) -> None:
    """Train to some epoch, each told when it is over, as the engine does."""
    with tracking.of(run, Progress()) as progress:
        for epochs in range(len(run.metrics) + 1, until + 1):
            grow(run, epochs)
            progress.row(run.metrics[-1])


LOSSES: Points = [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)]


def test_wandb_has_each_epoch_once_over_several_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, run = FakeWandb(), made(tmp_path, "run", PEER[:1], "peeraid")
    fake.install(monkeypatch)
    grow(run, 1)
    sit(run, Tracking.to(None, "project", None), 2)
    sit(run, Tracking.to(None, "project", None), 4)
    write_json(run.path / "done", {"epochs": 4, "seconds": 8.0, "device": "cpu", "images": 200, "weights": {}})
    Tracking.to(None, "project", None).draw([run])
    (kept,) = fake.kept.values()
    assert [(step, row["loss"]) for step, row in kept["points"].items()] == LOSSES
    assert [row["epoch"] for row in kept["points"].values()] == [1, 2, 3, 4]
    assert kept["points"][1]["diagnostics/peer/adv"] == 0.5
    assert kept["points"][4]["_timestamp"] - kept["points"][1]["_timestamp"] == 6.0  # trained since
    assert kept["config"]["method.name"] == "peeraid" and kept["name"] == "run"
    assert kept["codes"] == [1, 1, 0]  # it was finished in the end


def test_training_from_python_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    fake.install(monkeypatch)
    sets = {"data.validation": 0, "data.train_images": 64, "attack.steps": 1, "selection.by": "last"}
    words: dict[str, Any] = {"dataset": "fake", "epochs": 2, "set": sets, "device": "cpu", "runs": tmp_path}
    run = ardbench.train("pgd-at-digits", **words, progress=Progress(), wandb="project")
    (kept,) = fake.kept.values()
    assert [(step, row["loss"]) for step, row in kept["points"].items()] == [
        (1, run.metrics[0]["loss"]), (2, run.metrics[1]["loss"]),
    ]  # fmt: skip
    fake.kept.clear()
    student = ardbench.distill("rslad-digits", teachers=[run], **words, progress=Progress())
    assert not fake.kept
    ardbench.distill("rslad-digits", teachers=[run], **words, wandb="project")  # done before
    (kept,) = fake.kept.values()
    assert list(kept["points"]) == [1, 2] and kept["name"] == student.path.name


def test_mlflow_has_each_epoch_once_over_several_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, run = FakeMlflow(), made(tmp_path, "run", PEER[:1], "peeraid")
    fake.install(monkeypatch)
    grow(run, 1)
    for until in (2, 4):
        sit(run, Tracking.to(None, None, "http://here"), until)
        assert fake.runs[0].info.status == "KILLED"
    write_json(run.path / "done", {"epochs": 4, "seconds": 8.0, "device": "cpu", "images": 200, "weights": {}})
    Tracking.to(None, None, "http://here").draw([run])
    (kept,) = fake.runs
    assert [(step, value) for key, value, _, step in kept.history if key == "loss"] == LOSSES
    times = [at for key, _, at, _ in kept.history if key == "loss"]
    assert times[3] - times[0] == 6000
    assert kept.data.params["method.name"] == "peeraid" and kept.info.run_name == "run"
    assert kept.info.status == "FINISHED" and kept.tags == {"ardbench.identity": run.identity}


def test_two_trackers_hear_a_campaign_and_one_that_fails_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb, mlflow = FakeWandb(), FakeMlflow()
    wandb.install(monkeypatch)
    mlflow.install(monkeypatch)
    runs = [made(tmp_path, "one", PEER[:1], "peeraid"), made(tmp_path, "two", ROWS, "darht")]
    cells = [Cell("", run, run.recipe, (), "partial", ()) for run in runs]
    heard: list[Event] = []
    hear = Tracking.to(None, "project", "http://here").hearing(cells, heard.append)

    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("the line is dead")

    def event(cell: int, kind: Any) -> None:
        hear(Event(cell, kind))

    for cell in (0, 1):
        event(cell, "started")
    event(0, "row")
    mlflow.log_batch = fails  # type: ignore[method-assign]
    for _ in range(2):
        event(1, "row")
    event(0, "trained")
    event(1, "failed")
    assert len(heard) == 7
    assert {one["name"]: [row["loss"] for row in one["points"].values()] for one in wandb.kept.values()} == {
        "one": [3.0], "two": [2.0, 1.5, 1.0],
    }  # fmt: skip
    said = capsys.readouterr().err
    assert (
        said.count("--mlflow http://here cannot be written any more for two (the line is dead): the work goes on") == 1
    )


ROWS = [{"loss": loss} for loss in (2.0, 1.5, 1.0)]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_without_the_package_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    for words in (["train", "pgd-at-digits"], ["distill", "rslad-digits"], ["reproduce", "digits"]):
        result = call(*words, f"--{package}", "somewhere")
        assert result.exit_code == 2 and f"type `pip install 'ardbench[{package}]'`" in result.stderr
        assert not result.stdout and not list(tmp_path.iterdir())


def test_who_cannot_be_reached_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb, mlflow = FakeWandb(), FakeMlflow()
    wandb.install(monkeypatch)
    mlflow.install(monkeypatch)
    module: Any = sys.modules["wandb"]

    def nobody(verify: bool) -> None:
        raise module.errors.Error("No API key configured.")

    def nowhere(name: str) -> None:
        raise OSError("connection refused")

    module.login, mlflow.get_experiment_by_name = nobody, nowhere  # type: ignore[method-assign, assignment]
    with pytest.raises(ArdbenchError, match=r"--wandb p has no account to write to \(No API key configured.\): type"):
        Tracking.to(None, "p", None)
    with pytest.raises(ArdbenchError, match=r"--mlflow http://x cannot be reached \(connection refused\): give"):
        Tracking.to(None, None, "http://x")
    monkeypatch.setenv("RANK", "1")
    assert not Tracking.to(None, "p", "http://x").trackers  # the first process alone tells them


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_the_real_wandb_takes_it_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = made(tmp_path, "run", PEER[:1], "peeraid")
    grow(run, 1)
    sit(run, Tracking.to(None, "project", None), 3)
    (kept,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    expected, until = (b"method.name", b"diagnostics/peer/adv", run.identity[:32].encode()), time.monotonic() + 60
    while not all(one in kept.read_bytes() for one in expected) and time.monotonic() < until:
        time.sleep(0.2)  # a process of wandb's own writes
    assert [one for one in expected if one not in kept.read_bytes()] == []


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_the_real_mlflow_keeps_it_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri, run = f"file:{tmp_path / 'mlruns'}", made(tmp_path, "run", PEER[:1], "peeraid")
    grow(run, 1)
    for until in (2, 4):
        sit(run, Tracking.to(None, None, uri), until)
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name("ardbench")
    (kept,) = client.search_runs([found.experiment_id])
    assert sorted((one.step, one.value) for one in client.get_metric_history(kept.info.run_id, "loss")) == LOSSES
    assert kept.data.params["method.name"] == "peeraid" and kept.info.status == "KILLED"
