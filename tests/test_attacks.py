"""The inner maximisation: what it may do, what it must leave alone, and optima that are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import cosine, network
from torch import Tensor, nn

from ardbench.attacks.form import FastForm, frozen
from ardbench.attacks.objectives import divergence, label_loss, label_margin, own_logits
from ardbench.attacks.pgd import Maximiser, input_gradient
from ardbench.attacks.threat import l2_norm, start_at
from ardbench.config import Attack, Precision, Threat
from ardbench.draws import Draws

PLAIN = Precision(fold_bn=False, channels_last=False)
LINF, L2 = Threat(norm="linf", eps=0.1), Threat(norm="l2", eps=0.5)


def attack(**changes: Any) -> Attack:
    return Attack.model_validate({"steps": 3, "step_size": 0.05, "start": "uniform", "bn": "eval"} | changes)


def images(rows: int = 8) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(3)
    return torch.rand(rows, 3, 8, 8, generator=source), torch.randint(0, 10, (rows,), generator=source)


def draws(rows: int = 8, step: int = 0) -> Draws:
    return Draws(0, 0, step, rows)


class Linear(nn.Module):
    """Two classes whose margin is linear in the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Linear(3 * 8 * 8, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.flat(x.flatten(1))
        return logits


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize("start", ["uniform", "normal", "none"])
@pytest.mark.parametrize("bn", ["eval", "train"])
def test_stays_in_ball_and_box(threat: Threat, start: str, bn: str) -> None:
    x, y = images()
    x_adv = Maximiser(threat, attack(start=start, bn=bn, steps=6), Precision())(
        label_loss, network(0), x, (y,), draws=draws()
    )
    delta = x_adv - x
    size = delta.abs().amax() if threat.norm == "linf" else l2_norm(delta).max()
    assert size <= threat.eps + 1e-6
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert not x_adv.requires_grad


def test_linf_reaches_the_optimum_of_a_linear_margin() -> None:
    net, (x, _), y = Linear(), images(), torch.zeros(8, dtype=torch.int64)
    x = x.double()
    w = (net.flat.weight[1] - net.flat.weight[0]).detach().reshape(3, 8, 8)
    expected = (x + LINF.eps * w.sign()).clamp(0, 1)
    found = Maximiser(LINF, attack(steps=40), PLAIN)(label_margin, net, x, (y,), draws=draws())
    assert torch.allclose(found, expected, atol=1e-12)


def test_l2_reaches_the_optimum_of_a_linear_margin() -> None:
    net, y = Linear(), torch.zeros(8, dtype=torch.int64)
    x = torch.full((8, 3, 8, 8), 0.5, dtype=torch.float64)  # so far from the box that only the ball binds
    w = (net.flat.weight[1] - net.flat.weight[0]).detach().reshape(3, 8, 8)
    found = Maximiser(L2, attack(steps=40, step_size=0.5), PLAIN)(label_margin, net, x, (y,), draws=draws())
    assert torch.allclose(found, x + L2.eps * w / w.norm(), atol=1e-9)


def test_fgsm_is_one_step_from_x() -> None:
    net, (x, y) = network(1).eval(), images()
    single = attack(steps=1, step_size=LINF.eps, start="none")
    found = Maximiser(LINF, single, PLAIN)(label_loss, net, x, (y,), draws=draws())
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(net(leaf), y, reduction="sum").backward()
    assert leaf.grad is not None
    assert torch.equal(found, (x + LINF.eps * leaf.grad.sign()).clamp(x - LINF.eps, x + LINF.eps).clamp(0, 1))


@pytest.mark.parametrize("bn", ["eval", "train"])
def test_modes_and_gradients_survive_an_exception(bn: str) -> None:
    net = network(2).train()
    part = next(iter(net.children()))
    part.eval().requires_grad_(False)
    before = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]

    def broken(net: Any, x: Tensor) -> Tensor:
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        Maximiser(LINF, attack(bn=bn, bn_update=False), Precision())(broken, net, *images()[:1], (), draws=draws())
    with pytest.raises(TypeError):
        Maximiser(LINF, attack(bn=bn), Precision())(label_loss, net, images()[0], (), draws=draws())
    assert before == ([m.training for m in net.modules()], [p.requires_grad for p in net.parameters()])
    assert all(m.track_running_stats for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(p.grad is None for p in net.parameters())


def test_train_mode_moves_the_statistics_once_a_forward_and_never_without_update() -> None:
    x, y = images()
    still = Maximiser(LINF, attack(bn="train", bn_update=False), Precision())
    net, twin = network(3), network(3)
    frozen_state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    still(label_loss, net, x, (y,), draws=draws())
    assert all(torch.equal(frozen_state[name], tensor) for name, tensor in net.state_dict().items())

    x_adv = start_at(x, "uniform", LINF, draws(), "start")
    for _ in range(3):  # the same by hand
        leaf = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(twin(leaf), y, reduction="sum"), leaf)
        x_adv = (leaf + 0.05 * gradient.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    found = Maximiser(LINF, attack(bn="train"), Precision())(label_loss, net, x, (y,), draws=draws())
    assert torch.equal(found, x_adv)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), twin.state_dict().values(), strict=True))


