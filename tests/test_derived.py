"""Columns that are made of verdicts on demand, against numbers worked out on paper and intervals of a plain loop."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from statistics import pstdev, quantiles

import pytest
from cli_call import call
from test_reports import lines_of, make_run, recipe, verdict

from ardbench.campaigns.suites import load_suite
from ardbench.errors import ArdbenchError
from ardbench.evaluation import derived
from ardbench.evaluation.protocols import TAKEN
from ardbench.evaluation.statistics import paired_interval
from ardbench.reports import View, collect, tables, write
from ardbench.reports.reference import Reference
from ardbench.runs import Run

COUNTS = {0: (80, 100), 3: (40, 100), 8: (60, 100)}
LABELS = [0, 0, 0, 0, 3, 3, 3, 3, 3, 8]
CLEAN = [0, 0, 0, 1, 3, 3, 3, 3, 5, 8]  # 8 of 10
ATTACKED = [0, 0, 6, 1, 5, 5, 3, 9, 5, 8]  # 4 of 10: 2 of 4, 1 of 5, 1 of 1
ALL = ("worst-class", "nsd", "nrr", "overfitting")  # and minus-aa and aa-estimated, which need other attacks


def evaluated(root: Path, **changes: object) -> Run:
    """Return a run with best and last measured clean and attacked; best is one image better under attack."""
    run = make_run(root, recipe(**changes))
    for checkpoint, attacked in (("last", ATTACKED), ("best", [0, *ATTACKED[1:4], 3, *ATTACKED[5:]])):
        verdict(run, "clean", 0, labels=LABELS, predictions=CLEAN, checkpoint=checkpoint)
        verdict(run, "aa", 0, labels=LABELS, predictions=attacked, checkpoint=checkpoint)
    return run


def middle(drawn: list[float]) -> tuple[float, float]:
    cuts = quantiles(drawn, n=40, method="inclusive")
    return cuts[0], cuts[-1]


def test_balance_among_classes_is_that_of_hand_and_of_a_plain_bootstrap() -> None:
    lowest, balance = derived.worst_class(COUNTS), derived.nsd(COUNTS)
    assert lowest[0] == 0.4
    assert balance[0] == pytest.approx(math.sqrt(0.08 / 3) / 0.6)  # squares .04, .04 and 0 around .6
    draw, kept = Random(1), [[], []]
    for _ in range(1500):
        shares = [sum(draw.random() < right / n for _ in range(n)) / n for right, n in COUNTS.values()]
        kept[0].append(min(shares))
        kept[1].append(pstdev(shares) / (sum(shares) / 3))
    for found, drawn in zip((lowest, balance), kept, strict=True):
        assert found[1:] == pytest.approx(middle(drawn), abs=0.02)
    assert derived.nsd(COUNTS) == balance, "the same draws each time"
    assert derived.nsd({0: (5, 10), 1: (10, 20)})[0] == 0
    assert derived.nsd({0: (0, 10), 1: (0, 20)}) == (0, 0, 0) == derived.worst_class({0: (0, 9), 1: (0, 9)})


def test_the_harmonic_mean_is_that_of_hand_and_its_images_are_drawn_with_both_answers() -> None:
    clean, robust = [True] * 80 + [False] * 20, [True] * 40 + [False] * 60
    value, *ends = derived.nrr(clean, robust)
    assert value == pytest.approx(2 * 0.8 * 0.4 / 1.2)
    draw, drawn = Random(2), []
    for _ in range(1500):
        places = [draw.randrange(100) for _ in range(100)]
        c, r = (sum(answers[place] for place in places) / 100 for answers in (clean, robust))
        drawn.append(2 * c * r / (c + r))
    assert ends == pytest.approx(middle(drawn), abs=0.02)
    assert derived.nrr([False] * 9, [False] * 9) == (0, 0, 0)


def test_columns_are_made_where_they_are_asked_for(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    plain = collect([run])
    frame = collect([run], derived=[*ALL, "nsd:clean", "nsd:pgd20"])
    added = frame[frame["protocol"].map(derived.is_asked_for)]
    assert frame[~frame["protocol"].map(derived.is_asked_for)].reset_index(drop=True).equals(plain)
    found = {(row.checkpoint, row.protocol): (row.value, row.low, row.high) for row in added.itertuples()}
    shares = (2 / 4, 1 / 5, 1 / 1)
    assert found["last", "worst-class"][0] == 0.2
    assert found["last", "nsd"][0] == pytest.approx(pstdev(shares) / (sum(shares) / 3))
    assert found["last", "nsd:clean"][0] == pytest.approx(pstdev([3 / 4, 4 / 5, 1]) / (2.55 / 3))
    assert found["last", "nrr"][0] == pytest.approx(2 * 0.8 * 0.4 / 1.2)
    best, last = (
        [True] * 2 + [False] * 2 + [True, False, True, False, False, True],
        [a == b for a, b in zip(LABELS, ATTACKED, strict=True)],
    )
    assert found["best", "overfitting"] == pytest.approx((0.1, *paired_interval(best, last)))
    assert ("last", "overfitting") not in found and not added["winner"].any()
    assert "nsd:pgd20" not in set(added["protocol"]), "not measured"
    assert set(derived.DERIVED) < set(TAKEN)


def test_other_images_and_other_weights_have_no_number(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    verdict(run, "clean", 5, n=5, checkpoint="last")
    (run.path / "eval" / "last" / "clean.json").unlink()
    verdict(run, "aa", 0, labels=LABELS, predictions=CLEAN, key={"weights": "0" * 64})
    frame = collect([run], derived=ALL)
    found = set(zip(frame["checkpoint"], frame["protocol"], strict=True))
    assert {("best", "nrr"), ("best", "nsd")} < found
    assert not {("last", "nrr"), ("last", "nsd"), ("best", "overfitting")} & found


def test_numbers_are_of_the_images_that_both_are_on(tmp_path: Path) -> None:
    """AutoAttack on the first six: 2 of 6 there, 5 of 6 clean, 3 of 6 under PGD-20."""
    run = make_run(tmp_path, recipe())
    weaker = [0, 0, *ATTACKED[2:4], 3, *ATTACKED[5:]]  # one more than ATTACKED
    verdict(run, "clean", 0, labels=LABELS, predictions=CLEAN)
    verdict(run, "pgd20", 0, labels=LABELS, predictions=weaker)
    verdict(run, "aa", 0, n=6, labels=LABELS[:6], predictions=ATTACKED[:6])
    frame = collect([run], derived=["nrr", "minus-aa", "minus-aa:clean"]).set_index("protocol")
    assert list(frame.loc[["nrr", "minus-aa", "minus-aa:clean"], "n"]) == [6, 6, 6]
    assert frame.loc["nrr", "value"] == pytest.approx(2 * (5 / 6) * (2 / 6) / (7 / 6))
    right = [[a == b for a, b in zip(LABELS[:6], said, strict=False)] for said in (weaker, ATTACKED, CLEAN)]
    assert tuple(frame.loc["minus-aa", ["value", "low", "high"]]) == (1 / 6, *paired_interval(*right[:2]))
    assert frame.loc["minus-aa:clean", "value"] == 3 / 6
    verdict(run, "aa", 0, labels=LABELS, predictions=ATTACKED, threat={"norm": "linf", "eps": 0.5})
    assert list(collect([run], derived=["minus-aa"]).set_index("protocol").loc[["minus-aa"], "n"]) == [6], (
        "another threat"
    )


def test_tables_explain_them_and_nothing_else_changes(tmp_path: Path) -> None:
    runs = [evaluated(tmp_path, seed=seed) for seed in (0, 1)]
    plain, asked = (tables(collect(runs, derived=names))[0] for names in ((), ALL))
    assert set(plain.footnotes) < set(asked.footnotes) and set(asked.header) - set(plain.header) == set(ALL)
    assert [row.entries[:6] for row in plain.rows] == [row.entries[:6] for row in asked.rows]
    told = " ".join(asked.footnotes)
    assert "nsd: standard deviation / mean of the accuracies of all classes under aa" in told
    assert "Intervals of nrr, nsd, worst-class: 95 % percentile bootstraps, 10,000 draws from seed 0" in told
    cells = dict(zip(asked.header, asked.rows[0].entries, strict=True))
    assert (cells["overfitting"].text, cells["overfitting"].detail) == ("10.0", "± 0.0 (2)")  # best, of both seeds
    assert "± " not in tables(collect(runs[:1], derived=ALL))[0].rows[0].entries[-1].detail
    few = tables(collect(runs, derived=["nsd"]), View(columns=("run", "nsd")))[0]
    assert "nsd" in few.header and "Wilson" not in " ".join(few.footnotes)


def test_a_reference_is_not_held_against_them(tmp_path: Path) -> None:
    frame = collect([evaluated(tmp_path)], derived=ALL)
    frame.to_csv(tmp_path / "kept.csv", index=False)
    held = Reference(tmp_path / "kept.csv").hold(frame)
    assert {one.row["protocol"] for one in held.held} == {"clean", "aa"} and held.alone == 0


def test_the_command_shows_them_and_says_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evaluated(tmp_path / "runs")
    columns = "run,checkpoint,clean,aa,nrr,worst-class,nsd,overfitting"
    assert call("report", "--columns", columns, "--out", "out").exit_code == 0
    header, _, best, last, *_ = lines_of(Path("out/report.md").read_text())
    assert header == columns.split(",")
    assert [cell.partition(" ")[0] for cell in best[2:]] == ["80.0", "50.0", "61.5", "40.0", "41.4", "10.0"]
    assert last[-1] == ""
    assert call("report", "out/report.csv", "--columns", "run,nsd").exit_code == 0
    for words, said in (
        (("out/report.csv", "--columns", "run,nsd:clean"), "Column 'nsd:clean' is made of verdicts, and a CSV"),
        (("--columns", "run,nsd:pgd20"), "Column 'nsd:pgd20' needs pgd20 to be measured"),
        (("--columns", "run,nrr:pgd20"), "Column 'nrr:pgd20' needs clean and pgd20 to be measured"),
    ):
        refused = call("report", *words)
        assert refused.exit_code == 2 and said in refused.stderr


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ('["nsd", "worst-class:clean", "nrr"]', None),
        ('["overfitting"]', "'overfitting' needs aa of best and last"),
        ('["nsd:pgd20"]', "'nsd:pgd20' needs pgd20 to be measured"),
        ('["nds"]', "Unknown derived column 'nds': did you mean 'nsd'"),
    ],
)
def test_a_suite_asks_for_what_it_measures(tmp_path: Path, asked: str, said: str | None) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        f'title = "t"\nprotocols = ["clean", "aa"]\nderived = {asked}\nruns = [{{ name = "a", recipe = "pgd-at-digits" }}]'
    )
    if said is None:
        assert load_suite(str(path)).derived == ("nsd", "worst-class:clean", "nrr")
    else:
        with pytest.raises(ArdbenchError, match=said):
            load_suite(str(path))


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    frame = [collect([evaluated(tmp_path)], derived=ALL) for _ in range(2)]
    first, second = (write(one, tmp_path / str(place), "t")[0].read_bytes() for place, one in enumerate(frame))
    assert first == second
