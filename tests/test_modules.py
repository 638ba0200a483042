"""Modules over every method that they allow: the contract, their equations written out, and who they refuse."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import references
import test_engine
import torch
from small import batch, method, network, recipe, watched
from test_example import CONTRACT
from torch import Tensor, nn

from ardbench import methods
from ardbench.attacks.pgd import Maximiser
from ardbench.engine.checkpoints import load_state
from ardbench.errors import ArdbenchError
from ardbench.losses import kl
from ardbench.methods.base import Method, Step
from ardbench.methods.fair import class_weights
from ardbench.methods.module import Module

ALLOWED = {
    name: [one for one in methods.METHODS if methods.module_class(name).refusal(methods.method_class(one)) is None]
    for name in methods.MODULES
}
PAIRS = [f"{base}+{name}" for name, bases in ALLOWED.items() for base in bases]


@pytest.mark.parametrize("name", [*PAIRS, "rslad+igdm+fair", "rslad+fair+igdm"])
@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_modules_keep_the_contract(check: Callable[..., None], name: str, request: pytest.FixtureRequest) -> None:
    wanted = inspect.signature(check).parameters.keys() - {"name"}
    check(name, **{one: request.getfixturevalue(one) for one in wanted})


def test_every_pair_that_is_wanted_is_allowed() -> None:
    assert set(ALLOWED["igdm"]) >= {"ard", "adaad", "rslad", "iad-i", "iad-ii"}
    assert set(ALLOWED["fair"]) >= {"ard", "rslad", "iad-i", "pgd-at"}


@pytest.mark.parametrize("name", ["rslad+igdm+fair", "iad-i+fair+igdm+awp", "crdnd+igdm+sam-like", "darht+igdm+awp"])
def test_a_resumed_run_equals_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    test_engine.test_a_resumed_run_equals_an_undisturbed_one(name, tmp_path)


# IGDM -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "fields", "factor"),
    [
        ("rslad", {}, 5 / 20),
        ("adaad", {"beta": 0.5, "gamma": 2}, 5 / 20),
        ("ard", {"ramp_epochs": 200, "extra_forwards": True}, 5 / 200),
        ("iad-ii", {"alpha": 20}, 5 / 20),
    ],
)
def test_igdm_is_its_equation(base: str, fields: dict[str, Any], factor: float) -> None:
    """L + alpha factor mean KL(softmax(T(x+) - T(x-)) || softmax(S(x+) - S(x-))), over lists of floats."""
    section = {"name": "igdm", "alpha": 3} | fields
    wanted = recipe(base, data__batch=12, modules=[section])
    built, given = method(wanted, to=torch.float64), batch(wanted, dtype=torch.float64)
    seen = [given.x]
    built.watch = lambda _, x_adv: seen.append(x_adv)
    before = copy.deepcopy(built.student)
    step = built(given, 4)
    alone = method(recipe(base, data__batch=12), to=torch.float64)(given, 4)
    d = seen[-1] - given.x
    assert d.abs().max() > 0.01
    ends = given.x + fields.get("beta", 1) * d, given.x - fields.get("gamma", 1) * d
    assert any((end < 0).any() or (end > 1).any() for end in ends), "not clipped"

    def away(net: nn.Module) -> list[list[float]]:
        with torch.no_grad():
            return [(a - b).tolist() for a, b in zip(*(copy.deepcopy(net)(end) for end in ends), strict=True)]

    term = references.mean_kl(away(network(10).double().eval()), away(before))
    assert term > 1e-4
    assert step.logs["igdm"].item() == pytest.approx(term, rel=1e-9)
    assert step.loss.item() == pytest.approx(alone.loss.item() + section["alpha"] * factor * term, rel=1e-9)
    assert step.logs.keys() == alone.logs.keys() | {"igdm"}


def igdm(student: nn.Module, teacher: nn.Module, x: Tensor, x_adv: Tensor) -> Tensor:
    """Return the term of two networks, at epoch 0 of ten."""
    wanted = recipe("rslad", modules=[{"name": "igdm", "alpha": 1}], schedule__epochs=10)
    built = method(wanted)
    built.student, built.teachers, built._present.x_adv = student, (teacher,), x_adv
    zero = Step(x.new_zeros(()))
    return built.modules[0](zero, replace(batch(wanted), x=x), 0).loss


def test_igdm_in_closed_form() -> None:
    torch.manual_seed(1)
    x = torch.rand(6, 192, dtype=torch.float64)
    x_adv = x + 0.1 * torch.rand_like(x)
    one, other = (nn.Linear(192, 10).double() for _ in range(2))
    assert igdm(one, one, x, x_adv) == 0
    assert igdm(one, other, x, x) == 0
    (gradient, *_) = torch.autograd.grad(igdm(one, other, x, x), list(one.parameters()), materialize_grads=True)
    assert not gradient.any()
    value = igdm(one, other, x, x_adv)
    jacobians = [2 * (x_adv - x) @ net.weight.T for net in (one, other)]  # affine: T(x+) - T(x-) = 2 J d
    assert value.item() == pytest.approx(kl(*jacobians).mean().item() / 10, rel=1e-9)
    with torch.no_grad():
        other.bias += 3.0
        one.bias -= torch.rand(10)
    assert igdm(one, other, x, x_adv).item() == pytest.approx(value.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("base", "fields", "forwards", "asked"),
    [
        ("rslad", {}, 3, 3),  # x', x and x-; T at x, x' and x-
        ("adaad", {}, 2, 4),  # x' and x-; the search goes through T in each of its two steps
        ("adaad", {"extra_forwards": True}, 4, 4),
        ("adaad", {"beta": 0.5}, 3, 5),
    ],
)
def test_igdm_asks_nothing_twice(base: str, fields: dict[str, Any], forwards: int, asked: int) -> None:
    wanted = recipe(base, modules=[{"name": "igdm", "alpha": 1} | fields])
    built = method(wanted)
    norm, calls = built.student.get_submodule("bn1"), itertools.count()
    before, teacher = int(norm.num_batches_tracked), built.teachers[0]  # type: ignore[arg-type]
    built.teachers = (lambda x: (next(calls), teacher(x))[1],)
    built(batch(wanted), 0)
    assert int(norm.num_batches_tracked) - before == forwards  # type: ignore[arg-type]
    assert next(calls) == asked


# Fair -----------------------------------------------------------------------------------------------------------------


def test_class_weights_in_closed_form() -> None:
    def weights(*m: float, offset: float = 1e-5) -> list[float]:
        return class_weights(torch.tensor(m, dtype=torch.float64), 2, 5 / 6, 5 / 2, offset).tolist()

    assert weights(2, 4) == pytest.approx([1.6, 5 / 6], rel=1e-4)
    assert weights(3, 3, 3) == pytest.approx([1, 1, 1])
    assert weights(0, 5) == pytest.approx([2, 5 / 6])  # (2, 0) before the clamp
    assert weights(0, *[9] * 9) == pytest.approx([5 / 2, *[5 / 6] * 9])
    assert weights(2, 4, offset=0) == pytest.approx([1.6, 5 / 6], rel=1e-12)
    assert weights(0, 5, offset=0) == pytest.approx([2, 5 / 6], rel=1e-12), "no 0/0"


@pytest.mark.parametrize("base", ["rslad", "ard"])
def test_fair_counts_the_iterates_that_are_withstood(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the iterates of the search itself, asked again in eval mode; ARD's search is in train mode."""
    wanted = recipe(base, modules=[{"name": "fair"}], attack__steps=3)
    built, given = method(wanted, to=torch.float64), batch(wanted, dtype=torch.float64)
    iterates: list[Tensor] = []
    module = built.modules[0]
    inner = module.observe

    def seeing(given: Any, number: int, iterate: Tensor, logits: Tensor) -> None:
        assert number == len(iterates)
        asked = copy.deepcopy(built.student).eval()
        with torch.no_grad():
            right.append((asked(iterate).argmax(1) == given.y).double())
        iterates.append(iterate)
        inner(given, number, iterate, logits)

    right: list[Tensor] = []
    module.observe = seeing  # type: ignore[method-assign]
    step, alone = built(given, 0), method(recipe(base, attack__steps=3), to=torch.float64)(given, 0)
    assert len(iterates) == 3
    assert torch.equal(step.loss, alone.loss), "in the first epoch all weights are 1"
    kappa = torch.stack(right).sum(0)
    assert 0 < kappa.mean() < 3
    expected = [float(kappa[given.y == k].sum()) for k in range(10)]
    assert module.state()["withstood"].tolist() == expected
    assert module.state()["seen"].tolist() == [float((given.y == k).sum()) for k in range(10)]
    counts = torch.bincount(given.y, minlength=10)
    assert counts.min() > 0
    module.begin_epoch(1)
    m = torch.tensor(expected) / counts
    raw = [1 / (value + 1e-5) ** 2 for value in m.tolist()]
    hand = [min(max(10 * value / sum(raw), 5 / 6), 5 / 2) for value in raw]
    assert module.state()["weights"].tolist() == pytest.approx(hand, rel=1e-6)
    assert not module.state()["seen"].any()


