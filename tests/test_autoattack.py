"""The AutoAttack driver against the package's own evaluation, against kills, and where the package errs."""

from __future__ import annotations

import io
import logging
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attacked
import pytest
import torch
from attacked import KEY, LINF, data, killed_at_every_save, trained
from pyautoattack import autoattack as package
from torch import Tensor, nn
from torch.nn import functional

from ardbench.config import Threat
from ardbench.data.batches import Split
from ardbench.errors import ArdbenchError
from ardbench.evaluation import autoattack, ensemble
from ardbench.evaluation.autoattack import load_state
from ardbench.evaluation.cost import forwards
from ardbench.evaluation.measure import evaluate
from ardbench.evaluation.protocols import PROTOCOLS, AutoAttack
from ardbench.evaluation.verdicts import Paused, file_name
from ardbench.progress import Progress

L2 = Threat(norm="l2", eps=0.6)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked.shorten(monkeypatch)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained(10)


def by_package(net: nn.Module, split: Split, threat: Threat, batch: int, **how: Any) -> list[int]:
    """Return the predictions of the package's own run on the images that it says are adversarial."""
    aa = package.AutoAttack(net.eval(), norm=ensemble.NORMS[threat.norm], eps=threat.eps, seed=0, **how)
    _, said = aa.run_standard_evaluation(split.pixels(slice(None)), split.labels, batch_size=batch)
    return said.tolist()  # type: ignore[no-any-return]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("name", "threat", "how"),
    [
        ("aa", LINF, {"version": "standard"}),
        ("aa", L2, {"version": "standard"}),
        ("aa-plus", LINF, {"version": "plus"}),
        ("aa-rand", LINF, {"version": "rand"}),
    ],
)
def test_predictions_are_those_of_the_packages_own_run(net: nn.Module, name: str, threat: Threat, how: Any) -> None:
    split = data(36, 10, seed=2)
    verdicts = evaluate(net, split, name, threat, batch=10)
    assert verdicts.predictions == by_package(net, split, threat, 10, **how)
    assert sum(verdicts.taken.values()) == verdicts.robust.count(False)
    assert 0 < verdicts.accuracy < 1 - verdicts.taken["clean"] / 36


@pytest.mark.usefixtures("short")
def test_another_batch_size_is_another_noise(net: nn.Module) -> None:
    """Equality with the package is no accident of attacks that always find the same."""
    split = data(120, 10, seed=2)
    one, other = (evaluate(net, split, "aa:square,apgd-ce", LINF, batch=batch) for batch in (10, 60))
    assert one.predictions != other.predictions


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("threat", [LINF, L2])
@pytest.mark.parametrize("name", ["aa:square,fab-t", "aa:square,apgd-t", "aa:square,fab", "aa:square,apgd-dlr"])
def test_a_custom_list_is_configured_as_standard(net: nn.Module, name: str, threat: Threat) -> None:
    """The package's own custom version gives APGD and FAB five restarts; every attack here takes something."""
    split, attacks = data(60, 10, seed=2), name.removeprefix("aa:").split(",")
    aa = package.AutoAttack(net.eval(), norm=ensemble.NORMS[threat.norm], eps=threat.eps, seed=0, version="standard")
    aa.attacks_to_run = attacks
    _, said = aa.run_standard_evaluation(split.pixels(slice(None)), split.labels, batch_size=12)
    verdicts = evaluate(net, split, name, threat, batch=12)
    assert verdicts.predictions == said.tolist()
    assert list(verdicts.taken) == ["clean", *attacks] and min(verdicts.taken.values()) > 0
    assert verdicts.protocol == name


def test_the_protocols_name_the_packages_attacks_and_effort(net: nn.Module) -> None:
    for rules in PROTOCOLS.values():
        if isinstance(rules, AutoAttack):
            aa = package.AutoAttack(net, version=rules.configured)
            single = rules.name in ("apgd-ce", "apgd-t", "square")
            assert rules.attacks == ((rules.name,) if single else tuple(aa.attacks_to_run))
    aa = package.AutoAttack(net, version="standard")
    assert (aa.apgd.n_iter, aa.apgd.n_restarts, aa.fab.n_restarts, aa.square.n_queries) == (100, 1, 1, 5000)


