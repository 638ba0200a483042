"""Closed forms of the methods of 2022 to 2026; their losses stand against `references` in test_method_equations."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import batch, method, network, recipe, watched
from test_method_equations import Search, built_for
from torch import Tensor

from ardbench.attacks.pgd import input_gradient
from ardbench.losses import entropy
from ardbench.methods.absld import moved
from ardbench.methods.dgad import swapped

BEGUN = 6  # 60/200 of 20 epochs


@pytest.mark.parametrize("epoch", [BEGUN - 1, BEGUN])
def test_adaiad_without_temperature_and_introspection_is_adaad(epoch: int) -> None:
    """With beta = 0 every A_i is 1, also from `begin` on."""
    built, given, _ = built_for("adaiad", alpha=1, temperature=1, beta=0)
    plain, _, _ = built_for("adaad", alpha=1, scale=1)
    expected = plain.step(given, epoch).loss.item()
    assert built.step(given, epoch).loss.item() == pytest.approx(expected, rel=1e-12)


def test_adaiad_is_not_introspective_where_the_teacher_is_sure() -> None:
    built, given, _ = built_for("adaiad")
    Search(built, given.x)
    sure = 1e4 * torch.nn.functional.one_hot(given.y, 10).double()

    def teacher(x: Tensor) -> Tensor:
        return sure

    assert built.step(given, BEGUN).logs["introspection"].item() > 1e-4  # 7e-4: it would be seen
    built.teachers = (teacher,)
    logs = built.step(given, BEGUN).logs
    assert (logs["introspection"].item(), logs["trust"].item()) == (0, 1)


def test_dgad_under_a_teacher_that_is_right_is_adaad() -> None:
    built, given, _ = built_for("dgad", beta=0)
    plain, _, _ = built_for("adaad", alpha=1, scale=1)
    sought = [Search(one, given.x) for one in (built, plain)]
    sought[1].x_adv = sought[0].x_adv
    given = replace(given, y=built.teachers[0](given.x).argmax(1))
    still = (built.teachers[0](sought[0].x_adv).argmax(1) == given.y)[:, None, None, None]
    sought[0].x_adv = sought[1].x_adv = sought[0].x_adv.where(still, given.x)
    step = built.step(given, 0)
    plain.logits(given.x)
    assert step.loss.item() == pytest.approx(plain.step(given, 0).loss.item(), rel=1e-12)
    assert step.logs["kl_clean"].item() == step.logs["wrong"].item() == 0
    sought[0].x_adv = given.x
    assert built.step(given, 0).logs["apart"].item() == 0 < step.logs["apart"].item()


def test_dgad_exchanges_the_label_with_what_the_teacher_likes_best() -> None:
    rows = torch.tensor([[3, 1, 2], [3, 1, 2], [2, 2, 1], [2, 2, 1]])
    labels = torch.tensor([1, 0, 0, 1])
    assert swapped(rows, labels).tolist() == [[1, 3, 2], [3, 1, 2], [2, 2, 1], [2, 2, 1]]
    built, given, _ = built_for("dgad", bracket="released")
    step = built.step(replace(given, y=(built.teachers[0](given.x).argmax(1) + 1) % 10), 0)
    assert step.loss.isnan(), "no example at x' is 0/0, as released"


def test_dgad_counts_an_incomplete_batch_against_a_whole_one_as_released() -> None:
    """With n of B wrong and a recipe's batch of C: n/C L_x + (C - n)/C L_x', L the means over their n and B - n."""
    for bracket in ("meant", "released"):
        built, given, _ = built_for("dgad", scale=0.7, beta=3, bracket=bracket, counted="released")
        plain, _, _ = built_for("dgad", scale=0.7, beta=3, bracket=bracket)
        Search(plain, given.x).x_adv = x_adv = Search(built, given.x).x_adv
        logs = {name: value.item() for name, value in built.step(given, 0).logs.items()}
        assert plain.step(given, 0).loss.item() == pytest.approx(fresh(built, given, x_adv), rel=1e-12), "whole: equal"
        built.recipe = built.recipe.model_copy(update={"data": built.recipe.data.model_copy(update={"batch": 20})})
        n = 12 * logs["wrong"]
        assert n == 6
        at_x, at_x_adv = n / 20 * 12 * logs["kl_clean"] / n, 12 * logs["kl_adv"] / (12 - n)
        guided = {"meant": at_x + 14 / 20 * at_x_adv, "released": (at_x + 14 / 20) * at_x_adv}[bracket]
        wanted = 0.7 * guided + 3 * logs["apart"]
        assert fresh(built, given, x_adv) == pytest.approx(wanted, rel=1e-9)


def fresh(built: Any, given: Any, x_adv: Tensor) -> float:
    """Return the loss of a step at this x'."""
    Search(built, given.x).x_adv = x_adv
    return float(built.step(given, 0).loss.detach())