@pytest.mark.parametrize("base", ["rslad", "ard", "iad-i", "trades"])
def test_fair_weighs_each_example_by_its_class(base: str) -> None:
    """Against the method alone on each example: float64, networks in eval mode, so that no example sees another."""
    built = method(recipe(base, modules=[{"name": "fair"}], attack__bn="eval"), to=torch.float64)
    wanted = recipe(base, attack__bn="eval", data__batch=8)
    given = batch(wanted, dtype=torch.float64)
    built.student.eval()
    weights = torch.rand(10, dtype=torch.float64) + 0.5
    built.modules[0].load_state({"weights": weights, "withstood": torch.zeros(10), "seen": torch.zeros(10)})
    step, x_adv = watched(built, given, 8)
    whole = built(given, 8)
    assert step.examples is not None and step.examples.shape == (8,)
    alone = method(wanted, to=torch.float64)
    alone.student.eval()
    values = []
    for i in range(8):
        one = replace(given, x=given.x[i : i + 1], y=given.y[i : i + 1])
        alone.once = lambda make, i=i: x_adv[i : i + 1] if "search" in make.__qualname__ else make()
        values.append(float(weights[one.y]) * alone.step(one, 8).loss.item())
    assert whole.loss.item() == pytest.approx(sum(values) / 8, rel=1e-9)


