"""Protocols, verdicts and PGD measurements against closed forms; what may not be trusted is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ardbench.config import Threat
from ardbench.data import DATASETS
from ardbench.data.batches import Split
from ardbench.errors import ArdbenchError
from ardbench.evaluation import confirm, measure
from ardbench.evaluation.measure import Surrogate, evaluate
from ardbench.evaluation.protocols import PROTOCOLS, AutoAttack, Pgd, asked, protocol
from ardbench.evaluation.verdicts import Paused, Verdicts, file_name, load_verdicts, worst_case
from ardbench.progress import Progress
from ardbench.runs import write_json

LINF = Threat(norm="linf", eps=8 / 255)


class Linear(nn.Module):
    """A linear classifier of pixels; with `sparse` it looks at four of them, so that wide balls leave some images."""

    def __init__(self, classes: int = 2, seed: int = 0, sparse: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(64, classes)
        with torch.no_grad():
            source = torch.Generator().manual_seed(seed)
            self.head.weight.copy_(torch.randn(classes, 64, generator=source))
            self.head.weight[:, 4 if sparse else 64 :] = 0
            self.head.bias.copy_(-0.5 * self.head.weight.sum(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


class Times(nn.Module):
    """Logits times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z


def images(n: int, classes: int = 2, low: int = 0, high: int = 256, seed: int = 1) -> Split:
    """Return random 8x8 images with random labels."""
    source = torch.Generator().manual_seed(seed)
    pixels = torch.randint(low, high, (n, 1, 8, 8), generator=source, dtype=torch.uint8)
    labels = torch.randint(0, classes, (n,), generator=source)
    return Split(pixels, labels, torch.arange(n) + 100, DATASETS["digits"])


def pgd(**changes: Any) -> Pgd:
    known = {"name": "own", "version": 1, "kind": "pgd", "objective": "ce", "steps": 20, "restarts": 1}
    return Pgd(**known | {"step_size": "2/255", "reference_eps": "8/255", "start": "uniform"} | changes)


def right_at(net: Linear, x: Tensor, y: Tensor) -> list[bool]:
    answer: list[bool] = (net(x).argmax(1) == y).tolist()
    return answer


@pytest.mark.parametrize("name", ["fgsm", "pgd10", "pgd20", "pgd20-trades", "cw20", "mim20", "pgd20-scaled"])
@pytest.mark.parametrize("eps", [8 / 255, 0.2])
def test_pgd_of_two_linear_classes_is_exact_in_linf(name: str, eps: float) -> None:
    """The worst point of ball and box is x - eps sign(w_y - w_other), clamped: no search can do more or less."""
    net, split = Linear(sparse=True), images(200)
    x, y = split.pixels(slice(None)), split.labels
    direction = (net.head.weight[y] - net.head.weight[1 - y]).sign().view_as(x)
    worst = (x - eps * direction).clamp(0, 1)
    verdicts = evaluate(net, split, name, Threat(norm="linf", eps=eps), batch=64)
    expected = [
        clean and attacked for clean, attacked in zip(right_at(net, x, y), right_at(net, worst, y), strict=True)
    ]
    assert verdicts.robust == expected
    assert 0 < verdicts.accuracy < evaluate(net, split, "clean", LINF, batch=64).accuracy


@pytest.mark.parametrize("name", ["pgd20", "cw20", "mim20"])
def test_pgd_of_two_linear_classes_is_exact_in_l2(name: str) -> None:
    """Away from the box an example is robust where its margin exceeds eps ||w_y - w_other||."""
    net, split, eps = Linear(), images(200, low=80, high=176), 0.05
    x, y = split.pixels(slice(None)), split.labels
    logits = net(x).double()
    margin = logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])
    distance = margin.squeeze(1) / (net.head.weight[0] - net.head.weight[1]).double().norm()
    assert ((distance - eps).abs() > 1e-5).all()
    verdicts = evaluate(net, split, name, Threat(norm="l2", eps=eps), batch=64)
    assert verdicts.robust == (distance > eps).tolist()
    assert 0 < verdicts.accuracy < (distance > 0).float().mean().item()


