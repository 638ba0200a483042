"""The contract of a method, over every registered one and over throw-away ones of each shape that is still to come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import CPU, batch, method, network, recipe
from torch import Tensor, nn

from ardbench import methods
from ardbench.attacks.objectives import divergence, label_loss
from ardbench.attacks.pgd import Maximiser, input_gradient
from ardbench.config import Recipe
from ardbench.data.load import load
from ardbench.engine.checkpoints import load_state, save_state
from ardbench.engine.loop import Loop
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Context, Method, Step
from ardbench.methods.iad import trust
from ardbench.progress import Progress
from ardbench.runs import Run


class JointPeer(Method[Any]):
    """A peer from scratch, trained beside the student, each with an optimizer."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert context.build is not None
        self.peer = context.build("resnet8-tiny")

    def trainables(self) -> dict[str, nn.Module]:
        return {"student": self.student, "peer": self.peer}

    def step(self, batch: Any, epoch: int) -> Step:
        modes = [m.training for m in self.peer.modules()]
        self.peer.eval()
        with torch.no_grad():
            soft = self.logits(batch.x, self.peer)
        for module, training in zip(self.peer.modules(), modes, strict=True):
            module.training = training
        x_adv = self.maximise(divergence, batch, aux=(soft,))
        student, peer = self.logits(x_adv), self.logits(x_adv, self.peer)
        loss = kl(student, peer.detach()) + cross_entropy(peer, batch.y) + 0.01 * kl(peer, student)
        return Step(loss.mean())


class HeadAndPhases(Method[Any]):
    """Several teachers, a head that is never deployed, a first phase without it, and counts that must survive."""

    roles = ("robust", ...)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.map = nn.Linear(10, 10).to(next(self.student.parameters()).device)
        self.seen = torch.zeros((), device=self.map.weight.device)

    def trainables(self) -> dict[str, nn.Module]:
        return {"student": self.student, "map": self.map}

    def step(self, batch: Any, epoch: int) -> Step:
        x = self.maximise(label_loss, batch, aux=(batch.y,)) if batch.draws.coin("coin", 0.5) else batch.x
        f = self.logits(x)
        self.seen = self.seen + len(batch.y)
        if epoch < self.epoch_of(0.5):
            return Step(cross_entropy(f, batch.y).mean())
        return Step(sum(kl(self.map(f), self.ask(x, i)).mean() for i in range(len(self.teachers))))

    def state(self) -> dict[str, Tensor]:
        return {"seen": self.seen}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.seen = state["seen"]


class ThroughTheTeacher(Method[Any]):
    """A teacher that is differentiated through while x' is searched."""

    roles = ("robust",)

    def step(self, batch: Any, epoch: int) -> Step:
        def objective(net: Any, x_adv: Tensor) -> Tensor:
            return kl(net(x_adv), self.teachers[0](x_adv))

        x_adv = self.maximise(objective, batch)
        return Step(kl(self.logits(x_adv), self.ask(x_adv)).mean())