def test_a_class_that_was_not_seen_leaves_the_weights_as_they_are() -> None:
    (module,) = method(recipe("rslad", modules=[{"name": "fair"}])).modules
    seen = torch.ones(10)
    seen[3] = 0
    module.load_state({"weights": torch.full((10,), 1.5), "withstood": torch.ones(10), "seen": seen})
    module.begin_epoch(1)
    assert module.state()["weights"].tolist() == [1.5] * 10


def test_modules_act_in_order() -> None:
    weights = torch.rand(10)
    losses = []
    for names in (("igdm", "fair"), ("fair", "igdm")):
        wanted = recipe("+".join(("rslad", *names)))
        built = method(wanted)
        built.modules[names.index("fair")].load_state({"weights": weights, "withstood": weights, "seen": weights})
        losses.append(built(batch(wanted), 9).loss.item())
    assert losses[0] != losses[1]


# What other modules may do ----------------------------------------------------------------------------------------------


class Corrected(Module[Any]):
    """Replaces what a teacher says by the true label, at logit 8."""

    needs = ("teacher",)

    def targets(self, logits: Tensor, batch: Any) -> Tensor:
        return 8 * nn.functional.one_hot(batch.y, logits.shape[1]).to(logits)


def test_a_module_of_others_replaces_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.MODULES, "corrected", "test_modules:Corrected")
    wanted = recipe("rslad", modules=[{"name": "corrected"}])
    built, given = method(wanted), batch(wanted)
    before = copy.deepcopy(built.student)
    seen: list[tuple[Tensor, ...]] = []
    search = Maximiser.__call__
    monkeypatch.setattr(
        Maximiser, "__call__", lambda self, *args, **keys: (seen.append(args[3]), search(self, *args, **keys))[1]
    )
    step, x_adv = built(given, 0), built.x_adv
    assert x_adv is not None
    target = 8.0 * nn.functional.one_hot(given.y, 10)
    assert torch.equal(seen[0][0], target), "the search climbs away from them"
    told = SimpleNamespace(**built.config.model_dump())
    now = {"S(x')": before(x_adv).tolist(), "S(x)": before(given.x).tolist(), "T0(x)": target.tolist()}
    assert step.loss.item() == pytest.approx(references.rslad(now, now, given.y.tolist(), told), rel=1e-5)