def test_eval_mode_touches_nothing() -> None:
    net, (x, y) = network(4).train(), images()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    Maximiser(LINF, attack(), Precision(attack="bf16"))(label_loss, net, x, (y,), draws=draws())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_one_compiled_objective_serves_changing_aux() -> None:
    net, (x, y) = network(5).eval(), images()
    compiled = torch.compile(label_loss, backend="eager")
    maximiser = Maximiser(LINF, attack(), PLAIN)
    for labels in (y, (y + 1) % 10):
        plain = maximiser(label_loss, net, x, (labels,), draws=draws())
        assert torch.equal(maximiser(compiled, net, x, (labels,), draws=draws()), plain)


def test_target_is_evaluated_once_without_gradient_at_x() -> None:
    net, (x, _) = network(6), images()
    seen: list[Tensor] = []

    def target(form: Any, at: Tensor) -> Tensor:
        seen.append(at)
        return own_logits(form, at)

    maximiser = Maximiser(LINF, attack(start="normal"), PLAIN)
    found = maximiser(divergence, net, x, target=target, draws=draws())
    assert len(seen) == 1
    assert torch.equal(seen[0], x)
    fixed = net.eval()(x).detach()
    assert torch.equal(found, maximiser(divergence, net, x, (fixed,), draws=draws()))


def test_restarts_keep_the_worst_per_example() -> None:
    net, (x, y) = network(7).eval(), images()
    values = []
    for restart in range(3):
        purpose = "start" if restart == 0 else f"start-{restart}"
        alone = Maximiser(LINF, attack(steps=1), PLAIN)(label_loss, net, x, (y,), draws=draws(), purpose=purpose)
        values.append(label_loss(net, alone, y).detach())
    best = Maximiser(LINF, attack(steps=1, restarts=3), PLAIN)(label_loss, net, x, (y,), draws=draws())
    assert torch.equal(label_loss(net, best, y).detach(), torch.stack(values).amax(dim=0))


@pytest.mark.parametrize("model", ["resnet8", "preactresnet18", "mobilenetv2", "vit-micro"])
def test_the_fast_form_is_the_same_function(model: str) -> None:
    net, (x, y) = network(8, model), images()
    form = FastForm(net, bf16=False, precision=Precision())
    bf16 = FastForm(net, bf16=True, precision=Precision())
    with torch.no_grad():  # weights and statistics move; the copies must follow
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.abs().mean())
        net(x)
    form.refresh()
    bf16.refresh()
    with frozen(net, "eval"):
        expected, gradient = net(x), input_gradient(label_loss, net, x, (y,))
        assert (form(x) - expected).norm() < 1e-5 * expected.norm()
        assert (input_gradient(label_loss, form, x, (y,)) - gradient).norm() < 1e-4 * gradient.norm()
        rough = input_gradient(label_loss, bf16, x, (y,))
    assert cosine([rough], [gradient]) > 0.99
    strong = gradient.abs() > gradient.abs().mean() / 100
    assert (rough.sign() == gradient.sign())[strong].float().mean() > 0.95
    assert bf16(x).dtype == torch.float32


def test_draws_are_functions_of_their_key_and_sliced_by_rank() -> None:
    like = torch.empty(6, 3, 8, 8)
    whole = Draws(1, 2, 3, 6).uniform("start", like)
    assert torch.equal(whole, Draws(1, 2, 3, 6).uniform("start", like))
    assert torch.equal(whole[2:5], Draws(1, 2, 3, 6, first=2).uniform("start", like[:3]))
    assert -1 <= whole.min() < -0.9 < 0.9 < whole.max() <= 1
    for other in (Draws(2, 2, 3, 6), Draws(1, 3, 3, 6), Draws(1, 2, 4, 6)):
        assert not torch.equal(whole, other.uniform("start", like))
    assert not torch.equal(whole, Draws(1, 2, 3, 6).uniform("other", like))
    coins = [Draws(0, 0, step, 6).coin("coin", 0.5) for step in range(400)]
    assert 150 < sum(coins) < 250