def test_fgsm_is_one_signed_step_of_eps() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
    split = images(100, classes=5)
    x, y = split.pixels(slice(None)).requires_grad_(), split.labels
    (gradient,) = torch.autograd.grad(cross_entropy(net(x), y, reduction="sum"), x)
    said, attacked = (net(z).argmax(1) for z in (x, (x + LINF.eps * gradient.sign()).clamp(0, 1)))
    expected = torch.where(said == y, attacked, said).tolist()
    assert evaluate(net, split, "fgsm", LINF, batch=100).predictions == expected
    assert expected != said.tolist()


def test_every_restart_counts_and_misclassified_points_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restart r here fools exactly the images whose index is r modulo 4, so three restarts leave a quarter."""
    net, split = Linear(), images(120)
    right = evaluate(net, split, "clean", LINF, batch=50)
    seen: list[int] = []

    class Scripted:
        def __init__(self, *_: object) -> None: ...

        def __call__(self, objective: object, net: object, x: Tensor, aux: tuple[Tensor], **keys: Any) -> Tensor:
            seen.extend([keys["draws"].epoch] * len(x))
            return x.clone()

    asked: list[Tensor] = []

    def answer(net: nn.Module, x: Tensor) -> Tensor:
        said = net(x).argmax(1)
        place = torch.tensor([int((split.pixels(slice(None)) == one).flatten(1).all(1).nonzero()[0]) for one in x])
        asked.append(place)
        if not seen:
            return said  # type: ignore[no-any-return]
        return torch.where(place % 4 == seen[-1], 1 - said, said)

    monkeypatch.setattr(measure, "Maximiser", Scripted)
    monkeypatch.setattr(measure, "predict", answer)
    verdicts = evaluate(net, split, pgd(restarts=3), LINF, batch=50)
    assert verdicts.robust == [good and row % 4 == 3 for row, good in enumerate(right.robust)]
    attacked = torch.cat(asked[3:]).tolist()
    assert set(attacked) == {row for row, good in enumerate(right.robust) if good}
    assert seen.count(1) == sum(good and row % 4 != 0 for row, good in enumerate(right.robust))


def test_a_seed_decides_the_noise() -> None:
    """A single step from a random start of a wide ball tells the starts apart; the same seed says the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
    split, rules, threat = images(400, classes=5), pgd(steps=1, step_size="1/255"), Threat(norm="linf", eps=0.3)
    first, again, other = (evaluate(net, split, rules, threat, batch=100, seed=seed) for seed in (0, 0, 1))
    assert first.predictions == again.predictions != other.predictions


def test_eps_zero_is_the_clean_accuracy_of_every_protocol() -> None:
    net, split = Linear(5), images(60, classes=5)
    clean = evaluate(net, split, "clean", LINF, batch=16).predictions
    for name in ("pgd20", "aa"):
        assert evaluate(net, split, name, Threat(norm="linf", eps=0), batch=16).predictions == clean


def test_the_network_and_the_arithmetic_are_put_back() -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 2))
    net[1].eval()
    net[3].weight.requires_grad_(False)
    before = [module.training for module in net.modules()], [p.requires_grad for p in net.parameters()]
    statistics = net[1].running_mean.clone()
    first, second = (evaluate(net, images(40), "pgd10", LINF, batch=40) for _ in range(2))
    assert first.predictions == second.predictions  # dropout is off
    assert before == ([module.training for module in net.modules()], [p.requires_grad for p in net.parameters()])
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(net[1].running_mean, statistics)


