"""Mistakes in the code of a method from outside: one sentence each, with the method, file, line and what is wanted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_call import call

from ardbench import methods
from ardbench.faults import SHOW
from ardbench.runs import Run

SOURCE = """
from copy import deepcopy
import torch
from torch import nn
from ardbench.config import MethodConfig
from ardbench.losses import cross_entropy
from ardbench.methods.base import Method, Step

def objective(net, x_adv, labels):
    return cross_entropy(net(x_adv), labels)

def mean_objective(net, x_adv, labels):
    return cross_entropy(net(x_adv), labels).mean()

class Wrong(Method):
"""
SET = [
    "data.name=fake", "data.train_images=64", "data.validation=20", "data.batch=32", "attack.steps=1", "schedule.epochs=2",
    "selection.protocol=fgsm",
]  # fmt: skip
PLAIN = "    def step(self, batch, epoch):\n        loss = cross_entropy(self.logits(batch.x), batch.y).mean()\n"
STEP = "    def step(self, batch, epoch):  # here\n        loss = cross_entropy(self.logits(batch.x), batch.y).mean()\n"
HEAD = (
    "    def __init__(self, context):{}\n        super().__init__(context)\n        self.head = nn.Linear(10, 10){}\n"
)
HEADED = (
    "    def step(self, batch, epoch):\n        loss = cross_entropy(self.head(self.logits(batch.x)), batch.y).mean()\n"
)

WRONG = {
    "a float as loss": (STEP + "        return Step(0.5)", "a value of type float as loss", "give a tensor of one number"),
    "no scalar": (
        STEP + "        return Step(cross_entropy(self.logits(batch.x), batch.y))",
        "a tensor of shape (32,) as loss", "such as its mean()",
    ),
    "nothing": (STEP, "returns nothing from step", "return Step(loss, logs)"),
    "a tensor": (STEP + "        return loss", "returns a tensor of shape () from step", "return Step(loss, logs)"),
    "a tuple": (STEP + "        return loss, {}", "returns a value of type tuple from step", "return Step(loss, logs)"),
    "detached": (STEP + "        return Step(loss.detach())", "a loss without gradient", "without detach()"),
    "logs of floats": (
        STEP + "        return Step(loss, {'ce': loss.item()})",
        "logs a value of type float as 'ce'", "without item()",
    ),
    "logs per image": (STEP + "        return Step(loss, {'ce': batch.x})", "logs a tensor of shape (32, ", "as 'ce'"),
    "logs of no dict": (STEP + "        return Step(loss, [loss])", "a value of type list as logs", "give a dict of tensors"),
    "a log of the loop's name": (STEP + "        return Step(loss, {'epoch': loss})", "a log 'epoch'", "another name"),
    "forgotten roles": (
        "    def step(self, batch, epoch):\n        return Step(self.teacher_logits(batch).mean())  # here",
        "IndexError", 'its class names no teacher: give it one, such as roles = ("robust",)',
    ),
    "forgotten roles, by index": (
        "    def step(self, batch, epoch):\n        return Step(self.teachers[0](batch.x).mean())  # here",
        "IndexError", 'its class names no teacher: give it one, such as roles = ("robust",)',
    ),
    "roles as a word": (PLAIN + '    roles = "robust"', "has roles = 'robust'", 'such as roles = ("robust",)'),
    "a parameter without optimizer": (
        HEAD.format("  # here", "") + HEADED + "        return Step(loss)",
        "has self.head.weight in its loss", "put its module into trainables(), or freeze it",
    ),
    "a bare parameter": (
        "    def __init__(self, context):  # here\n        super().__init__(context)\n"
        "        self.scale = torch.ones((), requires_grad=True)\n"
        "    def step(self, batch, epoch):\n        return Step(self.scale * self.logits(batch.x).mean())",
        "has self.scale in its loss", "put its module into trainables()",
    ),
    "trainables of a list": (
        PLAIN + "        return Step(loss)\n    def trainables(self):  # here\n        return [self.student]",
        "returns a value of type list from trainables", "return a dict of modules",
    ),
    "nothing deployed": (
        PLAIN + "        return Step(loss)\n    def deployed(self, student):  # here\n        student.eval()",
        "returns nothing from deployed", "return a network",
    ),
    "a state of numbers": (
        PLAIN + "        return Step(loss)\n    def state(self):  # here\n        return {'count': 1}",
        "from state", "return a dict of tensors",
    ),
    "an objective's mean": (
        "    def step(self, batch, epoch):\n        x = self.maximise(mean_objective, batch, aux=(batch.y,))  # here\n"
        "        return Step(self.logits(x).mean())",
        "mean_objective returns shape () for 32 images", "an objective returns one number each, (B,)",
    ),
    "shapes": (
        "    def step(self, batch, epoch):\n        return Step((self.logits(batch.x) @ batch.x).mean())  # here",
        "RuntimeError", "what was saved before stays",
    ),
    "in a function of its own": (
        "    def step(self, batch, epoch):\n        return self.inner(batch)\n"
        "    def inner(self, batch):\n        return {}['alpha']  # here",
        "KeyError", "'alpha'",
    ),
    "in backward": (
        STEP + "        value = loss.exp()\n        total = value * 2\n        value.add_(1)\n        return Step(total)",
        "RuntimeError", "modified by an inplace operation",
    ),
    "before it begins": (
        PLAIN + "    def begin_epoch(self, epoch):\n        self.counts[epoch] = 0  # here",
        "AttributeError", "has no attribute 'counts'",
    ),
    "forgotten step": ("    pass  # here", "TypeError", "step"),
}  # fmt: skip


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the method `wrong`, in a folder with its recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(methods.METHODS, "wrong", "wrong_method:Wrong")
    monkeypatch.delitem(sys.modules, "wrong_method", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("wrong.toml").write_text('extends = "pgd-at-digits"\n[method]\nname = "wrong"\n')
    return tmp_path / "wrong_method.py"


def words(*more: str) -> list[str]:
    """Return the command that trains it."""
    return ["train", "wrong.toml", "--device", "cpu", "--quiet", *more, *(w for one in SET for w in ("--set", one))]


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_sentence(name: str, written: Path) -> None:
    body, about, wanted = WRONG[name]
    written.write_text(SOURCE + body + "\n")
    result = call(*words())
    assert result.exit_code == 2, result.output
    *before, refusal = result.stderr.splitlines()
    assert refusal.startswith("Error: The method Wrong ") and about in refusal and wanted in refusal, refusal
    assert all(one.startswith(("Device: ", "wrong.toml was written for digits.")) for one in before), before
    lines = written.read_text().splitlines()
    marked = [number for number, line in enumerate(lines, 1) if "# here" in line]
    of_class = lines.index("class Wrong(Method):") + 1
    assert f"{written}, line {marked[0] if name not in OF_CLASS else of_class}" in refusal, refusal


OF_CLASS = {"roles as a word", "forgotten step"}
"""What no line of a function tells."""


def test_what_is_right_passes(written: Path) -> None:
    """A head among the trainables, a frozen copy, a copy that only averages, an input with a gradient, logs of one number."""
    written.write_text(
        SOURCE + HEAD.format("", "\n        self.copy = deepcopy(self.student)") + "    def trainables(self):\n"
        "        return {'student': self.student, 'head': self.head}\n"
        "    def step(self, batch, epoch):\n"
        "        x = self.maximise(objective, batch, aux=(batch.y,)).requires_grad_(True)\n"
        "        with torch.no_grad():\n            self.copy(batch.x)\n"
        "        loss = cross_entropy(self.head(self.logits(x)), batch.y).mean()\n"
        "        return Step(loss.reshape(1), {'ce': loss, 'whole': loss.new_ones(1)})\n"
    )
    result = call(*words())
    assert result.exit_code == 0, result.output


def test_a_key_that_the_method_does_not_know_names_its_config(written: Path) -> None:
    source = SOURCE.replace("class Wrong", "class OwnConfig(MethodConfig):\n    alpha: float\n\nclass Wrong")
    written.write_text(source + "    Config = OwnConfig\n" + STEP + "        return Step(loss)\n")
    line = source.splitlines().index("class OwnConfig(MethodConfig):") + 1
    unknown = (["--set", "method.alpha=1", "--set", "method.alhpa=1"], "'alhpa': did you mean 'alpha'?")
    for changes, sentence in (unknown, ([], "alpha is missing; add it to the recipe")):
        result = call(*words(*changes))
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
        assert f"section method (OwnConfig, {written}, line {line}): " in result.stderr and sentence in result.stderr


def test_a_teacher_for_a_class_without_roles_names_the_class(written: Path) -> None:
    written.write_text(SOURCE + STEP)
    result = call("distill", *words("--teacher", "runs/none")[1:])
    assert result.exit_code == 2 and f"takes no teacher (its class has roles = (): {written}, line " in result.stderr


def test_what_was_saved_stays_and_the_traceback_is_shown_on_demand(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = "        if epoch:\n            raise ValueError('of\\nthe second')  # here\n        return Step(loss)\n"
    written.write_text(SOURCE + PLAIN + fails)
    log = written.with_name("log.jsonl")
    result = call(*words("--log-file", log))
    assert result.exit_code == 2 and "Traceback" not in result.stderr and "line 19: of; what was saved" in result.stderr
    run = Run(Path(result.stdout.splitlines()[0]))
    assert len(run.metrics) == 1 and (run.path / "last.state").exists()
    (failed,) = [one for one in map(json.loads, log.read_text().splitlines()) if one["event"] == "failed"]
    assert "ValueError: of" in failed["traceback"] and "Traceback" in failed["traceback"]
    monkeypatch.setenv(SHOW, "1")
    told = call(*words())
    assert told.exit_code == 2 and "Traceback (most recent call last)" in told.stderr
    assert told.stderr.splitlines()[-1] == result.stderr.splitlines()[-1]
    written.write_text(written.read_text().replace("if epoch:", "if False:"))
    sys.modules.pop("wrong_method")
    assert call(*words()).exit_code == 0 and len(run.metrics) == 2


def test_a_fault_in_a_suite_is_the_same_sentence(written: Path) -> None:
    written.write_text(SOURCE + WRONG["shapes"][0])
    sets = "{ schedule.epochs = 1, data.train_images = 64, data.validation = 20 }"
    runs = [("wrong", "wrong.toml"), ("right", "standard-digits")]
    Path("two.toml").write_text(
        'title = "Two"\ndataset = "fake"\nprotocols = ["clean"]\n'
        + "".join(f"[[runs]]\nname = {name!r}\nrecipe = {recipe!r}\nset = {sets}\n" for name, recipe in runs)
    )
    result = call("reproduce", "two.toml", "--jobs", "1", "--device", "cpu")
    assert result.exit_code == 2 and "Traceback" in result.stderr
    assert "wrong (seed 0) was refused: The method Wrong failed with RuntimeError in " in result.stderr
    assert len(list(Path("runs").glob("*/done"))) == 1, "the other run is done"