def test_lbgat_without_its_robust_term_is_a_regression_on_logits_of_a_peer_that_learns_labels() -> None:
    built, given, _ = built_for("lbgat", beta=0)
    x_adv, peer = Search(built, given.x).x_adv, built.trainables()["peer"]
    copied, answers = copy.deepcopy(built.student), copy.deepcopy(peer)(given.x).detach()
    found = torch.autograd.grad(built.step(given, 0).loss, list(built.student.parameters()))
    expected = torch.autograd.grad(((copied(x_adv) - answers) ** 2).mean(), list(copied.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, expected, strict=True))
    built, given, _ = built_for("lbgat")
    Search(built, given.x).x_adv = given.x
    peer = built.trainables()["peer"]
    peer.load_state_dict(built.student.state_dict())
    label = torch.nn.functional.cross_entropy(copy.deepcopy(peer)(given.x), given.y).item()
    assert built.step(given, 0).loss.item() == pytest.approx(label, rel=1e-12), "of one mind, and no x' to differ at"


def test_mtard_hears_the_teacher_whose_loss_has_fallen_less() -> None:
    built, given, _ = built_for("mtard")
    step = built.step(given, 0)
    assert step.logs["weight_clean"].item() == 0.5, "in the first batch both have all of their loss left"
    seen = list[tuple[int, bool]]()
    shown, x_adv = built_for("mtard")[0], Search(built, given.x).x_adv
    Search(shown, given.x).x_adv = x_adv
    nets = shown.teachers
    shown.teachers = tuple(lambda x, i=i: (seen.append((i, x is given.x)), nets[i](x))[1] for i in range(2))
    shown.step(given, 0)
    assert seen == [(0, False), (1, True)], "the robust one sees x', the clean one x"
    first = [step.logs[name].item() for name in ("kl_adv", "kl_clean")]
    assert built.state()["first"].tolist() == pytest.approx(first, rel=1e-12)

    def weight(adversarial: float, clean: float, **changes: Any) -> float:
        made, _, _ = built_for("mtard", **{name: value for name, value in changes.items() if name != "epoch"})
        made.load_state({"weight": torch.tensor(0.5), "first": torch.tensor(first)})
        made.balance(torch.tensor(adversarial * first[0]), torch.tensor(clean * first[1]), changes.get("epoch", 0))
        return float(made.weight)

    assert weight(1, 0.5) == pytest.approx(0.5 - 0.025 * (0.5 - 1 / 3), rel=1e-9)  # 0.495833
    assert weight(1, 0.5, rate=1) == pytest.approx(1 / 3, rel=1e-9)
    assert weight(7, 3.5) == pytest.approx(weight(1, 0.5), rel=1e-9), "losses count by what is left of them"
    assert weight(1, 0.5, power=2, rate=1) == pytest.approx(0.2, rel=1e-9)
    assert weight(1, 0.5, epoch=15) == pytest.approx(0.5 - 0.0025 * (0.5 - 1 / 3), rel=1e-9)  # 215/300 of 20: epoch 14
    assert weight(1, 0.5, epoch=19) == pytest.approx(0.5 - 0.000025 * (0.5 - 1 / 3), rel=1e-9)


def test_b_mtard_softens_the_teacher_that_is_surer() -> None:
    built, given, _ = built_for("b-mtard")
    plain, _, _ = built_for("mtard")
    assert built.step(given, 0).loss.item() == pytest.approx(plain.step(given, 0).loss.item(), rel=1e-12), (
        "u = 1 at first"
    )
    sure, flat = 10 * torch.eye(10).double(), torch.zeros(10, 10).double()
    assert entropy(flat).tolist() == pytest.approx([math.log(10)] * 10)
    ten = replace(given, x=given.x[:10], y=given.y[:10])
    for robust, clean, epoch, expected in (
        (flat, sure, 0, [1, 1.001]), (sure, flat, 0, [1.001, 1]), (flat, flat, 0, [1, 1]), (flat, sure, 15, [1, 1.0001]),
    ):  # fmt: skip
        made, _, _ = built_for("b-mtard")
        heard = made.targets(robust, clean, ten, epoch)
        assert torch.equal(heard[0], robust) and torch.equal(heard[1], clean), (
            "the step's own targets are at u as it was"
        )
        assert made.temperatures.tolist() == pytest.approx(expected, rel=1e-12)
    made.load_state(made.state() | {"temperatures": torch.tensor([9.9999, 1.5]).double()})
    made.targets(sure, flat, ten, 0)
    assert made.temperatures.tolist() == pytest.approx([10, 1.499], rel=1e-12)


