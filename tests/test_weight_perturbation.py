"""Adversarial weight perturbation: where the gradients are taken, and that nothing else is moved by it."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import test_engine
import torch
from small import CPU, batch, method, recipe
from test_engine import equal, loop_of, rows, weights
from test_methods import OURS
from torch import Tensor, nn

from ardbench.attacks.pgd import Maximiser
from ardbench.config import Recipe, WeightPerturbation
from ardbench.data.load import load
from ardbench.engine.checkpoints import load_state
from ardbench.engine.loop import Loop
from ardbench.engine.weight_perturbation import Backward
from ardbench.errors import ArdbenchError
from ardbench.methods.base import Method
from ardbench.progress import Progress
from ardbench.runs import Run

BOTH = ["awp", "sam-like"]


def made(name: str, to: Any = torch.float32, **sets: Any) -> tuple[Method[Any], Recipe, Backward]:
    wanted = recipe(name, **sets)
    built = method(wanted, to=to)
    return built, wanted, Backward(built, wanted)


def copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def is_weight(net: nn.Module, name: str) -> bool:
    """Return whether a parameter is of a convolution or a linear layer, and no bias."""
    path, _, kind = name.rpartition(".")
    return isinstance(net.get_submodule(path), nn.Conv2d | nn.Linear) and kind == "weight"


@pytest.mark.parametrize("variant", BOTH)
@pytest.mark.parametrize("base", ["pgd-at", "trades", "rslad"])
def test_gradients_are_those_at_the_perturbed_weights(base: str, variant: str) -> None:
    """By hand in float64: two copies of the network, the loss at the x' that was crafted, and the definition of v."""
    built, wanted, backward = made(f"{base}+{variant}", torch.float64, data__batch=12)
    given, before = batch(wanted, dtype=torch.float64), copy.deepcopy(built.student)
    crafted: list[Tensor] = []
    built.watch = lambda _, x_adv: crafted.append(x_adv)
    with backward(given, 0, 1.0) as step:
        found = {name: p.grad.clone() for name, p in built.student.named_parameters() if p.grad is not None}
        there = copied(built.student)
    (x_adv,) = crafted  # once

    def loss(net: nn.Module) -> Tensor:
        by_hand = method(recipe(base, data__batch=12), to=torch.float64)
        by_hand.student, by_hand.once = net, lambda make: x_adv if "search" in make.__qualname__ else make()
        return by_hand.step(given, 0).loss

    at_w = copy.deepcopy(before)
    gradients = torch.autograd.grad(loss(at_w), list(at_w.parameters()))
    moved = copy.deepcopy(before)
    with torch.no_grad():
        for (name, p), g in zip(moved.named_parameters(), gradients, strict=True):
            if variant == "sam-like" or is_weight(moved, name):
                p += 0.01 * g * (p.square().sum().sqrt() / g.square().sum().sqrt())
    for name, p in before.named_parameters():
        expected = moved.get_parameter(name) if variant == "awp" else p
        assert torch.allclose(there[name], expected, rtol=1e-12, atol=1e-15), name
        length = float(((moved.get_parameter(name) - p).norm() / p.norm()).detach()) if p.any() else 0.0
        chosen = variant == "sam-like" or is_weight(before, name)
        assert length == pytest.approx(0.01 if chosen and p.any() else 0, rel=1e-9), name
    value = loss(moved)
    assert step.loss.item() == pytest.approx(value.item(), rel=1e-10) and value > loss(copy.deepcopy(before))
    again = copy.deepcopy(moved)
    for name, p in zip(found, torch.autograd.grad(loss(again), list(again.parameters())), strict=True):
        assert torch.allclose(found[name], p, rtol=1e-7, atol=1e-10), name


@pytest.mark.parametrize("variant", BOTH)
@pytest.mark.parametrize("base", ["pgd-at", "trades", "ard", "darht", "crdnd"])
def test_one_pass_moves_running_statistics_and_state(base: str, variant: str) -> None:
    """ARD's attack moves statistics too: as often as without perturbation."""
    counts, states = [], []
    for name in (base, f"{base}+{variant}"):
        built, wanted, backward = made(name)
        with backward(batch(wanted), 15, 1.0):
            pass
        norm = built.student.get_submodule("bn1")
        counts.append(int(norm.num_batches_tracked))  # type: ignore[arg-type]
        states.append(built.state())
        assert norm.track_running_stats
    assert counts[0] == counts[1]
    assert equal(*states)


