"""Tables by class and of overfitting, against counts and intervals worked out on paper."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from test_reports import lines_of, make_run, recipe, verdict

from ardbench.reports import collect, console, write
from ardbench.reports.classes import accuracies_by_class, class_tables, confusions, read_evaluated
from ardbench.runs import Run, sha256_of

LABELS = [0, 0, 0, 0, 3, 3, 3, 3, 3, 8]
CLEAN = [0, 0, 0, 1, 3, 3, 3, 3, 5, 8]  # 3 of 4, 4 of 5, 1 of 1
ATTACKED = [0, 0, 6, 1, 5, 5, 3, 9, 5, 8]  # 2 of 4, 1 of 5, 1 of 1


def evaluated(root: Path, **changes: object) -> Run:
    """Return a run with clean and attacked verdicts on three classes of digits."""
    run = make_run(root, recipe(**changes))
    verdict(run, "clean", 0, labels=LABELS, predictions=CLEAN)
    verdict(run, "aa", 0, labels=LABELS, predictions=ATTACKED)
    return run


def test_each_class_is_counted_with_its_interval(tmp_path: Path) -> None:
    frame = accuracies_by_class(read_evaluated([evaluated(tmp_path)]))
    attacked = frame[frame["protocol"] == "aa"].set_index("class")
    assert attacked["value"].to_dict() == {"0": 0.5, "3": 0.2, "8": 1.0}
    assert attacked["n"].to_dict() == {"0": 4, "3": 5, "8": 1}
    assert (attacked.loc["3", "low"], attacked.loc["3", "high"]) == (  # R: prop.test(1, 5, correct = FALSE)
        pytest.approx(0.03622, abs=1e-5),
        pytest.approx(0.62446, abs=1e-5),
    )
    assert set(frame["checkpoint"]) == {"last"} and set(frame["status"]) == {"done"}


def test_confusion_counts_what_is_taken_for_what(tmp_path: Path) -> None:
    frame = confusions(read_evaluated([evaluated(tmp_path)]))
    attacked = frame[frame["protocol"] == "aa"]
    counts = {(row["class"], row["said"]): row["count"] for _, row in attacked.iterrows()}
    assert counts == {("0", "1"): 1, ("0", "6"): 1, ("3", "5"): 3, ("3", "9"): 1}


def test_the_table_names_the_worst_class_and_the_spread(tmp_path: Path) -> None:
    (table,) = class_tables(read_evaluated([evaluated(tmp_path)]))
    assert table.title == "Classes on digits (linf, eps 8/255)"
    assert table.header[4:] == (
        "worst class, clean",
        "spread, clean",
        "worst class, aa",
        "spread, aa",
        "most confused, aa",
    )
    cells = [(cell.text, cell.detail) for cell in table.rows[0].entries[4:]]
    assert cells == [
        ("0 75.0", "[30.1, 95.4]"),  # R: prop.test(3, 4, correct = FALSE)
        ("25.0", ""),
        ("3 20.0", "[3.6, 62.4]"),
        ("80.0", ""),
        ("3 as 5", "(3 of 5)"),
    ]
    assert "n = 1 to 5 images a class" in table.footnotes[0]
    assert "at most 79.3 points wide" in table.footnotes[0]  # 1 of 1: 1 - 1 / (1 + 1.96^2)


def test_classes_that_are_equally_bad_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe())
    verdict(run, "clean", 0, labels=[2, 2, 4, 4, 7, 7], predictions=[2, 2, 4, 0, 1, 7], index=list(range(6)), n=6)
    (table,) = class_tables(read_evaluated([run]))
    assert [cell.text for cell in table.rows[0].entries[4:]] == ["4 (+1) 50.0", "50.0"]


def test_without_autoattack_the_strongest_attack_stands_in(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe())
    for protocol, correct in {"pgd20": 6, "cw20": 4, "fgsm": 8}.items():
        verdict(run, protocol, correct)
    verdict(run, "pgd10", 0, threat={"norm": "linf", "eps": 1.0})  # another threat is in no table of this one
    (table,) = class_tables(read_evaluated([run]))
    assert table.header[4:] == ("worst class, cw20", "spread, cw20", "most confused, cw20")
    assert set(accuracies_by_class(read_evaluated([run]))["protocol"]) == {"pgd20", "cw20", "fgsm", "pgd10"}


def test_more_images_and_present_weights_count(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    verdict(run, "aa", 2, n=2)
    assert set(accuracies_by_class(read_evaluated([run])).query("protocol == 'aa'")["n"]) == {4, 5, 1}
    verdict(run, "aa", 0, labels=LABELS, predictions=ATTACKED, key={"weights": "0" * 64})
    verdict(run, "clean", 0, labels=LABELS, predictions=CLEAN, key={"weights": sha256_of(run.weights("last"))})
    assert set(accuracies_by_class(read_evaluated([run])).query("protocol == 'aa'")["n"]) == {
        1
    }  # the two images that are left
    (table,) = class_tables(read_evaluated([run]))
    assert table.footnotes[-1] == "Left out, for their run has other weights now: 1 evaluation."


def test_classes_without_names_are_numbers_and_unfinished_runs_are_marked(tmp_path: Path) -> None:
    wanted = {"name": "tiny-imagenet", "validation": 100, "augment": "none", "batch": 64}
    run = make_run(tmp_path, recipe(data=wanted), finished=False)
    verdict(run, "clean", 0, labels=[150, 7], predictions=[7, 7], n=2)
    assert list(accuracies_by_class(read_evaluated([run]))["class"]) == ["7", "150"]
    (table,) = class_tables(read_evaluated([run]))
    assert table.rows[0].entries[0].text.endswith("‡ (partial)")
    assert table.header[4:] == ("worst class, clean", "spread, clean")


def test_overfitting_is_best_minus_last_on_the_same_images(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe(selection={"by": "best-test", "protocol": "pgd20"}))
    for checkpoint, correct in (("best", 8), ("last", 5)):
        verdict(run, "aa", correct, checkpoint=checkpoint)
    verdict(run, "clean", 9, checkpoint="best")
    verdict(run, "clean", 4, n=5, checkpoint="last")  # other images: no gap
    _, table = class_tables(read_evaluated([run]))
    assert table.title == "Overfitting on digits (linf, eps 8/255)"
    assert table.header[3:] == ("checkpoint", "aa")
    assert table.rows[0].entries[3].text == "best (by test!) - last"
    cell = table.rows[0].entries[4]
    assert (cell.text, cell.detail) == ("+30.0", "[-5.3, +56.7]")  # Newcombe, of 8 and 5 of 10
    assert "n = 10 test images" in table.footnotes[0]
    assert any("flattered" in note for note in table.footnotes)


def test_reports_carry_the_tables_and_their_files(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    paths = {path.name: path for path in write(collect([run]), tmp_path / "out", "t", [run])}
    assert len(pd.read_csv(paths["t.classes.csv"])) == 6
    assert len(pd.read_csv(paths["t.confusion.csv"])) == 6
    assert [row[-1] for row in lines_of(paths["t.md"].read_text())].count("3 as 5 (3 of 5)") == 1
    assert "3 20.0 {\\scriptsize [3.6, 62.4]}" in paths["t.tex"].read_text()
    screen = Console(width=60, record=True, file=io.StringIO())
    screen.print(console(collect([run]), [run]))
    assert "3 as 5" in screen.export_text()


def test_nothing_measured_gives_no_table_by_class(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe())
    assert class_tables(read_evaluated([run])) == []
    assert "t.classes.csv" not in {path.name for path in write(collect([run]), tmp_path / "out", "t", [run])}
    assert json.loads((tmp_path / "out" / "t.provenance.json").read_text())["runs"]