@pytest.mark.parametrize(
    "switch",
    [
        "torch.set_float32_matmul_precision('medium')",
        "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True",
        "torch.backends.fp32_precision = 'tf32'",
    ],
)
def test_tf32_is_off_inside_however_it_was_switched_on(switch: str) -> None:
    """In a process of its own: these switches cannot all be put back."""
    code = f"""
import torch
from torch import nn
from ardbench.evaluation.confirm import measuring
{switch}
b = torch.backends
def now():
    return [b.fp32_precision, *(o.fp32_precision for o in (b.cuda.matmul, b.cudnn.conv, b.mkldnn.matmul))]
def products():
    try:
        return torch.get_float32_matmul_precision(), b.cudnn.allow_tf32
    except RuntimeError:
        return None
before = now(), products()
with measuring(nn.Linear(2, 2), torch.device("cpu")):
    assert now()[1:] == ["ieee"] * 3, now()
assert (now(), products()) == before, (now(), products(), before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_autocast_around_an_evaluation_does_not_reach_into_it() -> None:
    seen: list[torch.dtype] = []

    class Spy(Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.head(x.flatten(1)).dtype)
            return super().forward(x)

    with torch.autocast("cpu", torch.bfloat16):
        evaluate(Spy(), images(10), "pgd10", LINF, batch=10)
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: (x + 0.032).clamp(0, 1), "left the linf ball: 0.032"),
        (lambda x: x - 0.03, r"left the pixel box \[0, 1\]"),
        (lambda x: x * float("nan"), "another shape or with NaN"),
        (lambda x: x[:1], "another shape or with NaN"),
    ],
)
def test_a_hostile_attack_is_found_out(monkeypatch: pytest.MonkeyPatch, change: Any, said: str) -> None:
    class Hostile:
        def __init__(self, *_: object) -> None: ...

        def __call__(self, objective: object, net: object, x: Tensor, aux: object, **_: object) -> Tensor:
            return change(x)  # type: ignore[no-any-return]

    monkeypatch.setattr(measure, "Maximiser", Hostile)
    with pytest.raises(ArdbenchError, match=said):
        evaluate(Linear(), images(40), "pgd20", LINF, batch=40)


def test_the_ball_is_checked_in_the_threats_norm() -> None:
    x = torch.full((2, 1, 8, 8), 0.5)
    step = torch.full_like(x, 0.05)  # L2 norm 0.4
    confirm.check_allowed(x, x + step, Threat(norm="l2", eps=0.4), "own")
    with pytest.raises(ArdbenchError, match=r"left the l2 ball: 0\.4"):
        confirm.check_allowed(x, x + step, Threat(norm="l2", eps=0.3999), "own")
    confirm.check_allowed(x, x + step, Threat(norm="linf", eps=0.05 - 9e-7), "own")
    with pytest.raises(ArdbenchError, match="left the linf ball"):
        confirm.check_allowed(x, x + step, Threat(norm="linf", eps=0.05 - 2e-6), "own")


@pytest.mark.parametrize("name", ["clean", "pgd20", "aa"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    net = Linear(5)
    net.head.bias.data[2] = bad
    with pytest.raises(ArdbenchError, match="NaN or infinite logits"):
        evaluate(net, images(20, classes=5), name, LINF, batch=20)


def test_the_step_scales_with_eps() -> None:
    rules = protocol("pgd20")
    assert isinstance(rules, Pgd)
    assert rules.attack(LINF).step_size == 2 / 255
    assert rules.attack(Threat(norm="linf", eps=0.2)).step_size == pytest.approx(0.05)
    assert rules.settings(Threat(norm="l2", eps=0.5))["step_size"] == pytest.approx(0.125)
    trades = protocol("pgd20-trades")
    assert isinstance(trades, Pgd) and trades.attack(LINF).step_size == 0.003
    fgsm = protocol("fgsm")
    assert isinstance(fgsm, Pgd) and fgsm.attack(Threat(norm="l2", eps=0.7)).step_size == pytest.approx(0.7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_mim_is_the_papers_sum_of_gradients(norm: str) -> None:
    """Against a loop of its own: g = mu g + gradient / its L1 norm, then a step of alpha along g's sign or direction."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), Times(20.0), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
    split, eps, alpha = images(200, classes=5), 0.3 if norm == "linf" else 2.0, 0.05 if norm == "linf" else 0.3
    x, y = split.pixels(slice(None)), split.labels
    x_adv, g = x.clone(), torch.zeros_like(x)
    for _ in range(8):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(net(x_adv), y, reduction="sum"), x_adv)
        g = 0.9 * g + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        if norm == "linf":
            x_adv = torch.minimum(torch.maximum(x_adv.detach() + alpha * g.sign(), x - eps), x + eps).clamp(0, 1)
        else:
            delta = x_adv.detach() + alpha * g / g.square().sum(dim=(1, 2, 3), keepdim=True).sqrt() - x
            length = delta.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
            x_adv = (x + delta * (eps / length).clamp(max=1)).clamp(0, 1)
    clean, attacked = net(x).argmax(1), net(x_adv).argmax(1)
    rules = pgd(momentum=0.9, steps=8, step_size=alpha, reference_eps=eps, start="none")
    expected = torch.where(clean == y, attacked, clean).tolist()
    assert evaluate(net, split, rules, Threat(norm=norm, eps=eps), batch=200).predictions == expected
    without = rules.model_copy(update={"momentum": 0.0})
    assert evaluate(net, split, without, Threat(norm=norm, eps=eps), batch=200).predictions != expected


