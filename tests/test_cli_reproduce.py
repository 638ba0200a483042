"""`ardbench reproduce`: what is missing, in order, once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_call import call

SUITE = """
title = "Tiny"
dataset = "fake"
seeds = [0, 1]
protocols = ["clean", "fgsm"]
batch = 23
[[runs]]
name = "robust"
recipe = "pgd-at-digits"
set = {{ {small} }}
[[runs]]
name = "student"
recipe = "rslad-digits"
teachers = ["robust"]
set = {{ {small}{more} }}
"""
SETTINGS = (
    "schedule.epochs = 1, data.train_images = 64, data.validation = 20, attack.steps = 1, selection.protocol = 'fgsm'"
)


@pytest.fixture(autouse=True)
def _no_speed_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def suite_file(folder: Path, more: str = "") -> Path:
    """Write a suite of a teacher and two students."""
    path = folder / "tiny.toml"
    path.write_text(SUITE.format(small=SETTINGS, more=more))
    return path


@pytest.mark.parametrize("jobs", [1, 2])
def test_reproduce_does_what_is_missing_and_then_nothing(tmp_path: Path, jobs: int) -> None:
    words = [
        "reproduce",
        suite_file(tmp_path),
        "--runs",
        tmp_path / "runs",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    plan = call(*words, "--dry-run")
    assert plan.exit_code == 0 and not (tmp_path / "runs").exists()
    rows = [
        line.split()[:4]
        for line in plan.stdout.splitlines()
        if "missing" in line and line.split()[0] in ("robust", "student")
    ]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("robust", "0", "missing"),
        ("student", "0", "missing"),
        ("student", "1", "missing"),
    ]
    result = call(*words, "--jobs", jobs)
    assert result.exit_code == 0, result.output
    order = [line.split(":")[0] for line in result.stderr.splitlines() if ": trained" in line]
    assert order[0] == "robust s0" and sorted(order[1:]) == ["student s0", "student s1"]
    assert len(list((tmp_path / "runs").glob("*/done"))) == 3
    assert (
        len(list((tmp_path / "runs").glob("*/eval/last/*.json"))) == 3 * 5
    )  # two verdicts, two for the checks, and the checks
    assert {json.loads(path.read_text())["batch"] for path in (tmp_path / "runs").glob("*/eval/last/fgsm*.json")} == {
        23
    }
    assert "No prediction: nothing measured on this device yet." in result.stdout
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = call(*words)
    assert again.exit_code == 0 and "Nothing is missing" in again.stderr and "redict" not in again.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_checks_hold_numbers_on_more_and_on_fewer_images_against_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what only they need is measured on few images, once for all."""
    monkeypatch.setattr("ardbench.evaluation.trust.ENOUGH", 25)
    suite = suite_file(tmp_path)
    text = (
        suite.read_text().replace("[0, 1]", "[0]").replace('["clean", "fgsm"]', '["pgd20", "fgsm"]\nn = { fgsm = 30 }')
    )
    suite.write_text(text[: text.rindex("[[runs]]")])
    assert call("reproduce", suite, "--runs", "runs", "--out", "out", "--device", "cpu", "--jobs", 1).exit_code == 0
    (store,) = tmp_path.glob("runs/*/eval/last")
    assert sorted(path.name for path in store.glob("*.json")) == [
        "clean-n30.json", "clean.json", "fgsm-n30.json", "pgd20-scaled-n25.json", "pgd20.json", "trust-n30.json",
        "trust.json", "unbounded-n25.json",
    ]  # fmt: skip
    for name in ("trust.json", "trust-n30.json"):
        told = {one["check"]: one for one in json.loads((store / name).read_text())["findings"]}
        assert "(n = 30)" in told["fgsm-under-pgd"]["reason"]
        assert "(n = 25)" in told["scaled-under-pgd"]["reason"] and "(n = 25)" in told["unbounded"]["reason"]


def test_a_forecast_is_printed_beside_what_it_took(tmp_path: Path) -> None:
    path = suite_file(tmp_path)
    words = ["reproduce", path, "--runs", tmp_path / "runs", "--jobs", "1", "--device", "cpu"]
    table = tmp_path / "results" / "speed" / "cpu.csv"
    table.parent.mkdir(parents=True)
    table.write_text("name,model,method,variant,tflops\nname,resnet18,rslad,fp32,fast\n")
    damaged = call(*words)
    assert damaged.exit_code == 0
    assert "No prediction: results/speed/cpu.csv, line 2: could not convert string to float: 'fast'" in damaged.stdout
    path.write_text(path.read_text().replace("seeds = [0, 1]", "seeds = [0, 1, 2]"))
    told = call(*words).stdout
    clock = r"\d+ min \d\d s"
    assert re.search(
        rf"Predicted {clock}, took {clock} with 1 at once "
        rf"\(training {clock}, predicted {clock}; evaluation {clock}, predicted {clock};",
        told,
    )
    path.write_text(path.read_text().replace("seeds = [0, 1, 2]", "seeds = [0, 1, 2, 3]"))
    stopped = call(*words, "--time-limit", "0.001s")
    assert stopped.exit_code == 3 and "redict" not in stopped.stdout


