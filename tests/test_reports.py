"""Reports against run directories written by hand, with every number worked out on paper."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy.stats import binomtest

from ardbench.campaigns.cells import Cell, state_of
from ardbench.config import Recipe
from ardbench.errors import ArdbenchError
from ardbench.evaluation import trust
from ardbench.evaluation.trust import Finding
from ardbench.reports import collect, collect_suite, console, read, tables, write
from ardbench.reports import published as published_module
from ardbench.reports.evaluations import threat_name
from ardbench.reports.footnotes import separable
from ardbench.reports.rendering import escaped
from ardbench.runs import Run, Teacher, sha256_of, write_json

PUBLISHED = """method,student,teacher,dataset,checkpoint,metric,value_percent,kind,paper,source
rslad,resnet8,wide,digits,best,clean,83.38,paper,"A, 2021",table 1
rslad,resnet8,wide,digits,best,pgd20_trades,54.24,paper,"A, 2021",table 1
rslad,resnet8,wide,digits,last,clean,84.44,paper,"A, 2021",table 1
rslad,resnet8,wide,digits,not stated,clean,80.00,re-run,"B, 2023",table 2
rslad,resnet8,wide,digits,last,clean,84.50,paper,"A, 2021",table 2: another number for the same cell
rslad,resnet8,,digits,last,clean,11.00,paper,"A, 2021",another teacher
iad,resnet8,wide,digits,last,clean,70.00,paper,"A, 2021",table 1
iad-i,resnet8,wide,digits,last,clean,71.00,paper,"C, 2022",table 1
rslad,resnet18,wide,digits,last,clean,1.00,paper,"A, 2021",another student
rslad,resnet8,wide,cifar10,last,clean,2.00,paper,"A, 2021",another data set
rslad,resnet8,wide,digits,last,square,3.00,paper,"A, 2021",not measured
"""


def recipe(**changes: Any) -> Recipe:
    """Return a valid recipe with some top-level keys replaced."""
    return Recipe.model_validate(
        {
            "name": "rslad-digits",
            "title": "",
            "family": "level",
            "student": "resnet8",
            "data": {"name": "digits", "validation": 100, "augment": "none", "batch": 64},
            "threat": {"norm": "linf", "eps": "8/255"},
            "evaluation": {"norm": "linf", "eps": "8/255"},
            "attack": {"steps": 10, "step_size": "2/255", "start": "uniform", "bn": "eval"},
            "optimizer": {"lr": 0.1, "momentum": 0.9, "weight_decay": 2e-4},
            "schedule": {"epochs": 4, "kind": "constant"},
            "selection": {"by": "last", "protocol": "pgd20"},
            "method": {"name": "rslad"},
        }
        | changes
    )


def make_run(
    root: Path, of: Recipe, teachers: Sequence[Teacher] = (), finished: bool = True, dirty: bool = False
) -> Run:
    """Write the directory of a run that trained 3,600 images in 1,800 seconds."""
    run = Run.place(root, of, teachers)
    run.create(
        of, teachers, {"ardbench": "0.1.0", "torch": "2.9.0", "device": "cpu", "git_sha": "abc", "git_dirty": dirty}
    )
    run.weights("last").write_bytes(b"weights")
    (run.path / "metrics.jsonl").write_text(
        json.dumps({"epoch": 0, "loss": 2.0, "seconds": 900.0, "images": 1800}) + "\n"
    )
    if finished:
        weights = {"last": sha256_of(run.weights("last"))}
        write_json(
            run.path / "done", {"epochs": 4, "seconds": 1800.0, "device": "cpu", "images": 3600, "weights": weights}
        )
    return run


def verdict(run: Run, protocol: str, correct: int, n: int = 10, checkpoint: str = "last", **changes: Any) -> None:
    """Write an evaluation in which the first `correct` of `n` images are classified right."""
    document: dict[str, Any] = {
        "protocol": protocol,
        "version": 1,
        "threat": {"norm": "linf", "eps": 8 / 255},
        "labels": [i % 2 for i in range(n)],
        "predictions": [i % 2 if i < correct else 1 - i % 2 for i in range(n)],
        "index": list(range(n)),
        "seconds": 36.0,
        "batch": 500,
        "seed": 0,
        "taken": {},
        "notes": [],
        "n": n,
        "total": 10,
        "class_balanced": False,
    } | changes
    write_json(run.path / "eval" / checkpoint / f"{protocol}{f'-n{n}' if n < document['total'] else ''}.json", document)


def lines_of(text: str) -> list[list[str]]:
    """Return the cells of the Markdown rows in a text."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def cell(
    root: Path, of: Recipe, name: str, teachers: tuple[Teacher, ...] = (), missing: Sequence[tuple[str, str]] = ()
) -> Cell:
    """Return a run of a plan, whether it is there or not."""
    run = Run.place(root, of, teachers)
    return Cell(name, run, of, teachers, state_of(run), tuple((*pair, None) for pair in missing))


