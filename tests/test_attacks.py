"""The inner maximisation: what it may do, what it must leave alone, and optima that are known."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import cosine, network
from torch import Tensor, nn

from ardbench.attacks.form import CastForm, FastForm, frozen
from ardbench.attacks.objectives import divergence, label_loss, label_margin, own_logits
from ardbench.attacks.pgd import Maximiser, input_gradient
from ardbench.attacks.threat import ascend, l2_norm, project, start_at
from ardbench.config import Attack, Precision, Threat
from ardbench.draws import Draws

PLAIN = Precision(fold_bn=False, channels_last=False)
LINF, L2 = Threat(norm="linf", eps=0.1), Threat(norm="l2", eps=0.5)


def attack(**changes: Any) -> Attack:
    return Attack.model_validate({"steps": 3, "step_size": 0.05, "start": "uniform", "bn": "eval"} | changes)


def images(rows: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(3)
    return torch.rand(rows, 3, 8, 8, generator=source).to(dtype), torch.randint(0, 10, (rows,), generator=source)


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
    net, (x, _), y = Linear(), images(dtype=torch.float64), torch.zeros(8, dtype=torch.int64)
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
    net, (x, y) = network(1).double().eval(), images(dtype=torch.float64)
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
    x, y = images(dtype=torch.float64)
    still = Maximiser(LINF, attack(bn="train", bn_update=False), Precision())
    net, twin = network(3).double(), network(3).double()
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


@pytest.mark.parametrize("model", ["resnet8", "mobilenetv2", "vit-tiny"])
def test_weights_that_are_cast_once_are_those_of_autocast_to_the_bit(model: str) -> None:
    """With its weights and its own statistics, from step to step, and a part that stays in eval mode."""
    x, y = images()
    net, twin = network(3, model).train(), network(3, model).train()
    maximiser = Maximiser(LINF, attack(bn="train", start="none"), Precision(attack="bf16"))
    for step in range(2):
        for one in (net, twin):
            next(iter(one.children())).train(step == 1)
            nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(one.parameters()) * 1.05, one.parameters())
        x_adv = x
        for _ in range(3):
            leaf = x_adv.detach().requires_grad_()
            with frozen(twin, "train"), torch.autocast("cpu", torch.bfloat16):
                logits = twin(leaf)
            (gradient,) = torch.autograd.grad(label_loss(lambda _, logits=logits: logits.float(), leaf, y).sum(), leaf)
            x_adv = ascend(x, x_adv, gradient, 0.05, LINF)
        assert torch.equal(maximiser(label_loss, net, x, (y,), draws=draws(step=step)), x_adv)
        assert all(
            torch.equal(a, b) for a, b in zip(net.state_dict().values(), twin.state_dict().values(), strict=True)
        )
    assert all(p.requires_grad and p.dtype == torch.float32 for p in net.parameters())


def test_weights_are_cast_once_a_step_in_train_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, y), refreshed = network(3).train(), images(), list[CastForm]()
    refresh = CastForm.refresh
    monkeypatch.setattr(CastForm, "refresh", lambda form: (refreshed.append(form), refresh(form))[1])
    maximiser = Maximiser(LINF, attack(bn="train", steps=10), Precision(attack="bf16"))
    for step in range(2):
        with torch.profiler.profile() as profile:
            maximiser(label_loss, net, x, (y,), draws=draws(step=step))
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in net.modules())
    casts = sum(event.count for event in profile.key_averages() if event.key == "aten::_to_copy")
    assert len(refreshed) == 2 and len(set(refreshed)) == 1
    assert casts < 10 * (layers + 20)  # of activations; weights would be as many again


def test_a_refreshed_copy_is_folded_by_the_equation_to_the_bit() -> None:
    net = network(8, "resnet8").train()
    form = FastForm(net, bf16=False, precision=Precision(channels_last=False))
    net(torch.rand(16, 3, 8, 8))
    form.refresh()
    conv, bn = net.get_submodule("conv1"), net.get_submodule("bn1")
    scale = bn.weight * (bn.running_var + bn.eps).rsqrt()  # type: ignore[operator]
    ours = form._copy.get_submodule("conv1")
    assert torch.equal(ours.weight, conv.weight * scale[:, None, None, None])  # type: ignore[arg-type, operator]
    assert torch.equal(ours.bias, bn.bias - bn.running_mean * scale)  # type: ignore[arg-type, operator]


class Activated(nn.BatchNorm2d):
    """A BatchNorm that activates as well, as timm's does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised in its forward, as timm's are."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