class Rollover(Method[Any]):
    """Counts of one epoch that weigh the loss of the next, as a compensation counted over an epoch does."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.counting = torch.zeros(10, device=next(self.student.parameters()).device)
        self.used = torch.ones_like(self.counting)

    def begin_epoch(self, epoch: int) -> None:
        if epoch:
            self.used, self.counting = self.counting, torch.zeros_like(self.counting)

    def step(self, batch: Any, epoch: int) -> Step:
        logits = self.logits(self.maximise(label_loss, batch, aux=(batch.y,)))
        right = (logits.detach().argmax(1) == batch.y).float()
        self.counting = self.counting.index_add(0, batch.y, right)
        weights = 1 / (1 + self.used[batch.y])
        return Step((weights * cross_entropy(logits, batch.y)).mean(), {"used": self.used.sum()})

    def state(self) -> dict[str, Tensor]:
        return {"counting": self.counting, "used": self.used}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.counting, self.used = state["counting"], state["used"]


class LeavingHead(Method[Any]):
    """Features with two heads: labels teach the deployed one first, a teacher the other one alone in the end."""

    roles = ("robust",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        head = self.student.get_submodule("head")
        assert isinstance(head, nn.Linear)
        self.map = nn.Linear(head.in_features, head.out_features).to(head.weight)

    def trainables(self) -> dict[str, nn.Module]:
        return {"student": self.student, "map": self.map}

    def step(self, batch: Any, epoch: int) -> Step:
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        if epoch < self.epoch_of(0.5):
            return Step(cross_entropy(self.logits(x_adv), batch.y).mean())
        features = self.student.features(x_adv)  # type: ignore[operator]
        return Step(kl(self.map(features), self.ask(x_adv)).mean())


OURS = sorted(methods.METHODS)
SHAPES = {
    "joint-peer": JointPeer,
    "head-and-phases": HeadAndPhases,
    "through-the-teacher": ThroughTheTeacher,
    "rollover": Rollover,
    "leaving-head": LeavingHead,
}


def made(name: str, model: str = "resnet8-tiny", **sets: Any) -> tuple[Method[Any], Recipe]:
    wanted = recipe(name if name in OURS else "pgd-at", **sets)
    return method(wanted, SHAPES.get(name), model), wanted


def train_mode(built: Method[Any]) -> Method[Any]:
    for net in built.trainables().values():
        net.train()
    return built


@pytest.mark.parametrize("name", [*OURS, *SHAPES])
def test_contract(name: str) -> None:
    built, wanted = made(name, schedule__epochs=4)
    train_mode(built)
    given = batch(wanted)
    taught = [net(given.x) for net in built.teachers]
    got: set[str] = set()
    everything = {f"{n}.{k}": p for n, net in built.trainables().items() for k, p in net.named_parameters()}
    for epoch in range(4):
        built.begin_epoch(epoch)
        modes = [m.training for net in built.trainables().values() for m in net.modules()]
        step = built.step(given, epoch)
        assert modes == [m.training for net in built.trainables().values() for m in net.modules()]
        assert step.loss.shape == ()
        step.loss.backward()
        for key, parameter in everything.items():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), key
                got.add(key)
            parameter.grad = None
    assert got == set(everything), "every trainable gets a gradient in at least one phase"
    for net, before in zip(built.teachers, taught, strict=True):
        assert torch.equal(net(given.x), before)
        assert not before.requires_grad, "nothing in a teacher learns"
    assert built.deployed().eval()(given.x).shape == (len(given.y), 10)


@pytest.mark.parametrize("name", [*OURS, *SHAPES])
def test_a_step_is_a_function_of_its_batch(name: str) -> None:
    losses = []
    for _ in range(2):
        built, wanted = made(name)
        torch.manual_seed(len(losses))  # nothing may come from the global generator
        losses.append(train_mode(built).step(batch(wanted), 15).loss.detach())
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", [*OURS, *SHAPES])
def test_a_step_runs_on_the_meta_device(name: str) -> None:
    """A hard-coded device or a look at a value would fail here."""
    wanted = recipe(name if name in OURS else "pgd-at")
    kind = SHAPES.get(name) or methods.method_class(name)
    count = len([role for role in kind.roles if isinstance(role, str)])
    teachers = tuple(network(i).to("meta").eval().requires_grad_(False) for i in range(count))
    built = kind(Context(wanted, network(0).to("meta"), teachers, lambda model: network(1, model).to("meta")))
    for epoch in (0, 19):
        loss = train_mode(built).step(batch(wanted).to("meta"), epoch).loss
        assert loss.device.type == "meta"
        loss.backward()


def test_a_head_that_leaves_the_loss_stays_to_the_bit(tmp_path: Any) -> None:
    """It was trained, so its momentum is not zero: a gradient of zero would still move it, and so would weight decay."""
    built, wanted = made("leaving-head", schedule__epochs=4, selection__by="last", data__validation=0)
    loop = Loop(Run(tmp_path), wanted, built, load("fake", CPU), lambda: False, Progress())
    head, seen = built.student.get_submodule("head"), list[list[Tensor]]()
    for epoch in range(4):
        loop.at.step = 0
        loop._epoch(epoch)
        seen.append([p.detach().clone() for p in (*head.parameters(), *built.trainables()["map"].parameters())])
    before, after, end = seen[0], seen[1], seen[3]
    assert not any(map(torch.equal, before[:2], after[:2]))
    assert all(map(torch.equal, after[:2], end[:2]))  # the head of the labels, weight and bias
    assert all(map(torch.equal, before[2:], after[2:]))  # the other one, until its phase
    assert not any(map(torch.equal, after[2:], end[2:]))
    assert loop.optimizers["student"].state[head.weight]["momentum_buffer"].abs().sum() > 0


@pytest.mark.parametrize("name", [*OURS, *SHAPES])
def test_a_step_leaves_modes_and_requires_grad_as_it_found_them(name: str) -> None:
    built, wanted = made(name)
    nets = list(train_mode(built).trainables().values())
    part = built.student.get_submodule("layer1")
    part.eval().requires_grad_(False)

    def found() -> list[Any]:
        modes = [(m.training, getattr(m, "track_running_stats", None)) for net in nets for m in net.modules()]
        return [*modes, *(p.requires_grad for net in nets for p in net.parameters())]

    before = found()
    for epoch in (0, 19):
        built.step(batch(wanted), epoch)
        assert found() == before


@pytest.mark.parametrize("name", OURS)
def test_an_objective_holds_no_tensor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a batch brings travels in aux; one objective serves every step, so that a captured graph can replay it."""
    built, wanted = made(name)
    seen: list[Any] = []
    search = Maximiser.__call__

    def watching(self: Maximiser, objective: Any, *args: Any, **keys: Any) -> Tensor:
        target = keys.get("target") or (args[3] if len(args) > 3 else None)
        seen.append((objective, target))
        return search(self, objective, *args, **keys)

    monkeypatch.setattr(Maximiser, "__call__", watching)
    for step in (0, 1):
        train_mode(built).step(batch(wanted, step), 19)
    assert len(seen) == 2 * built.attacks
    assert len(set(seen)) == len(seen) // 2, "a new objective each step would be compiled or captured each step"
    functions = [function for pair in seen for function in pair if function is not None]
    assert not any(getattr(function, "__closure__", None) for function in functions)