def test_absld_sharpens_what_a_harder_class_is_taught() -> None:
    built, given, _ = built_for("absld")
    plain, _, _ = built_for("rslad")
    assert built.step(given, 0).loss.item() == pytest.approx(plain.step(given, 0).loss.item(), rel=1e-12), (
        "a = n = 1 at first"
    )
    ones = torch.ones(2, 3).double()
    lost = torch.tensor([[1, 2, 3], [5, 5, 5]]).double()
    assert moved(ones, lost, 0.1, 0.5, 5).tolist() == [pytest.approx([1.1, 1, 0.9]), [1, 1, 1]]
    assert moved(0.55 * ones, lost, 0.1, 0.5, 5)[0].tolist() == pytest.approx([0.65, 0.55, 0.5])
    built, given, _ = built_for("absld")
    x_adv = Search(built, given.x).x_adv
    answers = [copy.deepcopy(built.student).train()(images) for images in (x_adv, given.x)]
    losses = [torch.nn.functional.cross_entropy(logits, given.y, reduction="none") for logits in answers]
    expected = [[several[given.y == k].sum().item() for k in range(10)] for several in losses]
    built.step(given, 0)
    assert built.state()["lost"].tolist() == [pytest.approx(row, rel=1e-9) for row in expected]
    built.begin_epoch(1)
    above = torch.tensor(expected) - torch.tensor(expected).mean(1, keepdim=True)
    wanted = 1 - 0.1 * above / above.abs().amax(1, keepdim=True)
    assert built.softer.tolist() == [pytest.approx(row.tolist(), rel=1e-5) for row in wanted]
    assert not built.lost.any()
    built.lost[0, 0] = 1
    before = built.softer.clone()
    built.begin_epoch(15)  # 215/300 of 20 is epoch 14
    assert float((built.softer - before).abs().max()) == pytest.approx(0.01, rel=1e-9)


def test_saad_weighs_by_what_the_attack_leaves_unsure_and_searches_along_the_teachers_gradient() -> None:
    built, given, _ = built_for("saad", beta=0.7)
    two = replace(given, x=given.x[:2], y=given.y[:2])
    w, v = built.weights(two, torch.tensor([0, math.log(2)]).double())
    assert (w.tolist(), v.tolist()) == ([0, pytest.approx(3.4657359)], [0, pytest.approx(1)])
    built.teachers = (lambda x: torch.zeros(len(x), 10).double(),)  # all examples are as unsure: the clean term alone
    assert entropy(built.teachers[0](given.x)).tolist() == pytest.approx([math.log(10)] * 12)
    answer = copy.deepcopy(built.student).train()(given.x)
    wanted = torch.nn.functional.kl_div(
        answer.log_softmax(1), torch.full((12, 10), 0.1, dtype=torch.float64), reduction="batchmean"
    )
    assert built.step(given, 3).loss.item() == pytest.approx(0.7 * wanted.item(), rel=1e-9)

    built, given, _ = built_for("saad", reach=1.7)
    search = Search(built, given.x)
    built.step(given, 0)
    teacher, x = network(10).double().eval(), given.x.clone().requires_grad_(True)
    logits = teacher(x)
    true = logits[range(12), given.y]
    along = [(torch.autograd.grad(t, x, retain_graph=True)[0] * (search.x_adv - given.x)).sum() for t in true]
    z = logits.detach().clone()
    z[range(12), given.y] += 1.7 * torch.stack(along)
    net = built.student.eval()
    wanted = (z.softmax(1) * (z.log_softmax(1) - net(search.x_adv).log_softmax(1))).sum(1)
    assert search.objective(net, search.x_adv, *search.aux).tolist() == pytest.approx(wanted.tolist(), rel=1e-9)
    direction = torch.randn_like(given.x)
    ours = float((input_gradient(search.objective, net, search.x_adv, search.aux) * direction).sum())
    with torch.no_grad():
        there, back = (
            float(search.objective(net, search.x_adv + sign * 1e-6 * direction, *search.aux).sum()) for sign in (1, -1)
        )
    assert ours == pytest.approx((there - back) / 2e-6, rel=1e-5), "x' moves the target too"
    built.student.train()
    flat = torch.randn(10, 192).double()
    built.exact = lambda x: x.flatten(1) @ flat.T
    assert built.linearised(given)[1].flatten(1).tolist() == [
        pytest.approx(row.tolist(), rel=1e-9) for row in 1.7 * flat[given.y]
    ]


