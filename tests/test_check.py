"""`ardbench new method` and `ardbench check`: what is written works, and each mistake is found by the check that is for it."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest
import torch
from cli_call import call
from safetensors.torch import load_file

import ardbench
from ardbench import data, models, plugins
from ardbench.campaigns.suites import load_suite

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "mine.py"
TINY = ["--epochs", "1", "--set", "attack.steps=1", "--set", "selection.by=last", "--device", "cpu", "--quiet"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def found(target: object, *words: str, code: int = 0) -> list[dict[str, str]]:
    """Return what `ardbench check` found."""
    result = call("check", target, *words, "--json")
    assert result.exit_code == code, result.output
    checks: list[dict[str, str]] = json.loads(result.stdout)["checks"]
    return checks


def edited(source: str, old: str, new: str, name: str = "edited.py") -> Path:
    """Return a plugin with one change."""
    assert source.count(old) == 1, old
    path = Path(name)
    path.write_text(source.replace(old, new))
    os.environ[plugins.VARIABLE] = ""
    return path


def first() -> str:
    """Return the plugin that `new method` writes."""
    assert call("new", "method", "my-first").exit_code == 0
    text = Path("my_first.py").read_text()
    Path("my_first.py").unlink()
    return text


def test_what_is_written_is_right_and_trains_and_has_a_suite() -> None:
    result = call("new", "method", "my-first")
    assert result.stdout.splitlines()[:2] == ["my_first.py", "my-first.toml"]
    assert len(found("my_first.py:my-first")) == 5 and not any(one["refusal"] for one in found("my_first.py"))
    suite = load_suite("my-first.toml")
    assert [run.recipe for run in suite.runs] == ["pgd-at-digits", "rslad-digits", "my-first-digits"]
    teacher = call("train", "pgd-at-digits", *TINY).stdout.splitlines()[0]
    trained = call("--plugin", "my_first.py", "distill", "my-first", "--dataset", "digits", "--teacher", teacher, *TINY)
    assert trained.exit_code == 0 and Path(trained.stdout.splitlines()[0]).name.startswith("my-first-digits-")


def test_what_is_shown_of_a_recipe_with_code_from_outside_is_toml() -> None:
    shown = tomllib.loads(call("--plugin", EXAMPLE, "show", "my-loss-my-parity").stdout)
    assert shown["outside"].keys() == {"method:my-loss", "model:my-net", "dataset:my-parity"}


def test_nothing_is_written_over_and_no_name_is_taken() -> None:
    assert call("new", "method", "my-first").exit_code == 0
    for name, said in {
        "my-first": "is there already",
        "trades": "There is a method trades",
        "1st": "is no name",
    }.items():
        result = call("new", "method", name)
        assert result.exit_code == 2 and said in result.stderr, result.output


MODULE = """
from ardbench.config import ModuleConfig
from ardbench.methods.module import Module
class TwiceConfig(ModuleConfig):
    by: float
class Twice(Module[TwiceConfig]):
    "Each loss, times a number."
    Config = TwiceConfig
    def __call__(self, step, batch, epoch):
        return step.times(self.config.by * batch.x.new_ones(len(batch.y)){then})
MODULES = {{"twice": Twice}}
RECIPES = {{"twice-digits": {{"extends": "rslad-digits", "modules": [{{"name": "twice", "by": 2}}]}}}}
"""


def test_a_module_is_held_to_it_over_the_method_of_its_recipe() -> None:
    Path("module.py").write_text(MODULE.format(then=""))
    assert not any(one["refusal"] for one in found("module.py:twice"))
    Path("wrong.py").write_text(MODULE.format(then=" * float('nan')"))
    os.environ[plugins.VARIABLE] = ""
    (told,) = found("wrong.py:twice", code=1)
    assert "not finite in epoch 0" in told["refusal"]


def test_the_example_is_right_in_all_that_it_has() -> None:
    told = found(EXAMPLE)
    subjects = list(dict.fromkeys(one["subject"] for one in told))
    assert subjects == ["method my-loss", "network my-net", "data set my-parity", "recipe my-loss-my-parity"]
    assert len(told) == 11 and not any(one["refusal"] for one in told)


def test_the_example_is_loaded_from_its_export() -> None:
    """With the plugin, in Python; logits are those of the run's weights in a network that is built by hand."""
    words = ("train", "pgd-at", "--dataset", "my-parity", "--student", "my-net", *TINY)
    run = Path(call("--plugin", EXAMPLE, *words).stdout.splitlines()[0])
    assert call("--plugin", EXAMPLE, "export", run, "--out", "exported").exit_code == 0
    net, x = ardbench.load("exported"), torch.rand(5, 1, 8, 8)
    by_hand = models.build("my-net", data.info("my-parity"), normalise=False)
    by_hand.load_state_dict(load_file(run / "last.safetensors"))
    assert torch.equal(net(x), by_hand.eval()(x))


