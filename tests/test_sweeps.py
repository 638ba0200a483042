"""Several runs of one question: values that are typed, suites that vary, the sweep's table, seeds, epochs kept, early ends."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli_call import call
from small import recipe
from test_engine import equal, loop_of, rows, weights
from torch import nn

import ardbench
from ardbench.campaigns.cells import Cell, planned
from ardbench.campaigns.suites import Suite, load_suite
from ardbench.campaigns.varied import chosen
from ardbench.config import Recipe, Selection
from ardbench.engine.checkpoints import load_state
from ardbench.errors import ArdbenchError
from ardbench.evaluation.verdicts import Verdicts, file_name
from ardbench.recipes.values import several
from ardbench.reports import collect_suite
from ardbench.reports.sweep import CHOOSE, sweep_table
from ardbench.runs import Run, write_json
from ardbench.verbs.differences import differences

SMALL = ["--epochs", 2, "--dataset", "fake", "--device", "cpu", "--quiet"]
SETS = ("data.train_images=64", "data.validation=20", "attack.steps=1", "selection.protocol=fgsm")
SMALL += [word for one in SETS for word in ("--set", one)]


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0", [0]),
        ("0,1,2", [0, 1, 2]),
        ("0..2", [0, 1, 2]),
        ("7..7,3", [7, 3]),
        ("0.05,8/255", [0.05, "8/255"]),
        ("true,none", [True, "none"]),
        ("[0.5, 0.75],[0.6]", [[0.5, 0.75], [0.6]]),
    ],
)
def test_values_are_lists_and_ranges(text: str, values: list[Any]) -> None:
    assert several(text) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,,2", "holds an empty value"),
        ("3..1", "runs backwards: write the smaller number first, 1..3"),
        ("0..2,1", "names 1 twice"),
        ("0..99999999999999", "more than 1000 values"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(text: str, said: str) -> None:
    with pytest.raises(ArdbenchError, match=said):
        several(text)


# Suites that vary -----------------------------------------------------------------------------------------------------

VARIED = """title = "T"
protocols = ["clean"]
seeds = [3]
[[runs]]
name = "teacher"
recipe = "pgd-at-digits"
vary = { optimizer.lr = [0.1, 0.2], "data.batch" = [32], seed = [4, 5] }
[[runs]]
name = "student"
recipe = "rslad-digits"
teachers = ["teacher@lr=0.2,batch=32"]
"""


def test_a_suite_varies_into_the_runs_of_a_plan(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(VARIED)
    suite, cells = planned(str(tmp_path / "a.toml"), tmp_path)
    told = [(cell.name, cell.recipe.seed, cell.recipe.optimizer.lr, cell.recipe.data.batch) for cell in cells]
    assert told == [
        ("teacher@lr=0.1,batch=32", 4, 0.1, 32),
        ("teacher@lr=0.1,batch=32", 5, 0.1, 32),
        ("teacher@lr=0.2,batch=32", 4, 0.2, 32),
        ("teacher@lr=0.2,batch=32", 5, 0.2, 32),
        ("student", 3, cells[4].recipe.optimizer.lr, cells[4].recipe.data.batch),
    ]
    assert cells[4].teachers[0].source == "teacher@lr=0.2,batch=32"
    assert chosen(suite.runs[1]) == {"optimizer.lr": 0.2, "data.batch": 32}


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("{ optimizer = { lr = 1 } }", r"optimizer.lr = 1 is no list of values: write optimizer.lr = \[VALUE, VALUE\]"),
        ('{ "optimizer.lr" = 1 }', "optimizer.lr = 1 is no list of values"),
        ('{ "optimizer.lr" = [] }', r"optimizer.lr = \[\] is no list of values"),
        ('{ "data.batch" = [32, 32] }', "are the same run"),
        ('{ "optimizer.rl" = [1] }', "Unknown key in recipe pgd-at-digits, section optimizer: 'rl'"),
        ('{ seed = ["a"] }', "seed = 'a': input should be a valid integer"),
        (
            "{ seed = [0], 'data.batch' = [" + ",".join(map(str, range(1, 1002))) + "] }",
            "varies into 1,001 runs: give values for at most 1,000",
        ),
    ],
)
def test_what_does_not_vary_is_refused(vary: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        f'title = "T"\nprotocols = ["clean"]\n[[runs]]\nname = "a"\nrecipe = "pgd-at-digits"\nvary = {vary}'
    )
    with pytest.raises(ArdbenchError, match=said):
        planned(str(path), tmp_path)


def test_seeds_and_a_varied_seed_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(VARIED.replace("vary =", "seeds = [1]\nvary ="))
    with pytest.raises(ArdbenchError, match=r"seeds and vary\.seed are the same: give one of them"):
        load_suite(str(tmp_path / "a.toml"))


# The table ------------------------------------------------------------------------------------------------------------


def measured(run: Run, made: Recipe, right: dict[str, int], validated: Sequence[float], best: int) -> None:
    """Write a finished run whose checkpoint best is right on so many of 20 images under each protocol."""
    run.create(made, (), {})
    told = {"val_clean": 0.9, "seconds": 1.0, "images": 10}
    epochs = [{"epoch": epoch, "val_robust": share, **told} for epoch, share in enumerate(validated)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in epochs))
    write_json(run.path / "done", {"epochs": len(epochs), "best_epoch": best, "seconds": 2.0})
    for protocol, count in right.items():
        labels, threat = [i % 10 for i in range(20)], made.evaluation.model_dump()
        said = [label if i < count else (label + 1) % 10 for i, label in enumerate(labels)]
        verdicts = Verdicts(protocol, 1, threat, labels, said, list(range(20)), 1.0, 64, 0, 64)
        verdicts.save(run.path / "eval" / "best" / file_name(protocol, 20))


def test_the_table_of_a_sweep_by_hand(tmp_path: Path) -> None:
    """Two rates, two seeds: 10 and 14 of 20 right are 60.0 ± 14.1, validation is that of the selected epochs."""
    cells = []
    for rate, seed, clean, fgsm, validated, best in (
        (0.1, 0, 10, 4, (0.25, 0.75), 1),
        (0.1, 1, 14, 6, (0.5, 0.25), 0),
        (0.2, 0, 20, 0, (0.125, 0.0), 0),
    ):
        made = recipe("pgd-at", optimizer__lr=rate, seed=seed)
        run = Run.place(tmp_path, made)
        measured(run, made, {"clean": clean, "fgsm": fgsm}, validated, best)
        cells.append(Cell(f"a@lr={rate}", run, made, (), "done", ()))
    made = sweep_table(
        collect_suite(cells), cells, {"a@lr=0.1": {"optimizer.lr": 0.1}, "a@lr=0.2": {"optimizer.lr": 0.2}}
    )
    assert made.header == ("run", "lr", "seeds", "checkpoint", "val. robust", "clean", "fgsm") and made.labels == 4
    found = [[f"{cell.text} {cell.detail}".strip() for cell in row.entries] for row in made.rows]
    assert found == [
        ["a", "0.1", "0 1", "best", "62.5", "60.0 ± 14.1 (2)", "25.0 ± 7.1 (2)"],
        ["a", "0.2", "0", "best", "12.5", "100.0 [83.9, 100.0]", "0.0 [0.0, 16.1]"],
    ]
    assert CHOOSE in made.footnotes


def test_a_sweep_is_a_suite_that_goes_on_and_names_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "pgd-at-digits", "--over", "optimizer.lr=0.05,0.1", "--over", "seed=0..1", *SMALL]
    words += ["--protocol", "clean", "--jobs", 1]
    plan = call(*words, "--dry-run")
    assert plan.exit_code == 0 and "4 runs: 4 to train" in plan.stdout and list(tmp_path.iterdir()) == []
    done = call(*words)
    assert done.exit_code == 0, done.output
    (file,) = Path("runs").glob("sweep-pgd-at-digits-lr-seed-*.toml")
    assert isinstance(load_suite(str(file)), Suite)
    table = [line.split()[:4] for line in done.stdout.splitlines() if line.startswith(" pgd-at")]
    assert table == [["pgd-at", "0.05", "0", "1"], ["pgd-at", "0.1", "0", "1"]]
    assert (Path("runs") / "tables" / f"{file.stem}.sweep.md").is_file()
    again = call(*words)
    assert "Nothing is missing" in again.output and again.exit_code == 0
    assert "Nothing is missing" in call("reproduce", file, "--quiet", "--device", "cpu").output
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")}
    over = {"optimizer.lr": [0.05, 0.1], "seed": range(2)}
    found = ardbench.sweep(
        "pgd-at-digits", over, epochs=2, dataset="fake", set=SETS, protocols=["clean"], device="cpu", jobs=1, quiet=True
    )
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")} == before, "the same runs"
    assert found.finished and found.swept is not None and list(found.swept.iloc[:, 1]) == ["0.05", "0.1"]
    assert len(found.table) == 4 and Path("runs/tables").joinpath(f"{file.stem}.sweep.md") in found.paths
    whole = ardbench.reproduce(str(file), device="cpu", quiet=True)
    assert list(whole.table["value"]) == list(found.table["value"]) and whole.agreement == ""
    compared = call("compare", f"{file}:pgd-at@lr=0.05", f"{file}:pgd-at@lr=0.1")
    assert compared.exit_code == 0, compared.output


# Seeds and words that are typed twice ---------------------------------------------------------------------------------


def test_each_seed_is_the_run_that_it_is_alone(tmp_path: Path) -> None:
    words = ["standard-digits", *SMALL]
    several_seeds = call("train", *words, "--seed", "0..1", "--seed", 4, "--runs", tmp_path / "a", "--json")
    assert several_seeds.exit_code == 0, several_seeds.output
    runs = [Run(Path(one["run"])) for one in json.loads(several_seeds.stdout)["runs"]]
    assert [run.recipe.seed for run in runs] == [0, 1, 4]
    assert call("train", *words, "--seed", 1, "--runs", tmp_path / "b").exit_code == 0
    (alone,) = (tmp_path / "b").iterdir()
    assert alone.name == runs[1].path.name
    assert (alone / "last.safetensors").read_bytes() == runs[1].weights("last").read_bytes()
    again = call("train", *words, "--seed", "1,0", "--runs", tmp_path / "a")
    assert again.stdout.count("Already done") == 2


def test_seeds_that_time_ran_out_for_are_left_for_the_next_call(tmp_path: Path) -> None:
    stopped = call("train", "standard-digits", *SMALL, "--seed", "0..1", "--runs", tmp_path, "--time-limit", "0.001s")
    assert stopped.exit_code == 3 and len(list(tmp_path.iterdir())) == 1
    assert "To go on" in stopped.stdout


def test_an_option_that_holds_one_value_says_that_the_last_one_counts() -> None:
    result = call(
        "show", "pgd-at-digits", "--epochs", 3, "--set", "data.batch=8", "--set", "attack.steps=2", "--epochs=4"
    )
    assert result.stderr == "--epochs is typed 2 times: the last one counts.\n"
    assert "epochs = 4" in result.stdout


# Epochs that are kept -------------------------------------------------------------------------------------------------


def test_kept_epochs_are_the_weights_after_them_and_change_nothing(tmp_path: Path) -> None:
    plain, kept, stopped = (tmp_path / name / "run" for name in "abc")
    assert loop_of("pgd-at", plain).fit()
    assert loop_of("pgd-at", kept, keep_every=2).fit()
    assert Run(kept).checkpoints == ["last", "best", "epoch-2"] and Run(plain).checkpoints == ["last", "best"]
    assert (kept / "last.safetensors").read_bytes() == (plain / "last.safetensors").read_bytes()
    assert not loop_of("pgd-at", stopped, lambda: bool(Run(stopped).metrics), keep_every=1).fit()
    first = load_state(stopped / "last.state")
    assert (first["at"]["epoch"], first["at"]["step"]) == (1, 0)
    assert loop_of("pgd-at", stopped, keep_every=1).fit()
    assert Run(stopped).checkpoints == ["last", "best", "epoch-1", "epoch-2", "epoch-3"]
    assert equal(weights(stopped, "epoch-1"), first["nets"]["student"])
    assert equal(weights(stopped, "epoch-2"), weights(kept, "epoch-2"))
    assert equal(weights(stopped, "epoch-3"), weights(stopped, "last"))
    assert recipe("pgd-at").identity() == recipe("pgd-at", keep_every=1).identity()
    assert not equal(weights(stopped, "epoch-2"), weights(stopped, "epoch-3"))


def test_kept_epochs_are_measured_verified_exported_and_teach(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert call("train", "pgd-at-digits", *SMALL, "--keep-every", 1, "--runs", runs).exit_code == 0
    (run,) = runs.iterdir()
    named = call("eval", run, "--checkpoint", "all", "--protocol", "clean", "--device", "cpu", "--json")
    assert named.exit_code == 0, named.output
    places = [row["checkpoint"] for row in json.loads(named.stdout)["results"]]
    assert sorted(places) == ["best", "epoch-1", "epoch-2", "last"]
    assert call("verify", run).exit_code == 0
    assert call("report", run, "--out", tmp_path / "out").exit_code == 0
    lines = (tmp_path / "out" / "report.md").read_text().splitlines()
    there = [word for line in lines for word in ("best", "last", "epoch-1", "epoch-2") if f"| {word} " in line]
    assert there[:4] == ["best", "last", "epoch-1", "epoch-2"]
    assert call("export", run, "--checkpoint", "epoch-1", "--out", tmp_path / "net").exit_code == 0
    words = ["distill", "rslad-digits", "--teacher", f"{run}@epoch-1", *SMALL, "--runs", runs]
    assert call(*words).exit_code == 0
    (student,) = runs.glob("rslad-*")
    assert Run.open(student).teachers[0].identity == f"{Run.open(run).identity}@epoch-1"
    assert "has no checkpoint 'epoch-9'" in call("eval", run, "--checkpoint", "epoch-9").stderr


# Early ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "patience", "ends"),
    [
        ([0.1, 0.2, 0.2, 0.1], 2, True),
        ([0.1, 0.2, 0.2], 2, False),
        ([0.3], 1, False),
        ([], 1, False),
        ([0.3, 0.2], 1, True),
        ([0.3, None, 0.2], 2, False),  # epochs that were not validated do not count
        ([0.3, 0.2, 0.1, 0.0], None, False),
    ],
)
def test_patience_counts_validations_since_the_best(accuracies: list[Any], patience: int | None, ends: bool) -> None:
    selection = Selection(by="best-val", protocol="pgd10", patience=patience)
    assert selection.exhausted([{} if one is None else {"val_robust": one} for one in accuracies]) == ends


def script(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let validations say 0.3, 0.5, 0.4, 0.2, ... by their epoch, as the rows of a folder count it."""

    def scripted(net: nn.Module, split: Any, rules: Any, *args: Any, **keys: Any) -> Any:
        robust = [0.3, 0.5, 0.4, 0.2, 0.9, 0.9, 0.9][len(Run(folder).metrics)]
        return SimpleNamespace(notes=[], accuracy=0.9 if rules.name == "clean" else robust)

    monkeypatch.setattr("ardbench.engine.loop.evaluate", scripted)


