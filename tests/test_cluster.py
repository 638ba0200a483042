"""A campaign on a real Ray cluster of several nodes on this machine: nodes and workers that die change nothing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_call import call

from ardbench.campaigns import cluster, graph
from ardbench.campaigns.cells import Cell, planned
from ardbench.campaigns.graph import Event, Outcome, Settings
from ardbench.campaigns.local import Processes
from ardbench.evaluation.verdicts import load_verdicts
from ardbench.runs import Run

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.timeout(600)

SUITE = """
title = "Tiny"
dataset = "fake"
protocols = ["clean", "fgsm"]
set = {{ data.train_images = 64, data.validation = 20, attack.steps = 1, selection.protocol = "fgsm" }}
[[runs]]
name = "robust"
recipe = "pgd-at-digits"
set = {{ schedule.epochs = {epochs}, attack.steps = 20 }}
[[runs]]
name = "student"
recipe = "rslad-digits"
teachers = ["robust"]
set = {{ schedule.epochs = 1 }}
[[runs]]
name = "broken"
recipe = "pgd-at-digits"
set = {{ schedule.epochs = 1, optimizer.lr = 1e30 }}
[[runs]]
name = "orphan"
recipe = "rslad-digits"
teachers = ["broken"]
set = {{ schedule.epochs = 1 }}
[[runs]]
name = "third"
recipe = "pgd-at-digits"
seeds = [1]
set = {{ schedule.epochs = 1 }}
"""
NAMES = ("robust", "student", "broken", "orphan", "third")
ONE = cluster.Share(0, 1)


@dataclass
class Machines:
    """A cluster whose head takes no runs, and its working nodes by name."""

    cluster: Any
    nodes: dict[str, Any]

    def add(self, name: str) -> None:
        """Let a node of one core join."""
        self.nodes[name] = self.cluster.add_node(num_cpus=1, node_name=name)

    def kill(self, name: str) -> None:
        """Kill a node with all that runs on it, as a preemption does."""
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return str(self.cluster.address)

    def workers(self) -> list[Any]:
        """Return the processes of this cluster that hold a task of ours."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self.nodes.values()]
        below = [child for pid in raylets for child in psutil.Process(pid).children(recursive=True)]
        return [process for process in below if "_on_node" in " ".join(process.cmdline())]


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "node_name": "head", "include_dashboard": False}
    made = Machines(Cluster(initialize_head=True, head_node_args=head), {})
    made.add("first")
    made.add("second")
    yield made
    ray.shutdown()
    made.cluster.shutdown()


class Heard(list[Event]):
    """The events of a campaign, which never works on two runs on one core."""

    def __init__(self, cells: list[Cell]) -> None:
        self.cells = cells
        self.busy: dict[str, int] = {}
        self.acts: dict[tuple[str, str, int], Any] = {}

    def at(self, name: str, kind: str, number: int, act: Any) -> None:
        """Act on the event of a run that is the `number`th of its kind."""
        self.acts[name, kind, number] = act

    def __call__(self, event: Event) -> None:
        self.append(event)
        if event.kind == "started" and event.node:
            assert event.node not in self.busy, "a core works on two runs"
            self.busy[event.node] = event.cell
        elif event.kind in ("retried", "finished", "failed", "stopped"):
            self.busy.pop(event.node, None)
        name = self.cells[event.cell].name
        if act := self.acts.get((name, event.kind, len(self.of(name, event.kind)))):
            act(event)

    def of(self, name: str, kind: str) -> list[Event]:
        """Return the events of one kind of a run."""
        return [event for event in self if (self.cells[event.cell].name, event.kind) == (name, kind)]


def cells_of(folder: Path, epochs: int = 12) -> list[Cell]:
    """Return the plan of the tiny suite with its runs in a folder."""
    path = folder / "tiny.toml"
    path.write_text(SUITE.format(epochs=epochs))
    return planned(str(path), folder / "runs")[1]


