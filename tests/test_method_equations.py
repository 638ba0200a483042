"""Each method against its equation written out in `references`: in float64, at the x' that it crafted itself."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from references import LOSSES, Loss, Rows, Seen, ce, kl, margin, matrix, times
from small import batch, method, network, recipe, watched
from torch import Tensor, nn

from ardbench import methods
from ardbench.attacks.form import FastForm
from ardbench.attacks.pgd import input_gradient
from ardbench.data.batches import Batch
from ardbench.engine.checkpoints import load_state, save_state
from ardbench.methods.base import Method
from ardbench.methods.crdnd import compensation
from ardbench.models.feature_map import FeatureMap

LABELS, BOTH, TEACHERS = (
    {"labels": epoch < 10, "teachers": epoch >= 5} for epoch in (4, 5, 10)
)  # DARHT's phases below, of 20 epochs
PHASES = {"distill_from": 0.25, "label_until": 0.5, "p_adv": 1, "seen": "x'", "shares": [0.5, 0.5]}
PEER = {"peer_label": 0.7, "peer_imitation": 0.6, "label": 0.3, "imitation": 0.9, "consistency": 0.4, "temperature": 5}
SOFTER = [[0.5 + 0.3 * k for k in range(10)], [3 - 0.2 * k for k in range(10)]]
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("standard", 0, {}),
    ("pgd-at", 0, {}),
    ("trades", 0, {}),
    ("hat", 0, {}),
    ("hat", 0, {"beta": 0.7, "gamma": 1.3}),
    ("lbgat", 0, {}),
    ("lbgat", 0, {"beta": 0}),
    ("mtard", 0, {"weight": 0.5}),
    ("mtard", 0, {"weight": 0.3, "scale": 1, "rate": 0}),
    ("mtard", 0, {"weight": 0.3, "scale": 1, "rate": 0, "offset": 0.01, "clean_target": "robust"}),
    ("b-mtard", 0, {"weight": 0.5, "softer": [1.7, 2.5]}),
    ("absld", 0, {"alpha": 5 / 6, "softer": SOFTER}),
    ("absld", 0, {"alpha": 0.3, "scale": 1, "temperatures": "released", "softer": SOFTER}),
    ("kdiga", 0, {}),
    ("kdiga", 0, {"alpha": 0.3, "temperature": 4, "scale": 0.7, "alignment": 300}),
    ("saad", 0, {"alpha": 2, "ramp": 1 / 20}),
    ("saad", 9, {"alpha": 2, "beta": 0.7, "order": 2, "weight": 3, "ramp": 10 / 20}),
    ("adr", 0, {"mixing": [0.95, 0.7]}),
    ("adr", 0, {"temperature": [0.3, 1], "mixing": [0.9, 0]}),
    ("adr", 0, {"base": "trades", "beta": 3, "temperature": [0.3, 1], "mixing": [0.9, 0]}),
    ("ciard", 0, {"softer": [1.7, 2.5]}),
    ("ciard", 19, {"softer": [1.7, 2.5], "scale": 0.1, "push_temperature": 2}),
    ("mart", 0, {"boost": "exact"}),
    ("mart", 0, {"boost": "released"}),
    ("ard", 0, {"alpha": 1, "temperature": 30, "scale": 0.1}),
    ("ard", 0, {"alpha": 0.7, "temperature": 3, "scale": 0.5}),
    ("akd2", 0, {"label": 0.3, "robust": 0.6, "clean": 0.1, "temperature": 2}),
    ("adaad", 0, {"alpha": 1, "scale": 0.1}),
    ("adaad", 0, {"alpha": 0.7, "scale": 0.5}),
    ("adaiad", 5, {"alpha": 1, "temperature": 30, "begun": False}),  # 60/200: epoch 6
    ("adaiad", 6, {"alpha": 1, "temperature": 30, "begun": True}),
    ("adaiad", 5, {"alpha": 0.7, "temperature": 3, "begun": False}),
    ("adaiad", 6, {"alpha": 0.7, "temperature": 3, "beta": 0.5, "begun": True}),
    ("dgad", 0, {}),
    ("dgad", 0, {"scale": 0.7, "beta": 300}),
    ("dgad", 0, {"scale": 0.5, "bracket": "released"}),
    ("rslad", 0, {"alpha": 5 / 6, "scale": 0.1}),
    ("rslad", 0, {"alpha": 0.3, "scale": 1}),
    ("iad-i", 5, {"trust_teacher_term": True, "begun": False}),  # it begins at 60/200 of 20: epoch 6
    ("iad-i", 6, {"trust_teacher_term": True, "begun": True}),
    ("iad-i", 6, {"trust_teacher_term": False, "begun": True}),
    ("iad-ii", 3, {"label": 0.2, "robust": 0.5, "clean": 0.3, "begun": False}),  # 40/200: epoch 4
    ("iad-ii", 4, {"label": 0.2, "robust": 0.5, "clean": 0.3, "begun": True}),
    ("peeraid", 0, PEER | {"detach_peer_target": False}),
    ("peeraid", 0, PEER | {"detach_peer_target": True}),
    ("crdnd", 0, {"compensation": "class"}),
    ("crdnd", 0, {"compensation": "off"}),
    ("crdnd", 0, {"compensation": "off", "domain": "probs", "balance": 0.6, "tau": 0.3}),
    ("crdnd", 0, {"compensation": "class", "domain": "probs"}),
    ("darht", 4, PHASES | LABELS),
    ("darht", 5, PHASES | BOTH),
    ("darht", 5, PHASES | BOTH | {"p_adv": 0, "seen": "x"}),
    ("darht", 9, PHASES | BOTH | {"weighting": "uniform", "distance": "mse"}),
    ("darht", 10, PHASES | TEACHERS),
    ("darht", 10, PHASES | TEACHERS | {"weighting": "mwu", "shares": [0.8, 0.2]}),
]
"""Method, epoch, and what its recipe changes or, where it is no field of [method], the reference is told."""


def built_for(name: str, **fields: Any) -> tuple[Method[Any], Batch, SimpleNamespace]:
    """Return a method in float64, a batch, and what its reference reads: no weight of a case is zero by accident."""
    own = methods.method_class(name).Config.model_fields
    wanted = recipe(name, data__batch=12, **{f"method__{k}": v for k, v in fields.items() if k in own})
    built = method(wanted, to=torch.float64)
    told = SimpleNamespace(**dict(built.config) | fields)
    if name == "crdnd":
        built.accuracy = torch.rand(2, 10).double()  # as in a later epoch
        told.accuracy = built.accuracy.tolist()
    if name == "adr":
        built.average = network(20).double()  # as after some steps
    if "weight" in fields:
        built.weight = torch.tensor(fields["weight"], dtype=torch.float64)
    if "softer" in fields:
        setattr(
            built, "softer" if name == "absld" else "temperatures", torch.tensor(fields["softer"], dtype=torch.float64)
        )
    if "shares" in fields:
        built.shares = torch.tensor(fields["shares"]).double()
    given = batch(wanted, dtype=torch.float64)
    if name == "dgad":  # its teacher is right on every other example
        answers = built.teachers[0](given.x).argmax(1)
        given = dataclasses.replace(given, y=(answers + torch.arange(12) % 2) % 10)
    return built, given, told


@torch.no_grad()
def look(built: Method[Any], x: Tensor, x_adv: Tensor, mode: str = "train", labels: Tensor | None = None) -> Seen:
    """Return all logits at x and x' as lists, of copies; those of S and P in `mode`.

    With labels also the gradients of CE(S(x), y) and CE(T(x), y) to x.
    """
    seen: dict[str, Rows] = {}
    learning = {
        which: copy.deepcopy(net).train(mode == "train")
        for which, net in zip("SP", built.trainables().values(), strict=False)
    }
    taught = {f"T{i}": network(10 + i).double().eval() for i in range(len(built.teachers))}
    nets = learning | taught | {"E": copy.deepcopy(built.average).eval()}
    for point, images in (("x", x), ("x'", x_adv), ("2x'-x", 2 * x_adv - x), ("2x-x'", 2 * x - x_adv)):
        for which, net in nets.items():
            seen[f"{which}({point})"] = net(images).tolist()
        head = built.student.get_submodule("head")
        if isinstance(head, FeatureMap):
            seen[f"z({point})"] = head.map(nets["S"].features(images)).tolist()  # type: ignore[operator]
            seen |= {"B": head.out.weight.tolist(), "b": head.out.bias.tolist()}
    if labels is not None:
        seen["dS(x)"] = to_pixels(copy.deepcopy(built.student).train(mode == "train"), x, labels)
        seen["dT0(x)"] = to_pixels(network(10).double().eval(), x, labels)
    return seen


def to_pixels(net: Any, images: Tensor, labels: Tensor) -> Rows:
    """Return the gradient of each image's row of the summed cross-entropy, as lists."""
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_(True)
        total = torch.nn.functional.cross_entropy(net(x), labels, reduction="sum")
    gradient: Rows = torch.autograd.grad(total, x)[0].flatten(1).tolist()
    return gradient