class Dropping(nn.Module):
    """Drops in train mode by a function, whose mode a graph takes for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=self.training)


@pytest.mark.parametrize(
    ("parts", "folded"),
    [
        ((nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), 1),
        ((nn.Conv2d(3, 4, 3), Activated(4)), 0),
        ((Standardised(3, 4, 3), nn.BatchNorm2d(4)), 0),
        ((nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Dropping()), 1),
    ],
)
def test_only_what_is_a_batchnorm_and_nothing_more_is_folded(parts: tuple[nn.Module, ...], folded: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*copy.deepcopy(parts), nn.Flatten(), nn.Linear(4 * 36, 10)).double().train()
    for _ in range(3):
        net(torch.rand(16, 3, 8, 8).double())
    form, x = FastForm(net, bf16=False, precision=Precision()), torch.rand(5, 3, 8, 8).double()
    assert torch.allclose(form(x), net.eval()(x), rtol=1e-12, atol=1e-12)
    assert len(form._pairs) == folded


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
    exact, wide = network(8, model).double(), x.double()
    form = FastForm(net, bf16=False, precision=Precision())
    bf16 = FastForm(net, bf16=True, precision=Precision())
    double = FastForm(exact, bf16=False, precision=Precision())
    with torch.no_grad():  # weights and statistics move; the copies must follow
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.abs().mean())
        net(x)
    exact.load_state_dict(net.state_dict())
    for one in (form, bf16, double):
        one.refresh()
    with frozen(exact, "eval"):
        expected, gradient = exact(wide), input_gradient(label_loss, exact, wide, (y,))
        assert (double(wide) - expected).norm() < 1e-10 * expected.norm()
        assert (input_gradient(label_loss, double, wide, (y,)) - gradient).norm() < 1e-10 * gradient.norm()
        assert (form(x) - expected).norm() < 1e-5 * expected.norm()  # of a gradient this holds until a ReLU turns
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


def test_l2_in_a_corner_of_the_box_comes_near_the_constrained_optimum() -> None:
    """There the best d is clamp(t w) to the box, t chosen so that |d| = eps; small steps come within 1 % of it."""
    net, y = Linear(), torch.zeros(8, dtype=torch.int64)
    x = (0.01 * images()[0]).double()
    w = (net.flat.weight[1] - net.flat.weight[0]).detach().reshape(3, 8, 8)
    low, high = torch.zeros(8, 1, 1, 1, dtype=torch.float64), torch.full((8, 1, 1, 1), 1e3, dtype=torch.float64)
    for _ in range(100):
        middle = (low + high) / 2
        inside = (l2_norm((x + middle * w).clamp(0, 1) - x) < L2.eps).view(8, 1, 1, 1)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    best = ((x + low * w).clamp(0, 1) - x).flatten(1) @ w.flatten()
    found = Maximiser(L2, attack(steps=300, step_size=0.01), PLAIN)(label_margin, net, x, (y,), draws=draws())
    gained = (found - x).flatten(1) @ w.flatten()
    assert (gained <= best * (1 + 1e-9)).all()
    assert (gained >= 0.99 * best).all()


@given(st.integers(0, 10**6), st.sampled_from([LINF, L2]))
def test_projection_is_the_nearest_point_of_the_ball_and_changes_nothing_inside(seed: int, threat: Threat) -> None:
    source = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 3, 4, 4, generator=source, dtype=torch.float64)
    far = x + 0.3 * torch.randn(x.shape, generator=source, dtype=torch.float64)
    near = project(x, far, threat)
    assert torch.allclose(project(x, near, threat), near, rtol=0, atol=1e-12)
    assert 0 <= near.min() <= near.max() <= 1
    if threat.norm == "linf":
        assert torch.equal(near, far.clamp(min=(x - threat.eps).clamp_min(0), max=(x + threat.eps).clamp_max(1)))
    else:
        delta = far - x
        scaled = x + delta * (threat.eps / l2_norm(delta)).clamp_max(1).view(-1, 1, 1, 1)
        assert torch.allclose(near, scaled.clamp(0, 1), rtol=0, atol=1e-12)


def start(kind: str, threat: Threat, rows: int = 4000) -> Tensor:
    """Return the perturbation (rows, 3) with which an attack on grey pixels starts."""
    x = torch.full((rows, 3, 1, 1), 0.5)
    found = Maximiser(threat, attack(steps=0, start=kind), PLAIN)(label_loss, nn.Flatten(), x, (), draws=draws(rows))
    return (found - x).flatten(1)


def test_uniform_starts_fill_the_ball_evenly() -> None:
    """L-inf: each pixel is uniform, deviation eps / sqrt(3). L2: (|d| / eps)^dimension is uniform, directions even."""
    linf, l2 = start("uniform", LINF), start("uniform", Threat(norm="l2", eps=0.3))
    quarters = torch.histc(linf, 4, -LINF.eps, LINF.eps) / linf.numel()
    assert torch.allclose(quarters, torch.full((4,), 0.25), atol=0.02)
    assert linf.std().item() == pytest.approx(LINF.eps / 3**0.5, rel=0.02)
    share = (l2.norm(dim=1) / 0.3) ** 3
    assert torch.allclose(torch.histc(share, 4, 0, 1) / len(share), torch.full((4,), 0.25), atol=0.04)
    assert (l2.mean(0).abs() < 0.01).all()


def test_normal_starts_have_a_deviation_of_a_thousandth_and_none_starts_at_x() -> None:
    for threat in (LINF, L2):
        noise = start("normal", threat)
        assert noise.std().item() == pytest.approx(0.001, rel=0.03)
        assert (noise.abs() > 0.002).float().mean().item() == pytest.approx(0.0455, abs=0.01)
        assert (start("none", threat) == 0).all()


@pytest.mark.parametrize("precision", [PLAIN, Precision()], ids=["itself", "folded"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_objective_bakes_no_batch_in(backend: str, precision: Precision) -> None:
    """Other labels and another target give the results of the objective as written, and compile nothing anew."""
    net, maximiser = network(5).double().eval(), Maximiser(LINF, attack(start="normal"), precision)
    compiled = torch.compile(divergence, backend=backend)
    for step in range(3):
        x = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(step)).double()
        soft = 3 * torch.randn(8, 10, generator=torch.Generator().manual_seed(step)).double()
        with torch.compiler.set_stance("default" if step == 0 else "fail_on_recompile"):
            found = maximiser(compiled, net, x, (soft,), draws=draws(step=step))
            targeted = maximiser(compiled, net, x, target=own_logits, draws=draws(step=step))
        for fast, aux, target in ((found, (soft,), None), (targeted, (), own_logits)):
            plain = maximiser(divergence, net, x, aux, target, draws=draws(step=step))
            assert (fast - plain).abs().max() < 1e-12


class Odd(nn.Module):
    """Everything that folding must leave alone, and two convolutions that it may fold."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)  # no buffer
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.biased, self.after_biased = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.grouped, self.after_grouped = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.twice, self.after_twice = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.read, self.after_read = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.plain, self.after_plain = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, affine=False)
        self.unlearnt, self.after_unlearnt = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after_biased(self.biased(x - self.mean)).relu()
        x = self.after_grouped(self.grouped(x)).relu() * self.scale
        x = self.after_twice(self.twice(x)) + self.twice(x).tanh()  # its output is needed with and without BatchNorm
        read = self.read(x)
        x = self.after_plain(self.plain(self.after_read(read) - read))
        x = self.after_unlearnt(self.unlearnt(x)) * torch.tensor(0.5)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return (x if x.sum() > 0 else -x).mean((2, 3))


