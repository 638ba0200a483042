"""What is bold, what was reached, and who is better: against cases worked out on paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_call import call
from test_reports import cell, lines_of, make_run, recipe, verdict
from test_reports import published_file as published_file

from ardbench import compare, compare_all, ranking
from ardbench.campaigns.cells import planned
from ardbench.errors import ArdbenchError
from ardbench.reports import collect, collect_suite, read, tables, write
from ardbench.reports.judging import Answers, judgement, winners
from ardbench.runs import Run


def result(robust: Sequence[int], setting: str, question: int = 0, **changes: Any) -> tuple[dict[str, Any], Answers]:
    """Return a row whose images are right where `robust` is 1."""
    about = {
        "dataset": "digits", "norm": "linf", "eps": 0.1, "protocol": "aa", "protocol_version": 1, "checkpoint": "best",
        "selection": "best-val", "student": "resnet8", "total": len(robust), "suite_name": "", "setting": setting,
    }  # fmt: skip
    return about | {"value": sum(robust) / len(robust)} | changes, Answers(question, bytes(robust))


def best(*results: tuple[dict[str, Any], Answers]) -> list[str]:
    return [row["setting"] for row in winners(results)]


def right(first: int, n: int = 20) -> list[int]:
    return [1] * first + [0] * (n - first)


def test_one_is_best_only_if_it_beats_every_other() -> None:
    """Of 20 images: 6 against 0 gives p = 2/64 = 0.031, 5 against 0 gives p = 2/32 = 0.063."""
    assert best(result(right(16), "a"), result(right(10), "b")) == ["a"]
    assert best(result(right(16), "a"), result(right(11), "b")) == []
    assert best(result(right(16), "a"), result(right(11), "b"), result(right(2), "c")) == []
    assert best(result(right(16), "a")) == []


def test_p_values_are_corrected_by_holm() -> None:
    """p = 0.031 alone is enough; beside a second one of 0.031 it must stay under 0.025; beside 0.0002 it need not."""
    assert best(result(right(16), "a"), result(right(10), "b"), result(right(10), "c")) == []
    assert best(result(right(16), "a"), result(right(10), "b"), result(right(2), "c")) == ["a"]


@pytest.mark.parametrize(
    "change",
    [
        {"student": "resnet18"},
        {"checkpoint": "last"},
        {"selection": "best-test"},
        {"protocol": "pgd20"},
        {"eps": 0.2},
        {"total": 40},
        {"question": 1},
    ],
)
def test_only_what_was_measured_alike_is_compared(change: dict[str, Any]) -> None:
    assert best(result(right(20), "a"), result(right(2), "b", **change)) == []


def test_seeds_are_compared_by_their_means_and_never_with_a_single_one() -> None:
    """0.80, 0.85, 0.90 against 0.20, 0.25, 0.30 (t = 14.7, with images 5.7); with one seed on one side nothing is best."""
    first = [result(right(k), "a", seed=k) for k in (16, 17, 18)]
    second = [result(right(k), "b", seed=k) for k in (4, 5, 6)]
    assert best(*first, *second) == ["a", "a", "a"]
    assert best(*first, second[0]) == []
    near = [result(right(k), "b", seed=k) for k in (15, 17, 19)]
    assert best(*first, *near) == []
    assert best(*[result(right(18), "a")] * 2, *[result(right(4), "b")] * 2) == []  # no spread: nothing is known of it
    assert best(*[result(right(4), "a")] * 2, *[result(right(4), "b")] * 2, *first) == []


def test_the_best_is_bold_in_every_dress_and_in_tables_made_from_the_csv(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, recipe(method={"name": name})) for name in ("rslad", "pgd-at")]
    for run, correct in zip(runs, (9, 1), strict=True):
        verdict(run, "aa", correct)
        verdict(run, "clean", 9)
    write(collect(runs), tmp_path, "t", runs)
    text, latex = (tmp_path / "t.md").read_text(), (tmp_path / "t.tex").read_text()
    assert "**90.0** [59.6, 98.2]" in text and text.count("**") == 2  # clean: as good
    assert r"\textbf{90.0}" in latex and latex.count("textbf") == 1
    assert "Bold: better than every other run" in text
    bold = [entry.text for row in tables(read(tmp_path / "t.csv"))[0].rows for entry in row.entries if entry.bold]
    assert bold == ["90.0"]


@pytest.mark.usefixtures("published_file")
@pytest.mark.parametrize(
    ("correct", "seeds", "word"),
    [
        (8338 + 50, 1, "match; ± 1.3§"),  # 2 sqrt(0.1352 / 10^4 + 2 * 0.004^2) = 0.01349
        (8338 - 50, 1, "match; ± 1.4§"),  # 2 sqrt(0.1419 / 10^4 + 2 * 0.004^2) = 0.01359
        (8338 - 51, 1, "within noise; ± 1.4§"),
        (8338 - 137, 2, "off; ± 1.2§"),  # 2 sqrt(0.1475 / 10^4 + 1.5 * 0.004^2) = 0.01245
        (8338 - 51, 3, "within noise; ± 0.8"),  # three seeds that agree: s = 0, and 2 sqrt(0.14 / 10^4): 0.75 points
        (8338 - 101, 3, "off; ± 0.8"),
    ],
)
def test_a_published_number_was_reached_or_not(correct: int, seeds: int, word: str, tmp_path: Path) -> None:
    cells = []
    for seed in range(seeds):
        of = recipe(family="as-released", seed=seed, selection={"by": "best-val", "protocol": "pgd20"})
        verdict(make_run(tmp_path, of), "clean", correct, n=10_000, total=10_000, checkpoint="best")
        cells.append(cell(tmp_path, of, "mine"))
    write(collect_suite(cells), tmp_path, "t", [one.run for one in cells])
    lines = lines_of((tmp_path / "t.md").read_text())
    quoted = next(line for line in lines if line[0] == "*published: A, 2021 (paper)*" and line[3] == "*best*")
    assert quoted[4] == f"*83.38 ({word})*"
    assert r"$\S$" in (tmp_path / "t.tex").read_text() or seeds == 3
    row = next(row for _, row in read(tmp_path / "t.csv").iterrows() if row["verdict"] and row["checkpoint"] == "best")
    assert row["verdict"] == word.split(";")[0]
    assert row["difference"] == pytest.approx(correct / 10_000 - 0.8338)
    assert f"{100 * row['tolerance']:.1f}" == word.split("± ")[1].rstrip("§")
    assert row["assumed"] == (seeds < 3) == ("§ s is assumed, 0.4 points" in (tmp_path / "t.md").read_text())


def test_the_deviation_of_three_seeds_is_used() -> None:
    """s = 0.02 of 0.48, 0.50, 0.52: 2 sqrt(0.25 / 10^4 + 0.0004 * 4/3) = 0.04726; half a point is 0.005."""
    assert judgement(0.453, [0.48, 0.5, 0.52], 10_000) == pytest.approx(("within noise", 0.047, 0.0472582, False))
    assert judgement(0.452, [0.48, 0.5, 0.52], 10_000).verdict == "off"


@pytest.mark.usefixtures("published_file")
def test_a_number_is_judged_by_the_newest_version_on_the_most_images_of_finished_runs(tmp_path: Path) -> None:
    of = recipe(family="as-released")
    run = make_run(tmp_path, of)
    verdict(run, "clean", 8440, n=10_000, total=10_000, version=2)
    verdict(run, "clean", 20, n=1000, total=10_000, version=2)
    verdict(run, "pgd20-trades", 1, n=10_000, total=10_000)
    frame = collect([run])
    last = frame[(frame["checkpoint"] == "last") & (frame["protocol"] == "clean") & frame["published"].notna()]
    assert last["verdict"].tolist() == ["match", "match", "off"]  # 84.44, 84.50, 11.00
    (run.path / "done").unlink()
    assert set(collect([run])["verdict"]) == {""}


def test_a_worst_case_is_compared_with_those_over_the_same_attacks(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, recipe(method={"name": name})) for name in ("rslad", "pgd-at", "trades")]
    for run, protocols in zip(runs, (("pgd20", "aa"), ("pgd20", "aa"), ("pgd20", "cw20")), strict=True):
        for protocol in protocols:
            verdict(run, protocol, {0: 9, 1: 1, 2: 10}[runs.index(run)])
    frame = collect(runs)
    assert frame.loc[frame["winner"].fillna(False), ["method", "protocol"]].values.tolist() == [
        ["rslad", "aa"],
        ["rslad", "worst"],
    ]


def sides(root: Path, first: int, second: int, n: int = 20) -> list[Run]:
    runs = [make_run(root, recipe(method={"name": name})) for name in ("rslad", "pgd-at")]
    for run, correct in zip(runs, (first, second), strict=True):
        verdict(run, "aa", correct, n=n, total=n)
        verdict(run, "clean", n, n=n, total=n)
        verdict(run, "unbounded", 0, n=n, total=n)  # of the trust checks: nobody is compared by it
    return runs


def test_compare_says_which_is_better_and_by_how_much(tmp_path: Path) -> None:
    a, b = sides(tmp_path, 16, 10)
    for first, second, names, alone in ((a, b, "AB", (6, 0)), (b, a, "BA", (0, 6))):
        text = call("compare", first.path, second.path).stdout
        assert text.splitlines()[0] == (
            f"{names[0]} ({a.path.name}) is better than {names[1]} ({b.path.name}) under aa by 30.0 points "
            f"(95 % interval 10.0 to 50.0) at n = 20; A alone is right on {alone[0]} images, B alone on {alone[1]}, "
            "McNemar's exact p = 0.031."
        )
    document = json.loads(call("compare", a.path, b.path, "--json").stdout)
    clean, aa = document["differences"]
    assert (clean["protocol"], clean["difference"], clean["p"], clean["told_apart"]) == ("clean", 0, 1, False)
    assert (aa["a"], aa["b"], aa["alone"], aa["told_apart"]) == (0.8, 0.5, [6, 0], True)


def test_compare_says_when_nothing_can_be_said(tmp_path: Path) -> None:
    a, b = sides(tmp_path, 16, 11)
    text = call("compare", a.path, b.path).stdout
    assert text.startswith(
        f"A ({a.path.name}) and B ({b.path.name}) cannot be told apart under aa at n = 20: A - B is "
    )
    assert "+25.0 points (95 % interval +10.0 to +45.0)" in text and "p = 0.062" in text


def test_compare_takes_the_checkpoint_and_the_images_that_both_have(tmp_path: Path) -> None:
    a, b = sides(tmp_path, 16, 10)
    verdict(a, "aa", 3, n=20, total=20, checkpoint="best")  # b has none
    verdict(a, "aa", 4, n=5, total=20)
    verdict(b, "aa", 2, n=5, total=20)
    verdict(a, "unbounded", 0, n=20, total=20)
    verdict(b, "unbounded", 0, n=20, total=20)  # measured for the trust checks alone
    verdict(a, "pgd20", 0, n=20, total=20)
    verdict(b, "pgd20", 0, n=20, total=20, version=2)
    document = json.loads(call("compare", a.path, b.path, "--json").stdout)
    found = [(one["protocol"], one["n"]) for one in document["differences"]]
    assert (document["checkpoint"], document["about"], found) == ("last", "aa", [("clean", 20), ("aa", 20)])
    assert "pgd20 was measured in another version" in call("compare", a.path, b.path).stdout
    fewer = json.loads(call("compare", a.path, b.path, "--json", "--n", 5).stdout)
    assert [(one["protocol"], one["alone"]) for one in fewer["differences"]] == [("aa", [2, 0])]
    verdict(b, "aa", 2, n=20, total=20, checkpoint="best")
    assert json.loads(call("compare", a.path, b.path, "--json").stdout)["checkpoint"] == "best"


def test_a_small_measurement_of_both_does_not_change_what_the_sentence_is_about(tmp_path: Path) -> None:
    a, b = sides(tmp_path, 16, 10)

    def about() -> tuple[str, int, str]:
        document = json.loads(call("compare", a.path, b.path, "--json").stdout)
        (one,) = (one for one in document["differences"] if one["protocol"] == document["about"])
        return document["about"], one["n"], document["checkpoint"]

    for protocol, n, checkpoint in (
        ("clean", 5, "best"),
        ("pgd20", 5, "best"),
        ("pgd20", 5, "last"),
        ("aa", 5, "best"),
    ):
        for run in (a, b):
            verdict(run, protocol, 0, n=n, total=20, checkpoint=checkpoint)  # lower than all that was measured before
        assert about() == ("aa", 20, "last")
    for run in (a, b):
        verdict(run, "aa", 9, n=20, total=20, checkpoint="best")
    assert about() == ("aa", 20, "best")
    one = json.loads(call("compare", a.path, b.path, "--protocol", "pgd20", "--json").stdout)
    assert (one["about"], one["checkpoint"]) == ("pgd20", "best")


def test_among_attacks_the_sentence_is_about_the_one_on_the_most_images_that_fools_most(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path, recipe(method={"name": name})) for name in ("rslad", "pgd-at"))
    for protocol, right, n in (("clean", 1, 20), ("fgsm", 1, 5), ("pgd20", 8, 20), ("cw20", 7, 20)):
        for run in (a, b):
            verdict(run, protocol, right, n=n, total=20)
    sentence = call("compare", a.path, b.path).stdout.splitlines()[0]
    assert "under cw20 at n = 20" in sentence


def test_clean_accuracies_are_compared_whatever_the_threat(tmp_path: Path) -> None:
    a, b = sides(tmp_path, 16, 10)
    for protocol in ("clean", "aa"):
        verdict(b, protocol, 10, n=20, total=20, threat={"norm": "l2", "eps": 0.5})
    assert " is better than " in call("compare", a.path, b.path).stdout
    refused = call("compare", a.path, b.path, "--protocol", "aa")
    assert refused.exit_code == 2 and "under another threat" in refused.stderr


def two_settings(root: Path) -> Path:
    """Write a suite of a and b with three seeds each, of 20 images 16, 17 and 18 right in a and 4, 5 and 6 in b."""
    suite = root / "two.toml"
    suite.write_text(
        'title = "Two"\nseeds = [0, 1, 2]\nprotocols = ["clean"]\n'
        'runs = [{ name = "a", recipe = "pgd-at-digits" }, { name = "b", recipe = "trades-digits" }]\n'
    )
    for one in planned(str(suite), root)[1]:
        run, correct = make_run(root, one.recipe), (16 if one.name == "a" else 4) + one.recipe.seed
        for checkpoint in ("last", "best"):
            verdict(run, "clean", correct, n=20, total=20, checkpoint=checkpoint)
    return suite


def test_compare_takes_a_suites_run_with_its_seeds(tmp_path: Path) -> None:
    suite = two_settings(tmp_path)
    text = call("compare", f"{suite}:a", f"{suite}:b", "--runs", tmp_path).stdout
    assert text.startswith(
        "A (a) is better than B (b) on clean images by 60.0 points (95 % interval 39.4 to 80.6) at n = 20 over 3 and 3 seeds; "
        "Welch's p over seeds and images = "
    )
    assert "85.0 ± 5.0 (3)" in text


@pytest.mark.parametrize(
    ("lost", "seeds", "said"),
    [
        ("*-s[12]-*/done", "1 and 1", "a measured 0; b measured 0"),
        ("trades-*-s2-*/done", "3 and 2", "b measured 0 and 1"),
        ("trades-*-s[02]-*/done", "1 and 1", "b measured 1; a shared 1"),
        ("trades-*-s2-*/eval/*/*.json", "3 and 2", "b measured 0 and 1"),
        ("trades-*-s[12]-*/eval/last/*.json", "1 and 1", "b measured 0; a shared 0"),
    ],
)
def test_compare_takes_what_there_is_of_a_suite_under_way(lost: str, seeds: str, said: str, tmp_path: Path) -> None:
    suite = two_settings(tmp_path)
    for path in tmp_path.glob(lost):
        path.unlink()
    made = call("compare", f"{suite}:a", f"{suite}:b", "--runs", tmp_path)
    told = (words.split(maxsplit=2) for words in said.split("; "))
    lines = [f"Of the 3 seeds of {suite}:{name} those that are {how}: {which}." for name, how, which in told]
    assert made.stderr.splitlines() == lines
    assert ("McNemar's exact p" if seeds == "1 and 1" else f"over {seeds} seeds") in made.stdout
    assert "A (a) is better than B (b) on clean images by 6" in made.stdout


def test_a_suite_stands_for_all_of_its_runs_and_a_table_ranks_them(tmp_path: Path) -> None:
    """Right of 20: 10 in a, 19 in b, 16 in c, and d and e, which have other networks, are not measured."""
    suite = tmp_path / "four.toml"
    suite.write_text(
        'title = "Four"\nprotocols = ["clean"]\ncheckpoints = ["last"]\nruns = [{ name = "a", recipe = "pgd-at-digits" }, '
        '{ name = "b", recipe = "trades-digits" }, { name = "c", recipe = "mart-digits" }, '
        '{ name = "d", recipe = "pgd-at-digits", student = "resnet18" }, '
        '{ name = "e", recipe = "pgd-at-digits", student = "resnet20", evaluate = false }]\n'
    )
    for one, correct in zip(planned(str(suite), tmp_path)[1], (10, 19, 16, None, None), strict=True):
        run = make_run(tmp_path, one.recipe)
        if correct:
            verdict(run, "clean", correct, n=20, total=20)
    made = call("compare", suite, "--runs", tmp_path)
    assert made.stderr == f"Of the 5 runs of {suite} those that are measured: a, b, c.\n"
    assert made.stdout.count("Holm-corrected for 3 pairs") == 3
    assert "clean at last, n = 20: row minus column in points, * told apart." in made.stdout
    assert "\n b   95.0   +15.0   +45.0*\n c   80.0            +30.0\n a   50.0\n" in made.stdout
    ranked = ranking(compare_all([suite], runs=tmp_path))
    assert ranked.columns.tolist() == ["%", "c", "a"] and ranked.index.tolist() == ["b", "c", "a"]
    assert ranked.values.tolist() == [["95.0", "+15.0", "+45.0*"], ["80.0", "", "+30.0"], ["50.0", "", ""]]
    beside = make_run(tmp_path, recipe(method={"name": "rslad"}))
    verdict(beside, "clean", 9, n=20, total=20)
    with pytest.raises(ArdbenchError, match="SUITE:NAME, or take compare_all"):
        compare(suite, beside, runs=tmp_path)
    alone = call("compare", suite, "--student", "resnet20", "--runs", tmp_path)
    assert alone.exit_code == 2 and "Unknown student among these networks: 'resnet20'" in alone.stderr
    one = call("compare", f"{suite}:a", "--runs", tmp_path)
    assert one.exit_code == 2 and "name two or more, or a suite with several runs" in one.stderr


def test_nothing_of_a_suite_is_compared_before_it_is_finished_or_with_a_run_of_several(tmp_path: Path) -> None:
    suite = two_settings(tmp_path)
    one = call("compare", f"{suite}:a", next(tmp_path.glob("trades-*")), "--runs", tmp_path)
    assert one.exit_code == 2 and "A has 3 seeds and B 1" in one.stderr
    for path in tmp_path.glob("pgd-at-*/done"):
        path.unlink()
    refused = call("compare", f"{suite}:a", f"{suite}:b", "--runs", tmp_path)
    assert (
        refused.exit_code == 2 and f"No run of {suite}:a is finished below {tmp_path}: type ardbench" in refused.stderr
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{a}", "nowhere"], "There is no run directory or file nowhere"),
        (["{a}", "{b}", "--protocol", "cw20"], "Unknown protocol that both"),
        (["{a}", "{b}", "--n", "7"], "have no evaluation of one protocol on 7 images"),
        (
            ["{a}", "{b}", "--checkpoint", "averaged"],
            "have no evaluation of one protocol at checkpoint averaged on as many images",
        ),
        (["{a}", "digits:nothing"], "Unknown run of suite digits: 'nothing'"),
        (["{a}", "{other}"], "that are not the same ones"),
        (["{a}", "{unfinished}"], "is not finished"),
    ],
)
def test_what_cannot_be_compared_is_refused(words: list[str], sentence: str, tmp_path: Path) -> None:
    a, b = sides(tmp_path, 16, 10)
    other = make_run(tmp_path, recipe(method={"name": "trades", "beta": 6}))
    verdict(other, "aa", 10, n=20, total=20, index=list(range(1, 21)))
    unfinished = make_run(tmp_path, recipe(method={"name": "standard"}), finished=False)
    names = {"a": a.path, "b": b.path, "other": other.path, "unfinished": unfinished.path}
    done = call("compare", *(word.format(**names) for word in words))
    assert done.exit_code == 2 and sentence in done.stderr, done.output