@pytest.mark.parametrize(
    ("name", "epoch", "forwards"),
    [
        ("standard", 0, 1), ("pgd-at", 0, 1), ("trades", 0, 2), ("rslad", 0, 2),
        ("iad-i", 5, 1 + 2), ("iad-i", 6, 2 + 2), ("iad-ii", 3, 1 + 2), ("iad-ii", 4, 2 + 2),
    ],
)  # fmt: skip
def test_batchnorm_sees_each_train_mode_forward_of_the_method_once(name: str, epoch: int, forwards: int) -> None:
    """Outer forwards, and with `bn = train` (IAD) the two of the search: one more or less is another algorithm."""
    built, wanted = made(name)
    norms = [m for m in built.student.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [int(norm.num_batches_tracked) for norm in norms]  # type: ignore[arg-type]
    train_mode(built).step(batch(wanted), epoch)
    assert {int(m.num_batches_tracked) - b for m, b in zip(norms, before, strict=True)} == {forwards}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*OURS, *SHAPES])
def test_a_method_goes_on_from_its_state_as_if_nothing_had_happened(name: str, tmp_path: Any) -> None:
    """Modules, optimizers and `state` are all that is kept; the third step sees the same in both."""
    built, wanted = made(name, schedule__epochs=2)
    built.begin_epoch(0)
    for step in (0, 1):
        train_mode(built).step(batch(wanted, step), 0)
    built.begin_epoch(1)
    save_state(tmp_path / "state", {"method": built.state()})
    again, _ = made(name, schedule__epochs=2)
    for net, kept in zip(again.trainables().values(), built.trainables().values(), strict=True):
        net.load_state_dict(kept.state_dict())
    again.load_state(load_state(tmp_path / "state")["method"])
    first, second = (train_mode(one).step(batch(wanted, 2), 1) for one in (built, again))
    assert torch.equal(first.loss, second.loss)
    assert first.logs.keys() == second.logs.keys()
    for a, b in zip(gradients(built, first), gradients(again, second), strict=True):
        assert torch.equal(a, b)


