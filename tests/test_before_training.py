"""What is said in one sentence before any step: a last batch of one image, a recipe on other data, a package that is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_call import call
from test_models import settled

import ardbench
from ardbench import data, methods, models
from ardbench.engine.train import _refuse_single_images
from ardbench.errors import ArdbenchError
from ardbench.models import MODELS
from ardbench.progress import Progress
from ardbench.recipes import moved, recipe_names, resolve

ROOT = Path(__file__).parents[1]


# A last batch of one image --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [name for name in MODELS if "70" not in name and "34" not in name])
def test_a_single_image_is_refused_where_torch_would_refuse_it(model: str) -> None:
    words = {"data.train_images": 65, "data.batch": 64}
    recipe = resolve("pgd-at-digits", student=model, sets=words)
    with torch.device("meta"):  # the shapes alone decide, and torch's own check of them is the oracle
        net, image = models.build(model, data.info("digits")).train(), torch.empty(1, 1, 8, 8)
    try:
        net(image)
    except ValueError:
        with pytest.raises(
            ArdbenchError, match=r"65 training images leave a last batch of one image, .*drop_last=true"
        ):
            _refuse_single_images(recipe)
    else:
        _refuse_single_images(recipe)
    for better in ({"data.drop_last": True}, {"data.batch": 63}, {"data.batch": 65}, {"data.batch": 100}):
        _refuse_single_images(resolve("pgd-at-digits", student=model, sets=words | better))


@pytest.mark.parametrize(
    ("world", "sync", "refused"), [(2, False, True), (2, True, False), (3, False, True), (1, False, False)]
)
def test_of_several_processes_each_needs_more_than_one(
    world: int, sync: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ardbench.processes.size", lambda: world)
    words = {"data.train_images": 66, "data.batch": 64, "sync_bn": sync}  # the last batch has two images
    recipe = resolve("pgd-at-digits", student="resnet18", sets=words)
    if not refused:
        return _refuse_single_images(recipe)
    with pytest.raises(ArdbenchError, match=f"a last batch of 2 images for {world} processes, one for some of them"):
        _refuse_single_images(recipe)


def test_nothing_is_left_behind_by_a_refused_batch(tmp_path: Path) -> None:
    words = ("--student", "resnet18", "--set", "data.train_images=65", "--set", "data.batch=64", "--device", "cpu")
    result = call("train", "pgd-at-digits", *words, "--runs", tmp_path / "runs")
    assert result.exit_code == 2 and "a BatchNorm of resnet18 has a single number to normalise" in result.stderr
    assert not list((tmp_path / "runs").glob("*/config.json"))


# A recipe on another data set -----------------------------------------------------------------------------------------


def test_a_recipe_says_what_it_carries_to_other_data(tmp_path: Path) -> None:
    own = tmp_path / "my-digits.toml"
    own.write_text('extends = "pgd-at-digits"\n')
    said = moved(str(own), resolve(str(own), dataset="cifar10"))
    assert said.startswith(
        f"{own} was written for digits. Here it trains on cifar10 with threat.eps = 0.12, evaluation.eps = 0.12"
    )
    assert said in call("show", own, "--dataset", "cifar10").stderr
    changed = resolve(str(own), sets=("data.name=cifar10", "threat.eps=8/255", "evaluation.eps=8/255"))
    assert "with threat.eps = 8/255, evaluation.eps = 8/255" in moved(str(own), changed)
    sets = [word for one in ("data.train_images=64", "data.validation=10", "attack.steps=1") for word in ("--set", one)]
    words = ("--dataset", "fake", "--epochs", 1, "--device", "cpu", "--runs", tmp_path / "runs", *sets)
    result = call("train", own, *words)
    assert result.exit_code == 0 and "was written for digits. Here it trains on fake" in result.stderr


def test_suites_and_python_say_what_is_carried_too(tmp_path: Path) -> None:
    own, suite = tmp_path / "my-digits.toml", tmp_path / "mine.toml"
    own.write_text('extends = "pgd-at-digits"\n')
    suite.write_text(
        f'name = "mine"\ntitle = "Mine"\ndataset = "cifar10"\nseeds = [0, 1]\nprotocols = ["clean"]\n'
        f'[[runs]]\nname = "one"\nrecipe = "{own}"\n'
    )
    result = call("reproduce", suite, "--dry-run", "--tflops", 1, "--runs", tmp_path / "runs")
    assert result.exit_code == 0 and result.stderr.count("was written for digits. Here it trains on cifar10") == 1
    heard: list[str] = []

    class Ears(Progress):
        def warn(self, text: str) -> None:
            heard.append(text)

    small = {"data.train_images": 64, "data.validation": 10, "attack.steps": 1}
    words = {"epochs": 1, "device": "cpu", "runs": tmp_path / "runs", "progress": Ears()}
    ardbench.train(str(own), dataset="fake", set=small, **words)  # type: ignore[arg-type]
    ardbench.train("pgd-at-digits", set=small, **words)  # type: ignore[arg-type]
    assert len(heard) == 1 and "was written for digits. Here it trains on fake" in heard[0]


def test_a_recipe_on_its_own_data_says_nothing() -> None:
    for name in recipe_names():
        recipe = resolve(name)
        assert moved(name, recipe) == "" and moved(name, resolve(name, dataset=recipe.data.name)) == ""
    assert moved("pgd-at", resolve("pgd-at", dataset="cifar10")) == ""  # the method's recipe for that data set


# A package that is broken ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("broken_package:Method", "ZeroDivisionError: division by zero"),
        ("no_such_package_at_all:Method", "ModuleNotFoundError: No module named"),
        ("json:nothing", "AttributeError"),
        ("json:dumps", "AttributeError"),
        ("not a path!", "ValueError"),
    ],
)
def test_one_broken_package_does_not_hide_the_others(
    value: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(methods, "available", lambda: {"theirs": value} | methods.METHODS)
    result = call("list", "methods", "--json")
    assert result.exit_code == 0 and [row["name"] for row in json.loads(result.stdout)["methods"]] == list(
        methods.METHODS
    )
    (line,) = (line for line in result.stderr.splitlines() if "theirs" in line)
    assert f"The method theirs of an installed package cannot be loaded from {value} ({reason}" in line
    (tmp_path / "own.toml").write_text('extends = "pgd-at-digits"\n[method]\nname = "theirs"\n')
    result = call("train", tmp_path / "own.toml")
    assert (
        result.exit_code == 2 and "mend or uninstall that package" in result.stderr and "Traceback" not in result.stderr
    )


# A machine without UTF-8 ----------------------------------------------------------------------------------------------


TYPED = """
import glob, sys
from ardbench.cli import ardbench