def on_cluster(machines: Machines, folder: Path, cells: list[Cell], heard: Heard, retries: int = 3) -> Outcome:
    """Work on the cells, and leave the cluster."""
    cluster.connect(machines.address)
    shared = folder / "runs" / "campaign-tiny.json"
    shared.parent.mkdir(exist_ok=True)
    shared.write_text("{}")
    pool = cluster.Cluster(Settings("cpu", threads=1), shared, ONE, retries)
    return graph.reproduce(cluster.with_whole_paths(cells), Settings("cpu", threads=1), heard, pool)


def results(folder: Path) -> dict[str, object]:
    """Return the weights of all runs, to the byte, and what was predicted for each image."""
    weights = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("runs/*/*.safetensors")}
    verdicts = {
        str(path.relative_to(folder)): load_verdicts(path).predictions
        for path in folder.glob("runs/*/eval/*/*.json")
        if not path.name.startswith("trust")
    }
    assert len(verdicts) >= 4
    return weights | verdicts


def test_a_run_whose_node_dies_goes_on_elsewhere_to_the_same_bits(machines: Machines, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "local").mkdir()
    cells = cells_of(tmp_path / "ray")
    heard = Heard(cells)
    heard.at("robust", "row", 2, lambda event: machines.kill(event.node))
    outcome = on_cluster(machines, tmp_path / "ray", cells, heard)
    began, again = heard.of("robust", "started")
    (lost,) = heard.of("robust", "retried")
    assert {began.node, again.node} == {"first", "second"} and lost.node == began.node not in machines.nodes
    assert f"its worker on {began.node} was lost" in lost.text and "retry 1 of 3" in lost.text
    resumed = [event.text for event in heard.of("robust", "note") if event.text.startswith("Resuming at epoch")]
    assert len(resumed) == 1 and int(resumed[0].split()[3].rstrip(",")) >= 3
    assert not outcome.stopped and [cells[index].name for index in outcome.failed] == ["broken"]
    assert [len(heard.of(name, "finished")) for name in NAMES] == [1, 1, 0, 0, 1]
    assert not heard.of("orphan", "started"), "a student without its teacher was begun"
    assert heard.index(heard.of("robust", "trained")[0]) < heard.index(heard.of("student", "started")[0])

    undisturbed = cells_of(tmp_path / "local")
    graph.reproduce(undisturbed, Settings("cpu", threads=1), lambda event: None)
    assert results(tmp_path / "ray") == results(tmp_path / "local")
    machines.add(began.node)


@pytest.mark.slow
def test_a_worker_that_is_asked_to_stop_or_killed_is_retried_so_often(machines: Machines, tmp_path: Path) -> None:
    cells = [cell for cell in cells_of(tmp_path, epochs=40) if cell.name == "robust"]
    heard = Heard(cells)

    def send(number: int) -> None:
        (worker,) = machines.workers()
        worker.send_signal(number)

    def kill(event: Event) -> None:
        send(signal.SIGKILL)

    heard.at("robust", "row", 2, lambda event: send(signal.SIGTERM))  # a node that is drained asks so
    heard.at("robust", "started", 2, lambda event: heard.at("robust", "row", len(heard.of("robust", "row")) + 1, kill))
    outcome = on_cluster(machines, tmp_path, cells, heard, retries=1)
    (first,) = heard.of("robust", "retried")
    assert "it was asked to stop on" in first.text and "retry 1 of 1" in first.text
    assert "was lost (WorkerCrashedError), and no retry of 1 is left" in outcome.failed[0]
    assert (cells[0].run.path / "last.state").exists() and not outcome.stopped


