"""What --dry-run says of a training and an evaluation, and the warning before hours of AutoAttack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_call import call
from small import network, recipe

from ardbench import data
from ardbench.evaluation.cost import flop
from ardbench.planning import trial
from ardbench.planning.counting import StepCounter
from ardbench.runs import Run
from ardbench.verbs import costing

SETS = ["data.train_images=64", "data.validation=20", "attack.steps=1", "selection.protocol=fgsm"]
SMALL = ["pgd-at-digits", "--epochs", 2, "--dataset", "fake", "--device", "cpu"]
SMALL += [word for one in SETS for word in ("--set", one)]


def document(*words: Any) -> dict[str, Any]:
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("costs")
    assert call("train", *SMALL, "--runs", root, "--set", "optimizer.lr=1e-9", "--quiet").exit_code == 0
    return next(root.iterdir())


def test_a_dry_run_of_a_training_counts_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a trial that reaches 1 GFLOP/s: 2 epochs of 64 images, and 20 images by clean and FGSM where they are due."""
    monkeypatch.setattr(trial, "training", lambda recipe, teachers, device: 1e9)
    monkeypatch.chdir(tmp_path)
    found = document("train", *SMALL, "--seed", "0..1", "--dry-run")
    made = recipe("pgd-at", attack__steps=1, schedule__epochs=2)
    due = 1  # after the last epoch
    assert made.selection.every > 2
    steps = 2 * 64 * StepCounter().flop(made, (), range(2))
    checks = due * sum(flop(name, 20, "resnet8-tiny", "fake") for name in ("clean", "fgsm"))
    for row in found["runs"]:
        assert (row["state"], row["epochs"], row["images"]) == ("missing", "0/2", 2 * 64 + due * 2 * 20)
        assert row["flop"] == pytest.approx(steps + checks) and row["source"] == "by a trial"
        assert row["hours"] == pytest.approx(row["flop"] / 1e9 / 3600)
    assert len(found["runs"]) == 2 and list(tmp_path.iterdir()) == []


def test_a_finished_training_costs_nothing_and_tells_the_rate_of_the_next(run: Path) -> None:
    rate = ["--set", "optimizer.lr=1e-9", "--runs", run.parent, "--dry-run"]
    done, more = document("train", *SMALL, *rate, "--seed", "0,1")["runs"]
    assert (done["state"], done["epochs"], done["flop"], done["hours"]) == ("done", "2/2", 0, 0)
    assert more["hours"] > 0 and more["source"] == "reached by the same method and student"


def test_a_trial_of_a_training_is_of_the_recipe_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data are read for it: CIFAR-10 is not there."""
    monkeypatch.setattr(trial, "SECONDS", 0.0)
    monkeypatch.setenv("ARDBENCH_DATA", str(tmp_path / "absent"))
    words = ["train", "pgd-at-cifar10", "--student", "resnet8-tiny", "--set", "data.batch=4", "--device", "cpu"]
    found = document(*words, "--runs", tmp_path, "--dry-run")["runs"][0]
    assert found["hours"] > 0 and found["rate"] > 0 and list(tmp_path.iterdir()) == []


def test_a_trial_of_an_evaluation_counts_a_forward_and_a_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """In work that is said to take 2 s."""
    passes = []

    def timed(work: Any, device: torch.device, budget: float) -> float:
        work()
        passes.append(budget)
        return 2.0

    monkeypatch.setattr(trial, "least_seconds", timed)
    found = trial.attacking(network(0).eval(), "resnet8-tiny", "fake", 8, seconds=1.5)
    assert found == pytest.approx(8 * 2 * flop("clean", 1, "resnet8-tiny", "fake") / 2.0) and passes == [1.5]


def test_a_dry_run_of_an_evaluation_knows_what_is_stored(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "attacking", lambda *words: 1e9)
    words = ["eval", run, "--runs", run.parent / "none", "--device", "cpu", "--protocol", "clean", "--protocol", "aa"]
    assert call("eval", run, "--protocol", "clean", "--n", 20, "--device", "cpu", "--quiet").exit_code == 0
    before = sorted(run.rglob("*"))
    found = document(*words, "--n", 20, "--dry-run")["evaluations"]
    assert sorted(run.rglob("*")) == before
    rows = {(row["checkpoint"], row["protocol"]): row for row in found}
    where = "best"
    assert rows[where, "clean"]["state"] == "stored" and rows[where, "clean"]["flop"] == 0
    expected = flop("aa", 20, "resnet8-tiny", "fake")
    assert rows[where, "aa"]["flop"] == expected and rows[where, "aa"]["hours"] == pytest.approx(expected / 1e9 / 3600)
    every = document(*words, "--dry-run")["evaluations"]
    assert {row["state"] for row in every if row["checkpoint"] == where} == {"missing"}
    done = Run.open(run).done or {}
    same = done["best_epoch"] + 1 == done["epochs"]
    assert {row["state"] for row in every if row["checkpoint"] == "last"} == ({"as best"} if same else {"missing"})


def test_hours_of_autoattack_are_warned_of_with_an_n_that_takes_less(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 images at a rate that needs four hours for each checkpoint, of which 16 need a quarter."""
    hours = flop("aa", 64, "resnet8-tiny", "fake") / 4 / 3600
    monkeypatch.setattr(trial, "attacking", lambda *words: hours)
    monkeypatch.setattr(costing, "LARGE", 0.0)
    monkeypatch.setattr(costing, "FEW", 16)
    words = ["eval", run, "--runs", run.parent / "none", "--device", "cpu", "--checkpoint", "last"]
    warned = call(*words, "--protocol", "aa", "--time-limit", "0.001s").stderr
    assert (
        "AutoAttack on 64 images takes about 4 h here: --n 16 takes about 1 h, its intervals 2 times as wide." in warned
    )
    assert "AutoAttack" not in call(*words, "--protocol", "pgd20", "--time-limit", "0.001s").stderr
    assert "AutoAttack" not in call(*words, "--protocol", "aa", "--n", 4, "--time-limit", "0.001s").stderr


def test_small_attacks_are_not_tried_before_they_are_made() -> None:
    assert flop("aa", data.info("digits").test_images, "resnet8-tiny", "digits") < costing.LARGE
    assert flop("aa", data.info("cifar10").test_images, "resnet18", "cifar10") > costing.LARGE