def slope(built: Method[Any], net: nn.Module, direction: list[Tensor], value: Any) -> float:
    """Return the derivative of value() as the weights of one network move along a direction."""
    ends, length = [], 1e-6
    for sign in (1, -2, 1):  # there, to the other side, and back
        with torch.no_grad():
            for p, d in zip(net.parameters(), direction, strict=True):
                p += sign * length * d
        ends.append(value())
    return float(ends[0] - ends[1]) / (2 * length)


@pytest.mark.parametrize(("name", "epoch", "fields"), CASES)
def test_loss_and_gradients_are_the_equation(name: str, epoch: int, fields: dict[str, Any]) -> None:
    """The gradient of each trainable, along a random direction: what the equation detaches stays where it was."""
    built, given, told = built_for(name, **fields)
    reference: Loss = LOSSES[name]
    step, x_adv = watched(built, given, epoch)
    assert torch.equal(x_adv, given.x) == (not built.attacks or fields.get("p_adv") == 0)
    aligned = given.y if name == "kdiga" else None
    was, labels = look(built, given.x, x_adv, labels=aligned), given.y.tolist()
    assert step.loss.item() == pytest.approx(reference(was, was, labels, told), rel=1e-9)
    for net in built.trainables().values():
        gradients = torch.autograd.grad(step.loss, list(net.parameters()), retain_graph=True, materialize_grads=True)
        direction = [g + g.norm() * torch.randn_like(g) / g.numel() ** 0.5 for g in gradients]
        ours = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        assert abs(ours) > 1e-4
        theirs = slope(
            built, net, direction, lambda: reference(look(built, given.x, x_adv, labels=aligned), was, labels, told)
        )
        assert ours == pytest.approx(theirs, rel=1e-5)