def linear(seed: int) -> torch.nn.Module:
    """Return logits W x."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10, bias=False)).double()


def test_kdiga_between_linear_networks_is_its_closed_form() -> None:
    """There the gradient of the mean cross-entropy to x is (p - onehot) W / B."""
    built, given, _ = built_for("kdiga", alpha=0, alignment=5)
    built.student, taught = linear(0), linear(1)
    built.exact = taught.requires_grad_(False)
    onehot, rows = torch.nn.functional.one_hot(given.y, 10), len(given.y)
    own, theirs = ((net(given.x).softmax(1) - onehot) @ net[1].weight / rows for net in (built.student, taught))  # type: ignore[index]
    step = built.step(given, 0)
    assert step.logs["alignment"].item() == pytest.approx((own - theirs).norm().item(), rel=1e-12)
    label = torch.nn.functional.cross_entropy(built.student(given.x), given.y)
    expected = label + 5 / rows * (own - theirs).norm()
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    found, wanted = (torch.autograd.grad(loss, list(built.student.parameters()))[0] for loss in (step.loss, expected))
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-14), "W is in the gradient twice: through p and as W"


def test_kdiga_of_a_teachers_twin_is_the_label_alone() -> None:
    built, given, _ = built_for("kdiga", alpha=0.3)
    built.student = linear(0)
    built.exact = linear(0).requires_grad_(False)
    loss = built.step(given, 0).loss
    label = torch.nn.functional.cross_entropy(built.student(given.x), given.y)
    assert loss.item() == pytest.approx(0.7 * label.item(), rel=1e-12)
    found, wanted = (torch.autograd.grad(one, list(built.student.parameters()))[0] for one in (loss, 0.7 * label))
    assert torch.allclose(found, wanted, rtol=1e-10), "a norm of 0 pulls nowhere"


@pytest.mark.parametrize("model", ["vit-micro", "mobilenetv2"])
def test_kdiga_differentiates_twice_in_fp32_whatever_the_network_and_the_precision(model: str) -> None:
    losses = []
    for outer in ("fp32", "bf16"):
        wanted = recipe("kdiga", data__batch=4, precision__outer=outer)
        built, given = method(wanted, model), batch(wanted)
        loss = built.step(given, 0).loss
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in built.student.parameters())
        losses.append(loss.item())
    assert losses[0] == losses[1]


def test_the_search_of_saad_without_reach_is_rslads() -> None:
    (built, given, _), (plain, _, _) = built_for("saad", reach=0), built_for("rslad")
    assert torch.equal(watched(built, given)[1], watched(plain, given)[1])


def test_entropies_are_shannons_and_renyis() -> None:
    logits = torch.tensor([0.5, 0.25, 0.25]).double().log()[None] + 3
    assert entropy(logits).item() == pytest.approx(1.5 * math.log(2))
    assert entropy(logits, offset=0.25).item() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    assert entropy(logits, 2).item() == pytest.approx(-math.log(3 / 8))
    assert entropy(logits, 0.5).item() == pytest.approx(2 * math.log(math.sqrt(0.5) + 1))


def test_adr_trusts_the_average_as_far_as_it_knows_the_label() -> None:
    built, given, _ = built_for("adr", temperature=[1, 2], mixing=[0.7, 0.7])
    two = replace(given, x=given.x[:2], y=torch.tensor([1, 0]))
    for p, expected in (
        ([[0.7, 0.3], [0.7, 0.3]], [[0.21, 0.79], [0.79, 0.21]]),  # l_i = 0.3 and 0.7
        ([[1e-9, 1 - 1e-9], [1e-9, 1 - 1e-9]], [[0, 1], [1, 0]]),  # sure and right; wrong by more than l
    ):
        built.average = Always(torch.tensor(p).double().log())
        assert built.rectified(two)[0].tolist() == [pytest.approx(row, abs=1e-6) for row in expected]
    built.average = Always(torch.tensor([[2, 0], [2, 0]]).double())
    assert built.rectified(two)[0][0].tolist() != pytest.approx(built.rectified(at(two, 19))[0][0].tolist()), "u falls"


class Always(torch.nn.Module):
    """Gives the same logits whatever it is shown."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


def at(given: Any, epoch: int) -> Any:
    return replace(given, draws=replace(given.draws, epoch=epoch))


def test_adr_goes_by_half_a_cosine_from_its_first_values_to_its_last() -> None:
    built, given, _ = built_for("adr")
    values = [built.annealed(at(given, epoch), (2.5, 2.0)) for epoch in (0, 5, 10, 15)]  # of 20, one step each here
    assert values == pytest.approx([2.5, 2.25 + math.sqrt(2) / 8, 2.25, 2.25 - math.sqrt(2) / 8], rel=1e-12)


