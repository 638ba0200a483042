"""As released means as executed: five optimizer steps of as-released recipes beside a loop written from what scripts do.

In float64, on equal networks, images and starts. The loop is plain: every forward that a script makes in train mode is made,
in its order, and all of them could learn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import CPU, batch, method, network
from torch import Tensor, nn

from ardbench.attacks.threat import start_at
from ardbench.config import Recipe
from ardbench.data.load import load
from ardbench.engine.loop import Loop
from ardbench.progress import Progress
from ardbench.recipes import resolve
from ardbench.runs import Run

EXECUTED: list[tuple[str, int, list[str], float]] = [
    ("adaad-cifar10", 0, ["x", "x'"], 0.47),
    ("adaiad-cifar10", 59, ["x", "x'", "x"], 0.67),
    ("adaiad-cifar10", 60, ["x", "x'", "x"], 0.67),
    ("ard-cifar10", 0, ["x'", "x"], 0.14),
    ("ard-cifar10@iad", 0, ["x'", "x"], 0.14),
    ("iad-i-cifar10", 59, ["x'", "x'", "x"], 0.13),
    ("iad-i-cifar10", 60, ["x'", "x'", "x", "x"], 0.25),
    ("mart-cifar10", 0, ["x", "x'"], 0.47),
    ("trades-cifar10", 0, ["x", "x'", "x"], 0.67),
    ("peeraid-cifar10", 0, ["x'", "x'", "x"], 0.37),
    ("rslad-cifar10", 0, ["x'", "x"], 0.53),
    ("akd2-cifar10", 0, ["x'"], 0.0),
    ("iad-ii-cifar10", 39, ["x'"], 0.0),
    ("iad-ii-cifar10", 40, ["x'", "x"], 0.14),
]
"""Recipe, epoch, the student's forwards in train mode after the attack, and the share of clean images that its running
statistics come to; an attack in train mode moves them as well, ten times a step."""
SWITCH = ("forwards", "forwards_before")


def recipe(name: str) -> Recipe:
    """Return an as-released recipe on small images and networks; what it computes of them is its own."""
    sets = {
        "data.name": "fake",
        "data.batch": 16,
        "data.validation": 0,
        "selection.by": "last",
        "precision.cache_gb": 0,
    }
    sets |= {"method.peer": "resnet8-tiny"} if name.startswith("peeraid") else {}
    return resolve(name, student="resnet8-tiny", sets=sets)


def ours(wanted: Recipe, epoch: int, folder: Path) -> dict[str, nn.Module]:
    """Return student and peer after five steps of the engine's loop."""
    built = method(wanted, to=torch.float64)
    loop = Loop(Run(folder), wanted, built, load("fake", CPU), lambda: False, Progress())
    for net in loop.trainables.values():
        net.train()
    for step in range(5):
        loop._step(batch(wanted, step, torch.float64), epoch, step)
    return loop.trainables