# What is searched for, and who is shown what ----------------------------------------------------------------------------


class Search:
    """Stands for the Maximiser: keeps what it is asked to climb, and returns an x' of its own."""

    def __init__(self, built: Method[Any], x: Tensor) -> None:
        self.x_adv = (x + 0.05 * torch.randn_like(x)).clamp(0, 1)
        built._maximiser = self  # type: ignore[assignment]

    def __call__(self, objective: Any, net: Any, x: Tensor, aux: Any, target: Any, **draws: Any) -> Tensor:
        self.objective, self.net, self.x, self.aux, self.target = objective, net, x, aux, target
        return self.x_adv


def imitates(target: str) -> Any:
    return lambda now, i, label: kl(now[target][i], now["S(x')"][i])


def label_loss(now: Seen, i: int, label: int) -> float:
    return ce(now["S(x')"][i], label)


@pytest.mark.parametrize(
    ("name", "fields", "reference"),
    [
        *((name, {}, label_loss) for name in ("pgd-at", "mart", "ard", "akd2", "iad-i", "iad-ii")),
        ("darht", {"p_adv": 1}, label_loss),
        ("trades", {}, imitates("S(x)")),
        ("hat", {}, imitates("S(x)")),
        ("lbgat", {}, imitates("S(x)")),
        ("mtard", {}, label_loss),
        ("b-mtard", {}, label_loss),
        ("ciard", {}, label_loss),
        ("rslad", {}, imitates("T0(x)")),
        ("adaad", {}, imitates("T0(x')")),
        ("adaiad", {}, imitates("T0(x')")),  # t = 1, whatever the student's loss has
        ("dgad", {}, imitates("T0(x')")),
        ("peeraid", PEER, imitates("P(x)")),  # t = 1, whatever the student's loss has
        ("crdnd", {"inner": "margin"}, lambda now, i, label: margin(now["S(x')"][i], label)),
        ("crdnd", {"inner": "ce"}, label_loss),
        ("crdnd", {"inner": "kl"}, imitates("T0(x)")),
    ],
)
def test_the_search_climbs_its_equation(name: str, fields: dict[str, Any], reference: Any) -> None:
    """Values, and the gradient to x' along a random direction, which in AdaAD goes through the teacher; all in eval mode."""
    built, given, _ = built_for(name, **fields)
    search = Search(built, given.x)
    before = copy.deepcopy(built)  # a step in train mode moves the running statistics
    built.step(given, 0)
    assert search.net is built.student and search.x is given.x

    def values(x_adv: Tensor) -> list[float]:
        now = look(before, given.x, x_adv, "eval")
        return [reference(now, i, label) for i, label in enumerate(given.y.tolist())]

    net, x_adv = before.student.eval(), search.x_adv
    aux = search.aux if search.target is None else (*search.aux, search.target(net, given.x).detach())
    assert search.objective(net, x_adv, *aux).tolist() == pytest.approx(values(x_adv), rel=1e-9)
    direction = torch.randn_like(x_adv)
    ours = float((input_gradient(search.objective, net, x_adv, aux) * direction).sum())
    there, back = (sum(values(x_adv + sign * 1e-7 * direction)) for sign in (1, -1))
    assert ours == pytest.approx((there - back) / 2e-7, rel=1e-5)


