"""The reference of the speed benchmark: the same work as ours, so that a ratio of seconds is one of the same thing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small import CPU
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "speed"))

import reference_losses
import report
import sides
import training
from reference import Script, attack

from ardbench.attacks.form import frozen
from ardbench.attacks.pgd import input_gradient
from ardbench.data.batches import Batch
from ardbench.engine.loop import Loop

TINY = ["--model", "resnet8-tiny", "--teacher", "resnet8-tiny", "--batch", "8", "--repeats", "1"]

PASSES = {
    "pgd-at": (33, 23),  # naive and lean
    "trades": (39, 27),  # reference file, and clean logits hoisted; x forwarded once in the outer step
    "mart": (26, 26),
    "rslad": (27, 27),  # T + 26 F
    "ard": (27, 24),  # x only where it weighs
    "akd2": (25, 25),
    "adaad": (48, 44),  # 26 F + 22 T, and x only where it weighs
    "iad-i": (32, 28),  # 2 T + 30 F, and 2 T + 26 F
    "iad-ii": (32, 28),
    "peeraid": (33, 30),  # 29 F + 4 P, and 26 F + 4 P
    "crdnd": (28, 28),
    "darht": (25, 25),
}
"""Method -> forwards that a step of the reference and one of ours are worth: counted by hand, F, T and P being one network.

A gradient to the input costs one forward, one to input and parameters two.
"""


class Products(TorchDispatchMode):
    """Adds up the FLOP of convolutions and products, each gradient of them included."""

    flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flop += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    return sides.synthetic(CPU)


def pair(method: str, data: tuple[Any, Any]) -> tuple[Script, Loop, Batch]:
    """Return both sides with equal weights, and a batch."""
    options, (images, splits) = training.parse(TINY), data
    script, loop = sides.script_of(method, options, images, CPU), sides.loop_of(method, "fp32", options, splits)
    nets = (script.student, *([script.peer] if script.peer else []))
    for net, learning in zip(nets, loop.trainables.values(), strict=True):
        net.load_state_dict(learning.state_dict())
    return script, loop, loop.batches.batch(sides.epoch_of(loop), 0)


def distance(a: Tensor, b: Tensor) -> float:
    """Return the length of a - b in lengths of b."""
    return ((a - b).norm() / b.norm()).item()


def gradient(net: nn.Module) -> Tensor:
    """Return the gradient of all parameters as one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


@pytest.mark.parametrize("method", sorted(reference_losses.METHODS))
def test_same_objective_loss_and_gradient_as_ours_at_the_same_adversarial_examples(
    method: str, data: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, loop, batch = pair(method, data)
    if method == "crdnd":  # as in a later epoch
        script.kept["accuracy"] = loop.method.accuracy = torch.rand(2, 10)
    noise = torch.empty_like(batch.x).uniform_(-8 / 255, 8 / 255)
    x_adv, upward = (batch.x + noise).clamp(0, 1), []
    mode = script.recipe.attack.bn

    def theirs(script: Script, x: Tensor, loss_at: Any, start: Tensor | None = None) -> Tensor:
        assert torch.equal(x, batch.x)
        script.student.train(mode == "train")
        point = x_adv.clone().requires_grad_()
        upward.append(torch.autograd.grad(loss_at(point), point)[0])
        script.student.train()
        return x_adv

    def ours(objective: Any, batch: Batch, aux: tuple[Tensor, ...] = (), target: Any = None) -> Tensor:
        student = loop.method.student
        with frozen(student, mode):
            with torch.no_grad():
                aux = (*aux, target(student, batch.x)) if target else aux
            upward.append(input_gradient(objective, student, x_adv, aux))
        return x_adv

    monkeypatch.setattr(reference_losses, "attack", theirs)
    monkeypatch.setattr(loop.method, "maximise", ours)
    expected, actual = script.loss(script, batch.x, batch.y), loop.method.step(batch, sides.epoch_of(loop)).loss
    assert distance(actual, expected) < 1e-4  # ARD's t^2 = 900 widens the rounding
    towards = [up / up.norm() for up in upward]  # only signs are followed, so a scale does not matter
    assert distance(*towards) < 1e-4

    expected.backward()
    actual.backward()
    nets = (script.student, *([script.peer] if script.peer else []))
    for net, learning in zip(nets, loop.trainables.values(), strict=True):
        assert distance(gradient(learning), gradient(net)) < 1e-5


@pytest.mark.parametrize("method", sorted(PASSES))
def test_a_step_costs_the_passes_that_the_scripts_were_counted_to_make(method: str, data: tuple[Any, Any]) -> None:
    script, loop, batch = pair(method, data)
    with Products() as forward, torch.no_grad():
        script.student(batch.x)
    with Products() as theirs:
        script.loss(script, batch.x, batch.y).backward()
    with Products() as ours:
        loop.method.step(batch, sides.epoch_of(loop)).loss.backward()
    counted = tuple(round(side.flop / forward.flop) for side in (theirs, ours))
    assert counted == PASSES[method]  # the first layer's input has no gradient: a tenth of a forward less an outer pass


def test_both_ways_to_differentiate_find_the_same_examples(data: tuple[Any, Any]) -> None:
    script, _, batch = pair("pgd-at", data)
    found = []
    for script.gradient in ("backward", "grad"):
        x_adv = attack(script, batch.x, lambda x: cross_entropy(script.student(x), batch.y), batch.x)
        assert (x_adv - batch.x).abs().max() == pytest.approx(8 / 255, abs=1e-6)
        found.append(x_adv)
    assert torch.equal(*found)


def test_a_row_that_is_there_is_not_measured_again(
    data: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured = []
    monkeypatch.setattr(training, "synthetic", lambda device: data)
    monkeypatch.setattr(training, "peak_of", lambda method, side, options: measured.append(side) or 1.0)
    for variants in ("fp32", "fp32,bf16"):
        options = training.parse([*TINY, "--out", str(tmp_path), "--variants", variants])
        training.measure("peeraid", options.of("peeraid"), CPU)
    assert measured == ["reference", "fp32", "reference", "bf16"]
    rows = report.open_table(tmp_path / "cpu.csv").rows()
    assert [(row["method"], row["variant"], row["teacher"], row["batch"]) for row in rows] == [
        ("peeraid", "fp32", "resnet8-tiny", "8"),
        ("peeraid", "bf16", "resnet8-tiny", "8"),
    ]
    assert (tmp_path / "cpu.md").read_text(encoding="utf-8").count("| peeraid |") == 2
