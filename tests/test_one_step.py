"""Attacks of one step, N-FGSM and NuAT: closed forms, bounds, and where they are refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from small import batch, method, network, recipe, watched
from test_attacks import PLAIN, Linear, draws, images
from test_engine import equal, loop_of, rows, weights
from test_methods import OURS
from torch import Tensor
from torch.nn.functional import cross_entropy

from ardbench import methods
from ardbench.attacks import pgd
from ardbench.attacks.nuclear import nuclear_terms, polar
from ardbench.attacks.objectives import label_loss
from ardbench.attacks.pgd import Maximiser
from ardbench.attacks.threat import start_at
from ardbench.config import ONE_STEP, Attack, Precision, Recipe, Threat
from ardbench.errors import ArdbenchError
from ardbench.recipes import resolve
from ardbench.recipes.origins import origins

EPS = 0.1
LINF = Threat(norm="linf", eps=EPS)


def one_step(kind: str, precision: Precision = PLAIN, bn: str = "eval") -> Maximiser:
    given = {"kind": kind, "steps": 1, "step_size": EPS, "start": ONE_STEP[kind], "bn": bn}
    return Maximiser(LINF, Attack.model_validate(given), precision)


def started(kind: str, x: Tensor) -> Tensor:
    return start_at(x, ONE_STEP[kind], LINF, draws(), "start")


def test_n_fgsm_goes_eps_from_its_noise_and_stops_at_the_box_alone() -> None:
    """The gradient of a linear network's cross-entropy has the signs of the weights' difference, wherever it is taken."""
    net, (x, y) = Linear(), images(dtype=torch.float64)
    y = y % 2
    found = one_step("n-fgsm")(label_loss, net, x, (y,), draws=draws())
    noise = 2 * EPS * draws().uniform("start", x)
    away = (net.flat.weight[1 - y] - net.flat.weight[y]).detach().sign().reshape(x.shape)
    assert torch.equal(found, (x + noise + EPS * away).clamp(0, 1))
    assert found.min() >= 0 and found.max() <= 1
    far = (found - x).abs().max().item()
    assert 2.5 * EPS < far <= 3 * EPS + 1e-12, "out of the ball, and no further than noise and step"


def test_the_noise_of_n_fgsm_fills_twice_the_ball_and_heeds_no_box() -> None:
    x, _ = images(64)
    noise = start_at(x, "wide", LINF, draws(64), "start") - x
    assert noise.abs().max().item() == pytest.approx(2 * EPS, abs=1e-4)
    assert noise.std().item() == pytest.approx(2 * EPS / 3**0.5, rel=0.02)
    assert (x + noise).min() < 0 and (x + noise).max() > 1


def test_the_start_of_nuat_is_a_corner_of_half_the_ball_with_fair_signs() -> None:
    x = images(64, torch.float64)[0]
    noise = start_at(x, "signs", LINF, draws(64), "start") - x
    assert torch.allclose(noise.abs(), torch.full_like(noise, EPS / 2))
    assert (noise > 0).double().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("bn", ["eval", "train"])
def test_nuat_is_a_step_up_the_mean_loss_and_four_bths_of_the_nuclear_norm(bn: str) -> None:
    """The norm is torch's, by a decomposition, and its gradient autograd's."""
    net, (x, y) = network(3).double(), images(dtype=torch.float64)
    net.train(bn == "train")
    found = one_step("nuat", bn=bn)(label_loss, net, x, (y,), draws=draws())
    begun = started("nuat", x).requires_grad_(True)
    norm = torch.linalg.matrix_norm(net(begun) - net(x).detach(), ord="nuc")
    total = cross_entropy(net(begun), y) + 4 / len(x) * norm
    gradient = torch.autograd.grad(total, begun)[0]
    expected = begun.detach() + EPS * gradient.sign()
    expected = torch.minimum(torch.maximum(expected, x - EPS), x + EPS).clamp(0, 1)
    assert torch.equal(found, expected)
    plain = torch.autograd.grad(cross_entropy(net(begun), y), begun)[0]
    assert not torch.equal(gradient.sign(), plain.sign()), "the norm decides some signs"


@pytest.mark.parametrize("precision", [PLAIN, Precision(), Precision(attack="bf16")], ids=["itself", "folded", "bf16"])
def test_nuat_stays_in_ball_and_box_and_asks_twice(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, y) = network(4), images()
    asked: list[int] = []
    spread = pgd._spread

    def counted(objective: Any) -> Any:
        def both(form: Any, x_adv: Tensor, *aux: Tensor) -> Tensor:
            def heard(at: Tensor) -> Tensor:
                asked.append(len(at))
                answer: Tensor = form(at)
                return answer

            value: Tensor = spread(objective)(heard, x_adv, *aux)
            return value

        return both

    monkeypatch.setattr(pgd, "_spread", counted)
    found = one_step("nuat", precision)(label_loss, net, x, (y,), draws=draws())
    assert (found - x).abs().max() <= EPS + 1e-6 and found.min() >= 0 and found.max() <= 1
    assert asked == [len(x)], "once at x'; S(x) is asked before"


def test_the_terms_add_up_to_the_norm_and_have_its_gradient() -> None:
    source = torch.Generator().manual_seed(0)
    for size in ((40, 10), (10, 10), (6, 10), (1, 10)):
        moved = torch.randn(size, generator=source, dtype=torch.float64).requires_grad_(True)
        norm = torch.linalg.matrix_norm(moved, ord="nuc")
        terms = nuclear_terms(moved)
        assert terms.shape == size[:1] and terms.sum().item() == pytest.approx(norm.item(), rel=1e-6)
        u, _, v = torch.linalg.svd(moved.detach(), full_matrices=False)
        assert torch.allclose(torch.autograd.grad(terms.sum(), moved)[0], u @ v, atol=1e-5)


def test_nothing_and_few_directions_give_finite_terms() -> None:
    assert torch.equal(polar(torch.zeros(5, 3)), torch.zeros(5, 3))
    a, b = torch.tensor([3.0, 0, 4]).double(), torch.tensor([0.6, 0.8]).double()
    assert torch.allclose(polar(torch.outer(a, b)), torch.outer(a / 5, b), atol=1e-6)


def test_an_objective_that_is_a_mean_is_refused_by_nuat_too() -> None:
    net, (x, y) = network(5), images()
    with pytest.raises(ValueError, match="an objective returns one number each"):
        one_step("nuat")(lambda form, at, labels: label_loss(form, at, labels).mean(), net, x, (y,), draws=draws())


@pytest.mark.parametrize("kind", sorted(ONE_STEP))
@pytest.mark.parametrize("name", [*(name for name in OURS if methods.method_class(name).attacks), "rslad+fair+igdm"])
def test_any_method_takes_a_kind_of_one_step(name: str, kind: str) -> None:
    wanted = recipe(name, attack__kind=kind, attack__steps=1)
    step, x_adv = watched(method(wanted), batch(wanted))
    assert step.loss.isfinite()
    far = (x_adv - batch(wanted).x).abs().max().item() / wanted.threat.eps
    assert far <= (3 if kind == "n-fgsm" else 1) + 1e-5


@pytest.mark.parametrize("kind", sorted(ONE_STEP))
def test_a_resumed_run_draws_the_same(kind: str, tmp_path: Path) -> None:
    sets = {"attack__kind": kind, "attack__steps": 1}
    whole, parts = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert loop_of("rslad", whole, **sets).fit()
    count = itertools.count(1)
    assert not loop_of("rslad", parts, lambda: next(count) >= 3, **sets).fit()
    assert loop_of("rslad", parts, **sets).fit()
    assert rows(whole) == rows(parts) and equal(weights(whole, "last"), weights(parts, "last"))


@pytest.mark.parametrize("kind", sorted(ONE_STEP))
def test_a_kind_decides_what_is_not_given_beside_it(kind: str) -> None:
    made = resolve("ard-cifar10", sets=[f"attack.kind={kind}"])
    assert made.attack is not None
    decided = {"kind": kind, "steps": 1, "step_size": 8 / 255, "start": ONE_STEP[kind], "restarts": 1}
    assert made.attack.model_dump() == decided | {"bn": "train", "bn_update": True}, "which is the recipe's own"
    for typed in (
        ["attack.step_size=10/255", f"attack.kind={kind}"],
        [f"attack.kind={kind}", "attack.step_size=10/255"],
    ):
        other = resolve("ard-cifar10", sets=typed).attack
        assert other is not None and other.step_size == 10 / 255, "in whatever order"
    assert Recipe.model_validate(made.model_dump(mode="json")) == made
    where, _ = origins("ard-cifar10", "cifar10", ["attack.kind", "attack.step_size"])
    assert (where["attack.steps"], where["attack.step_size"]) == ("attack.kind", "command line")
    assert where["attack.bn"] == "recipe"


def test_pgd_by_its_name_is_the_run_that_it_was() -> None:
    plain = resolve("rslad-digits")
    assert resolve("rslad-digits", sets=["attack.kind=pgd"]).identity() == plain.identity()
    assert "kind" not in plain.model_dump()["attack"]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["attack.kind=n-fgsm", "attack.steps=3"], "attack: kind = 'n-fgsm' is one step from a start of its own"),
        (["attack.start=none", "attack.kind=nuat"], "leave steps, restarts and start out."),
        (["attack.kind=nuat", "attack.restarts=2"], "leave steps, restarts and start out."),
        (["attack.start=wide"], "start = 'wide' belongs to kind = 'n-fgsm': give 'uniform', 'normal' or 'none'."),
        (["attack.kind=nuat", "threat.norm=l2"], "attack.kind = 'nuat' is a step of signs, and threat.norm = 'l2'"),
        (["attack.kind=fgsm"], "attack.kind = 'fgsm': input should be 'pgd', 'n-fgsm' or 'nuat'."),
        (["attack.kind=n-fgsm", "attack.kinds=3"], "did you mean 'kind'?"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_kind_is_one_sentence(sets: list[str], said: str) -> None:
    with pytest.raises(ArdbenchError) as refused:
        resolve("rslad-digits", sets=sets)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_recipe_that_extends_another_with_a_kind_is_that_kind(tmp_path: Path) -> None:
    text = 'extends = "rslad-digits"\ntitle = "mine"\nattack.kind = "nuat"\n[variants.slow.attack]\nkind = "pgd"\n'
    (tmp_path / "mine.toml").write_text(text)
    made = resolve(str(tmp_path / "mine.toml")).attack
    assert made is not None and (made.steps, made.start, made.bn) == (1, "signs", "eval")
    with pytest.raises(
        ArdbenchError, match=r"attack.steps is missing; add it to the recipe or give --set attack.steps="
    ):
        resolve(str(tmp_path / "mine.toml") + "@slow")