class Averaged(Method[Any]):
    """Asks the student's moving average, and where the run stands."""

    averages = True

    def step(self, batch: Any, epoch: int) -> Step:
        target = self.eval_logits(batch.x, self.average)
        self.told = [*getattr(self, "told", []), (self.iteration(batch), target)]
        return Step.over(kl(self.logits(batch.x), target))


def test_a_method_asks_the_average_and_the_iteration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(methods.METHODS, "averaged", "test_modules:Averaged")
    sets = {"method__name": "averaged", "schedule__epochs": 2, "selection__by": "last"}
    ema = {"average__kind": "ema", "average__decay": 0.9}
    for wrong in ({}, {**ema, "average__start": 0.5}):
        with pytest.raises(ArdbenchError, match=r"moving average: recipe \S+ needs an \[average\] section"):
            recipe("pgd-at", **sets, **wrong)
    loop = test_engine.loop_of("pgd-at", tmp_path, **sets, **ema)
    expected, inner = list[Tensor](), loop._step

    def step(given: Any, epoch: int, index: int) -> None:
        assert loop.averaged is not None
        with torch.no_grad():
            expected.append(copy.deepcopy(loop.averaged.module).eval()(given.x))
        inner(given, epoch, index)

    loop._step = step  # type: ignore[method-assign]
    loop.fit()
    told, steps = loop.method.told, len(loop.batches)  # type: ignore[attr-defined]
    assert [at for at, _ in told] == [(i, 2 * steps) for i in range(2 * steps)]
    assert all(torch.equal(ours, theirs) for (_, ours), theirs in zip(told, expected, strict=True))
    assert not torch.equal(
        told[-1][1], loop.method.eval_logits(loop.batches.batch(1, steps - 1).x, loop.method.student)
    )


@pytest.mark.parametrize(
    ("base", "sets", "said"),
    [
        ("peeraid", {"modules": [{"name": "igdm", "alpha": 1}]}, "igdm asks a trained teacher, and peeraid has none"),
        ("crdnd", {"modules": [{"name": "fair"}]}, "fair weighs examples, and crdnd has no loss per example"),
        ("standard", {"modules": [{"name": "fair"}]}, "fair follows x', and standard attacks nothing"),
        ("rslad", {"modules": [{"name": "fair"}, {"name": "fair"}]}, "the module fair is named twice"),
        ("rslad", {"modules": [{"name": "igmd"}]}, "Unknown module 'igmd': did you mean 'igdm'?"),
        ("rslad", {"modules": [{"name": "igdm", "alpha": 0}]}, "alpha = 0: input should be greater than 0"),
        ("rslad", {"modules": [{"name": "igdm"}]}, "alpha is missing"),
        ("rslad", {"modules": {"name": "igdm"}}, "write [[modules]]"),
        ("rslad", {"modules": [{"name": "fair", "lowest": 3}]}, "lowest = 3 must not be above highest = 2.5"),
        ("rslad+igdm", {"modules__fair__lowest": 1}, "give modules.NAME.KEY, with NAME one of igdm"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(base: str, sets: dict[str, Any], said: str) -> None:
    with pytest.raises(ArdbenchError) as refused:
        recipe(base, **sets)
    assert said in str(refused.value) and str(refused.value).count(". ") == 0


def test_a_module_is_part_of_the_identity_and_none_is_not() -> None:
    plain = recipe("rslad")
    assert "modules" not in plain.model_dump() and "weight_perturbation" not in plain.model_dump()
    composed = [recipe(f"rslad+{over}") for over in ("igdm", "fair", "igdm+fair", "fair+igdm", "awp", "sam-like")]
    composed.append(recipe("rslad+igdm", modules__igdm__alpha=3))
    assert len({one.identity() for one in (plain, *composed)}) == 8
    assert [one.composition for one in composed[:5]] == [
        "rslad+igdm", "rslad+fair", "rslad+igdm+fair", "rslad+fair+igdm", "rslad+awp",
    ]  # fmt: skip


def test_the_state_of_a_module_is_saved(tmp_path: Path) -> None:
    loop = test_engine.loop_of("rslad+igdm+fair", tmp_path, lambda: True)
    assert not loop.fit()
    of_igdm, of_fair = load_state(tmp_path / "last.state")["modules"]
    assert of_igdm == {} and of_fair["seen"].sum() == 50
    assert math.isclose(float(of_fair["weights"].sum()), 10)