def test_adaad_finds_other_examples_than_a_search_that_takes_the_teacher_as_a_constant() -> None:
    built, given, _ = built_for("adaad")
    _, whole = watched(built, given)
    asked = built.teachers[0]
    built.teachers = (lambda x: asked(x).detach(),)
    _, cut = watched(built, given)
    assert ((whole - cut).abs() > 0.01).float().mean() > 0.01


@pytest.mark.parametrize(
    ("name", "epoch", "fields", "shown"),
    [
        ("kdiga", 0, {}, []), ("absld", 0, {}, ["x"]),
        ("saad", 0, {}, ["x'", "x'"]), ("saad", 0, {"beta": 1}, ["x", "x'", "x'"]),
        ("dgad", 0, {}, ["x", "x'"]),
        ("rslad", 0, {}, ["x"]), ("ard", 0, {}, ["x"]), ("akd2", 0, {}, ["x'"]), ("crdnd", 0, {}, ["x", "x'"]),
        ("hat", 0, {}, ["x'"]), ("adaiad", 5, {}, ["x'"]), ("adaiad", 6, {}, ["x'"]),
        ("adaad", 0, {"alpha": 1}, ["x'"]), ("adaad", 0, {"alpha": 0.5}, ["x", "x'"]),
        ("iad-i", 5, {}, ["x"]), ("iad-i", 6, {}, ["x", "x'"]), ("iad-ii", 3, {}, ["x'"]), ("iad-ii", 4, {}, ["x'"]),
        ("darht", 4, PHASES, []), ("darht", 5, PHASES, ["x'"]), ("darht", 5, PHASES | {"p_adv": 0}, ["x"]),
    ],
)  # fmt: skip
def test_each_teacher_is_shown_what_the_equation_says_and_never_learns(
    name: str, epoch: int, fields: dict[str, Any], shown: list[str]
) -> None:
    """It could learn here: no gradient reaches it all the same."""
    built, given, _ = built_for(name, **fields)
    Search(built, given.x)
    seen: list[tuple[int, str]] = []
    nets = [network(10 + i).double().eval() for i in range(len(built.teachers))]

    def showing(i: int) -> Any:
        return lambda x: (seen.append((i, "x" if x is given.x else "x'")), nets[i](x))[1]

    built.teachers = tuple(showing(i) for i in range(len(nets)))
    built.step(given, epoch).loss.backward()
    assert sorted(seen) == [(i, point) for i in range(len(nets)) for point in shown]
    assert not any(p.grad is not None for net in nets for p in net.parameters())
    assert any(p.grad is not None for p in built.student.parameters())


