"""--log-file: JSON lines of what happens."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cli_call import call
from test_cli_reproduce import suite_file

from ardbench.listeners.log_file import Log

SMALL = ["--dataset", "fake", "--epochs", "3", "--device", "cpu", "--quiet"]
SETS = ["data.train_images=64", "data.validation=20", "data.batch=16", "attack.steps=1", "selection.protocol=fgsm"]
TRAIN = ["train", "pgd-at-digits", *SMALL, *(word for change in SETS for word in ("--set", change))]


def lines(path: Path) -> list[dict[str, Any]]:
    """Return what was logged, each line a complete object, in the order of time."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    times = [datetime.fromisoformat(line["time"]) for line in found]
    assert times == sorted(times) and all(time.tzinfo for time in times)
    assert path.read_bytes().endswith(b"\n") and all(line["run"] for line in found)
    return found


def of(event: str, log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of one event."""
    return [line for line in log if line["event"] == event]


def test_every_epoch_of_a_run_is_a_line_and_a_second_sitting_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    words = [*TRAIN, "--runs", tmp_path / "runs", "--log-file", log]
    stopped = call(*words, "--time-limit", "0.001s")
    assert stopped.exit_code == 3 and [line["event"] for line in lines(log)][-1] == "stopped"
    done = call(*words)
    assert done.exit_code == 0
    run, found = Path(done.stdout.splitlines()[0]), lines(log)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["metrics"]) for line in of("epoch", found)] == [
        (index + 1, row) for index, row in enumerate(rows)
    ]
    assert {line["run"] for line in found} == {run.name}
    assert [line["event"] for line in found if line["event"] in ("started", "stopped", "finished")] == [
        "started", "stopped", "started", "finished",
    ]  # fmt: skip
    last = [line for line in of("update", found) if line["done"] == line["total"]]
    assert [(line["epoch"], line["epochs"], line["unit"]) for line in last] == [(n, 3, "images") for n in (1, 2, 3)]
    assert all(line["numbers"]["loss"] > 0 for line in last)
    notes = [line["text"].partition(",")[0] for line in of("note", found)]
    assert notes == ["Images lie on the device: they take 61.4 kB"] * 2 + ["Resuming at epoch 1"]


def test_an_evaluation_logs_its_results(tmp_path: Path) -> None:
    run = call(*TRAIN, "--runs", tmp_path / "runs").stdout.splitlines()[0]
    words = [
        "--protocol",
        "clean",
        "--protocol",
        "fgsm",
        "--checkpoint",
        "last",
        "--device",
        "cpu",
        "--json",
        "--quiet",
    ]
    log = tmp_path / "log.jsonl"
    results = json.loads(call("eval", run, *words, "--log-file", log).stdout)["results"]
    assert [{key: line[key] for key in results[0]} for line in of("measured", lines(log))] == results
    assert lines(log)[-1]["event"] == "finished"


def test_a_transfer_logs_that_it_is_measured_once(tmp_path: Path) -> None:
    words = [*TRAIN, "--runs", tmp_path / "runs"]
    runs = [call(*words, "--seed", seed).stdout.splitlines()[0] for seed in (0, 1)]
    words, log = ["transfer", *runs, "--runs", tmp_path / "runs", "--device", "cpu", "--quiet"], tmp_path / "log.jsonl"
    for _ in range(2):
        assert call(*words, "--log-file", log).exit_code == 0
        found = lines(log)
        assert [line["event"] for line in found if line["event"] not in ("task", "update")] == ["started", "finished"]
    (matrix,) = (tmp_path / "runs").glob("transfer-*.json")
    assert {line["run"] for line in found} == {matrix.stem}
    last = [line for line in of("update", found) if line["done"] == line["total"]]
    assert last and all(line["task"] for line in last)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_campaign_logs_all_its_runs_in_one_file(tmp_path: Path, jobs: int) -> None:
    log, runs = tmp_path / "log.jsonl", tmp_path / "runs"
    words = ["reproduce", suite_file(tmp_path), "--runs", runs, "--out", tmp_path / "out", "--device", "cpu"]
    assert call(*words, "--jobs", jobs, "--quiet", "--log-file", log).exit_code == 0
    found = lines(log)
    for run in runs.glob("*/metrics.jsonl"):
        events = [line["event"] for line in found if line["run"] == run.parent.name]
        assert (events[0], events[-1], events.count("trained"), events.count("epoch")) == ("started", "finished", 1, 1)
    assert len(of("epoch", found)) == 3


def test_a_refusal_is_logged_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    result = call(*TRAIN, "--runs", tmp_path / "runs", "--set", "optimizer.lr=1e30", "--log-file", log)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: {lines(log)[-1]['text']}" and lines(log)[-1]["event"] == "failed"
    Log(log).write("update", "run", numbers={"loss": float("nan"), "left": [float("inf"), 1.0]})
    assert lines(log)[-1]["numbers"] == {"loss": None, "left": [None, 1.0]}


def test_a_log_that_cannot_be_written_any_more_does_not_stop_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log.to(tmp_path / "log")
    (tmp_path / "log").mkdir()
    log.write("started", "run")
    log.write("finished", "run")
    assert capsys.readouterr().err == (
        f"--log-file {tmp_path / 'log'} cannot be written any more (Is a directory): the work goes on without it.\n"
    )


def test_of_several_processes_the_first_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    Log.to(tmp_path / "log").write("started", "run")
    assert not (tmp_path / "log").exists()