def gradients(built: Method[Any], step: Step) -> list[Tensor]:
    parameters = [p for net in built.trainables().values() for p in net.parameters()]
    return list(torch.autograd.grad(step.loss, parameters, materialize_grads=True))


def test_a_peer_is_never_deployed() -> None:
    built, _ = made("joint-peer")
    peer = {id(p) for p in built.trainables()["peer"].parameters()}
    assert not peer & {id(p) for p in built.deployed().parameters()}


def test_the_search_goes_through_a_teacher_that_the_objective_asks() -> None:
    """AdaAD's gradient has a share from T(x'); with the teacher's logits cut off it is another one."""
    built, wanted = made("through-the-teacher")
    x, teacher, student = batch(wanted).x, built.teachers[0], built.student.eval()

    def cut(net: Any, x_adv: Tensor) -> Tensor:
        return kl(net(x_adv), teacher(x_adv).detach())

    def whole(net: Any, x_adv: Tensor) -> Tensor:
        return kl(net(x_adv), teacher(x_adv))

    ours, theirs = (input_gradient(objective, student, x, ()) for objective in (whole, cut))
    leaf = x.clone().requires_grad_()
    (by_hand,) = torch.autograd.grad(kl(student(leaf), teacher(leaf)).sum(), leaf)
    assert torch.allclose(ours, by_hand)
    assert (ours - theirs).norm() > 0.1 * ours.norm()
    assert not teacher(x).requires_grad, "x' alone is differentiated, never a teacher's weights"


# The equations, in float64, at an x' that is given ---------------------------------------------------------------------


def double(name: str, **sets: Any) -> tuple[Method[Any], Any, Tensor, Recipe]:
    """Return a method in float64 whose search returns a fixed x'."""
    wanted = recipe(name, **sets)
    kind = methods.method_class(name)
    count = len(kind.roles)
    teachers = tuple(network(10 + i).double().eval().requires_grad_(False) for i in range(count))
    built = kind(Context(wanted, network(0).double().train(), teachers))
    given = batch(wanted)
    x_adv = (given.x.double() + 0.05 * torch.randn(given.x.shape, dtype=torch.float64)).clamp(0, 1)
    fake = SimpleNamespace(x=given.x.double(), y=given.y, index=given.index, view=given.view, draws=given.draws)
    built.maximise = lambda *args, **kwargs: x_adv  # type: ignore[method-assign]
    return built, fake, x_adv, wanted


def mean_kl(target: Tensor, student: Tensor, weights: Tensor | None = None) -> Tensor:
    p, q = target.softmax(1), student.softmax(1)
    values = torch.stack(
        [sum(p[i, k] * (p[i, k].log() - q[i, k].log()) for k in range(p.shape[1])) for i in range(len(p))]
    )
    return (values if weights is None else weights * values).mean()


def mean_ce(student: Tensor, y: Tensor) -> Tensor:
    return torch.stack([-student.softmax(1)[i, y[i]].log() for i in range(len(y))]).mean()


def same(a: Tensor, b: Tensor) -> None:
    assert torch.allclose(a, b, rtol=1e-9), (a, b)


@pytest.mark.parametrize("scale", [1, 0.1])
def test_rslad_is_its_equation(scale: float) -> None:
    built, given, x_adv, _ = double("rslad", method__scale=scale)
    s, t = network(0).double().train(), network(10).double().eval()
    teacher = t(given.x)
    expected = scale * (5 / 6 * mean_kl(teacher, s(x_adv)) + 1 / 6 * mean_kl(teacher, s(given.x)))
    same(built.step(given, 0).loss, expected)


def test_rslad_shows_its_teacher_clean_images_only() -> None:
    wanted = recipe("rslad", precision__fold_bn=False)
    built, given = method(wanted), batch(wanted)
    seen: list[Tensor] = []
    (asked,) = built.teachers
    built.teachers = (lambda x: (seen.append(x), asked(x))[1],)
    train_mode(built).step(given, 0)
    assert len(seen) == 1
    assert torch.equal(seen[0], given.x)


