"""The method in examples/: found and used from outside, held to the contract, and shown by the docs as it is."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any

import pytest
import small
import test_methods
import torch
from cli_call import call

from ardbench import methods
from ardbench.config import Recipe
from ardbench.evaluation.verdicts import file_name, load_verdicts
from ardbench.recipes import resolve

ROOT = Path(__file__).parents[1]
EXAMPLE = Path("examples") / "ardbench-corrected"
PAGE = (ROOT / "docs" / "add-your-method.md").read_text(encoding="utf-8")
RECIPE = ROOT / EXAMPLE / "corrected-digits.toml"

# A method of your own: copy from here to the next line and change the names ------------------------------------------

CONTRACT: list[Callable[..., None]] = [
    check
    for check in vars(test_methods).values()
    if any(mark.name == "parametrize" and mark.args[0] == "name" for mark in getattr(check, "pytestmark", ()))
]


def recipe(name: str, **sets: Any) -> Recipe:
    """Return the example's recipe on fake data, as `small.recipe` returns a built-in one."""
    return resolve(str(RECIPE), sets=small.SMALL | {key.replace("__", "."): value for key, value in sets.items()})


@pytest.fixture
def corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests of the built-in methods see the example's class."""
    monkeypatch.syspath_prepend(str(ROOT / EXAMPLE))
    monkeypatch.setitem(methods.METHODS, "corrected", "ardbench_corrected:Corrected")
    monkeypatch.setattr(test_methods, "OURS", ["corrected"])
    monkeypatch.setattr(test_methods, "recipe", recipe)


@pytest.mark.usefixtures("corrected")
@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_the_example_keeps_the_contract(check: Callable[..., None], request: pytest.FixtureRequest) -> None:
    wanted = inspect.signature(check).parameters.keys() - {"name"}
    check("corrected", **{name: request.getfixturevalue(name) for name in wanted})


# ---------------------------------------------------------------------------------------------------------------------


def test_no_test_of_the_contract_is_left_out() -> None:
    assert test_methods.test_contract in CONTRACT and len(CONTRACT) >= 6


@pytest.mark.usefixtures("corrected")
def test_the_example_is_its_equation() -> None:
    wanted = recipe("corrected", method__gamma=2)
    given = small.batch(wanted, dtype=torch.float64)
    step, x_adv = small.watched(small.method(wanted, to=torch.float64), given)
    student, teacher = small.network(0).double().train(), small.network(10).double().eval()
    with torch.no_grad():
        soft = teacher(given.x).softmax(1)
    labels = torch.eye(10, dtype=torch.float64)[given.y]
    target = [t[y] ** 2 * t + (1 - t[y] ** 2) * e for t, y, e in zip(soft, given.y, labels, strict=True)]

    def mean_ce(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([-(q * p.log()).sum() for q, p in zip(target, student(x).softmax(1), strict=True)]).mean()

    assert torch.allclose(step.loss, 5 / 6 * mean_ce(x_adv) + 1 / 6 * mean_ce(given.x), rtol=1e-9)


@pytest.mark.usefixtures("corrected")
def test_a_teacher_that_is_trusted_wholly_makes_it_rslad() -> None:
    """The entropy of T(x) is a constant: x' and the gradients are the same, the loss is not."""
    wanted = recipe("corrected", method__gamma=0)
    ours, rslad = (small.method(one, to=torch.float64) for one in (wanted, small.recipe("rslad")))
    gradients = []
    for built in (ours, rslad):
        step = built.step(small.batch(wanted, dtype=torch.float64), 0)
        gradients.append(torch.autograd.grad(step.loss, list(built.student.parameters())))
    assert small.cosine(*gradients) == pytest.approx(1, abs=1e-12)


# The page -------------------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    """Return the page's fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_is_the_example() -> None:
    assert blocks("python") == [(ROOT / EXAMPLE / "ardbench_corrected.py").read_text(encoding="utf-8")]
    settings = [path.read_text(encoding="utf-8") for path in sorted((ROOT / EXAMPLE).glob("*.toml"))]
    assert len(blocks("toml")) == 3
    for block in blocks("toml"):
        assert any(block in text for text in settings), f"none of the example's files holds\n{block}"


SMALL_BUDGET = ["--epochs", "1", "--set", "attack.steps=1", "--set", "selection.protocol=fgsm"]
MORE = {"train": SMALL_BUDGET, "distill": SMALL_BUDGET, "eval": ["--n", "50"], "reproduce": ["--dry-run"]}
"""What makes a command of the page take seconds."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a copy of the example alone into a folder of its own."""
    copy, target = tmp_path_factory.mktemp("copy") / "example", tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / EXAMPLE, copy)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(copy)], check=True)
    return target


def test_the_entry_point_makes_the_method_known(installed: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ardbench", "list", "methods", "--json"]
    environment = os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    listed = {row.pop("name"): row for row in json.loads(done.stdout)["methods"]}
    about = "Corrected soft labels: the teacher's where it is right, the true label where it is not."
    assert listed.pop("corrected") == {"teachers": "robust", "about": about}
    assert listed.keys() >= methods.METHODS.keys()


def test_the_commands_of_the_page_train_measure_and_table_the_method(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are typed at the root of a checkout, with small budgets."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    install, *commands = [shlex.split(line) for line in "".join(blocks("sh")).splitlines()]
    assert install == ["pip", "install", "-e", str(EXAMPLE)]
    said = {}
    for program, command, *words in commands:
        there = [path for word in words for path in sorted(glob(word)) or [word]]
        result = call(command, *there, *MORE.get(command, []))
        assert program == "ardbench" and result.exit_code == 0, result.output
        said[command] = result.stdout

    (run,) = (tmp_path / "runs").glob("corrected-*")
    assert json.loads((run / "config.json").read_text())["recipe"]["method"]["name"] == "corrected"
    (row,) = [line for line in said["report"].splitlines() if line.startswith(" corrected-digits, best")]
    measured = [load_verdicts(run / "eval" / "best" / file_name(name, 50)) for name in ("clean", "pgd20")]
    assert re.findall(r"[\d.]+(?=†)", row) == [f"{100 * verdicts.accuracy:.1f}" for verdicts in measured]
    assert re.search(r"^ *corrected +corrected-digits +0 +missing", said["reproduce"], re.MULTILINE)