def test_the_pass_at_the_perturbed_weights_moves_the_statistics_of_awp() -> None:
    """Of sam-like the pass at w. A linear first layer: the means of what leaves it are those of the moved one."""
    for variant in BOTH:
        built, wanted, backward = made(f"standard+{variant}", torch.float64, weight_perturbation__gamma=0.5)
        given, net = batch(wanted, dtype=torch.float64), built.student
        before = copy.deepcopy(net)
        with backward(given, 0, 1.0):
            at = copy.deepcopy(net) if variant == "awp" else before
        with torch.no_grad():
            mean = at.get_submodule("conv1")(given.x).mean((0, 2, 3))
        old, new = (one.get_submodule("bn1").running_mean for one in (before, net))
        assert torch.allclose(new, 0.9 * old + 0.1 * mean, rtol=1e-10)  # type: ignore[operator, arg-type]


@pytest.mark.parametrize("name", OURS)
def test_gamma_0_is_the_method_to_the_bit(name: str, tmp_path: Path) -> None:
    """Teachers' training, peers, states and phases included; recipes refuse it, so it is made past them."""
    sets = {"schedule__epochs": 2, "data__train_images": 96}
    assert loop_of(name, tmp_path / "plain", **sets).fit()
    wanted = recipe(name, **test_engine.SHORT | sets)
    nothing = WeightPerturbation.model_construct(gamma=0.0, begin=0.0, variant="awp")
    wanted = wanted.model_copy(update={"weight_perturbation": nothing})
    (tmp_path / "zero").mkdir()
    splits = load("fake", CPU, validation=wanted.data.validation, train_images=wanted.data.train_images)
    assert Loop(Run(tmp_path / "zero"), wanted, method(wanted), splits, lambda: False, Progress()).fit()
    assert equal(weights(tmp_path / "plain", "last"), weights(tmp_path / "zero", "last"))
    assert rows(tmp_path / "plain") == rows(tmp_path / "zero")


@pytest.mark.parametrize("variant", BOTH)
@pytest.mark.parametrize("base", ["pgd-at", "peeraid"])
def test_without_a_step_of_the_optimizer_weights_are_what_they_were_to_the_bit(base: str, variant: str) -> None:
    built, wanted, backward = made(f"{base}+{variant}")
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in built.trainables().items()}
    with backward(batch(wanted), 0, 1.0):
        moved = not all(map(torch.equal, before["student"], built.student.parameters()))
        assert moved == (variant == "awp")
    for name, net in built.trainables().items():
        assert all(map(torch.equal, before[name], net.parameters()))


