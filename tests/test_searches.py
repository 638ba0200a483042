"""benchmarks/findings/searches.py: what the searches of different methods find on one network."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

import ardbench

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "findings"))

import searches


def test_each_search_finds_most_of_what_it_looks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On digits: nobody finds more of an objective than the search that climbs it, nor less of one than x itself has."""
    changes = {"attack.steps": 5, "schedule.epochs": 2}
    run, teacher = (
        ardbench.train("pgd-at-digits", student=net, set=changes, runs=tmp_path) for net in ("resnet8-tiny", "resnet8")
    )
    searches.main([str(run.path), "--teacher", str(teacher.path), "--n", "1000", "--out", str(tmp_path / "out")])
    frame = pd.read_csv(tmp_path / "out" / "searches.csv")
    assert len(frame) == 6 and set(frame["n"]) == {360}
    for precision, found in frame.groupby("precision"):
        rows = found.set_index("search")
        for objective in searches.SEARCHES:
            assert rows[objective].idxmax() == objective, (precision, objective)
        assert (rows["itself"] >= 0).all() and rows["accuracy"].idxmin() == "labels"
    text = (tmp_path / "out" / "searches.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out and "KL(S(x) \\|\\| S(x'))" in text and "the first 360 test images" in text
    with pytest.raises(SystemExit):
        searches.main([str(tmp_path / "out"), "--teacher", str(teacher.path)])
    assert "out is not a run directory" in capsys.readouterr().err
