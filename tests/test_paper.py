"""What a paper takes from a report: chosen columns, tables that fit, figures with intervals, names of settings."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cli_call import call
from rich.console import Console
from test_reports import lines_of, make_run, recipe, verdict

import ardbench
from ardbench.errors import ArdbenchError
from ardbench.evaluation import trust
from ardbench.evaluation.statistics import wilson
from ardbench.evaluation.trust import Finding
from ardbench.recipes.differences import differing
from ardbench.reports import View, collect, console, read, tables, write
from ardbench.reports.curves import curves
from ardbench.reports.rendering import latex
from ardbench.reports.settings import by_setting, cells_of
from ardbench.reports.tradeoff import tradeoffs
from ardbench.reports.view import WHOLE
from ardbench.runs import Run, Teacher, sha256_of


def of(name: str, **changes: Any) -> Any:
    return recipe(name=f"{name}-digits", method={"name": name}, **changes)


def measured(root: Path, name: str, counts: dict[str, int], **changes: Any) -> Run:
    run = make_run(root, of(name, **changes))
    for protocol, correct in counts.items():
        verdict(run, protocol, correct)
    return run


def rows_of(frame: Any, view: View = WHOLE) -> list[list[str]]:
    """Return header and lines of the first table: text and mark of each cell."""
    table = tables(frame, view)[0]
    return [list(table.header), *([one.text + one.mark for one in row.entries] for row in table.rows)]


def column(frame: Any, name: str) -> dict[str, str]:
    header, *lines = rows_of(frame)
    return {line[0]: line[header.index(name)] for line in lines}


def notes_of(frame: Any, view: View = WHOLE) -> str:
    return "\n".join(tables(frame, view)[0].footnotes)


FULL = {"clean": 9, "pgd20": 6, "aa": 4}


@pytest.mark.parametrize(("further", "n"), [("aa-fast", 5), ("aa-fast", 10), ("square", 3), ("square", 10)])
def test_a_further_attack_on_one_run_takes_no_worst_case_away(tmp_path: Path, further: str, n: int) -> None:
    runs = [measured(tmp_path, name, FULL) for name in ("rslad", "trades", "mart")]
    assert set(column(collect(runs), "worst").values()) == {"40.0"}
    verdict(runs[0], further, 1, n=n)
    frame = collect(runs)
    found = column(frame, "worst")
    assert found == {"rslad-digits": "10.0¶" if n == 10 else "40.0", "trades-digits": "40.0", "mart-digits": "40.0"}
    notes = notes_of(frame)
    assert "none of pgd20, aa fooled the network; blank where one is missing. Left out" in notes
    assert f"for most runs lack it: {further}." in notes
    assert (f"¶ Over further attacks, so it can only be lower: {runs[0].path.name} ({further})." in notes) == (n == 10)


def test_who_lacks_an_attack_of_the_others_has_no_worst_case(tmp_path: Path) -> None:
    runs = [measured(tmp_path, name, FULL | {"fgsm": 7}) for name in ("rslad", "trades")]
    lacks = measured(tmp_path, "mart", FULL)
    assert column(collect([*runs, lacks]), "worst") == {
        "rslad-digits": "40.0",
        "trades-digits": "40.0",
        "mart-digits": "",
    }


def test_seeds_are_held_against_the_deviations_that_the_table_has(tmp_path: Path) -> None:
    runs = []
    for name, counts in {"rslad": (3, 5, 7), "trades": (4, 4, 5)}.items():
        runs += [measured(tmp_path, name, FULL | {"aa": aa}, seed=seed) for seed, aa in enumerate(counts)]
    assert "One seed" not in notes_of(collect(runs))
    single = measured(tmp_path, "mart", FULL)
    low, high = 100 * statistics.stdev((0.4, 0.4, 0.5)), 100 * statistics.stdev((0.3, 0.5, 0.7))
    gap = 1.96 * math.sqrt(2) * (low + high) / 2
    text = notes_of(collect([*runs, single]))
    assert (
        f"the standard deviation of aa is {low:.1f} to {high:.1f} points: two single runs closer than {gap:.1f} points"
        in text
    )
    assert "0.1 to 0.6" not in text
    assert "how far seeds lie apart was not measured here" in notes_of(collect([single]))


def test_settings_are_called_by_what_differs() -> None:
    usual = of("rslad")
    changed = [
        usual.model_copy(update={"method": {"name": "rslad", "alpha": 0.9}}),
        usual.model_copy(update={"threat": usual.threat.model_copy(update={"eps": 4 / 255}), "sync_bn": False}),
        usual.model_copy(update={"method": {"name": "rslad", "alpha": 5 / 6}, "attack": None, "seed": 3, "title": "T"}),
        usual.model_copy(update={"schedule": usual.schedule.model_copy(update={"kind": "cosine"})}),
    ]
    assert differing([usual, changed[0]]) == ["usual alpha", "alpha 0.9"]
    assert differing([usual, changed[1]]) == ["eps 8/255, sync_bn on", "eps 4/255, sync_bn off"]
    assert differing(changed[:1] * 2) == ["", ""]
    kept = usual.model_copy(update={"keep_every": 2, "title": "T", "diagnostics": True})
    assert differing([usual, kept]) == ["", ""] and usual.identity() == kept.identity()
    with_attack, without = differing([changed[0], changed[2]])
    assert with_attack.startswith("steps 10, step_size 2/255, ") and with_attack.endswith(" more")
    assert without == "alpha 5/6, no attack"
    assert differing([usual, changed[3]]) == ["schedule constant", "schedule cosine"]
    both = usual.model_copy(update={"evaluation": usual.evaluation.model_copy(update={"eps": 0.1})})
    assert differing([changed[1], both])[1] == "threat.eps 8/255, evaluation.eps 0.1, sync_bn on"


def test_tables_name_what_differs_also_from_their_csv(tmp_path: Path) -> None:
    runs = [measured(tmp_path, "rslad", FULL), make_run(tmp_path, recipe(method={"name": "rslad", "alpha": 0.9}))]
    verdict(runs[1], "aa", 5)
    teacher = tmp_path / "teacher.safetensors"
    for content in (b"one", b"two"):
        teacher.write_bytes(content)
        sha256 = sha256_of(teacher)
        taught = make_run(tmp_path, of("iad-i"), [Teacher("wide", "robust", sha256, "wrn", "gone", sha256)])
        verdict(taught, "aa", 3)
        runs.append(taught)
    frame = collect(runs)
    called = [line[0] for line in rows_of(frame)[1:]]
    identities = [run.teachers[0].identity[:8] for run in runs[2:]]
    assert sorted(called) == sorted(
        [
            "rslad-digits (usual alpha)",
            "rslad-digits (alpha 0.9)",
            *(f"iad-i-digits (teacher 1 #{one})" for one in identities),
        ]
    )
    write(frame, tmp_path / "out", "t")
    assert rows_of(read(tmp_path / "out" / "t.csv")) == rows_of(frame)
    assert [line[0] for line in rows_of(collect(runs[:1]))[1:]] == ["rslad-digits"]  # it is told from nobody
    old = (tmp_path / "out" / "t.csv").read_text().replace(",differs,", ",else,", 1)
    (tmp_path / "old.csv").write_text(old)
    assert any(re.fullmatch(r"rslad-digits \(#[0-9a-f]{8}\)", line[0]) for line in rows_of(read(tmp_path / "old.csv")))


def test_a_view_chooses_protocols_checkpoints_columns_and_numbers_alone(tmp_path: Path) -> None:
    run = measured(tmp_path, "rslad", FULL | {"fgsm": 7})
    verdict(run, "aa", 3, checkpoint="best")
    weights = sha256_of(run.weights("last"))
    warned = Finding("pgd-minus-aa", "warning", "quote aa, never pgd20.")
    trust.save(run.path / "eval" / "last" / "trust.json", [warned], weights)
    verdict(run, "aa", 4, key={"weights": weights})
    frame = collect([run])
    header, *lines = rows_of(frame, View(protocols=("pgd20", "worst"), checkpoints=("last",)))
    assert (header[3:], [line[3:] for line in lines]) == (["checkpoint", "pgd20", "worst"], [["last", "60.0", "40.0"]])
    notes = notes_of(frame, View(protocols=("pgd20", "worst")))
    assert (
        "none of fgsm, pgd20, aa fooled" in notes and "weighted" not in notes and "Protocol versions: pgd20 1." in notes
    )
    assert "quote aa, never pgd20." in notes  # a warning holds of what is shown as well
    few = View(columns=("run", "aa", "clean"), checkpoints=("last",), intervals=False)
    write(frame, tmp_path / "out", "t", [run], view=few)
    text = (tmp_path / "out" / "t.md").read_text()
    assert lines_of(text)[::2] == [["run", "aa", "clean"], ["rslad-digits", "40.0", "90.0"]]
    low, high = wilson(4, 10)
    assert f"the 95 % intervals of the n images, not shown, are at most {100 * (high - low):.1f} points wide." in text
    assert (tmp_path / "out" / "t.csv").read_bytes() == write(frame, tmp_path / "all", "t", [run])[0].read_bytes()
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(console(frame, [run], few))
    assert "rslad-digits " in screen.export_text() and "resnet8" not in screen.export_text(clear=False)
    for view, said in (
        (View(protocols=("add",)), "Unknown protocol in these results: 'add'"),
        (View(checkpoints=("averaged",)), "Unknown checkpoint in these results: 'averaged'"),
    ):
        with pytest.raises(ArdbenchError, match=said):
            view.check(frame)
    with pytest.raises(ArdbenchError, match="Unknown column of these tables: 'robust'"):
        console(frame, [run], View(columns=("run", "robust")))


def test_intervals_that_are_not_shown_are_not_explained(tmp_path: Path) -> None:
    runs = [measured(tmp_path, "rslad", FULL, seed=seed) for seed in (0, 1)]
    verdict(runs[0], "aa", 3, checkpoint="best")
    write(collect(runs), tmp_path, "t", runs, view=View(intervals=False))
    for name in ("t.md", "t.tex"):
        assert "[" not in "".join(
            line for line in (tmp_path / name).read_text().splitlines() if "wide" in line or "&" in line
        )
        assert "[low, high]" not in (tmp_path / name).read_text()
    assert "± 0.0 (2)" in (tmp_path / "t.md").read_text()  # between seeds: no interval


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX is installed")
def test_a_fitted_table_is_no_wider_than_the_line(tmp_path: Path) -> None:
    names = ("fgsm", "pgd20", "pgd20-trades", "cw20", "mim20", "pgd100", "square")
    runs = [measured(tmp_path, name, FULL | dict.fromkeys(names, 5)) for name in ("rslad", "trades")]
    frame = collect(runs)
    for fits in (False, True):
        (tmp_path / "t.tex").write_text(
            r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
            + latex(tables(frame, View()), fits)
            + r"\end{document}"
        )
        words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
        said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert ("Overfull" in said) != fits


def test_a_fitted_table_has_the_words_and_numbers_of_the_other(tmp_path: Path) -> None:
    runs = [measured(tmp_path, name, FULL) for name in ("rslad", "trades")]
    plain, fitted = (latex(tables(collect(runs)), fits) for fits in (False, True))
    assert "graphicx" not in plain and fitted.startswith("% \\usepackage{booktabs,graphicx}\n")
    pieces = re.compile(r"\d+\.\d|rslad-digits|resnet8")
    assert sorted(pieces.findall(plain)) == sorted(pieces.findall(fitted))
    assert fitted.count("{") == fitted.count("}") and fitted.count(r"\resizebox") == fitted.count(r"\end{table}")


OWN = """method,student,teacher,dataset,checkpoint,metric,value_percent,kind,paper
rslad,resnet8,wide,digits,last,aa,41.5,mine,"D, 2026"
rslad,resnet8,wide,digits,last,square,1.0,mine,"D, 2026"
rslad,resnet18,wide,digits,last,aa,2.0,mine,"D, 2026"
"""


def test_own_published_numbers_stand_beside_any_run(tmp_path: Path) -> None:
    run, file = measured(tmp_path / "runs", "rslad", FULL), tmp_path / "mine.csv"
    file.write_text(OWN, encoding="utf-8-sig")  # as spreadsheets write it
    shown = call("report", run.path, "--published", file, "--out", tmp_path / "out")
    assert shown.exit_code == 0
    (quoted,) = [line for line in lines_of((tmp_path / "out" / "report.md").read_text()) if "published" in line[0]]
    assert quoted[0] == "*published: D, 2026 (mine)*" and quoted[6].startswith("*41.50 (")
    assert ardbench.results(run, published=file)["published"].dropna().tolist() == [0.415]
    for content, said in {
        "": "it has no column 'method'",
        OWN.replace("value_percent", "value"): "it has no column 'value_percent'",
        OWN.replace("41.5", "141.5"): "row 1: value_percent is '141.5', which is no accuracy from 0 to 100",
        OWN.replace("1.0", "nan"): "row 2: value_percent is 'nan'",
        OWN + "rslad,resnet8\n": "row 4 ends before its teacher",
        OWN.splitlines()[0]: "holds no numbers: write one a line",
    }.items():
        file.write_text(content)
        with pytest.raises(ArdbenchError, match=re.escape(said)):
            ardbench.results(run, published=file)


def told(run: Run, rows: list[dict[str, float]]) -> Run:
    costs = {"seconds": 1.0, "images": 50}
    text = "".join(json.dumps({"epoch": i, **row, **costs}) + "\n" for i, row in enumerate(rows))
    (run.path / "metrics.jsonl").write_text(text)
    return run


def test_seeds_are_one_curve_in_a_band(tmp_path: Path) -> None:
    losses = ((3.0, 2.0, 1.0), (5.0, 2.0), (4.0, 2.0, 9.0))
    seeds = [
        told(make_run(tmp_path, of("rslad", seed=i)), [{"loss": one} for one in some]) for i, some in enumerate(losses)
    ]
    other = told(make_run(tmp_path, of("trades")), [{"loss": 1.5}])
    groups = by_setting(cells_of([*seeds, other]))
    assert {name: len(group) for name, group in groups.items()} == {
        "rslad-digits, resnet8 (3 seeds)": 3,
        other.path.name: 1,
    }
    (axes,) = curves(groups).axes
    mean, single = axes.lines
    assert [list(map(float, data)) for data in mean.get_data()] == [[1, 2], [4.0, 2.0]]  # epoch 3 is not there of all
    assert [list(map(float, data)) for data in single.get_data()] == [[1], [1.5]]
    (band,) = axes.collections
    corners = {tuple(map(float, point)) for point in band.get_paths()[0].vertices}
    assert corners == {(1.0, 3.0), (1.0, 5.0), (2.0, 2.0)}  # 4 ± 1, 2 ± 0


def test_a_loss_that_was_no_number_leaves_a_gap(tmp_path: Path) -> None:
    losses = ((1.0, math.nan, math.inf), (2.0, 2.0, math.inf))
    seeds = [
        told(make_run(tmp_path, of("rslad", seed=i)), [{"loss": one} for one in some]) for i, some in enumerate(losses)
    ]
    (axes,) = curves({"rslad": seeds}).axes
    means = list(map(float, axes.lines[0].get_data()[1]))
    assert means[0] == 1.5 and math.isnan(means[1]) and means[2] == math.inf


def test_every_setting_is_drawn_however_many_they_are(tmp_path: Path) -> None:
    runs = [
        told(make_run(tmp_path / "runs", of("rslad", schedule={"epochs": 4 + i, "kind": "constant"})), [{"loss": 1.0}])
        for i in range(9)
    ]
    groups = by_setting(cells_of(runs))
    assert len(groups) == 9 and sorted(run.path for some in groups.values() for run in some) == sorted(
        r.path for r in runs
    )
    words = ["report", "--runs", tmp_path / "runs", "--curves", "--out", tmp_path / "out"]
    names = [Path(line).name for line in call(*words).stdout.splitlines()]
    assert names == [f"{name}.{ending}" for name in ("curves", "curves-2") for ending in ("png", "svg", "pdf")]


SUITE = """
title = "small"
protocols = ["clean", "aa"]
runs = [
    { name = "ours", recipe = "pgd-at-digits", seeds = [0, 1] },
    { name = "theirs", recipe = "trades-digits" },
]
"""


def test_the_curves_of_a_suite_lie_beside_its_runs(tmp_path: Path) -> None:
    from ardbench.campaigns.cells import planned

    suite, runs = tmp_path / "small.toml", tmp_path / "runs"
    suite.write_text(SUITE)
    words = ["report", suite, "--runs", runs, "--curves"]
    nothing = call(*words)
    assert (
        nothing.exit_code == 2
        and "No run there has a finished epoch yet: type ardbench reproduce small." in nothing.stderr
    )
    for cell_ in planned(str(suite), runs)[1][:2]:
        told(make_run(runs, cell_.recipe), [{"loss": 1.0}])
    paths = [runs / f"small-curves.{ending}" for ending in ("png", "svg", "pdf")]
    assert call(*words).stdout.splitlines() == [str(path) for path in paths] and all(path.is_file() for path in paths)
    assert call(*words, "--out", tmp_path / "out").stdout.splitlines() == [
        str(tmp_path / "out" / p.name) for p in paths
    ]
    assert list(by_setting(planned(str(suite), runs)[1])) == ["ours (2 seeds)", "theirs"]


def test_clean_against_aa_has_the_intervals_of_the_table(tmp_path: Path) -> None:
    runs = [measured(tmp_path, "rslad", FULL | {"clean": 7 + seed, "aa": 3 + 2 * seed}, seed=seed) for seed in (0, 1)]
    runs += [measured(tmp_path, "trades", FULL), measured(tmp_path, "mart", {"clean": 5})]
    runs.append(measured(tmp_path, "trades", FULL, student="resnet18"))
    ((key, figure),) = tradeoffs(collect(runs)).items()
    assert key == ("aa", "digits (linf, eps 8/255)")
    (axes,) = figure.axes
    found = {}
    for bars in axes.containers:
        (x,), (y,) = (map(float, data) for data in bars.lines[0].get_data())
        ends = [[list(map(float, point)) for point in one.get_segments()[0]] for one in bars.lines[2]]
        found[bars.get_label()] = (x, y, [end[0] for end in ends[0]], [end[1] for end in ends[1]])
    low, high = wilson(9, 10), wilson(4, 10)
    trades = (90.0, 40.0, [100 * low[0], 100 * low[1]], [100 * high[0], 100 * high[1]])
    s, t = 100 * statistics.stdev((0.7, 0.8)), 100 * statistics.stdev((0.3, 0.5))
    expected = {
        "trades-digits, resnet8, 95 % of 10 images": trades,
        "trades-digits, resnet18, 95 % of 10 images": trades,
        "rslad-digits, ± s of 2 seeds": (75.0, 40.0, [75 - s, 75 + s], [40 - t, 40 + t]),
    }
    assert found.keys() == expected.keys()
    for name, (x, y, across, up) in expected.items():
        assert found[name][:2] == (pytest.approx(x), pytest.approx(y))
        assert found[name][2] == pytest.approx(across) and found[name][3] == pytest.approx(up)
    assert next(iter(tradeoffs(collect(runs), View(protocols=("clean", "pgd20")))))[0] == "pgd20"
    for protocol, correct in {"clean": 9, "aa": 4}.items():
        verdict(runs[2], protocol, correct, checkpoint="best")
    figure = tradeoffs(collect(runs[2:]))[key]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "trades-digits, resnet8, best and last", "trades-digits, resnet18, last",
    ]  # fmt: skip
    assert figure.legends[0].get_title().get_text() == "bars of aa: 95 % of 10 images"
    one = tmp_path / "one"
    words = ("report", *(run.path for run in runs), "--student", "resnet18", "--out", one)
    assert call(*words).exit_code == 0 and call(*words, "--tradeoff").exit_code == 0
    assert [line.split("|")[2].strip() for line in (one / "report.md").read_text().splitlines()[4:7]][-1] == "resnet18"
    assert set(pd.read_csv(one / "report.csv")["student"]) == {"resnet18"}
    assert call("report", one / "report.csv", "--student", "resnet18").exit_code == 0
    refused = call("report", one / "report.csv", "--student", "resnet8")
    assert refused.exit_code == 2 and "Unknown student among these networks: 'resnet8'" in refused.stderr
    made = call("report", runs[2].path, "--tradeoff").stdout.splitlines()
    assert made == [str(runs[2].path / f"clean-aa.{ending}") for ending in ("png", "svg", "pdf")]


def test_the_verbs_give_what_the_command_gives(tmp_path: Path) -> None:
    runs = [measured(tmp_path / "runs", name, FULL) for name in ("rslad", "trades")]
    frame = ardbench.results(tmp_path / "runs")
    assert (
        frame.equals(collect(runs))
        and frame.equals(ardbench.results(runs))
        and len(ardbench.results(runs[0])) < len(frame)
    )
    made = ardbench.report(runs=tmp_path / "runs", out=tmp_path / "api", html=tmp_path / "api.html")
    words = ["report", "--runs", tmp_path / "runs", "--out", tmp_path / "cli", "--html", tmp_path / "cli.html"]
    assert call(*words).exit_code == 0
    assert made.frame.equals(frame) and made.tables == [*tables(frame), *made.tables[len(tables(frame)) :]]
    assert [path.name for path in made.paths][:3] == ["report.csv", "report.md", "report.tex"]
    for path in made.paths[:-1]:
        assert path.read_bytes() == (tmp_path / "cli" / path.name).read_bytes()
    page = (tmp_path / "api.html").read_text()
    assert page == (tmp_path / "cli.html").read_text() and "Clean against attacked accuracy" in page
    again = ardbench.results(tmp_path / "api" / "report.csv")
    assert again["value"].equals(frame["value"]) and ardbench.report(tmp_path / "api" / "report.csv").tables == tables(
        frame
    )
    with pytest.raises(ArdbenchError, match="There is no run under"):
        ardbench.report(runs=tmp_path / "nowhere")
    with pytest.raises(ArdbenchError, match="name runs or a suite"):
        ardbench.results(tmp_path / "api" / "report.csv", published=tmp_path / "mine.csv")
    for words, said in (
        (["--curves", "--out", tmp_path], "name runs or a suite for"),
        (["--tradeoff"], "--out FOLDER"),
    ):
        refused = call("report", tmp_path / "api" / "report.csv", *words)
        assert refused.exit_code == 2 and said in refused.stderr
    drawn = call("report", tmp_path / "api" / "report.csv", "--tradeoff", "--out", tmp_path / "figures").stdout.split()
    assert [Path(path).name for path in drawn] == ["clean-aa.png", "clean-aa.svg", "clean-aa.pdf"]