def test_scaled_logits_are_attacked_and_plain_ones_are_asked() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
    louder = nn.Sequential(net, Times(40.0))
    split, threat = images(200, classes=5), Threat(norm="linf", eps=0.2)
    plain = evaluate(net, split, pgd(steps=3), threat, batch=200)
    assert evaluate(louder, split, pgd(steps=3, scale=1 / 40), threat, batch=200).predictions == plain.predictions
    assert evaluate(louder, split, pgd(steps=3), threat, batch=200).predictions != plain.predictions


@pytest.mark.parametrize("threat", [LINF, Threat(norm="l2", eps=0.5)])
def test_unbounded_has_the_whole_box_whatever_is_asked(threat: Threat, tmp_path: Path) -> None:
    net = Linear()
    found = evaluate(net, images(100), "unbounded", threat, batch=100, store=tmp_path)
    assert found.accuracy == 0 < found.taken["unbounded"]
    assert found.threat == {"norm": "linf", "eps": 1.0} and found.attack["step_size"] == 0.125


def test_transfer_crafts_on_the_surrogate(tmp_path: Path) -> None:
    """Of two linear classes the surrogate's worst point is known, and the other network is asked there."""
    net, other, split, eps = Linear(), Linear(seed=5), images(200), 0.2
    x, y = split.pixels(slice(None)), split.labels
    worst = (x - eps * (other.head.weight[y] - other.head.weight[1 - y]).sign().view_as(x)).clamp(0, 1)
    expected = [a and b for a, b in zip(right_at(net, x, y), right_at(net, worst, y), strict=True)]

    def measured(name: str, sha256: str) -> Verdicts:
        source = Surrogate(other, name, sha256)
        threat = Threat(norm="linf", eps=eps)
        return evaluate(net, split, "transfer", threat, batch=64, store=tmp_path, surrogate=source)

    first = measured("other", "abc")
    assert first.robust == expected and first.notes == ["crafted on other."] and first.key["surrogate"] == "abc"
    assert first.accuracy > evaluate(net, split, "pgd20", Threat(norm="linf", eps=eps), batch=64).accuracy
    other.head.weight.data.neg_()
    assert measured("again", "abc") == first
    assert measured("again", "def").robust != expected


OWN = """
[mine]
version = 3
kind = "pgd"
objective = "ce"
steps = {steps}
step_size = "2/255"
reference_eps = "8/255"
start = "uniform"
restarts = 1
{more}

[list]
version = 1
kind = "autoattack"
configured = "standard"
attacks = ["square", "square"]

[pgd20]
[trust-me]
[mine-n200]
[aa-mine]
[kindless]
"""