@pytest.mark.parametrize("printed", [True, False])
@pytest.mark.parametrize("epoch", [5, 6])
def test_iad_i_is_its_equation_before_and_after_begin(printed: bool, epoch: int) -> None:
    built, given, x_adv, _ = double("iad-i", method__trust_teacher_term=printed)  # begins at 60/200 of 20: epoch 6
    s, t = network(0).double().train(), network(10).double().eval()
    adv, clean, teacher = s(x_adv), s(given.x), t(given.x)
    a = t(x_adv).softmax(1).gather(1, given.y[:, None]).squeeze(1) ** 0.1
    after = mean_kl(teacher, adv, a if printed else None) + mean_kl(clean, adv, 1 - a)
    loss = built.step(given, epoch).loss
    same(loss, mean_kl(teacher, adv) if epoch < 6 else after)
    if epoch == 6:  # S(x) is not detached: its share of the gradient is there
        (ours,) = torch.autograd.grad(loss, [built.student.head.weight])
        (theirs,) = torch.autograd.grad(after, [s.head.weight])
        cut = mean_kl(teacher, s(x_adv), a if printed else None) + mean_kl(s(given.x).detach(), s(x_adv), 1 - a)
        (detached,) = torch.autograd.grad(cut, [s.head.weight])
        same(ours, theirs)
        assert (ours - detached).norm() > 1e-3 * ours.norm()


@pytest.mark.parametrize("epoch", [3, 4])
def test_iad_ii_is_its_equation_before_and_after_begin(epoch: int) -> None:
    built, given, x_adv, _ = double("iad-ii")  # begins at 40/200 of 20: epoch 4
    s = network(0).double().train()
    robust, clean_teacher = network(10).double().eval()(x_adv), network(11).double().eval()(x_adv)
    adv, clean = s(x_adv), s(given.x)
    a = robust.softmax(1).gather(1, given.y[:, None]).squeeze(1) ** 0.1
    middle = mean_kl(robust, adv) if epoch < 4 else mean_kl(robust, adv, a) + mean_kl(clean, adv, 1 - a)
    expected = 0.25 * mean_ce(adv, given.y) + 0.5 * middle + 0.25 * mean_kl(clean_teacher, adv)
    same(built.step(given, epoch).loss, expected)


def test_trades_and_pgd_at_are_their_equations() -> None:
    built, given, x_adv, _ = double("trades")
    s = network(0).double().train()
    clean, adv = s(given.x), s(x_adv)
    same(built.step(given, 0).loss, mean_ce(clean, given.y) + 6 * mean_kl(clean, adv))
    built, given, x_adv, _ = double("pgd-at")
    same(built.step(given, 0).loss, mean_ce(network(0).double().train()(x_adv), given.y))


def test_trust_is_a_constant_between_zero_and_one() -> None:
    logits = torch.randn(6, 10, requires_grad=True)
    labels = torch.arange(6)
    a = trust(logits, labels, 0.1)
    assert not a.requires_grad
    assert ((a > 0) & (a <= 1)).all()
    assert torch.equal(trust(logits, labels, 0.0), torch.ones(6))


@pytest.mark.parametrize(("name", "epoch"), [("trades", 0), ("iad-ii", 4)])
def test_the_student_at_x_is_not_detached_in_trades_and_iad_ii(name: str, epoch: int) -> None:
    built, given, x_adv, _ = double(name)
    (ours,) = torch.autograd.grad(built.step(given, epoch).loss, [built.student.get_parameter("head.weight")])
    s = network(0).double().train()

    def theirs(detached: bool) -> Tensor:
        adv, clean = s(x_adv), s(given.x)
        soft = clean.detach() if detached else clean
        if name == "trades":
            loss = mean_ce(clean, given.y) + 6 * mean_kl(soft, adv)
        else:
            robust, other = network(10).double().eval()(x_adv), network(11).double().eval()(x_adv)
            a = robust.softmax(1).gather(1, given.y[:, None]).squeeze(1) ** 0.1
            middle = mean_kl(robust, adv, a) + mean_kl(soft, adv, 1 - a)
            loss = 0.25 * mean_ce(adv, given.y) + 0.5 * middle + 0.25 * mean_kl(other, adv)
        return torch.autograd.grad(loss, [s.get_parameter("head.weight")])[0]

    same(ours, theirs(detached=False))
    assert (ours - theirs(detached=True)).norm() > 1e-3 * ours.norm()
