"""What is measured again is held against the committed reference, and leaves it as it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from math import sqrt
from pathlib import Path
from statistics import stdev

import pandas as pd
import pytest
from cli_call import call

from ardbench.evaluation.statistics import LIMITS
from ardbench.reports.reference import Reference
from ardbench.reports.results import COLUMNS, read

ROOT = Path(__file__).parents[1]
N = 400
SUITE = """
title = "Tiny"
dataset = "fake"
protocols = ["clean", "fgsm"]
[[runs]]
name = "robust"
recipe = "pgd-at-digits"
set = { schedule.epochs = 1, data.train_images = 64, data.validation = 20, attack.steps = 1, selection.protocol = 'fgsm' }
"""


def results(path: Path, *numbers: tuple[str, str, int, str, float]) -> pd.DataFrame:
    """Write a table of (run, setting, seed, protocol, right answers of N), and read it."""
    whole = {
        "checkpoint": "last",
        "protocol_version": 1,
        "norm": "linf",
        "eps": 0.12,
        "n": N,
        "total": N,
        "low": 0,
        "high": 1,
    }
    rows = [
        whole | {"run": run, "suite_name": run, "setting": setting, "seed": seed, "protocol": protocol, "value": right / N}
        | {"subset": False, "status": "done"}
        for run, setting, seed, protocol, right in numbers
    ]  # fmt: skip
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(path, index=False)
    return read(path)


def test_a_number_is_judged_by_the_deviation_of_its_seeds_or_the_measured_one(tmp_path: Path) -> None:
    seeds = (240, 246, 264)
    kept = [(f"three-s{seed}", "three", seed, "aa", right) for seed, right in enumerate(seeds)]
    kept += [("one", "one", 0, "aa", 240), ("one", "one", 0, "clean", 380), ("one", "one", 0, "worst", 1)]
    results(tmp_path / "kept.csv", *kept)
    reference = Reference(tmp_path / "kept.csv")

    again = [("three-s0", "three", 0, "aa", 241), ("three-s1", "three", 1, "aa", 280), ("one", "one", 0, "aa", 208)]
    again += [("one", "one", 0, "clean", 370), ("one", "one", 0, "worst", 300), ("new", "new", 0, "aa", 100)]
    found = reference.hold(results(tmp_path / "again.csv", *again))
    assert found.alone == 1, "the new run; what is derived is not compared"
    wanted = [
        ("match", 1 / N, 241 / N, stdev(right / N for right in seeds)),
        ("within noise", 34 / N, 280 / N, stdev(right / N for right in seeds)),
        ("within noise", -32 / N, 208 / N, LIMITS.reference.attacked),
        ("within noise", -10 / N, 370 / N, LIMITS.reference.clean),
    ]
    for one, (verdict, difference, p, s) in zip(found.held, wanted, strict=True):
        assert one.judged.verdict == verdict and one.judged.difference == pytest.approx(difference)
        assert one.judged.tolerance == pytest.approx(2 * sqrt(p * (1 - p) / N + 2 * s**2))
    assert found.sentence() == (
        f"4 of 4 numbers agree with {tmp_path / 'kept.csv'} (1 match, 3 within noise); not in it: 1."
    )
    assert found.table()[0] == ["run", "seed", "checkpoint", "clean", "aa"]
    assert found.table()[-1] == ["one", "0", "last", "-2.5", "-8.0"]


def test_what_is_off_is_named_and_other_questions_are_not_compared(tmp_path: Path) -> None:
    results(tmp_path / "kept.csv", ("one", "one", 0, "aa", 240))
    reference = Reference(tmp_path / "kept.csv")
    again = results(tmp_path / "again.csv", ("one", "one", 0, "aa", 120))
    sentence = reference.hold(again).sentence()
    assert sentence.startswith(f"0 of 1 numbers agree with {tmp_path / 'kept.csv'}; off: one (seed 0), last, aa: 30.0 ")
    assert "against 60.0 ± " in sentence and reference.hold(again).table()[1][-1] == "-30.0 off"
    for column, value in (("eps", 0.1), ("n", 200), ("protocol_version", 2), ("run", "other"), ("checkpoint", "best")):
        other = reference.hold(again.assign(**{column: value}))
        assert not other.held and other.alone == 1 and "has none of these numbers" in other.sentence(), column


def test_the_committed_tables_agree_with_themselves() -> None:
    for name in ("digits", "digits-all", "cifar10-smoke"):
        path = ROOT / "results" / f"{name}.csv"
        found = Reference(path).hold(read(path))
        assert found.held and not found.alone and {one.judged.verdict for one in found.held} == {"match"}


@pytest.mark.skipif(not (shutil.which("git") and shutil.which("make")), reason="needs git and make")
def test_reproducing_tables_leaves_the_working_tree_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout with the Makefile, a reference, and an environment that it need not make."""
    monkeypatch.chdir(tmp_path)
    for name in ("Makefile", "setup.cfg", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    Path("tiny.toml").write_text(SUITE)
    bin_folder = Path(".venv/bin")
    bin_folder.mkdir(parents=True)
    for name, words in (("python", ""), ("ardbench", " -m ardbench")):
        (bin_folder / name).write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable}{words} "$@"\n')
        (bin_folder / name).chmod(0o755)
    Path(".venv/.installed").touch()
    assert call("reproduce", "tiny.toml", "--jobs", "1", "--device", "cpu", "--out", "results").exit_code == 0

    def git(*words: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        return subprocess.run(["git", *who, *words], capture_output=True, text=True, check=True).stdout

    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Reference"]):
        git(*words)
    assert "results/tiny.csv" in git("ls-files") and "runs" not in git("ls-files")
    shutil.rmtree("runs")
    for target, arguments in (("reproduce-tables", "--jobs 1 --device cpu"), ("tables", "")):
        done = subprocess.run(
            ["make", target, "SUITE=tiny.toml", f"ARGS={arguments}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert git("status", "--porcelain") == ""
        if target == "reproduce-tables":
            assert "2 of 2 numbers agree with results/tiny.csv" in done.stdout
        assert (tmp_path / "runs" / "tables" / "tiny.md").is_file()
    assert Path("runs/tables/tiny.classes.csv").read_bytes() == Path("results/tiny.classes.csv").read_bytes()


def test_a_damaged_reference_is_told_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(SUITE)
    Path("results").mkdir()
    Path("results/tiny.csv").write_text("run,value\n")
    result = call("reproduce", "tiny.toml", "--jobs", "1", "--device", "cpu")
    assert result.exit_code == 0 and "No comparison: results/tiny.csv is no table of results" in result.stderr
    assert Path("results/tiny.csv").read_text() == "run,value\n" and Path("runs/tables/tiny.csv").is_file()