def test_each_attack_runs_with_the_packages_switches() -> None:
    """As `run_standard_evaluation` sets them: FAB has five restarts in version plus, targeted FAB one."""
    seen: list[dict[str, Any]] = []

    class Recorder:
        def __init__(self, **known: Any) -> None:
            vars(self).update(known)

        def perturb(self, x: Tensor, y: Tensor) -> Tensor:
            seen.append(dict(vars(self)))
            return x

    aa = SimpleNamespace(
        apgd=Recorder(of="apgd"), apgd_targeted=Recorder(of="apgd-t"), square=Recorder(of="square"),
        fab=Recorder(of="fab", n_restarts=5),
    )  # fmt: skip
    for name in PROTOCOLS["aa-plus"].attacks:  # type: ignore[union-attr]
        ensemble.perturb(aa, name, torch.zeros(1, 1, 8, 8), torch.zeros(1))
    assert seen == [
        {"of": "apgd", "loss": "ce"},
        {"of": "apgd", "loss": "dlr"},
        {"of": "fab", "n_restarts": 5, "targeted": False},
        {"of": "square"},
        {"of": "apgd-t"},
        {"of": "fab", "n_restarts": 1, "targeted": True},
    ]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("name", "before"), [("aa", False), ("aa", True), ("aa:square,fab-t", True), ("aa:square,apgd-t", False)]
)
def test_a_run_killed_in_every_attack_gives_the_same_verdicts(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, before: bool
) -> None:
    how: dict[str, Any] = {"net": net, "split": data(60, 10, seed=2), "protocol": name, "threat": LINF}
    how |= {"key": KEY, "batch": 8}
    whole = evaluate(**how, store=tmp_path / "whole")
    torch.manual_seed(99)  # what the process draws besides is of no importance
    parts, seen = killed_at_every_save(monkeypatch, before, **how, store=tmp_path / "parts")
    assert parts.predictions == whole.predictions
    assert (parts.taken, parts.notes, parts.key) == (whole.taken, whole.notes, whole.key)
    for attack in range(len(whole.taken) - 1):  # killed in the middle of each, not only between
        assert len({state.position for state in seen if state.current == attack}) >= 2
    assert name == "aa" or min(whole.taken.values()) > 0
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [file_name(name)]


