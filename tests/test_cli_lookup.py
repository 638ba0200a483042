"""The commands that look things up: list, show, data, completion."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_call import call
from rich.console import Console


def test_what_show_prints_trains_the_same_run(tmp_path: Path) -> None:
    from ardbench.recipes import resolve

    for name in (
        "rslad-cifar10@printed",
        "standard-digits",
        "iad-ii-cifar10-level",
        "ard-cifar100@igdm",
        "trades-cifar10@awp",
    ):
        file = tmp_path / "shown.toml"
        file.write_text(call("show", name, "--set", "optimizer.lr=0.05", "--seed", "3").stdout)
        assert resolve(str(file)).identity() == resolve(name, seed=3, sets=["optimizer.lr=0.05"]).identity()


def test_show_says_where_a_value_comes_from() -> None:
    document = json.loads(call("show", "rslad-cifar10@printed", "--set", "attack.steps=7", "--json").stdout)
    where = document["from"]
    assert where["attack.steps"] == "command line" and where["method.scale"] == "variant printed"
    assert where["schedule.epochs"] == "recipe" and where["average.kind"] == "default"
    assert document["variants"] == ["fair", "igdm", "printed"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("recipes", "rslad-cifar10"),
        ("methods", "trades"),
        ("models", "resnet18"),
        ("datasets", "tiny-imagenet"),
        ("protocols", "cw20"),
        ("suites", "digits"),
    ],
)
def test_list_names_what_there_is(kind: str, name: str) -> None:
    assert name in call("list", kind).stdout.split()
    assert name in {row["name"] for row in json.loads(call("list", kind, "--json").stdout)[kind]}


def test_list_recipes_keeps_to_a_data_set_and_a_method() -> None:
    every = json.loads(call("list", "recipes", "--json").stdout)["recipes"]
    words = ("--dataset", "cifar100", "--method", "rslad")
    some = json.loads(call("list", "recipes", *words, "--json").stdout)["recipes"]
    assert some == [one for one in every if (one["dataset"], one["method"]) == ("cifar100", "rslad")] and len(some) > 1
    assert (
        "Unknown dataset of a recipe: 'cifar11': did you mean 'cifar10'?"
        in call("list", "recipes", "--dataset", "cifar11").stderr
    )
    assert "--method is for `list recipes`" in call("list", "models", "--method", "rslad").stderr


def test_names_in_a_list_are_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ardbench.cli.output.console", lambda err=False: Console(width=80, force_terminal=True))
    for kind in ("recipes", "suites", "protocols", "teachers"):
        names = [one["name"] for one in json.loads(call("list", kind, "--json").stdout)[kind]]
        lines = re.sub(r"\x1b\[[0-9;]*m", "", call("list", kind).stdout).splitlines()
        assert set(names) <= {line.split()[0] for line in lines if line.strip()}
        assert kind != "recipes" or len(lines) <= len(names) + 6


def test_list_models_counts_what_the_papers_print() -> None:
    rows = {row["name"]: row for row in json.loads(call("list", "models", "--json").stdout)["models"]}
    assert rows["resnet18"]["parameters"] == 11_173_962, "as in shared/data/README.md"


def test_data_counts_a_data_set() -> None:
    document = json.loads(call("data", "digits", "--json").stdout)
    assert document["train"]["images"] == 1437 and document["test"]["images"] == 360


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_the_program(shell: str) -> None:
    assert f"_ARDBENCH_COMPLETE={shell}_complete" in call("completion", shell).stdout


def test_recipes_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_ARDBENCH_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "ardbench train pgd-at-d")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert call().stdout.split() == ["plain,pgd-at-digits"]
