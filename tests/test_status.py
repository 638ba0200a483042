"""`ardbench status`: how far the runs of a folder are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_call import call
from rich.console import Console

SMALL = ["--dataset", "fake", "--epochs", "2", "--device", "cpu", "--quiet"]
SETS = ["data.train_images=64", "data.validation=20", "data.batch=16", "attack.steps=1", "selection.protocol=fgsm"]
TRAIN = ["train", "pgd-at-digits", *SMALL, *(word for change in SETS for word in ("--set", change))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run (seed 0, measured) and a stopped one (seed 1)."""
    root = tmp_path_factory.mktemp("status")
    run = call(*TRAIN, "--runs", root).stdout.splitlines()[0]
    words = ["--protocol", "clean", "--checkpoint", "last", "--device", "cpu", "--quiet"]
    assert call("eval", run, *words).exit_code == 0
    assert call(*TRAIN, "--runs", root, "--seed", "1", "--time-limit", "0.001s").exit_code == 3
    return root


def told(root: Path) -> dict[str, dict[str, object]]:
    """Return what is told of each run, by its seed."""
    rows = json.loads(call("status", root, "--json").stdout)["runs"]
    return {row["run"].split("-")[-2]: row for row in rows}


def test_what_is_told_is_what_the_files_hold(trained: Path) -> None:
    done, stopped = told(trained).values()
    run = trained / str(done["run"])
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    verdicts = json.loads((run / "eval" / "last" / "clean.json").read_text())
    right = sum(a == b for a, b in zip(verdicts["labels"], verdicts["predictions"], strict=True))
    assert (done["state"], done["epoch"], done["epochs"]) == ("done", 2, 2)
    assert done["images_per_second"] == last["images_per_second"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert done["peak_memory"] == max(row["peak_memory"] for row in rows) > 2**20
    assert (done["split"], done["accuracy"]) == ("val", {"clean": last["val_clean"], "robust": last["val_robust"]})
    assert done["evaluations"] == [
        {"checkpoint": "last", "protocol": "clean", "accuracy": right / 64, "n": 64, "total": 64, "stale": False}
    ]
    assert (stopped["state"], stopped["epoch"], stopped["accuracy"]) == ("stopped", 0, None)
    assert all(0 <= float(str(row["age"])) < 300 for row in (done, stopped))
    table = call("status", trained).stdout
    assert [line.split()[1:3] for line in table.splitlines()[2:]] == [["done", "2/2"], ["stopped", "0/2"]]
    assert f"last: clean {100 * right / 64:.1f}" in table
    assert f" {last['peak_memory'] / 2**30:.1f} " in table


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_a_terminal_shows_one_line_a_run_and_names_what_it_has_no_room_for(
    columns: int, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ardbench.cli.output.console", lambda err=False: Console(width=columns, force_terminal=True))
    shown = call("status", trained).stdout
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    names = sorted(run.name for run in trained.glob("pgd-at-*"))
    assert [line.split()[0] for line in plain if line.strip().startswith("pgd-at")] == names
    assert any("No room for" in line and "evaluations: --details" in line for line in plain) == (columns < 200)
    assert ("last: clean" in shown) == (columns == 200)


def test_details_are_a_block_of_lines_for_each_run(trained: Path) -> None:
    done, stopped = told(trained).values()
    lines = call("status", trained, "--details").stdout.splitlines()
    assert lines[0] == done["run"] and lines[lines.index(str(stopped["run"])) + 1] == "  state: stopped"
    assert any(line.startswith("  evaluations: last: clean ") for line in lines)


def test_one_run_may_be_named(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(trained.glob("*-s1-*"))
    monkeypatch.chdir(run)
    rows = [json.loads(call("status", path, "--json").stdout)["runs"] for path in (run, ".")]
    assert [row["run"] for row in rows[0]] == [row["run"] for row in rows[1]] == [run.name]


def test_a_run_is_training_while_another_process_holds_it(trained: Path) -> None:
    run = next(trained.glob("*-s1-*"))
    program = (
        "import sys\nfrom pathlib import Path\nfrom ardbench.runs import Run\n"
        "with Run(Path(sys.argv[1])).lock():\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", program, str(run)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert told(trained)["s1"]["state"] == "training"
        process.kill()  # its lock is stale, and holds nothing
        process.wait()
        assert (run / "lock").exists() and told(trained)["s1"]["state"] == "stopped"


def test_looking_does_not_keep_a_run_from_being_written(trained: Path) -> None:
    from ardbench.runs import Run

    run = Run(next(trained.glob("*-s1-*")))
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert not run.held
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before
    with run.lock():
        assert run.held
    assert not run.held


def test_a_damaged_run_is_named_and_the_others_are_shown(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "runs")
    run = next((tmp_path / "runs").glob("*-s1-*"))
    (run / "config.json").write_text("{")
    result = call("status", tmp_path / "runs")
    assert result.exit_code == 0 and f"{run.name}: {run}/config.json cannot be read as JSON" in result.stdout
    rows = told(tmp_path / "runs")
    assert (rows["s0"]["state"], rows["s1"]["state"], rows["s1"]["epoch"]) == ("done", "damaged", None)


def test_a_run_that_saved_nothing_is_begun(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(next(trained.glob("*-s1-*")), tmp_path / "a-s1-b")
    (run / "last.state").unlink()
    assert told(tmp_path)["s1"]["state"] == "begun"


def test_a_measurement_of_other_weights_is_stale(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(next(trained.glob("*-s0-*")), tmp_path / "runs" / "a-s0-b")
    done = json.loads((run / "done").read_text())
    done["weights"]["last"] = "0" * 64
    (run / "done").write_text(json.dumps(done))
    assert "(stale)" in call("status", tmp_path / "runs").stdout


def test_status_loads_no_torch(trained: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom ardbench.cli import ardbench\n"
        f"ardbench.main(['status', {str(trained)!r}], standalone_mode=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "stopped" in done.stdout, done.stderr