def numbers(line: str) -> list[float]:
    """Return the last three cells of a row of the plan: M images, PFLOP, hours."""
    return [float(word.replace(",", "")) for word in line.split()[-3:]]


def test_a_plan_says_what_is_missing_and_its_rows_come_to_its_total(tmp_path: Path) -> None:
    words = ["reproduce", suite_file(tmp_path), "--runs", tmp_path / "runs", "--device", "cpu", "--dry-run"]
    plain = call(*words).stdout
    assert "No hours: no run in" in plain and "give --tflops NUMBER" in plain
    lines = call(*words, "--tflops", "0.0001").stdout.splitlines()
    rows = [numbers(line) for line in lines if " missing " in line and "PFLOP" not in line and "runs:" not in line]
    to_do, time = lines[-2:]
    trained, evaluated, pflop = (float(word) for word in re.findall(r"(\S+) (?:M|PFLOP)\b", to_do))
    hours = float(time.split()[0])
    assert len(rows) == 3 and trained == pytest.approx(3 * 64e-6, rel=0.01)
    # validation after the only epoch, then the test set, each under two protocols
    assert evaluated == pytest.approx(3 * 2 * (20 + 64) * 1e-6, rel=0.01)
    assert trained + evaluated == pytest.approx(sum(row[0] for row in rows), rel=0.02)
    assert pflop == pytest.approx(sum(row[1] for row in rows), rel=0.02)
    assert hours == pytest.approx(sum(row[2] for row in rows), rel=0.02)
    assert hours == pytest.approx(pflop * 1e15 / (0.0001 * 1e12) / 3600, rel=0.02)
    assert "0.0001 TFLOP/s as given with --tflops (3)" in time


def test_a_rate_without_a_dry_run_is_refused(tmp_path: Path) -> None:
    result = call("reproduce", suite_file(tmp_path), "--runs", tmp_path / "runs", "--tflops", "1")
    assert result.exit_code == 2 and "give --dry-run with it" in result.stderr


def test_the_plan_of_what_is_done_loads_no_torch(tmp_path: Path) -> None:
    path = suite_file(tmp_path)
    where = ["--runs", tmp_path / "runs", "--device", "cpu"]
    assert call("reproduce", path, "--out", tmp_path / "out", "--jobs", "1", *where).exit_code == 0
    shown = [str(word) for word in ("reproduce", path, *where, "--dry-run")]
    code = (
        "import sys\n"
        "from ardbench.cli import ardbench\n"
        f"ardbench.main({shown!r}, standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 to train, 0 evaluations missing" in done.stdout and "To do" not in done.stdout
    path.write_text(path.read_text().replace("seeds = [0, 1]", "seeds = [0, 1, 2]"))
    measured = call(*shown).stdout
    assert "reached by the same method and student (1)" in measured
    assert len([line for line in measured.splitlines() if line.split()[3:] == ["done", "1"]]) == 3


def test_reproduce_leaves_out_the_students_of_what_was_refused(tmp_path: Path) -> None:
    path = suite_file(tmp_path)
    path.write_text(path.read_text().replace("attack.steps = 1", "attack.steps = 1, optimizer.lr = 1e30", 1))
    result = call(
        "reproduce", path, "--runs", tmp_path / "runs", "--out", tmp_path / "out", "--jobs", "1", "--device", "cpu"
    )
    assert result.exit_code == 2
    assert "robust s0: started" in result.stderr and "robust (seed 0) was refused: " in result.stderr
    assert (
        result.stderr.splitlines()[-1]
        == "Error: 1 of 3 runs were refused: mend what they say and type the same command again."
    )
    assert not list((tmp_path / "runs").glob("rslad-*")), "a student without its teacher was begun"


def test_a_fault_in_a_methods_code_ends_its_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: object, batch: object, epoch: int) -> None:
        raise ZeroDivisionError("no images")

    monkeypatch.setattr("ardbench.methods.rslad.RSLAD.step", step)
    words = ("reproduce", suite_file(tmp_path), "--runs", tmp_path / "runs", "--out", tmp_path / "out", "--jobs", "1")
    result = call(*words, "--device", "cpu")
    assert result.exit_code == 2 and "student (seed 0) was refused: ZeroDivisionError in " in result.stderr
    assert "Traceback" in result.stderr and f"{Path(__file__).name}, line" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: 2 of 3 runs were refused")
    assert len(list((tmp_path / "runs").glob("*/done"))) == 1, "the teacher is trained"


@pytest.mark.parametrize("jobs", [1, 2])
def test_reproduce_stopped_by_its_time_limit_goes_on(tmp_path: Path, jobs: int) -> None:
    words = [
        "reproduce",
        suite_file(tmp_path),
        "--runs",
        tmp_path / "runs",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    stopped = call(*words, "--jobs", jobs, "--time-limit", "0.001s")
    assert stopped.exit_code == 3 and "To go on, type the same command again: ardbench reproduce" in stopped.stdout
    assert call(*words, "--jobs", "1").exit_code == 0
    assert len(list((tmp_path / "runs").glob("*/done"))) == 3