@pytest.mark.parametrize("layout", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("kind", [Odd, Untraceable])
def test_folding_keeps_the_function_of_networks_that_it_cannot_fold_wholly(kind: type[nn.Module], layout: bool) -> None:
    net, (x, y) = kind().double().train(), images(dtype=torch.float64)  # nothing but the function could differ
    for _ in range(3):
        net(2 * x + 0.3)
    net.eval()
    form = FastForm(net, bf16=False, precision=Precision(channels_last=layout))
    assert torch.allclose(form(x), net(x), rtol=1e-10)
    ours, theirs = (input_gradient(label_loss, f, x, (y,)) for f in (form, net))
    assert (ours - theirs).norm() < 1e-10 * theirs.norm()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.1)
    assert not torch.allclose(form(x), net(x), rtol=1e-3)
    form.refresh()
    assert torch.allclose(form(x), net(x), rtol=1e-10)


@pytest.mark.parametrize(("model", "left"), [("resnet8", 0), ("mobilenetv2", 0), ("preactresnet18", 9)])
def test_folding_spares_batchnorms_and_leaves_the_network_alone(
    model: str, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pre-activation block keeps the BatchNorm that reads its sum: 8 blocks and the last one."""
    net, (x, _) = network(8, model).train(), images()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    form = FastForm(net, bf16=False, precision=Precision())
    ran: list[bool] = []
    batch_norm = nn.functional.batch_norm
    monkeypatch.setattr(nn.functional, "batch_norm", lambda *a, **k: (ran.append(True), batch_norm(*a, **k))[1])
    form(x).sum()
    assert len(ran) == left
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_the_search_follows_the_network_from_step_to_step() -> None:
    """The form that the objective is given has the present weights, although it is made once."""
    net, (x, y), seen = network(9).double(), images(dtype=torch.float64), list[Tensor]()

    def watching(form: Any, x_adv: Tensor, labels: Tensor) -> Tensor:
        seen.append(form(x_adv).detach())
        return label_loss(form, x_adv, labels)

    maximiser = Maximiser(LINF, attack(steps=1, start="none"), Precision())
    for step in range(3):
        net.train()(torch.rand(16, 3, 8, 8).double())  # moves statistics
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()) * 1.05, net.parameters())
        maximiser(watching, net, x, (y,), draws=draws(step=step))
        with frozen(net, "eval"):
            assert torch.allclose(seen[-1], net(x), rtol=1e-10)
    assert (seen[0] - seen[1]).abs().max() > 1e-2 < (seen[1] - seen[2]).abs().max()


def test_train_mode_leaves_frozen_parts_in_eval_mode() -> None:
    """`bn = train` is the network's own mode: what its method froze neither sees batch statistics nor moves its own."""
    net, (x, y) = network(3).train(), images()
    part = net.get_submodule("layer1")
    part.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    Maximiser(LINF, attack(bn="train"), Precision(attack="bf16"))(label_loss, net, x, (y,), draws=draws())
    counted = {name: int(t - before[name]) for name, t in net.state_dict().items() if name.endswith("batches_tracked")}
    assert all(count == (0 if name.startswith("layer1") else 3) for name, count in counted.items())
    assert {0, 3} == set(counted.values())