@pytest.fixture
def published_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the numbers of PUBLISHED in the place of the real ones."""
    (tmp_path / "published.csv").write_text(PUBLISHED)
    monkeypatch.setattr(published_module, "benchmarks_folder", lambda: tmp_path)
    published_module.numbers.cache_clear()
    yield
    published_module.numbers.cache_clear()


def markdown_of(runs: Sequence[Run], out: Path) -> str:
    write(collect(runs), out, "t", runs)
    return (out / "t.md").read_text()


def test_a_row_says_everything_about_one_number(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe())
    verdict(run, "clean", 6)
    frame = collect_suite([cell(tmp_path, recipe(), "mine")])
    row = frame.iloc[0]
    assert len(frame) == 1
    words = ("run", "suite_name", "recipe", "family", "method", "dataset", "student", "teachers", "checkpoint")
    assert [row[word] for word in words] == [
        run.path.name, "mine", "rslad-digits", "level", "rslad", "digits", "resnet8", "", "last",
    ]  # fmt: skip
    assert (row["value"], row["n"], row["total"], row["subset"], row["seed"]) == (0.6, 10, 10, False, 0)
    assert row["low"] == pytest.approx(0.3126738, abs=1e-6)  # R: prop.test(6, 10, correct = FALSE)
    assert row["high"] == pytest.approx(0.8318197, abs=1e-6)
    assert (row["hours"], row["images_per_second"], row["device_kind"]) == (0.5, 2.0, "cpu")
    assert (row["ardbench"], row["torch"], row["git_sha"], row["git_dirty"]) == ("0.1.0", "2.9.0", "abc", False)
    assert (row["protocol"], row["protocol_version"], row["norm"], row["eps"]) == ("clean", 1, "linf", 8 / 255)
    assert row["status"] == "done"


def test_one_seed_shows_its_interval_and_blank_cells_stay_blank(tmp_path: Path) -> None:
    one, other = (
        make_run(tmp_path, recipe()),
        make_run(tmp_path, recipe(name="trades-digits", method={"name": "trades"})),
    )
    verdict(one, "clean", 9)
    verdict(one, "aa", 4)
    verdict(other, "clean", 0)
    text = markdown_of([one, other], tmp_path / "out")
    header, _, first, second = lines_of(text)[:4]
    assert header == ["run", "student", "teachers", "checkpoint", "clean", "aa", "weighted"]
    assert first[:6] == ["rslad-digits", "resnet8", "", "last", "**90.0** [59.6, 98.2]", "40.0 [16.8, 68.7]"]
    assert first[6].startswith("65.0 [")
    assert second == ["trades-digits", "resnet8", "", "last", "0.0 [0.0, 27.8]", "", ""]
    assert "A blank cell was not measured." in text
    assert "Accuracy in % on digits (linf, eps 8/255)" in text


def test_seeds_are_averaged_and_runs_of_other_settings_are_not(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, recipe(seed=seed)) for seed in range(3)]
    for run, correct in zip(runs, (6, 5, 4), strict=True):
        verdict(run, "pgd20", correct)
    other = make_run(tmp_path, recipe(schedule={"epochs": 9, "kind": "constant"}))
    verdict(other, "pgd20", 10)
    rows = lines_of(markdown_of([*runs, other], tmp_path / "out"))[2:4]
    assert rows[0][-1] == "50.0 ± 10.0 (3)"  # 60, 50, 40
    assert rows[1][-1] == "100.0 [72.2, 100.0]"
    assert (rows[0][0], rows[1][0]) == ("rslad-digits (epochs 4)", "rslad-digits (epochs 9)")
    assert "a ± b (k) is the mean and the standard deviation over k seeds" in (tmp_path / "out" / "t.md").read_text()


def test_what_best_is_the_best_of_is_said(tmp_path: Path) -> None:
    selections = [
        {"by": by, "protocol": "pgd20"} | more
        for by in ("best-test", "best-val")
        for more in ({}, {"score": "weighted"})
    ]
    runs = [make_run(tmp_path, recipe(family="as-released", selection=one)) for one in selections]
    for run in runs:
        verdict(run, "clean", 6, checkpoint="best")
    text = markdown_of(runs, tmp_path / "out")
    assert [row[3] for row in lines_of(text)[2:6]] == ["best (by test!)"] * 2 + ["best"] * 2
    assert (
        f"best, by the mean of robust and clean accuracy: {', '.join(sorted(run.path.name for run in runs[1::2]))}."
        in text
    )
    assert "the highest robust accuracy on validation" in text and "chosen on the test set itself" in text


@pytest.mark.usefixtures("published_file")
def test_published_numbers_stand_below_with_their_kind_and_teacher(tmp_path: Path) -> None:
    by_test = {"family": "as-released", "selection": {"by": "best-test", "protocol": "pgd20"}}
    runs = [make_run(tmp_path / "runs", recipe(**by_test, seed=seed)) for seed in (0, 1)]
    for run in runs:
        for checkpoint in ("best", "last"):
            for protocol in ("clean", "pgd20-trades", "aa"):
                verdict(run, protocol, 6, checkpoint=checkpoint)
    text = markdown_of(runs, tmp_path / "out")
    rows = lines_of(text)[2:8]
    near = "(within noise; ± 31.0§)"  # 2 sqrt(0.6 * 0.4 / 10)
    both = "(within noise / within noise; ± 31.0§)"
    assert [row[3] for row in rows] == ["best (by test!)", "*best*", "last", "*last*", "*last*", "*not stated*"]
    assert rows[1][:3] == ["*published: A, 2021 (paper)*", "", "*wide*"]
    assert rows[1][3:] == ["*best*", f"*83.38 {near}*", f"*54.24 {near}*", "", "", ""]
    assert rows[3] == [
        "*published: A, 2021 (paper)*",
        "",
        "*wide*",
        "*last*",
        f"*84.44 / 84.50 {both}*",
        "",
        "",
        "",
        "",
    ]
    assert rows[4][2:5] == ["", "*last*", "*11.00 (off; ± 31.0§)*"]
    assert rows[5] == ["*published: B, 2023 (re-run)*", "", "*wide*", "*not stated*", f"*80.00 {near}*", "", "", "", ""]
    assert "the epoch was chosen on the test set itself" in text
    assert "quoted, never measured here" in text
    assert "published" not in markdown_of([make_run(tmp_path / "level", recipe())], tmp_path / "out")


@pytest.mark.usefixtures("published_file")
def test_a_paper_that_names_no_variant_stands_beside_both(tmp_path: Path) -> None:
    found = {}
    for name in ("iad-i", "iad-ii"):
        run = make_run(tmp_path, recipe(name=name, family="as-released", method={"name": name}))
        verdict(run, "clean", 6)
        found[name] = markdown_of([run], tmp_path / "out")
        quoted = [(row[0], row[4]) for row in lines_of(found[name]) if "published" in row[0]]
        assert quoted == [
            ("*published as iad: A, 2021 (paper)*", "*70.00 (within noise; ± 31.0§)*"),
            *([("*published: C, 2022 (paper)*", "*71.00 (within noise; ± 31.0§)*")] if name == "iad-i" else []),
        ]
        assert "published as iad: which of its variants was run is not stated." in found[name]


@pytest.mark.usefixtures("published_file")
def test_a_plan_shows_what_was_published_before_anything_is_measured(tmp_path: Path) -> None:
    of = recipe(family="as-released", selection={"by": "best-test", "protocol": "pgd20"})
    teacher = Teacher("zoo:big", "robust", "zoo:big", "wrn", "nowhere", "")
    pairs = [(checkpoint, protocol) for checkpoint in ("best", "last") for protocol in ("clean", "aa")]
    cells = [cell(tmp_path, of, "rslad", (teacher,), pairs), cell(tmp_path, recipe(seed=3), "unmeasured")]
    frame = collect_suite(cells)
    (table,) = tables(frame)
    assert table.title == "Accuracy in % on digits (linf, eps 8/255)"
    assert [[entry.text for entry in row.entries] for row in table.rows] == [
        ["rslad", "resnet8", "zoo:big", "best (by test!)", "", ""],
        ["published: A, 2021 (paper)", "", "wide", "best", "83.38", ""],
        ["", "", "", "last", "", ""],
        ["published: A, 2021 (paper)", "", "wide", "last", "84.44 / 84.50", ""],
        ["published: A, 2021 (paper)", "", "", "last", "11.00", ""],
        ["published: B, 2023 (re-run)", "", "wide", "not stated", "80.00", ""],
        ["unmeasured", "resnet8", "", "", "", ""],
    ]
    assert table.footnotes[0].startswith("Nothing has been measured yet")
    assert set(frame["status"]) == {"missing"}
    screen = Console(width=50, record=True, file=io.StringIO())  # narrower than the words of a line are long
    screen.print(console(frame))
    lines = screen.export_text().splitlines()
    assert any("published: A, 2021" in line and "84.44 / 84.50" in line for line in lines)
    assert any(line.startswith("   (paper), best") for line in lines)
    verdict(make_run(tmp_path, of, [teacher]), "clean", 6)
    some = collect_suite([cell(tmp_path, of, "rslad", (teacher,), pairs[:2] + pairs[3:])])
    assert [entry.text for entry in tables(some)[0].rows[2].entries] == ["", "", "", "last", "60.0", ""]


def test_footnotes_say_what_the_table_cannot(tmp_path: Path) -> None:
    teacher_file = tmp_path / "teacher.safetensors"
    teacher_file.write_bytes(b"one")
    teacher = Teacher("robust-conv", "robust", "t", "resnet8", str(teacher_file), sha256_of(teacher_file))
    whole = make_run(tmp_path, recipe(), [teacher], dirty=True)
    part = make_run(tmp_path, recipe(seed=1), [teacher], finished=False)
    stale_teacher = Teacher("gone-on", "robust", "u", "resnet8", str(teacher_file), "0" * 64)
    stale = make_run(tmp_path, recipe(), [stale_teacher])
    verdict(whole, "pgd20", 5)
    verdict(whole, "aa", 5, n=8, notes=["square was given 100 queries"])
    verdict(part, "pgd20", 5)
    verdict(stale, "pgd20", 5)
    text = markdown_of([whole, part, stale], tmp_path / "out")
    rows = lines_of(text)
    both = ["62.5† [30.6, 86.3]"] * 2  # aa, and the worst case of both on its 8 images
    assert rows[2] == ["rslad-digits", "resnet8", "robust-conv", "last", "50.0 [23.7, 76.3]", *both]
    assert [row[0] for row in rows[3:5]] == ["rslad-digits ‡ (partial)", "rslad-digits ‡ (stale)"]
    assert "n = 10: two accuracies closer than 43.8 points cannot be told apart" in text  # 1.96 sqrt(2 / 4 / 10)
    assert "±" not in text  # no cell is a mean, so nothing is explained
    assert "† Measured on 8 of the 10 test images" in text
    assert f"Training is not finished: {part.path.name}." in text
    assert f"Stale, a teacher or the weights have changed since: {stale.path.name}; train or evaluate again." in text
    assert "how far seeds lie apart was not measured here" in text
    assert "aa: square was given 100 queries" in text
    assert f"uncommitted changes: {whole.path.name}." in text
    assert separable(0.5, 360) == pytest.approx(0.0730, abs=1e-4)


def test_a_footnote_of_many_runs_tells_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, recipe(seed=seed), dirty=True) for seed in range(12)]
    for seed, run in enumerate(runs):
        weights = sha256_of(run.weights("last"))
        notes = [f"Square took {seed}.5 points.", "Given little time."]
        verdict(run, "aa", 5, notes=notes, key={"weights": weights})
        unbounded = Finding("unbounded", "warning" if seed < 5 else "ok", f"unbounded leaves {seed} %.")
        trust.save(run.path / "eval" / "last" / "trust.json", [Finding("logits", "ok", "fine."), unbounded], weights)
    text = markdown_of(runs, tmp_path / "out")
    names = [run.path.name for run in runs]
    assert "aa: Square took 0.5 points. And 11 alike, with other numbers: see the notes in the CSV." in text
    assert "aa: Given little time.\n" in text
    assert "Trust checks, made 12 times. ok: logits (12), unbounded (7)." in text
    first = " ".join(f"{names[seed]} (last): unbounded leaves {seed} %." for seed in range(3))
    assert f"Trust checks, warning, unbounded: {first} And 2 more: see the notes in the CSV." in text
    assert f"uncommitted changes: {', '.join(sorted(names)[:10])} and 2 more." in text
    kept = (tmp_path / "out" / "t.csv").read_text(encoding="utf-8")
    assert all(f"unbounded leaves {seed} %." in kept and f"Square took {seed}.5" in kept for seed in range(5))


def test_teachers_come_first_and_missing_runs_are_named_below(tmp_path: Path) -> None:
    teacher = make_run(tmp_path, recipe(name="z-digits", method={"name": "pgd-at"}))
    weights = str(teacher.weights("last"))
    known = Teacher("runs/z", "robust", teacher.identity, "resnet8", weights, sha256_of(teacher.weights("last")))
    student = make_run(tmp_path, recipe(name="a-digits"), [known])
    verdict(student, "clean", 5)
    frame = collect([student, teacher])
    assert list(frame["run"]) == [teacher.path.name, student.path.name]
    assert list(frame["status"]) == ["missing", "done"]
    assert list(frame["teachers"]) == ["", "z"]
    assert frame["value"].isna().tolist() == [True, False]
    of = student.recipe
    cells = [cell(tmp_path, of, "student", (known,)), cell(tmp_path, of.model_copy(update={"seed": 9}), "later")]
    accuracies, costs = tables(collect_suite(cells))
    assert [[row.entries[0].text for row in table.rows] for table in (accuracies, costs)] == [["student"]] * 2
    assert "Planned, and without a number here so far: later." in accuracies.footnotes
    seeds = [cells[0], cell(tmp_path, of.model_copy(update={"seed": 9}), "student", (known,))]
    assert [row.entries[0].text for row in tables(collect_suite(seeds))[0].rows] == ["student"]


def test_regenerating_gives_the_same_bytes_and_the_csv_is_enough(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, recipe(seed=seed)) for seed in range(2)]
    for run in runs:
        verdict(run, "clean", 6)
        verdict(run, "aa", 3, n=7)
    first = {path.name: path.read_bytes() for path in write(collect(runs), tmp_path / "one", "t", runs)}
    again = {path.name: path.read_bytes() for path in write(collect(runs), tmp_path / "two", "t", runs)}
    assert sorted(first) == ["t.classes.csv", "t.confusion.csv", "t.csv", "t.md", "t.provenance.json", "t.tex"]
    assert first == again
    from_csv = {
        path.name: path.read_bytes() for path in write(read(tmp_path / "one" / "t.csv"), tmp_path / "three", "t")
    }
    assert from_csv["t.csv"] == first["t.csv"]
    for name in ("t.md", "t.tex"):  # the tables by class come from the runs
        assert first[name].startswith(from_csv[name])


def test_provenance_sums_and_names(tmp_path: Path) -> None:
    teacher = Teacher("/home/me/runs/wide", "robust", "id", "wrn", "nowhere", "ab")
    run = make_run(tmp_path, recipe(), (teacher,))
    typed = ["ardbench", "distill", "rslad", "--teacher", "/home/me/runs/wide", "--runs", "/home/me/runs"]
    write_json(run.path / "env.json", json.loads((run.path / "env.json").read_text()) | {"argv": typed})
    verdict(run, "clean", 6)
    write(collect([run]), tmp_path / "out", "t", [run])
    found = json.loads(text := (tmp_path / "out" / "t.provenance.json").read_text())
    assert "/home/me" not in text  # whose machine it was is nobody's business
    assert found["runs"][0]["environment"]["argv"] == [*typed[:4], "wide", "--runs", "runs"]
    assert found["runs"][0]["teachers"][0]["source"] == "wide"
    assert found["training_device_hours"] == {"cpu": 0.5}
    assert found["evaluation_hours"] == 0.01
    assert found["runs"][0]["environment"]["git_sha"] == "abc"
    assert found["runs"][0]["evaluations"][0]["file"] == "eval/last/clean.json"
    assert found["runs"][0]["weights"] == {"last": sha256_of(run.weights("last"))}


def test_latex_is_balanced_and_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe(name="my_own & 50%"))
    verdict(run, "clean", 6)
    verdict(run, "aa", 3, n=7)
    text = next(path for path in write(collect([run]), tmp_path / "out", "t") if path.suffix == ".tex").read_text()
    assert escaped("a_b & 5% {x} #1 $ ^ ~") == r"a\_b \& 5\% \{x\} \#1 \$ \textasciicircum{} \textasciitilde{}"
    assert r"my\_own \& 50\%" in text
    assert r"60.0 {\scriptsize [31.3, 83.2]}" in text
    bare = re.sub(r"\\[{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "_" not in bare
    for environment in ("table", "tabular", "minipage"):
        assert text.count(f"\\begin{{{environment}}}") == text.count(f"\\end{{{environment}}}") == 2
    for body in re.findall(r"\\toprule(.*?)\\bottomrule", text, re.DOTALL):
        widths = {line.replace(r"\&", "").count("&") for line in body.splitlines() if line.strip().endswith(r"\\")}
        assert len(widths) == 1


def test_threats_have_tables_of_their_own_and_share_clean_accuracies(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe())
    verdict(run, "clean", 9)
    verdict(run, "pgd20", 5)
    l2 = make_run(tmp_path, recipe(seed=1))
    verdict(l2, "clean", 8)
    verdict(l2, "pgd20", 4, threat={"norm": "l2", "eps": 0.5})
    found = tables(collect([run, l2]))
    assert [table.title for table in found] == [
        "Accuracy in % on digits (linf, eps 8/255)", "Accuracy in % on digits (l2, eps 0.5)", "Cost of training",
    ]  # fmt: skip
    assert [[entry.text for entry in table.rows[0].entries[4:]] for table in found[:2]] == [
        ["90.0", "50.0"],
        ["80.0", "40.0"],
    ]
    assert [threat_name("linf", eps) for eps in (0.031, 0.2, 8 / 255, 0.5 / 255)] == [
        "linf, eps 0.031", "linf, eps 0.2", "linf, eps 8/255", "linf, eps 0.00196078",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_console_shows_the_same_numbers_however_narrow(tmp_path: Path, width: int) -> None:
    run = make_run(tmp_path, recipe())
    for protocol, correct in {"clean": 9, "fgsm": 7, "pgd20": 6, "cw20": 5, "aa": 4}.items():
        verdict(run, protocol, correct)
    screen = Console(width=width, record=True, file=io.StringIO())
    screen.print(console(collect([run])))
    shown = screen.export_text()
    for piece in ("rslad-digits, last", "90.0", "[59.6, 98.2]", "70.0", "60.0", "50.0", "40.0", "[16.8, 68.7]"):
        assert piece in shown
    assert "Cost of training" in shown


def test_the_worst_case_is_per_image(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe())
    verdict(run, "clean", 10)
    verdict(run, "pgd20", 7)  # images 0 to 6 withstand it
    verdict(run, "cw20", 5, predictions=[1 - i % 2 if i < 5 else i % 2 for i in range(10)])  # images 5 to 9
    frame = collect([run]).set_index("protocol")
    assert frame.loc["worst", "value"] == 0.2  # images 5 and 6
    assert frame.loc["worst", "n"] == 10
    header, _, row = lines_of(markdown_of([run], tmp_path / "out"))[:3]
    assert header[4:] == ["clean", "pgd20", "cw20", "worst"]
    assert row[-1] == "20.0 [5.7, 51.0]"
    assert "none of the table's attacks fooled the network; blank" in (tmp_path / "out" / "t.md").read_text()


def test_a_worst_case_is_over_every_attack_on_the_images_that_all_are_on(tmp_path: Path) -> None:
    """AutoAttack on a part of the images is the usual thing: leaving it out, a worst case would lie above it."""
    run = make_run(tmp_path, recipe())
    verdict(run, "clean", 10)
    verdict(run, "pgd20", 7)  # images 0 to 6 withstand it
    verdict(run, "cw20", 6, predictions=[1 - i % 2 if i in (0, 2, 8, 9) else i % 2 for i in range(10)])
    verdict(run, "aa", 4, n=5)  # images 0 to 3
    frame = collect([run])
    found = {row.n: row.value for row in frame[frame["protocol"] == "worst"].itertuples()}
    assert found == {10: 0.5, 5: 0.4}  # images 1, 3, 4, 5 and 6; of the first five 1 and 3
    text = markdown_of([run], tmp_path / "out")
    header, _, row = lines_of(text)[:3]
    assert (header[-3:], row[-1]) == (["aa", "weighted", "worst"], "40.0† [11.8, 76.9]")
    assert "none of the table's attacks fooled the network" in text and "Left out" not in text
    others = [5, 6, 7, 8, 9]  # as many
    verdict(run, "square", 5, n=5, index=others, labels=[i % 2 for i in others], predictions=[i % 2 for i in others])
    frame = collect([run])
    assert list(frame.loc[frame["protocol"] == "worst", "n"]) == [10]


def test_weighted_is_the_mean_of_clean_and_aa_on_the_same_images(tmp_path: Path) -> None:
    """Of 10 images 6 are clean right and 3 of these robust; the interval of the mean is worked out from Wilson's below."""
    run = make_run(tmp_path, recipe())
    verdict(run, "clean", 6)
    verdict(run, "aa", 3, n=5)
    part = collect([run]).set_index("protocol").loc["weighted"]
    assert (part["value"], part["n"], part["subset"]) == (pytest.approx((5 + 3) / 10), 5, True)  # images 0 to 4 of both
    verdict(run, "aa", 3)
    frame = collect([run])
    (row,) = frame[(frame["protocol"] == "weighted") & (frame["n"] == 10)].to_dict("records")
    assert (row["value"], row["n"], row["total"], row["eps"]) == (pytest.approx(0.45), 10, 10, 8 / 255)
    clean, aa = (binomtest(k, 10).proportion_ci(method="wilson") for k in (6, 3))
    phi = (3 * 4 - 0 * 3) / math.sqrt(6 * 4 * 3 * 7)
    for end, a, b in (("low", 0.6 - clean.low, 0.3 - aa.low), ("high", clean.high - 0.6, aa.high - 0.3)):
        half = math.sqrt(a * a + 2 * phi * a * b + b * b) / 2
        assert row[end] == pytest.approx(0.45 - half if end == "low" else 0.45 + half)
    assert "weighted: (clean + aa) / 2 on the same images" in markdown_of([run], tmp_path)