def test_before_it_begins_iad_is_its_base() -> None:
    base = {"alpha": 1, "temperature": 1, "scale": 1}
    weights = {"label": 0.25, "robust": 0.5, "clean": 0.25}
    for name, other, fields in (("iad-i", "ard", base), ("iad-ii", "akd2", weights | {"temperature": 1})):
        (built, given, _), (plain, _, _) = built_for(name), built_for(other, **fields)
        assert built.step(given, 3).loss.item() == pytest.approx(plain.step(given, 3).loss.item(), rel=1e-12)


# PeerAiD ----------------------------------------------------------------------------------------------------------------


def test_the_peer_is_asked_in_eval_mode_at_x_and_once_in_train_mode_at_the_adversarial_examples() -> None:
    built, given, _ = built_for("peeraid", **PEER)
    peer, seen = built.trainables()["peer"], list[tuple[bool, Tensor]]()
    peer.register_forward_hook(lambda net, inputs, _: seen.append((net.training, inputs[0])))
    tracked = int(peer.get_buffer("bn1.num_batches_tracked"))
    _, x_adv = watched(built, given)
    assert [training for training, _ in seen] == [False, True]
    assert torch.equal(seen[0][1], given.x) and torch.equal(seen[1][1], x_adv)
    assert int(peer.get_buffer("bn1.num_batches_tracked")) == tracked + 1


@pytest.mark.parametrize("detached", [False, True])
def test_the_students_loss_never_reaches_the_peer_and_the_peers_the_student_unless_detached(detached: bool) -> None:
    def reached(**weights: float) -> tuple[bool, bool]:
        built, given, _ = built_for("peeraid", **PEER | weights | {"detach_peer_target": detached})
        loss = built.step(given, 0).loss
        nets = built.trainables()
        found = [torch.autograd.grad(loss, list(nets[n].parameters()), retain_graph=True, materialize_grads=True)
                 for n in ("student", "peer")]  # fmt: skip
        return tuple(any(bool(g.any()) for g in gradients) for gradients in found)  # type: ignore[return-value]

    assert reached(peer_label=0, peer_imitation=0) == (True, False)
    assert reached(label=0, imitation=0, consistency=0) == (not detached, True)


# CRDND ------------------------------------------------------------------------------------------------------------------


def test_the_compensation_is_its_closed_forms() -> None:
    a = torch.rand(10).double()
    m = compensation(a)
    assert torch.allclose(m, torch.tensor(matrix(a.tolist())).double(), rtol=1e-12)
    assert torch.allclose(m.sum(0), torch.ones(10).double(), rtol=1e-12)
    assert torch.equal(compensation(torch.ones(7)), torch.eye(7))
    z = torch.randn(10).double()
    one = compensation(torch.full((10,), 0.37).double())
    assert torch.allclose(one @ z, z.mean() + (0.37 * 10 - 1) / 9 * (z - z.mean()), rtol=1e-12)


