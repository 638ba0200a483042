"""--tensorboard: what TensorBoard's own reader finds is what metrics.jsonl says, each epoch once."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_call import call
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from test_cli_reproduce import suite_file

from ardbench.progress import Progress

SMALL = ["--dataset", "fake", "--device", "cpu", "--quiet"]
SETS = ["data.train_images=64", "data.validation=20", "data.batch=16", "attack.steps=1", "selection.protocol=fgsm"]
CHANGES = [*SMALL, *(word for change in SETS for word in ("--set", change))]
TRAIN = ["train", "pgd-at-digits", "--epochs", "3", *CHANGES]


def reader(folder: Path) -> EventAccumulator:
    """Return TensorBoard's reader of a run, which has read what is there."""
    return EventAccumulator(str(folder)).Reload()


def points(read: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of each tag."""
    return {tag: [(point.step, point.value) for point in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def told(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what the plain numbers of metrics.jsonl are as points in single precision."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows_of(run):
        for name, value in row.items():
            if name not in ("epoch", "diagnostics"):
                found.setdefault(name, []).append((row["epoch"] + 1, float(np.float32(value))))
    return found


def interrupting(at: int, do: Callable[[], None]) -> Callable[[Progress, dict[str, Any]], None]:
    """Return a screen's `row` that does something when it hears of an epoch, before the curves hear of it."""
    return lambda _, row: do() if row["epoch"] == at else None


def ctrl_c() -> None:
    """End as a process does that is interrupted twice."""
    raise KeyboardInterrupt


def test_curves_are_the_metrics_over_several_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = tmp_path / "board"
    words = [*TRAIN, "--runs", tmp_path / "runs", "--tensorboard", board]
    assert call(*words, "--time-limit", "0.001s").exit_code == 3 and not board.exists()
    sittings = ((0, lambda: os.kill(os.getpid(), signal.SIGTERM), 3, [1]), (1, ctrl_c, 130, [1]))
    for epoch, do, code, steps in sittings:
        with monkeypatch.context() as patch:
            patch.setattr(Progress, "row", interrupting(epoch, do))
            result = call(*words)
        run = Path(result.stdout.splitlines()[0])
        assert result.exit_code == code and len(rows_of(run)) == epoch + 1
        looking = reader(board / run.name)
        assert [step for step, _ in points(looking)["loss"]] == steps
        time.sleep(1.1)  # names of files tell seconds, and who looks on takes them in their order
    assert call(*words).exit_code == 0
    expected = told(run)
    assert expected.keys() >= {"loss", "val_clean", "val_robust", "images_per_second", "peak_memory", "seconds"}
    assert [step for step, _ in expected["loss"]] == [1, 2, 3]
    assert points(reader(board / run.name)) == expected
    assert points(looking.Reload()) == expected, "who has looked on since the run was stopped"


def test_an_epoch_that_was_not_drawn_before_the_end_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TRAIN, "--runs", tmp_path / "runs", "--tensorboard", tmp_path / "board"]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "row", interrupting(2, ctrl_c))
        run = Path(call(*words).stdout.splitlines()[0])
    folder = tmp_path / "board" / run.name
    assert len(points(reader(folder))["loss"]) == 2 and len(rows_of(run)) == 3
    assert call(*words).exit_code == 0
    assert points(reader(folder)) == told(run)


def test_a_run_that_is_done_is_drawn(tmp_path: Path) -> None:
    words = [*TRAIN, "--runs", tmp_path / "runs"]
    run = Path(call(*words).stdout.splitlines()[0])
    folder = tmp_path / "board" / run.name
    for _ in range(2):
        assert "Already done" in call(*words, "--tensorboard", tmp_path / "board").stdout
        assert points(reader(folder)) == told(run)
    times = [point.wall_time for point in reader(folder).Scalars("loss")]
    seconds = np.cumsum([row["seconds"] for row in rows_of(run)])
    assert np.diff(times) == pytest.approx(np.diff(seconds), abs=1e-3) and times[0] <= time.time()


def test_hyperparameters_are_the_recipe_and_diagnostics_are_curves(tmp_path: Path) -> None:
    teacher = call(*TRAIN, "--runs", tmp_path / "runs").stdout.splitlines()[0]
    words = ["distill", "rslad-digits", "--epochs", "2", *CHANGES, "--teacher", teacher, "--diagnostics"]
    result = call(*words, "--runs", tmp_path / "runs", "--tensorboard", tmp_path / "board")
    run = Path(result.stdout.splitlines()[0])
    read = reader(tmp_path / "board" / run.name)
    found = points(read)
    for name in ("clean", "adv", "both", "clean_only", "neither"):
        expected = [(row["epoch"] + 1, row["diagnostics"]["teachers"][0][name]) for row in rows_of(run)]
        assert found.pop(f"diagnostics/teachers/0/{name}") == [(step, pytest.approx(value)) for step, value in expected]
    assert found == told(run)
    (content,) = (read.PluginTagToContent("hparams")[SESSION_START_INFO_TAG],)
    told_of = HParamsPluginData.FromString(content).session_start_info.hparams
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    assert told_of["optimizer.lr"].number_value == recipe["optimizer"]["lr"]
    assert told_of["method.name"].string_value == "rslad" and told_of["student"].string_value == recipe["student"]
    assert told_of["teachers.0"].string_value == f"robust={teacher}"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_campaign_draws_each_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", suite_file(tmp_path), "--device", "cpu", "--quiet"]
    assert call(*words, "--jobs", jobs, "--tensorboard", "board").exit_code == 0
    runs = [path.parent for path in Path("runs").glob("*/metrics.jsonl")]
    assert len(runs) == 3
    assert call(*words, "--tensorboard", "again").exit_code == 0
    for run in runs:
        assert points(reader(tmp_path / "board" / run.name)) == told(run)
        assert points(reader(tmp_path / "again" / run.name)) == told(run)


def test_without_the_package_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.chdir(tmp_path)
    suite = suite_file(tmp_path)
    for words in (TRAIN, ["reproduce", suite]):
        result = call(*words, "--tensorboard", "board")
        assert result.exit_code == 2 and "type `pip install 'ardbench[tensorboard]'`" in result.stderr
        assert not result.stdout and list(tmp_path.iterdir()) == [suite]


def test_a_board_that_cannot_be_written_does_not_stop_the_work(tmp_path: Path) -> None:
    words = [*TRAIN, "--runs", tmp_path / "runs"]
    with_name = call(*words, "--time-limit", "0.001s").stdout.splitlines()[0]
    (tmp_path / "board").mkdir()
    folder = tmp_path / "board" / Path(with_name).name
    folder.touch()
    result = call(*words, "--tensorboard", tmp_path / "board")
    assert result.exit_code == 0 and len(rows_of(Path(with_name))) == 3
    assert result.stderr.count(f"--tensorboard {folder.parent} cannot be written any more for {folder.name} (") == 1


def test_of_several_processes_the_first_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ardbench.listeners.tracking import Tracking

    monkeypatch.setenv("RANK", "1")
    assert not Tracking.to(tmp_path, None, None).trackers