def test_what_only_checks_need_stands_in_no_table(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe())
    for name in ("clean", "pgd20"):
        verdict(run, name, 6)
    before = markdown_of([run], tmp_path)
    verdict(run, "pgd20-scaled", 1)
    verdict(run, "unbounded", 0, threat={"norm": "linf", "eps": 1.0})
    assert markdown_of([run], tmp_path) == before


def test_an_evaluation_of_other_weights_is_stale(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe())
    verdict(run, "clean", 6, key={"weights": sha256_of(run.weights("last"))})
    verdict(run, "aa", 6, key={"weights": "0" * 64})
    frame = collect([run]).set_index("protocol")
    assert frame["status"].to_dict() == {"clean": "done", "aa": "stale"}
    assert "aa: measured on weights that the run no longer has." in markdown_of([run], tmp_path / "out")


def test_the_cost_table_names_the_device(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, recipe(seed=seed)) for seed in range(2)]
    for run in runs:
        verdict(run, "clean", 6)
    entries = [entry.text for entry in tables(collect(runs))[-1].rows[0].entries]
    assert entries == ["rslad-digits", "resnet8", "", "CPU", "2", "2", "0.5"]


def test_nothing_is_invented_from_nothing(tmp_path: Path) -> None:
    assert collect([]).empty
    assert tables(collect([])) == []
    with pytest.raises(ArdbenchError, match="cannot be read as a table of results"):
        read(tmp_path / "absent.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ArdbenchError, match="has no column 'run'"):
        read(tmp_path / "other.csv")