@pytest.mark.parametrize("stops", [(), (3, 7, 18), (20,)])
def test_a_run_ends_when_its_patience_does_however_often_it_is_stopped(
    stops: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best is the second epoch, so that a patience of 2 ends the run after the fourth of seven; rates fall as in seven."""
    whole, early = tmp_path / "a" / "run", tmp_path / "b" / "run"
    sets = {"schedule__epochs": 7, "schedule__kind": "cosine", "schedule__milestones": [], "schedule__gamma": None}
    sets |= {"schedule__warmup": 0.0}
    script(monkeypatch, whole)
    assert loop_of("standard", whole, **sets).fit() and len(rows(whole)) == 7
    script(monkeypatch, early)
    for after in stops:
        count = itertools.count(1)
        loop_of(
            "standard", early, lambda count=count, after=after: next(count) >= after, **sets, selection__patience=2
        ).fit()
    loop = loop_of("standard", early, **sets, selection__patience=2)
    assert loop.fit() and (loop.at.epoch, loop.at.best_epoch) == (4, 1)
    assert rows(early) == rows(whole)[:4]
    state = load_state(early / "last.state")["nets"]["student"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in weights(early, "last").items())


def test_an_early_end_is_whole_to_every_reader(tmp_path: Path) -> None:
    """At a rate of nearly nothing no epoch is better than the first for long; nine more would have been allowed."""
    slow = ["optimizer.lr=1e-9", "selection.patience=1", "schedule.epochs=10"]
    words = ["train", "pgd-at-digits", *SMALL[2:], "--runs", tmp_path, "--keep-every", 1]
    words += [word for one in slow for word in ("--set", one)]
    done = call(*words)
    assert done.exit_code == 0, done.output
    run = Run(next(tmp_path.iterdir()))
    assert run.done is not None
    ended = run.done["epochs"]
    assert ended == len(run.metrics) < 10 and f"{ended} epochs of 10, as selection.patience ended it" in done.stdout
    signed = call("verify", run.path)
    assert signed.exit_code == 0, signed.output
    assert "Already done" in call(*words).stdout
    exported = call("export", run.path, "--checkpoint", "last", "--out", tmp_path / "net")
    assert exported.exit_code == 0 and f"{ended} of 10 epochs" in (tmp_path / "net" / "README.md").read_text()
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in run.metrics[:-1]))
    shorter = call("verify", run.path)
    assert shorter.exit_code == 1 and "metrics.jsonl has" in shorter.output


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({"selection__by": "last", "selection__patience": 3}, "patience waits for a better checkpoint"),
        ({"selection__patience": 0}, "greater than or equal to 1"),
        (
            {"selection__patience": 3, "average__kind": "swa", "average__start": 0.5},
            "may end the run before average.start = 0.5",
        ),
    ],
)
def test_a_patience_that_cannot_be_meant_is_refused(sets: dict[str, Any], said: str) -> None:
    with pytest.raises(ArdbenchError, match=said):
        recipe("pgd-at", **sets)


# Differences ----------------------------------------------------------------------------------------------------------


def test_differences_of_recipes_tell_values_and_origins(tmp_path: Path) -> None:
    found = differences("rslad-cifar10", "rslad-cifar10@printed")
    assert [(one.key, one.a, one.b, one.from_a, one.from_b) for one in found] == [
        ("method.scale", 0.1, 1.0, "recipe", "variant printed")
    ]
    (tmp_path / "mine.toml").write_text('extends = "pgd-at-digits"\n[selection]\npatience = 4\n')
    ((one),) = differences("pgd-at-digits", str(tmp_path / "mine.toml"))
    assert (one.key, one.a, one.b, one.from_a, one.from_b) == ("selection.patience", None, 4, "default", "recipe")
    assert differences("pgd-at-digits", "pgd-at-digits") == []


def test_differences_of_runs_tell_the_command_line_and_teachers(tmp_path: Path) -> None:
    places = []
    for seed, version in ((0, "1"), (1, "2")):
        made = recipe("pgd-at", seed=seed)
        places.append(Run.place(tmp_path, made))
        places[-1].create(made, (), {"torch": version, "ardbench": "0"})
    found = {one.key: one for one in differences(*(str(run.path) for run in places))}
    assert found.keys() == {"seed", "torch"}
    assert (found["seed"].from_a, found["seed"].from_b) == ("default", "command line")
    assert (found["torch"].a, found["torch"].b, found["torch"].from_a) == ("1", "2", "env.json")
    assert "data.name" in call("diff", places[0].path, "pgd-at-digits").stdout
    assert "torch" not in call("diff", places[0].path, "pgd-at-digits").stdout


@pytest.mark.parametrize(
    ("over", "typed"),
    [
        ({"optimizer.lr": [0.123456789, 1 / 3], "seed": range(2)}, ['optimizer.lr=0.123456789,"1/3"', "seed=0,1"]),
        ({"seed": "0..1", "optimizer.lr": 0.05}, ["seed=0..1", "optimizer.lr=0.05"]),
        ("optimizer.lr=0.05,0.1", ["optimizer.lr=0.05,0.1"]),
    ],
)
def test_python_varies_by_the_values_that_it_gives(
    over: Any, typed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def suite(recipe: str, texts: Any, taught: Any, **words: Any) -> Any:
        seen.update(words, over=list(texts))
        raise ArdbenchError("seen")

    monkeypatch.setattr("ardbench.verbs.reproducing.sweep_suite", suite)
    changes = {"schedule.milestones": [0.5, 0.75]}
    with pytest.raises(ArdbenchError, match="seen"):
        ardbench.sweep("pgd-at-digits", over, set=changes, protocols="pgd20", runs=tmp_path)
    assert seen["over"] == typed and seen["given"] == changes and seen["measured"]["protocols"] == ["pgd20"]


def test_a_sweep_names_its_networks(tmp_path: Path) -> None:
    with pytest.raises(ArdbenchError, match="no network object"):
        ardbench.sweep("rslad-digits", {"seed": [0]}, teachers=nn.Sequential(nn.Flatten()), runs=tmp_path)