def test_a_protocol_of_the_users_is_measured_as_one_of_ours(tmp_path: Path) -> None:
    file, net, split, store = tmp_path / "own.toml", Linear(), images(100), tmp_path / "store"
    file.write_text(OWN.format(steps=20, more=""))
    rules = asked(f"{file}:mine")
    assert dict(rules) == dict(PROTOCOLS["pgd20"]) | {"name": "mine", "version": 3}
    first = evaluate(net, split, rules, LINF, batch=50, store=store)
    assert first.predictions == evaluate(net, split, "pgd20", LINF, batch=50).predictions
    assert (store / "mine.json").is_file() and (first.protocol, first.version) == ("mine", 3)
    file.write_text(OWN.format(steps=5, more="momentum = 0.5"))
    changed = evaluate(net, split, asked(f"{file}:mine"), LINF, batch=50, store=store)
    assert changed.key != first.key and changed.attack["momentum"] == 0.5


@pytest.mark.parametrize(
    ("name", "steps", "more", "said"),
    [
        ("absent.toml:mine", "1", "", "cannot be read as TOML"),
        ("own.toml:mine", "1 1", "", "cannot be read as TOML"),
        ("own.toml:mein", "1", "", "Unknown protocol in .*own.toml: 'mein': did you mean 'mine'"),
        ("own.toml:mine", "0", "", "own.toml, steps: input should be greater than or equal to 1"),
        ("own.toml:mine", "1", "momentun = 1", "own.toml, momentun: extra inputs are not permitted"),
        ("own.toml:list", "1", "", "own.toml, attacks: an attack is named twice"),
        ("own.toml:kindless", "1", "", "own.toml: it needs a kind"),
        ("own.toml:pgd20", "1", "", "cannot be called so"),
        ("own.toml:trust-me", "1", "", "cannot be called so"),
        ("own.toml:mine-n200", "1", "", "cannot be called so"),
        ("own.toml:aa-mine", "1", "", "cannot be called so"),
    ],
)
def test_a_file_that_holds_no_such_protocol_is_refused(
    tmp_path: Path, name: str, steps: str, more: str, said: str
) -> None:
    (tmp_path / "own.toml").write_text(OWN.format(steps=steps, more=more))
    with pytest.raises(ArdbenchError, match=said):
        asked(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["transfer", "{tmp}/own.toml:mine"])
def test_recipes_and_suites_name_no_protocol_that_needs_more(tmp_path: Path, name: str) -> None:
    (tmp_path / "own.toml").write_text(OWN.format(steps=1, more=""))
    with pytest.raises(ArdbenchError, match="measure it with `ardbench eval"):
        protocol(name.format(tmp=tmp_path))


def test_transfer_without_a_surrogate_is_refused() -> None:
    with pytest.raises(ArdbenchError, match="name that network with --surrogate SOURCE"):
        evaluate(Linear(), images(20), "transfer", LINF, batch=20)


def test_custom_lists_and_unknown_names() -> None:
    rules = protocol("aa:square,apgd-ce")
    assert isinstance(rules, AutoAttack)
    assert (rules.name, rules.configured, rules.attacks) == ("aa:square,apgd-ce", "standard", ("square", "apgd-ce"))
    for name, said in [
        ("pgd2O", "did you mean 'pgd20'"),
        ("aa:apgd-cd", "did you mean 'apgd-ce'"),
        ("aa:", "Unknown attack in protocol 'aa:'"),
        ("aa:square,square", "names square twice"),
    ]:
        with pytest.raises(ArdbenchError, match=said):
            protocol(name)
    assert all(rules.name == name for name, rules in PROTOCOLS.items())