def test_the_optimizers_change_at_the_moved_weights_is_applied_to_the_weights() -> None:
    """w <- w + (w'_stepped - w'), to rounding: momentum and weight decay act at w'."""
    built, wanted, backward = made("pgd-at+awp", torch.float64)
    before = [p.detach().clone() for p in built.student.parameters()]
    sgd = torch.optim.SGD(built.student.parameters(), lr=0.1, weight_decay=0.01)
    with backward(batch(wanted, dtype=torch.float64), 0, 1.0):
        there = [p.detach().clone() for p in built.student.parameters()]
        gradients = [p.grad.clone() for p in built.student.parameters() if p.grad is not None]
        sgd.step()
    for p, w, at, g in zip(built.student.parameters(), before, there, gradients, strict=True):
        assert torch.allclose(p, w - 0.1 * (g + 0.01 * at), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("variant", BOTH)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_an_exception_leaves_the_weights_as_they_were_to_the_bit(
    variant: str, error: type[BaseException], where: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first pass, in the second, while the optimizer steps, and after half of its step."""
    built, wanted, backward = made(f"rslad+fair+{variant}")
    before, count, call = copied(built.student), itertools.count(), type(built).step
    usual = built.once

    def step(self: Any, *args: Any) -> Any:
        if next(count) == where:
            raise error
        return call(self, *args)

    monkeypatch.setattr(type(built), "step", step)

    def stepped() -> None:
        with backward(batch(wanted), 0, 1.0):
            if where == 3:
                with torch.no_grad():
                    next(built.student.parameters()).zero_()
            raise error

    with pytest.raises(error):
        stepped()
    assert all(torch.equal(p, before[name]) for name, p in built.student.named_parameters())
    assert built.once is usual
    assert all(m.track_running_stats for m in built.student.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("variant", BOTH)
def test_a_batch_is_attacked_and_teachers_are_asked_once(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {}
    search = Maximiser.__call__
    for name in ("iad-ii", f"iad-ii+{variant}"):
        built, wanted, backward = made(name)
        seen: list[str] = []

        def asked(x: Tensor, of: Any, seen: list[str] = seen) -> Tensor:
            seen.append("teacher")
            return of(x)  # type: ignore[no-any-return]

        def searching(self: Any, *args: Any, seen: list[str] = seen, **keys: Any) -> Tensor:
            seen.append("search")
            return search(self, *args, **keys)

        built.teachers = tuple(lambda x, of=of: asked(x, of) for of in built.teachers)
        monkeypatch.setattr(Maximiser, "__call__", searching)
        with backward(batch(wanted), 15, 1.0):
            pass
        counts[name] = seen
    plain, perturbed = counts.values()
    assert plain == perturbed == ["search", "teacher", "teacher"]


def test_it_begins_where_the_recipe_says() -> None:
    built, wanted, backward = made("pgd-at+awp", weight_perturbation__begin=0.5)
    calls = []
    call = type(built).step
    built.step = lambda *args: (calls.append(args[1]), call(built, *args))[1]  # type: ignore[method-assign]
    for epoch in (0, 9, 10, 19):
        with backward(batch(wanted), epoch, 1.0):
            pass
    assert calls == [0, 9, 10, 10, 19, 19]


def test_draws_of_the_network_are_the_same_in_both_passes() -> None:
    """DARHT's drop_block draws in every forward, the attack's included."""
    built, wanted, backward = made("darht+awp", method__drop_block=True, method__p_adv=1)
    drawn: list[tuple[Tensor, ...]] = []
    logits = built.logits

    def listening(x: Tensor, net: Any = None) -> Tensor:
        drawn.append((torch.get_rng_state(),))
        return logits(x, net)

    built.logits = listening  # type: ignore[method-assign]
    torch.manual_seed(3)
    with backward(batch(wanted), 15, 1.0):
        pass
    half = len(drawn) // 2
    assert half and len(drawn) == 2 * half
    assert all(torch.equal(a[0], b[0]) for a, b in zip(drawn[:half], drawn[half:], strict=True))


def test_a_run_that_is_stopped_holds_no_perturbed_weight(tmp_path: Path) -> None:
    """What is on disk is of between two steps: after a kill it goes on from there."""
    count = itertools.count(1)
    loop = loop_of("pgd-at+awp", tmp_path, lambda: next(count) >= 2)
    assert not loop.fit()
    saved = load_state(tmp_path / "last.state")["nets"]["student"]
    assert equal(saved, copied(loop.method.student))
    test_engine.test_a_resumed_run_equals_an_undisturbed_one("pgd-at+awp", tmp_path / "whole")


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({"weight_perturbation__gamma": 0}, "gamma = 0: it is a share of each weight tensor's norm: give a number above 0"),
        ({"weight_perturbation__gamma": 1.01}, "gamma = 1.01: it is a share"),
        ({"weight_perturbation__gamma": "x"}, "neither a number nor a fraction"),
        ({"weight_perturbation__begin": 0.5}, "weight_perturbation.gamma is missing"),
        ({"weight_perturbation__gamma": 0.1, "weight_perturbation__begin": 1}, "leaves none of 20 epochs to perturb"),
        ({"weight_perturbation__gamma": 0.1, "weight_perturbation__variant": "sam"}, "should be 'awp' or 'sam-like'"),
        ({"weight_perturbation__gamma": 0.1, "weight_perturbation__rho": 0.1}, "'rho'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(sets: dict[str, Any], said: str) -> None:
    with pytest.raises(ArdbenchError) as refused:
        recipe("pgd-at", **sets)
    assert said in str(refused.value)


def test_a_tensor_of_zeros_stays() -> None:
    built, wanted, backward = made("pgd-at+sam-like")
    zero = built.student.get_submodule("head").bias
    with torch.no_grad():
        zero.zero_()  # type: ignore[operator]
    with backward(batch(wanted), 0, 1.0) as step:
        assert step.loss.isfinite()
    assert not zero.any()  # type: ignore[operator]
