"""The processes in which runs work on this machine: which GPU each takes, and what is heard when one dies."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_call import call
from test_cli_reproduce import suite_file

from ardbench.campaigns import graph, local
from ardbench.campaigns.cells import Cell, planned
from ardbench.campaigns.graph import Event, Outcome, Settings
from ardbench.campaigns.local import Processes
from ardbench.engine import device
from ardbench.errors import ArdbenchError
from ardbench.planning import forecast


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    """The plan of a teacher and two students."""
    return planned(str(suite_file(tmp_path)), tmp_path / "runs")[1]


class Idle:
    """Stands in for the process of a cell, and does nothing."""

    def __init__(self, target: Any, args: Any) -> None:
        self.gpu = args[3]

    def start(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(("gpus", "taken"), [(0, [None] * 4), (1, [None] * 4), (2, [0, 1, 0, 1]), (3, [0, 1, 2, 0])])
def test_no_two_runs_share_a_gpu_while_one_is_free(
    gpus: int, taken: list[int | None], cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = local.get_context("spawn")
    monkeypatch.setattr(local, "get_context", lambda kind: type("C", (), {"Pipe": spawn.Pipe, "Process": Idle}))
    pool = Processes(4, Settings("cuda"), gpus)
    for index in range(4):
        assert pool.room == 4 - index
        pool.start(index, cells[0])
    assert [job.gpu for job in pool.working.values()] == taken
    if gpus == 3:
        over = next(key for key, job in pool.working.items() if job.gpu == 1)
        del pool.working[over]
        pool.start(4, cells[0])
        assert [job.gpu for job in pool.working.values()] == [0, 2, 0, 1]


def test_a_process_computes_on_the_gpu_that_it_was_given(cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    order, told = list[Any](), list[Event]()
    monkeypatch.setattr(local.os, "setpgid", lambda *ids: None)
    monkeypatch.setattr(local.threading.Thread, "start", lambda thread: None)
    monkeypatch.setattr(torch.cuda, "set_device", order.append)
    monkeypatch.setattr(graph, "work", lambda *words: order.append("work") or True)
    connection = type("Connection", (), {"send": staticmethod(told.append)})
    local._in_process(0, cells[0], Settings("cuda", threads=1), 1, connection)  # type: ignore[arg-type]
    assert order == [1, "work"]
    assert [(event.kind, event.node) for event in told] == [("started", "cuda:1"), ("finished", "cuda:1")]


@pytest.mark.parametrize(("words", "jobs"), [([], 3), (["--jobs", "2"], 2), (["--jobs", "1"], None)])
def test_there_are_as_many_jobs_as_gpus(
    words: list[str], jobs: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = list[Any]()

    def no_estimate(*words: object) -> None:
        raise ArdbenchError("no")

    def reproduce(cells: object, settings: object, hear: object, pool: Any, **more: object) -> Outcome:
        pools.append(pool)
        return Outcome(stopped=True)

    monkeypatch.setattr(device, "choose", lambda wanted: torch.device("cuda"))
    monkeypatch.setattr(device, "describe", lambda chosen: "cuda (3 of them)")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(forecast, "predict", no_estimate)
    monkeypatch.setattr(graph, "reproduce", reproduce)
    path = suite_file(tmp_path)
    path.write_text(path.read_text().replace("seeds = [0, 1]", "seeds = [0, 1, 2, 3, 4]"))
    assert call("reproduce", path, "--runs", tmp_path / "runs", "--out", tmp_path / "out", *words).exit_code == 3
    assert pools == [None] if jobs is None else (pools[0].jobs, pools[0].gpus) == (jobs, 3)


def test_a_process_that_is_killed_fails_alone(cells: list[Cell]) -> None:
    heard, settings = list[Event](), Settings("cpu", threads=1)
    pool = Processes(1, settings)

    def hear(event: Event) -> None:
        heard.append(event)
        if event.kind == "started" and event.cell == 0:
            next(iter(pool.working.values())).process.kill()

    outcome = graph.reproduce(cells, settings, hear, pool)
    assert outcome.failed == {0: f"its process ended with exit code {-signal.SIGKILL}."} and not outcome.stopped
    assert [event.kind for event in heard] == ["started", "failed"], "a student without its teacher was begun"