def test_a_file_is_used_again_only_under_its_own_key(tmp_path: Path) -> None:
    """The second network is right where the first is wrong, so that a stale file would show in the accuracy."""
    split, net, other = images(80), Linear(seed=0), Linear(seed=0)
    other.head.weight.data.neg_()
    other.head.bias.data.neg_()
    notes: list[str] = []

    class Ears(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    def measured(of: nn.Module, weights: str, **changes: Any) -> Verdicts:
        given: dict[str, Any] = {"split": split, "protocol": "clean", "threat": LINF, "batch": 80} | changes
        return evaluate(of, store=tmp_path, key={"weights": weights}, progress=Ears(), **given)

    first = measured(net, "a")
    assert measured(other, "a") == first and not notes  # not even asked
    assert measured(other, "b").accuracy == pytest.approx(1 - first.accuracy)
    assert notes == ["clean.json was measured on other weights, images or settings and is measured again."]
    changes: dict[str, Any] = {}  # one after the other, each beside those before it
    for name, value in [("threat", Threat(norm="l2", eps=0.5)), ("seed", 1), ("split", images(80, seed=2))]:
        changes[name], before = value, len(notes)
        measured(other, "b", **changes)
        measured(other, "b", **changes)
        assert len(notes) == before + 1
    assert not load_verdicts(tmp_path / "clean.json").matches({"weights": "a"})
    assert load_verdicts(tmp_path / "clean.json").matches({"weights": "b"})


def test_one_process_at_a_time_measures_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    how: dict[str, Any] = {"split": images(20), "protocol": "clean", "threat": LINF, "batch": 20, "store": tmp_path}
    lock = FileLock(tmp_path / "clean.lock")
    with lock, pytest.raises(ArdbenchError, match=r"clean\.json is being measured by another process"):
        evaluate(Linear(seed=0), **how)
    first = evaluate(Linear(seed=0), **how)
    assert [path.name for path in tmp_path.iterdir()] == ["clean.json"]
    (tmp_path / "clean.adversarial").mkdir()
    for name in ("clean.lock", "clean.state.json"):
        (tmp_path / name).touch()
    with lock:
        assert evaluate(Linear(seed=0), **how) == first
        assert len(list(tmp_path.iterdir())) == 4
    assert evaluate(Linear(seed=0), **how) == first
    assert [path.name for path in tmp_path.iterdir()] == ["clean.json"]


def test_what_was_measured_on_a_twin_holds_only_while_it_is_one(tmp_path: Path) -> None:
    split, net, other = images(80), Linear(seed=0), Linear(seed=0)
    other.head.weight.data.neg_()
    other.head.bias.data.neg_()
    first = evaluate(net, split, "clean", LINF, batch=80, store=tmp_path / "last", key={"weights": "a"})
    for twin, holds in (({"weights": "a"}, True), ({"weights": "c"}, False)):
        store = tmp_path / f"best-{holds}"
        at = (tmp_path / "last", twin)
        second = evaluate(other, split, "clean", LINF, batch=80, store=store, key={"weights": "b"}, twin=at)
        assert (second.predictions == first.predictions, second.seconds == 0) == (holds, holds)
        assert load_verdicts(store / "clean.json").matches({"weights": "b"})


def test_a_subset_has_its_own_file_and_says_of_how_many(tmp_path: Path) -> None:
    split = images(100, classes=2)
    part = evaluate(Linear(), split, "pgd10", LINF, batch=20, n=20, store=tmp_path)
    whole = evaluate(Linear(), split, "pgd10", LINF, batch=100, n=100, store=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pgd10-n20.json", "pgd10.json"]
    assert (part.n, part.total, whole.n, whole.total) == (20, 100, 100, 100)
    assert set(part.index) < set(whole.index) == set(range(100, 200))
    truth = dict(zip(whole.index, whole.labels, strict=True))
    assert part.labels == [truth[index] for index in part.index]


def test_the_file_says_everything_and_comes_back_whole(tmp_path: Path) -> None:
    split = images(30)
    verdicts = evaluate(Linear(), split, "pgd20", LINF, batch=8, seed=3, store=tmp_path, key={"weights": "abc"})
    loaded = load_verdicts(tmp_path / "pgd20.json")
    assert loaded == verdicts
    assert loaded.threat == {"norm": "linf", "eps": 8 / 255} and loaded.attack["step_size"] == 2 / 255
    assert (loaded.protocol, loaded.version, loaded.batch, loaded.seed) == ("pgd20", 1, 8, 3)
    assert sum(loaded.taken.values()) == loaded.robust.count(False) and list(loaded.taken) == ["clean", "pgd20"]
    assert loaded.accuracy == loaded.robust.count(True) / 30
    assert loaded.interval[0] < loaded.accuracy < loaded.interval[1]


@pytest.mark.parametrize("content", ["{}", '{"protocol": "pgd20"}', "[1]", "{"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pgd20.json"
    path.write_text(content)
    with pytest.raises(ArdbenchError, match=r"pgd20\.json"):
        load_verdicts(path)


def hand(labels: list[int], said: list[int], index: list[int] | None = None) -> Verdicts:
    threat = {"norm": "linf", "eps": 0.1}
    return Verdicts("own", 1, threat, labels, said, index or list(range(len(labels))), 1.0, 5, 0, len(labels))


def test_the_worst_case_takes_whoever_any_attack_fools() -> None:
    one, two = hand([0, 1, 2, 0], [0, 1, 0, 1]), hand([0, 1, 2, 0], [0, 2, 2, 1])
    assert (one.accuracy, two.accuracy) == (0.5, 0.5)
    assert worst_case([one, two]) == [True, False, False, False]
    with pytest.raises(ArdbenchError, match="different images"):
        worst_case([one, hand([0, 1, 2, 0], [0, 2, 2, 1], index=[4, 5, 6, 7])])


def test_class_balance_is_read_off_the_labels() -> None:
    assert hand([0, 1, 2, 0], [0, 0, 0, 0]).class_balanced
    assert not hand([0, 1, 0, 0], [0, 0, 0, 0]).class_balanced


def test_asking_to_stop_pauses_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Paused, match="Stopped in pgd20"):
        evaluate(Linear(), images(20), "pgd20", LINF, batch=5, store=tmp_path, stop=lambda: True)
    assert not list(tmp_path.iterdir())


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 99_999)), min_size=1, max_size=30))
def test_verdicts_are_written_short_and_read_in_both_forms(rows: list[tuple[int, int, int]]) -> None:
    labels, said, index = (list(column) for column in zip(*rows, strict=True))
    made = Verdicts("own", 1, {"norm": "linf", "eps": 0.1}, labels, said, index, 1.0, 5, 0, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.json"
        made.save(path)
        written = json.loads(path.read_text())
        assert isinstance(written["labels"], str) == (max(labels + said) < 10) and isinstance(written["index"], str)
        write_json(path, written | {"labels": labels, "predictions": said, "index": index})
        listed = load_verdicts(path)
        made.save(path)
        short = load_verdicts(path)
    for one in (listed, short):
        assert (one.labels, one.predictions, one.index) == (labels, said, index)


@pytest.mark.parametrize("index", ["0-999999999", "0-9,0-9999999", "5-3", "1,", "x", "0-1-2"])
def test_positions_that_are_none_or_too_many_are_refused(index: str, tmp_path: Path) -> None:
    made = Verdicts("own", 1, {"norm": "linf", "eps": 0.1}, [0, 1], [0, 1], [3, 4], 1.0, 5, 0, 9)
    assert made.document()["index"] == "3-4"
    write_json(tmp_path / "own.json", made.document() | {"index": index})
    with pytest.raises(ArdbenchError, match=r"own\.json holds no verdicts"):
        load_verdicts(tmp_path / "own.json")


def test_file_names() -> None:
    assert file_name("pgd20") == "pgd20.json"
    assert file_name("aa:apgd-ce,square", 200) == "aa-apgd-ce+square-n200.json"


def test_what_tables_read_does_not_load_torch() -> None:
    modules = "ardbench.evaluation.protocols, ardbench.evaluation.verdicts, ardbench.evaluation.statistics"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