STEP = "x_adv = self.maximise(label_loss, batch, aux=(batch.y,))"
RETURN = "return Step.over("


@pytest.mark.parametrize(
    ("old", "new", "passed", "said"),
    [
        (RETURN, "return (", 0, "returns a value of type tuple from step"),
        ("examples = True", "examples = False", 0, "has examples = False, and its step is otherwise"),
        (RETURN, "self.student.eval()\n        return Step.over(", 0, "leaves a network in another mode"),
        (RETURN, "clean = clean * float('nan')\n        return Step.over(", 0, "that is not finite in epoch 0"),
        (
            RETURN,
            "adversarial, clean = (self.student.head(v.detach()).sum(1) for v in "
            "[self.student.features(batch.x)] * 2)\n        return Step.over(",
            0,
            "no gradient in any of 4 epochs",
        ),
        (RETURN, "clean = clean * batch.x.new_empty(1).bernoulli_()\n        return Step.over(", 1, "gives two losses"),
        (RETURN, "alpha = alpha if clean.mean() > 0 else 0\n        return Step.over(", 2, "names a device or waits"),
        (STEP, STEP.replace("label_loss,", "lambda net, x, y: label_loss(net, x, y),"), 3, "has an objective that is another"),
        (STEP, "x_adv = batch.x", 3, "searches x' 0 times in 2 steps"),
        (
            RETURN,
            "self.seen = getattr(self, 'seen', 0) + 1\n        clean = clean * self.seen\n        return Step.over(",
            4,
            "goes on otherwise after a restart",
        ),
        (RETURN, "1 / 0\n        return Step.over(", 0, "failed with ZeroDivisionError"),
    ],
)  # fmt: skip
def test_each_mistake_of_a_method_is_found(old: str, new: str, passed: int, said: str) -> None:
    told = found(edited(first(), old, new), code=1)
    (wrong,) = (one for one in told if one["refusal"])
    assert said in wrong["refusal"]
    assert [one["refusal"] for one in told if one["subject"] == wrong["subject"]][:-1] == [""] * passed


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("info.num_classes)", "3)", "gives (2, 3) for 2 images of my-parity"),
        ("        self.head =", "        self.spare = nn.Linear(2, 2)\n        self.head =", "gives spare.weight no finite"),
        ("return out.mean(dim=(2, 3))", "return out.mean(dim=(2, 3)) + x.mean()", "by what else is in the batch"),
        ("    def features", "    def forward(self, x):\n        return 2 * super().forward(x)\n\n    def features",
         "a forward that is not head(features(x))"),
        ("        self.head =", "        self.register_buffer('odd', torch.rand(1, generator=torch.Generator()."
         "manual_seed(torch.seed())))\n        self.head =", "begins otherwise from the same seed"),
        ("mean=(0.3053,)", "mean=(0.5,)", "has mean = (0.5,) of training pixels: write (0.30"),
        ('"extends": "rslad-digits"', '"extends": "rslad-digit"', "rslad-digits"),
    ],
)  # fmt: skip
def test_each_mistake_of_a_network_a_data_set_and_a_recipe_is_found(old: str, new: str, said: str) -> None:
    told = found(edited(EXAMPLE.read_text(), old, new), code=1)
    assert any(said in one["refusal"] for one in told), told


def test_names_that_are_not_there_are_refused_and_a_method_wants_a_recipe() -> None:
    result = call("check", "trades")
    assert result.exit_code == 2 and "give FILE.py or FILE.py:NAME" in result.stderr
    result = call("check", f"{EXAMPLE}:my-los")
    assert result.exit_code == 2 and "did you mean 'my-loss'" in result.stderr
    plugin = edited(first(), "RECIPES = ", "OTHERS = ")
    told = found(f"{plugin}:my-first", code=1)
    assert f"No recipe of {plugin.absolute()} says the constants of the method my-first" in told[0]["refusal"]
    Path("own.toml").write_text('extends = "rslad-digits"\n[method]\nname = "my-first"\nalpha = 0.5\n')
    assert len(found(f"{plugin}:my-first", "--recipe", "own.toml")) == 5