@pytest.mark.usefixtures("short")
def test_even_a_network_that_draws_is_continued_exactly(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net.eval()(x)
            return logits + torch.randn_like(logits)

    how: dict[str, Any] = {"net": Noisy(), "split": data(30, 10, seed=2), "protocol": "aa-rand", "threat": LINF}
    whole = evaluate(**how, batch=6, store=tmp_path / "whole")
    torch.manual_seed(99)
    parts, _ = killed_at_every_save(monkeypatch, False, **how, batch=6, store=tmp_path / "parts")
    assert parts.predictions == whole.predictions


@pytest.mark.usefixtures("short")
def test_a_continued_run_keeps_its_batch_and_says_so(net: nn.Module, tmp_path: Path) -> None:
    split, questions = data(120, 10, seed=2), iter([False] * 15 + [True] * 100)
    whole, other = (evaluate(net, split, "aa:square", LINF, batch=batch) for batch in (10, 60))
    assert whole.predictions != other.predictions
    with pytest.raises(Paused, match=r"aa-square\.state\.json is kept; the same command continues there"):
        evaluate(net, split, "aa:square", LINF, batch=10, store=tmp_path, key=KEY, stop=lambda: next(questions))
    assert load_state(tmp_path / "aa-square.state.json").position == 30  # asked before 12 clean batches and 3 of square
    done = evaluate(net, split, "aa:square", LINF, batch=60, store=tmp_path, key=KEY)
    assert (done.predictions, done.batch) == (whole.predictions, 10)
    assert done.notes[-1] == "Continued with batch 10, not 60: the batch it began with decides the noise."


@pytest.mark.usefixtures("short")
def test_ctrl_c_pauses_and_keeps_what_is_done(net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, perturb, calls = data(40, 10, seed=2), autoattack.perturb, [0]

    def impatient(*given: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return perturb(*given)

    monkeypatch.setattr(autoattack, "perturb", impatient)
    with pytest.raises(Paused, match="continues there"):
        evaluate(net, split, "aa", LINF, batch=10, store=tmp_path, key=KEY)
    assert load_state(tmp_path / "aa.state.json").position == 20
    calls[0] = 2
    with pytest.raises(Paused, match="nothing of it is kept; the same command begins it again"):
        evaluate(net, split, "aa", LINF, batch=10)


@pytest.mark.usefixtures("short")
def test_the_state_of_other_weights_is_begun_anew(net: nn.Module, tmp_path: Path) -> None:
    split, questions = data(30, 10, seed=2), iter([False] * 5 + [True] * 100)
    with pytest.raises(Paused):
        evaluate(net, split, "aa", LINF, batch=10, store=tmp_path, key=KEY, stop=lambda: next(questions))
    other = trained(10)
    other[-1].bias.data[0] += 5  # type: ignore[operator, union-attr]
    there = evaluate(other, split, "aa", LINF, batch=15, store=tmp_path, key={"weights": "other"})
    assert there.predictions == evaluate(other, split, "aa", LINF, batch=15).predictions
    assert there.batch == 15


def test_a_damaged_state_is_refused_by_name(net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "aa.state.json").write_text('{"key": {}}')
    with pytest.raises(ArdbenchError, match=r"aa\.state\.json holds no state"):
        evaluate(net, data(10, 10, seed=2), "aa", LINF, batch=10, store=tmp_path)


@pytest.mark.usefixtures("short")
def test_fewer_classes_are_clamped_and_noted() -> None:
    split = data(24, 5, seed=2)
    net = trained(5)
    aa = package.AutoAttack(net.eval(), norm="Linf", eps=LINF.eps, seed=0, version="standard")
    aa.apgd_targeted.n_target_classes = aa.fab.n_target_classes = 4
    _, said = aa.run_standard_evaluation(split.pixels(slice(None)), split.labels, batch_size=8)
    verdicts = evaluate(net, split, "aa", LINF, batch=8)
    assert verdicts.predictions == said.tolist()
    clamped = [f"{name} targets 4 classes instead of 9: there are no more." for name in ("apgd-t", "fab-t")]
    assert [note for note in verdicts.notes if "targets" in note] == clamped
    assert not [note for note in evaluate(net, split, "aa:apgd-ce", LINF, batch=8).notes if "targets" in note]


@pytest.mark.usefixtures("short")
def test_too_few_classes_for_a_loss_are_refused_with_a_list_that_works() -> None:
    for classes, name, said in [(3, "aa", "apgd-t in protocol aa needs at least 4"), (2, "aa-rand", "apgd-dlr")]:
        net, split = trained(classes), data(20, classes, seed=2)
        with pytest.raises(ArdbenchError, match=said):
            evaluate(net, split, name, LINF, batch=10)
        assert evaluate(net, split, "aa:apgd-ce,fab-t,square", LINF, batch=10).accuracy < 1


def few(classes: int, n: int = 24) -> Split:
    """Return images of a data set of so many classes."""
    split = data(n, classes, seed=2)
    return replace(split, info=replace(split.info, num_classes=classes))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("classes", "name", "left"),
    [
        (2, "aa", ["apgd-ce", "fab-t", "square"]),
        (3, "aa", ["apgd-ce", "fab-t", "square"]),
        (3, "aa-fast", ["apgd-ce", "fab-t", "square"]),
        (2, "aa-rand", ["apgd-ce"]),
        (3, "aa-plus", ["apgd-ce", "apgd-dlr", "fab", "square", "fab-t"]),
    ],
)
def test_an_ensemble_among_few_classes_is_what_is_defined_of_it_and_says_so(
    classes: int, name: str, left: list[str], tmp_path: Path
) -> None:
    net, split = trained(classes), few(classes)
    how: dict[str, Any] = {"net": net, "split": split, "protocol": name, "threat": LINF, "batch": 8, "store": tmp_path}
    verdicts = evaluate(**how)
    assert verdicts.protocol == name and verdicts.attack["attacks"] == left == list(verdicts.taken)[1:]
    assert verdicts.notes[0].startswith(f"not the whole ensemble: with {classes} classes without apgd-")
    assert verdicts.notes[0].endswith(f"; {', '.join(left)} alone.")
    assert evaluate(**how) == verdicts, "what lies there is known again"
    if name == "aa":
        aa = package.AutoAttack(net.eval(), norm="Linf", eps=LINF.eps, seed=0, version="standard")
        aa.attacks_to_run, aa.fab.n_target_classes = left, classes - 1
        _, said = aa.run_standard_evaluation(split.pixels(slice(None)), split.labels, batch_size=8)
        assert verdicts.predictions == said.tolist()
    with pytest.raises(ArdbenchError, match="apgd-t in protocol aa:apgd-t needs at least 4 classes"):
        evaluate(net, split, "aa:apgd-t", LINF, batch=8)
    assert not evaluate(net, few(classes), name, Threat(norm="linf", eps=0), batch=8).notes, "nothing is searched"


def test_few_classes_cost_what_is_searched() -> None:
    assert forwards("aa", 10) - forwards("aa", 3) == 0.5 * 1829 and forwards("aa", 3) == forwards(
        "aa:apgd-ce,fab-t,square", 3
    )


class Linear(nn.Module):
    """A linear classifier of 8x8 images whose worst case under L-inf is a formula."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits

    def robust(self, x: Tensor, y: Tensor, eps: float) -> list[bool]:
        """Return whether no class overtakes y at x - eps sign(w_y - w_k), clamped: the worst point for each k."""
        stands = self(x).argmax(1) == y
        for other in range(self.head.out_features):
            direction = (self.head.weight[y] - self.head.weight[other]).sign().view_as(x)
            logits = self((x - eps * direction).clamp(0, 1))
            stands &= (logits.gather(1, y[:, None]).squeeze(1) >= logits[:, other]) | (y == other)
        return stands.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("classes", "attacks"), [(5, "apgd-ce,apgd-t,fab-t"), (3, "apgd-ce,fab-t"), (2, "apgd-ce,fab-t")]
)
def test_full_length_attacks_find_the_exact_robust_accuracy_of_a_linear_network(classes: int, attacks: str) -> None:
    net, split = Linear(classes), few(classes, 200)
    split = replace(split, labels=net(split.pixels(slice(None))).argmax(1))
    eps = 0.1 if classes > 2 else 0.2
    expected = net.robust(split.pixels(slice(None)), split.labels, eps)
    verdicts = evaluate(net, split, f"aa:{attacks}", Threat(norm="linf", eps=eps), batch=200)
    assert verdicts.robust == expected
    assert 20 < sum(expected) < 180


@pytest.mark.usefixtures("short")
def test_a_success_that_leaves_the_ball_stops_the_run(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def hostile(aa: Any, name: str, x: Tensor, y: Tensor) -> Tensor:
        x += 0.2  # moves its input along: what is checked against is read again
        return x.clamp(0, 1)

    monkeypatch.setattr(autoattack, "perturb", hostile)
    with pytest.raises(ArdbenchError, match="apgd-ce left the linf ball"):
        evaluate(net, data(20, 10, seed=2), "aa", LINF, batch=10)


@pytest.mark.usefixtures("short")
def test_the_network_the_random_numbers_and_the_terminal_are_left_alone(net: nn.Module) -> None:
    net.train()
    torch.manual_seed(7)
    expected, out = torch.rand(3), io.StringIO()
    before = [p.clone() for p in (*net.parameters(), *net.buffers())]
    net.zero_grad(set_to_none=True)
    torch.manual_seed(7)
    handlers = list(logging.getLogger("auto-attack").handlers)
    with redirect_stdout(out), redirect_stderr(out):
        evaluate(net, data(20, 10, seed=2), "aa", LINF, batch=10)
    assert torch.equal(torch.rand(3), expected)
    assert out.getvalue() == "" and logging.getLogger("auto-attack").handlers == handlers
    assert all(torch.equal(a, b) for a, b in zip(before, (*net.parameters(), *net.buffers()), strict=True))
    assert all(p.grad is None and p.requires_grad for p in net.parameters()) and net.training


@pytest.mark.usefixtures("short")
def test_what_the_package_warns_of_becomes_notes(net: nn.Module) -> None:
    """Softmax outputs, noise in the forward, and gradients that saturation has made zero."""
    split = data(20, 10, seed=2)

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net.eval()(x)
            return logits + 0.5 * torch.randn_like(logits)

    class Saturated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net.eval()(x.add(1).mul(1e4).sigmoid())
            return logits

    def notes(of: nn.Module, name: str) -> str:
        return " | ".join(evaluate(of, split, name, LINF, batch=10).notes)

    assert "seems to be a randomized defense! Please use aa-rand." in notes(Noisy(), "aa:apgd-ce")
    assert "randomized" not in notes(Noisy(), "aa-rand")
    assert "probability distribution" in notes(nn.Sequential(net, nn.Softmax(1)), "aa:apgd-ce")
    zero = notes(Saturated(), "aa:apgd-dlr")
    assert zero.count("points with zero gradient in apgd-dlr") == 1
    assert notes(net, "aa:apgd-ce,apgd-t") == ""


@pytest.mark.usefixtures("short")
def test_progress_is_told_attack_by_attack(net: nn.Module) -> None:
    told: list[tuple[Any, ...]] = []

    class Ears(Progress):
        def task(self, description: str, total: int, unit: str = "images") -> None:
            told.append((description, total))

        def update(self, done: int, **numbers: float) -> None:
            told.append((done, numbers.get("robust")))

    split = data(30, 10, seed=2)
    verdicts = evaluate(net, split, "aa:apgd-ce,square", LINF, batch=10, progress=Ears())
    left = 30 - verdicts.taken["clean"]
    assert told[0] == ("clean", 30) and told[4:6] == [("apgd-ce (1/2)", left), (0, left / 30)]
    left -= verdicts.taken["apgd-ce"]
    assert ("square (2/2)", left) in told and told[-1] == (left, verdicts.accuracy)


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "fab-t", "fab"])
def test_one_batch_of_all_images_moves_the_bar_to_its_last_image_as_it_works(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network that nothing fools, each attack makes as many forwards as its price says, but the one that confirms."""
    split = data(20, 10, seed=2)
    weights = torch.linalg.pinv(split.pixels(slice(None)).flatten(1)) @ functional.one_hot(split.labels, 10).float()
    done, spent = list[int](), dict[int, int]()

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ weights

    class Ears(Progress):
        def task(self, description: str, total: int, unit: str = "images") -> None:
            done.clear()

        def update(self, finished: int, **numbers: float) -> None:
            done.append(finished)

    original = autoattack.Driver._tell

    def tell(driver: autoattack.Driver, *words: Any) -> None:
        spent[driver._price] = driver._spent
        original(driver, *words)

    ticking = SimpleNamespace(monotonic=count(0, 2).__next__, perf_counter=time.perf_counter)
    monkeypatch.setattr(autoattack, "time", ticking)  # every forward is a second after the one before
    monkeypatch.setattr(autoattack.Driver, "_tell", tell)
    tiny = Threat(norm="linf", eps=1e-6)
    assert evaluate(Linear(), split, f"aa:{name}", tiny, batch=100, progress=Ears()).accuracy == 1
    assert all(price - 1 == made for price, made in spent.items())
    assert done == sorted(done) and set(done) == set(range(21))


@pytest.mark.usefixtures("short")
def test_bfloat16_logits_are_judged_in_fp32(net: nn.Module) -> None:
    """Left as they are, they crash Square."""

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net.eval()(x)
            return logits.bfloat16()

    assert evaluate(Rounded(), data(20, 10, seed=2), "aa:square", LINF, batch=20).accuracy > 0
