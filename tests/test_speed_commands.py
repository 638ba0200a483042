"""The speed benchmark of whole commands: its synthetic runs are runs, and what it measures stands in its table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_call import call

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "speed"))

import commands


def test_synthetic_runs_are_reported_as_finished_and_measured_in_full(tmp_path: Path) -> None:
    runs = commands.synthetic_runs(tmp_path / "runs", 9)
    result = call("report", "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert len({run.path for run in runs}) == 9 and not any(run.stale for run in runs)
    lines = (tmp_path / "out" / "report.csv").read_text(encoding="utf-8").splitlines()
    for run in runs:
        (aa,) = (line for line in lines if line.startswith(run.path.name) and ",last,best-val,aa," in line)
        assert ",360,360," in aa and ",done," in aa
    table = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Trust checks, made 9 times." in table and "† " not in table and "‡" not in table
    assert table.count("| pgd-at-digits ") == 2  # two seeds: one line of accuracies, one of costs


def test_rows_are_written_once_a_command_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.2, 0.1, 0.3, 4.0, 2.0, 3.0, 7.0, 6.0, 5.0] * 2)
    monkeypatch.setattr(
        commands, "samples_of", lambda runs, folder: dict.fromkeys(commands.TARGETS, lambda: next(seconds))
    )
    for _ in range(2):
        commands.main(["--runs", "1", "--repeats", "3", "--out", str(tmp_path)])
    rows = commands.open_table(tmp_path / "commands.csv").rows()
    assert [(row["command"], row["seconds"], row["least"], row["most"], row["runs"]) for row in rows] == [
        ("help", "0.2", "0.1", "0.3", "0"),
        ("report", "3.0", "2.0", "4.0", "1"),
        ("resume", "6.0", "5.0", "7.0", "0"),
    ]
    page = (tmp_path / "commands.md").read_text(encoding="utf-8")
    assert "3.00 [2.00, 4.00] | under 3 |" in page and "6.00 [5.00, 7.00] | under 5 |" in page


def test_a_command_that_fails_is_no_sample(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)ended with 1: .*ZeroDivisionError"):
        commands.seconds_of(["-c", "1 / 0"], tmp_path)
    assert 0 < commands.seconds_of(["-c", "raise SystemExit(3)"], tmp_path, ends=3) < 60