class Script:
    """A released training loop of one method.

    Args:
        forwards: of the student in train mode after the attack, in order.
    """

    def __init__(self, wanted: Recipe, forwards: list[str], begun: bool) -> None:
        self.recipe, self.forwards, self.begun = wanted, forwards, begun
        self.student, self.peer = network(0).double(), network(5).double()
        self.first, self.second = (network(seed).double().eval() for seed in (10, 11))
        self.nets = {"student": self.student, "peer": self.peer}
        lr, decay = wanted.optimizer.lr, wanted.optimizer.weight_decay
        self.optimizers = [torch.optim.SGD(n.parameters(), lr, 0.9, weight_decay=decay) for n in self.nets.values()]

    def step(self, x: Tensor, y: Tensor, start: Tensor) -> None:
        points = {"x": x, "x'": self.attack(x, start, self.inner(x, y))}
        answers = {point: self.student(points[point]) for point in self.forwards}
        loss = getattr(self, self.recipe.method["name"].replace("-", "_"))(points, answers, y)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def attack(self, x: Tensor, x_adv: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        attack, eps = self.recipe.attack, self.recipe.threat.eps
        assert attack is not None
        self.student.train(attack.bn == "train")
        for _ in range(attack.steps):
            x_adv = x_adv.detach().requires_grad_()
            x_adv = x_adv.detach() + attack.step_size * torch.autograd.grad(loss(x_adv), x_adv)[0].sign()
            x_adv = torch.max(torch.min(x_adv, x + eps), x - eps).clamp(0, 1)
        self.student.train()
        return x_adv.detach()

    def inner(self, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        student, name = self.student, self.recipe.method["name"]
        if name in ("adaad", "adaiad"):
            return lambda x_adv: kl(student(x_adv), self.first(x_adv)).sum()
        if name in ("trades", "rslad", "peeraid"):
            target = {"trades": student, "rslad": self.first, "peeraid": self.peer}[name].eval()(x).detach()
            self.peer.train()
            return lambda x_adv: kl(student(x_adv), target).sum()
        return lambda x_adv: F.cross_entropy(student(x_adv), y)

    def adaad(self, at: Any, s: Any, y: Tensor) -> Tensor:
        adversarial, clean = (kl(s[point], self.first(at[point]).detach()).mean() for point in ("x'", "x"))
        return (1.0 * adversarial + 0.0 * clean) / 10

    def adaiad(self, at: Any, s: Any, y: Tensor) -> Tensor:
        soft = 900 * kl(s["x'"] / 30, self.first(at["x'"]).detach() / 30).mean() + self.introspection(at, s, y).mean()
        return 1.0 * soft + 0.0 * F.cross_entropy(s["x"], y)

    def ard(self, at: Any, s: Any, y: Tensor) -> Tensor:
        t, elements = (30, 10) if self.recipe.name == "ard-cifar10" else (1, 1)
        soft = kl(s["x'"] / t, self.first(at["x"]).detach() / t).mean() / elements
        return t * t * soft + 0.0 * F.cross_entropy(s["x"], y)

    def iad_i(self, at: Any, s: Any, y: Tensor) -> Tensor:
        return (kl(s["x'"], self.first(at["x"]).detach()) + self.introspection(at, s, y)).mean()

    def introspection(self, at: Any, s: Any, y: Tensor) -> Tensor:
        return (1 - self.trust(at, y)) * kl(s["x'"], s["x"]) if self.begun else torch.zeros(len(y))

    def trust(self, at: Any, y: Tensor) -> Tensor:
        return self.first(at["x'"]).softmax(1).detach()[range(len(y)), y] ** 0.1 if self.begun else torch.ones(len(y))

    def iad_ii(self, at: Any, s: Any, y: Tensor) -> Tensor:
        robust = self.trust(at, y) * kl(s["x'"], self.first(at["x'"]).detach()) + self.introspection(at, s, y)
        clean = kl(s["x'"], self.second(at["x'"]).detach())
        return F.cross_entropy(s["x'"], y) / 4 + robust.mean() / 2 + clean.mean() / 4

    def akd2(self, at: Any, s: Any, y: Tensor) -> Tensor:
        soft = [4 * kl(s["x'"] / 2, teacher(at["x'"]).detach() / 2).mean() for teacher in (self.first, self.second)]
        return 0.3 * F.cross_entropy(s["x'"], y) + 0.6 * soft[0] + 0.1 * soft[1]

    def mart(self, at: Any, s: Any, y: Tensor) -> Tensor:
        likes = s["x'"].softmax(1).scatter(1, y[:, None], 0).amax(1)
        boosted = F.cross_entropy(s["x'"], y) - torch.log(1.0001 - likes + 1e-12).mean()
        doubt = 1 - s["x"].softmax(1)[range(len(y)), y]
        return boosted + 5 * (doubt * kl(s["x'"], s["x"])).mean()

    def trades(self, at: Any, s: Any, y: Tensor) -> Tensor:
        return F.cross_entropy(s["x"], y) + 6 * kl(s["x'"], s["x"]).mean()

    def rslad(self, at: Any, s: Any, y: Tensor) -> Tensor:
        adversarial, clean = (kl(s[point], self.first(at["x"]).detach()).mean() / 10 for point in ("x'", "x"))
        return 5 / 6 * adversarial + 1 / 6 * clean

    def peeraid(self, at: Any, s: Any, y: Tensor) -> Tensor:
        peer = self.peer(at["x'"])
        soft = sum(25 * kl(s["x'"] / 5, z / 5).mean() / 10 for z in (peer.detach(), s["x"]))
        return F.cross_entropy(peer, y) + 0.01 * kl(peer, s["x'"]).mean() + soft


def kl(logits: Tensor, target: Tensor) -> Tensor:
    return (target.softmax(1) * (target.log_softmax(1) - logits.log_softmax(1))).sum(1)


def theirs(wanted: Recipe, epoch: int, forwards: list[str]) -> dict[str, nn.Module]:
    """Return student and peer after five steps of the script."""
    assert wanted.attack is not None
    begin = wanted.method.get("begin", 1)
    script = Script(wanted, forwards, epoch >= wanted.schedule.epochs * begin)
    for step in range(5):
        given = batch(wanted, step, torch.float64)
        script.step(given.x, given.y, start_at(given.x, wanted.attack.start, wanted.threat, given.draws, "start"))
    return script.nets


def differences(found: dict[str, nn.Module], expected: dict[str, nn.Module]) -> tuple[float, float]:
    """Return how far weights and running statistics are apart, as shares of how far the script has moved them."""
    apart, moved = torch.zeros(2), torch.zeros(2)
    for name, net in found.items():
        state, was = expected[name].state_dict(), network({"student": 0, "peer": 5}[name]).double().state_dict()
        for key, value in net.state_dict().items():
            which = int("running" in key)
            apart[which] += (value - state[key]).square().sum() if value.is_floating_point() else 0
            moved[which] += (was[key] - state[key]).square().sum() if value.is_floating_point() else 0
    weights, statistics = (apart / moved).sqrt().tolist()
    return weights, statistics


@pytest.mark.parametrize(("name", "epoch", "forwards", "clean"), EXECUTED)
def test_five_steps_are_those_of_the_released_script(
    name: str, epoch: int, forwards: list[str], clean: float, tmp_path: Path
) -> None:
    """Without the switch statistics differ, and weights as well where the attack reads the statistics."""
    wanted = recipe(name)
    script = theirs(wanted, epoch, forwards)
    found = differences(ours(wanted, epoch, tmp_path), script)
    assert max(found) < 1e-10
    plain = wanted.model_copy(update={"method": {k: v for k, v in wanted.method.items() if k not in SWITCH}})
    if plain != wanted:
        weights, statistics = differences(ours(plain, epoch, tmp_path), script)
        print(f"{name}, epoch {epoch}: {found}, without {weights:.2%}, {statistics:.2%}")
        assert wanted.attack is not None
        assert statistics > 1e-3
        assert weights > 1e-3 if wanted.attack.bn == "eval" else weights < 1e-10


@pytest.mark.parametrize(("name", "epoch", "forwards", "clean"), EXECUTED)
def test_running_statistics_come_to_their_share_of_clean_images(
    name: str, epoch: int, forwards: list[str], clean: float
) -> None:
    """The k-th forward from a step's end weighs 0.1 * 0.9^k, and all steps before it 0.9^n of n forwards."""
    wanted, seen = recipe(name), list[bool]()
    built, given = method(wanted, to=torch.float64), batch(wanted, dtype=torch.float64)

    def look(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if net.training:
            seen.append(inputs[0] is given.x)

    built.student.register_forward_pre_hook(look)
    built.step(given, epoch)
    assert wanted.attack is not None
    crafting = [False] * (wanted.attack.steps if wanted.attack.bn == "train" else 0)
    assert seen == crafting + [point == "x" for point in forwards]
    weighed = sum(0.1 * 0.9**k for k, shown in enumerate(reversed(seen)) if shown)
    assert weighed / (1 - 0.9 ** len(seen)) == pytest.approx(clean, abs=0.005)