words = sys.argv[1:]
while words:
    end = words.index("then")
    line = [there for word in words[:end] for there in glob.glob(word) or [word]]
    try:
        ardbench.main(line)
    except SystemExit as ended:
        assert not ended.code, line
    print("then", flush=True)
    words = words[end + 1 :]
"""
"""Command lines one after the other in one process."""


def test_a_path_with_an_umlaut_needs_no_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / "gewäge"
    folder.mkdir()
    net = settled(models.build("resnet8-tiny", data.info("digits")))
    torch.save(net.state_dict(), folder / "netz.pt")
    torch.save(net.state_dict(), folder / "alt.pt", _use_new_zipfile_serialization=False)
    off = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

    runs, clean = folder / "läufe", ("--protocol", "clean", "--n", 20)
    small = ("--epochs", 1, "--set", "data.train_images=64", "--set", "attack.steps=1")
    lines = [
        *(
            ("eval", folder / name, "--model", "resnet8-tiny", "--dataset", "digits", *clean)
            for name in ("netz.pt", "alt.pt")
        ),
        ("distill", "rslad-digits", "--teacher", f"{folder / 'netz.pt'}:resnet8-tiny", *small),
        ("eval", runs / "rslad-digits-*", *clean),
    ]
    words = [str(word) for line in lines for word in (*line, "--device", "cpu", "--runs", runs, "then")]
    environment = os.environ | off | {"PYTHONPATH": paths}
    told = subprocess.run([sys.executable, "-c", TYPED, *words], env=environment, capture_output=True, cwd=folder)
    said = told.stdout.decode(errors="replace") + told.stderr.decode(errors="replace")
    assert told.returncode == 0 and "cut short" not in said, said
    first, second, _, third = said.split("then\n")[:4]
    assert all("clean" in told for told in (first, second, third))
    (run,) = runs.glob("rslad-digits-*")
    assert json.loads((run / "config.json").read_text("utf-8"))["teachers"][0]["weights"] == str(folder / "netz.pt")
    assert call("report", run, "--runs", folder / "läufe").exit_code == 0  # with UTF-8, later