def test_relations_of_logits_are_blind_to_their_scale_and_those_of_probabilities_are_not() -> None:
    student, teacher = torch.randn(2, 6, 10).double()
    for domain, blind in (("logits", True), ("probs", False)):
        built, given, _ = built_for("crdnd", domain=domain)
        one, ten = (built.relation(given, scale * student, teacher, built.accuracy[0]) for scale in (1, 10))
        assert torch.allclose(one, ten, rtol=1e-12) == blind


def accuracies(seen: list[tuple[Rows, list[int]]], scalar: bool, before: list[float]) -> list[float]:
    """Return a by class, counted example by example; before: what a class keeps that was not seen."""
    right, total = [0] * 10, [0] * 10
    for rows, labels in seen:
        for row, label in zip(rows, labels, strict=True):
            right[label] += row.index(max(row)) == label
            total[label] += 1
    if scalar:
        return [sum(right) / sum(total)] * 10
    return [r / t if t else kept for r, t, kept in zip(right, total, before, strict=True)]


@pytest.mark.parametrize("scalar", [False, True])
def test_crdnd_counts_in_one_epoch_what_it_uses_in_the_next(scalar: bool) -> None:
    built, given, _ = built_for("crdnd", compensation="scalar" if scalar else "class")
    teacher = network(10).double().eval()
    guess = teacher(given.x).argmax(1)
    built.accuracy = torch.ones(2, 10).double()  # as it is made
    expected = [[1.0] * 10, [1.0] * 10]
    for epoch, labels in enumerate([guess, guess.where(guess != guess[0], given.y), given.y.fill_(9)]):
        built.begin_epoch(epoch)
        assert built.accuracy.tolist() == [pytest.approx(row) for row in expected]
        clean, adv = list[tuple[Rows, list[int]]](), list[tuple[Rows, list[int]]]()
        for y in (labels, labels.roll(1)):
            step, x_adv = watched(built, dataclasses.replace(given, y=y), epoch)
            clean.append((teacher(given.x).tolist(), y.tolist()))
            adv.append((teacher(x_adv).tolist(), y.tolist()))
            told = SimpleNamespace(**built.config.model_dump(), accuracy=expected)
            seen = look(built, given.x, x_adv)
            assert step.loss.item() == pytest.approx(LOSSES["crdnd"](seen, seen, y.tolist(), told), rel=1e-9)
        expected = [accuracies(seen, scalar, old) for seen, old in zip((clean, adv), expected, strict=True)]
    built.begin_epoch(3)
    assert built.accuracy.tolist() == [pytest.approx(row) for row in expected]
    assert not built.right.any() and not built.seen.any()