@pytest.mark.slow
def test_a_stopped_campaign_has_saved_and_goes_on_anywhere(machines: Machines, tmp_path: Path) -> None:
    cells = [cell for cell in cells_of(tmp_path, epochs=40) if cell.name in ("robust", "student")]
    heard = Heard(cells)
    heard.at("robust", "row", 2, lambda event: os.kill(os.getpid(), signal.SIGTERM))
    outcome = on_cluster(machines, tmp_path, cells, heard)
    assert outcome.stopped and not outcome.failed and not heard.of("student", "started")
    assert heard[-1].kind == "stopped" and (cells[0].run.path / "last.state").exists()
    before = len(cells[0].run.metrics)
    assert 2 <= before < 40
    heard = Heard(cells)
    heard.at("robust", "row", 1, lambda event: os.kill(os.getpid(), signal.SIGTERM))
    settings = Settings("cpu", threads=1)
    assert graph.reproduce(cells, settings, heard, Processes(2, settings)).stopped
    assert before < len(cells[0].run.metrics) < 40


def test_the_command_line_works_on_a_cluster(machines: Machines, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths must mean the same on every node
    Path("tiny.toml").write_text("[[runs]]".join(SUITE.format(epochs=1).split("[[runs]]")[:2]))
    machines.cluster.wait_for_nodes(timeout=120)  # a busy machine takes its time to notice that a node was killed
    words = ["reproduce", "tiny.toml", "--engine", "ray", "--address", machines.address, "--device", "cpu"]
    result = call(*words)
    assert result.exit_code == 0, result.output
    moved, connected, device, *lines = result.stderr.splitlines()
    assert moved.startswith("pgd-at-digits was written for digits. ")
    assert connected == f"Connected to the Ray cluster at {machines.address} (nodes: 3, CPUs: 2, GPUs: 0)."
    assert device == "Device: cpu; 1 of 1 runs are to be done, each with 1 CPU."
    assert lines[0] in ("robust s0: started on first", "robust s0: started on second")
    run, tables = sorted(Path("runs").iterdir())  # the file for --status is gone
    assert (run / "done").exists() and "default_worker" not in (run / "env.json").read_text()
    assert "robust" in (tables / "tiny.md").read_text()


def test_a_node_without_the_folder_refuses(machines: Machines, tmp_path: Path, monkeypatch: Any) -> None:
    cluster.connect(machines.address)
    monkeypatch.setattr(cluster, "PATIENCE", 0.0)
    (cell, *_) = cells_of(tmp_path)
    told = cluster._on_node(0, cell, Settings("cpu"), None, tmp_path / "gone" / "campaign.json", False, sys.argv)
    ray.shutdown()
    assert (told.kind, told.node) == ("failed", "head")
    assert f"head does not see {tmp_path / 'gone'} as the machine does" in told.text and "all nodes share" in told.text


def test_an_import_is_not_interrupted(monkeypatch: Any) -> None:
    imported = list[str]()

    def interrupted(name: str) -> None:
        if not imported:
            signal.raise_signal(signal.SIGINT)
        imported.append(name)

    monkeypatch.setattr(cluster, "import_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cluster._load(Settings("cpu"))
    assert imported == ["ardbench.engine.train", "ardbench.evaluation.measure", "ardbench.evaluation.network_checks"]


def test_a_retried_run_waits_for_the_lock_of_the_lost_one(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run")
    slept = list[float]()
    with run.lock():
        monkeypatch.setattr(cluster, "LEASE", 0.3)
        monkeypatch.setattr(cluster.time, "sleep", slept.append)
        cluster._wait_for(run)
    assert slept
    slept.clear()
    cluster._wait_for(run)
    assert not slept


def test_without_ray_the_command_line_says_how_to_install_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = call("reproduce", "digits", "--engine", "ray", "--runs", tmp_path)
    assert (refused.exit_code, refused.stderr) == (2, "Error: --engine ray needs Ray: pip install 'ardbench[ray]'.\n")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "here"])
def test_where_no_cluster_answers(address: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    refused = call("reproduce", "digits", "--engine", "ray", "--runs", tmp_path / "runs")
    assert refused.exit_code == 2 and f"Error: No Ray cluster answers at {address} (" in refused.stderr
    assert not (tmp_path / "runs").exists()