def test_adr_without_trust_is_its_base() -> None:
    for base, beta in (("pgd-at", 6), ("trades", 3)):
        built, given, _ = built_for("adr", base=base, beta=beta, mixing=[0, 0])
        plain, _, _ = built_for(base, **({"beta": beta} if base == "trades" else {}))
        for one in (built, plain):
            Search(one, given.x).x_adv = (given.x + 0.03).clamp(0, 1)
        assert built.step(given, 0).loss.item() == pytest.approx(plain.step(given, 0).loss.item(), rel=1e-12)


def test_adr_forwards_x_and_x_prime_as_one_batch_as_released() -> None:
    built, given, _ = built_for("adr", base="trades", beta=3, mixing=[0, 0], one_forward=True)
    plain, _, _ = built_for("adr", base="trades", beta=3, mixing=[0, 0])
    x_adv = Search(built, given.x).x_adv
    answers = copy.deepcopy(built.student).train()(torch.cat([given.x, x_adv]))
    natural = torch.nn.functional.cross_entropy(answers[:12], given.y)
    p, q = answers.log_softmax(1)[:12], answers.log_softmax(1)[12:]
    wanted = natural + 3 * (p.exp() * (p - q)).sum(1).mean()
    assert built.step(given, 0).loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert abs(fresh(plain, given, x_adv) / wanted.item() - 1) > 1e-3, "their own statistics each"


@pytest.mark.parametrize(("first", "wanted"), [(False, ["search", "x", "x'"]), (True, ["x", "search", "x'"])])
def test_ciard_asks_the_student_at_x_before_it_searches_as_released(first: bool, wanted: list[str]) -> None:
    built, given, _ = built_for("ciard", clean_first=first)
    seen, x_adv = list[str](), Search(built, given.x).x_adv
    built._maximiser = lambda *words, **named: (seen.append("search"), x_adv)[1]  # type: ignore[assignment]
    built.student.register_forward_pre_hook(lambda net, inputs: seen.append("x" if inputs[0] is given.x else "x'"))
    built.step(given, 0)
    assert seen == wanted


def test_ciard_pushes_at_the_order_of_magnitude_of_the_smaller_divergence() -> None:
    built, given, _ = built_for("ciard")
    for terms, expected in (
        ((0.05, 0.3, 0.002), 10), ((0.3, 0.05, 0.002), 10), ((0.5, 3, 0.2), 1), ((0, 0.2, 0.02), 1e-5), ((0.5, 0.5, 0), 1e6),
    ):  # fmt: skip
        assert built.order(*torch.tensor(terms).double()).item() == pytest.approx(expected, rel=1e-12)
    answers = torch.nn.functional.one_hot(given.y, 10).double()
    assert not built.push(given, torch.randn(12, 10).double(), answers).any(), "right everywhere: no push"
    answers[:3] = answers[:3].roll(1, dims=1)
    student = torch.randn(12, 10).double()
    own = answers.softmax(1) * (answers.log_softmax(1) - (student / 5).log_softmax(1))
    assert built.push(given, student, answers).mean().item() == pytest.approx(own[:3].sum(1).mean().item(), rel=1e-12)


def test_ciard_stops_its_temperatures_as_released_and_lowers_their_rate_as_meant() -> None:
    for fall, change in ((0.1, 1e-4), (0, 0)):
        built, given, _ = built_for("ciard", fall=fall)
        built.step(given, 15)  # 215/300 of 20: epoch 14
        assert float((built.temperatures - 1).abs().max()) == pytest.approx(change, rel=1e-6)


def test_hat_without_helpers_is_trades_and_a_helper_of_no_reach_is_x_prime() -> None:
    """Its helpers lie on the line through x and x', outside of ball and box."""
    built, given, _ = built_for("hat", gamma=0)
    plain, _, _ = built_for("trades", beta=2.5)
    assert built.step(given, 0).loss.item() == pytest.approx(plain.step(given, 0).loss.item(), rel=1e-12)
    built, given, _ = built_for("hat")
    seen = list[Tensor]()
    x_adv = Search(built, given.x).x_adv
    built.student.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0]))
    built.step(given, 0)
    assert torch.equal(seen[0], given.x) and torch.equal(seen[1], x_adv)
    assert torch.allclose(seen[2], 2 * x_adv - given.x, rtol=0, atol=1e-12)
    assert seen[2].min() < 0 and seen[2].max() > 1