# DARHT ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["confidence", "uniform", "mwu"])
@pytest.mark.parametrize("distance", ["kl", "mse"])
def test_the_order_of_teachers_changes_nothing(weighting: str, distance: str) -> None:
    built, given, _ = built_for(
        "darht", **PHASES | {"weighting": weighting, "distance": distance, "shares": [0.8, 0.2]}
    )
    turned = copy.deepcopy(built)
    turned.teachers, turned.shares = turned.teachers[::-1], turned.shares.flip(0)
    head = turned.student.get_submodule("head")
    with torch.no_grad():
        for parameter, axis in ((head.map.weight, 0), (head.map.bias, 0), (head.out.weight, 1)):
            parameter.copy_(parameter.roll(10, axis))  # two blocks of ten change places
    assert not torch.equal(*(one.student.get_parameter("head.out.weight") for one in (built, turned)))
    for _ in range(2):
        losses = [one.step(given, 5).loss.item() for one in (built, turned)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize("distance", ["kl", "mse"])
def test_blocks_that_equal_their_teachers_cost_nothing(distance: str) -> None:
    built, given, _ = built_for("darht", **PHASES | {"distance": distance})
    away = built.step(given, 10).loss
    built.ask = lambda x, i=0: built.blocks(x).chunk(2, dim=1)[i].detach()  # type: ignore[attr-defined, method-assign]
    assert built.step(given, 10).loss.abs() < 1e-12 < 0.01 < away


def test_a_teacher_weighs_what_it_gives_the_label() -> None:
    built, given, _ = built_for("darht", **PHASES)
    logs = built.step(given, 5).logs
    assert all(0 < logs[f"weight_{i}"] <= 1 for i in (0, 1))
    built.ask = lambda x, i=0: torch.zeros(len(x), 10).double() if i else 100 * torch.eye(10).double()[given.y]  # type: ignore[method-assign]
    logs = built.step(given, 5).logs
    assert [float(logs[f"weight_{i}"]) for i in (0, 1)] == pytest.approx([1, 1 / 10], rel=1e-12)


def test_labels_no_longer_reach_the_last_layer_in_the_third_phase() -> None:
    built, given, _ = built_for("darht", **PHASES)
    for epoch, reached in ((4, True), (5, True), (9, True), (10, False)):
        built.student.zero_grad(set_to_none=True)
        built.step(given, epoch).loss.backward()
        parts = {name: p.grad is not None for name, p in built.student.named_parameters()}
        assert {name for name, got in parts.items() if not got} == (
            set() if reached else {"head.out.weight", "head.out.bias"}
        )


def test_one_coin_decides_for_the_whole_batch() -> None:
    built, _, told = built_for("darht", **PHASES | BOTH | {"p_adv": 0.5})
    fell = []
    for step in range(16):
        given = batch(built.recipe, step, torch.float64)
        made, x_adv = watched(built, given, 5)
        told.seen = "x" if x_adv is given.x else "x'"
        fell.append(told.seen)
        seen = look(built, given.x, x_adv)
        assert made.loss.item() == pytest.approx(LOSSES["darht"](seen, seen, given.y.tolist(), told), rel=1e-9)
    assert 4 <= fell.count("x") <= 12


def test_multiplicative_weights_survive_a_restart(tmp_path: Path) -> None:
    (built, given, _), (again, _, _), (fresh, _, _) = (built_for("darht", weighting="mwu", p_adv=0) for _ in range(3))
    for _ in range(2):
        built.step(given, 5)
    save_state(tmp_path / "state", built.state())
    again.load_state(load_state(tmp_path / "state"))
    kept, loaded, anew = (one.step(given, 5).logs["weight_0"] for one in (built, again, fresh))
    assert torch.equal(kept, loaded) and not torch.equal(kept, anew)
    assert float(kept + built.shares[1]) == pytest.approx(1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_the_folded_student_has_the_same_logits_and_the_recipes_architecture(
    dtype: torch.dtype, tolerance: float
) -> None:
    built = method(recipe("darht"), to=dtype)
    folded = built.deployed(built.student)
    assert folded.state_dict().keys() == network(0).state_dict().keys()
    x = torch.rand(50, 3, 8, 8, dtype=dtype)
    assert torch.allclose(folded.eval()(x), built.student.eval()(x), rtol=0, atol=tolerance)


def test_the_attacked_copy_drops_one_block_anew_in_each_forward_and_so_does_what_is_deployed() -> None:
    built, given, _ = built_for("darht", drop_block=True)
    student = built.deployed(built.student).eval()
    assert student is built.student
    seen = look(built, given.x, given.x, "eval")
    without = []
    for dropped in range(2):
        kept = [[0.0 if k // 10 == dropped else v for k, v in enumerate(z)] for z in seen["z(x)"]]
        without.append([[v + b for v, b in zip(times(seen["B"], z), seen["b"], strict=True)] for z in kept])
    possible = torch.tensor(without).double()
    for net in (student, FastForm(student, False, built.recipe.precision)):
        answers = [net(given.x) for _ in range(20)]
        drawn = [[i for i, f in enumerate(possible) if torch.allclose(answer, f)] for answer in answers]
        assert {tuple(fitting) for fitting in drawn} == {(0,), (1,)}
