"""Each switch of the fast path computes the plain step, per step from the same weights; and its benchmark keeps its rows.

What folding and bf16 do to every architecture stands in `test_attacks.py`; here each switch is alone, on a trained network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats
from small import CPU, cosine, in_double

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "speed"))

import step
import switch_rows
import switches
from step import Difference, Side
from tables import Seconds

from ardbench.attacks import pgd
from ardbench.attacks.objectives import label_loss
from ardbench.engine.checkpoints import load_weights

PLAIN = Side.of("pgd-at", switches.PLAIN)
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: torch sees no device")]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
SLOW = [pytest.mark.slow]
ALONE = [
    pytest.param(device, name, marks=GPU if device == "cuda" else SLOW if name == "compile" else ())
    for device in ("cpu", "cuda")
    for name in switches.names_on(device)
    if name != switches.ALL
]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], step.Bench]:
    """For a device and a method, a network that has trained for a few epochs and its adversarial examples."""

    @cache
    def runs(device: str) -> switches.Runs:
        return switches.Runs(tmp_path_factory.mktemp("runs"), torch.device(device), {"schedule.epochs": 3})

    @cache
    def bench(device: str, method: str) -> step.Bench:
        return runs(device).bench(Side.of(method, switches.PLAIN))

    return bench


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    yield
    torch.set_default_dtype(torch.float32)


def check(effect: switches.Effect, fast: torch.Tensor, plain: torch.Tensor) -> None:
    assert plain.norm() > 0
    if effect == "equal":
        assert torch.equal(fast, plain)
    elif effect == "rounding":
        assert 0 <= step.error(fast, plain) < 1e-5
    else:
        assert step.error(fast, plain) > 1e-5, "nothing was rounded: the switch does nothing"
        assert cosine([fast], [plain]) > 0.99


def all_in_double(patch: pytest.MonkeyPatch, bench: step.Bench) -> None:
    """Let images, networks, what is kept of a teacher and the adversarial examples be float64."""
    in_double(patch)
    torch.set_default_dtype(torch.float64)
    patch.setattr(bench, "x_adv", bench.x_adv.double())


@pytest.mark.parametrize(("device", "name"), ALONE)
def test_a_switch_alone_computes_the_plain_step(
    device: str, name: str, benches: Callable[[str, str], step.Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = switches.SWITCHES[name]
    bench = benches(device, switch.method)
    if "rounding" in (switch.attack, switch.outer):  # bf16 is no copy of float64, and equal bits need none
        all_in_double(monkeypatch, bench)
    found = bench.difference(*switches.pair(name, device))
    check(switch.outer, found.fast.outer, found.plain.outer)
    check(switch.attack, found.fast.attack, found.plain.attack)
    if switch.attack == "equal":
        check("equal", found.fast.found, found.plain.found)
    assert found.loss <= {"equal": 0, "rounding": 1e-5, "rough": 1e-2}[switch.outer]
    assert found.signs > (0.95 if switch.attack == "rough" else 0.999)


@pytest.mark.parametrize("device", DEVICES)
def test_all_switches_together_compute_nearly_the_plain_step(
    device: str, benches: Callable[[str, str], step.Bench]
) -> None:
    found = benches(device, "pgd-at").difference(*switches.pair(switches.ALL, device))
    check("rough", found.fast.outer, found.plain.outer)
    check("rough", found.fast.attack, found.plain.attack)
    assert found.signs > 0.95


@pytest.mark.parametrize("device", DEVICES)
def test_frozen_parameters_change_no_bit_of_a_run(device: str, tmp_path: Path) -> None:
    runs = switches.Runs(tmp_path, torch.device(device), {"schedule.epochs": 1})
    weights = [load_weights(runs.trained(side, 1).weights("last")) for side in switches.pair(step.FROZEN, device)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_attack_that_is_not_frozen_differentiates_every_parameter_and_keeps_nothing(
    benches: Callable[[str, str], step.Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `frozen` would be measured against itself."""
    bench, seen = benches("cpu", "pgd-at"), []
    side = Side.of("pgd-at", switches.PLAIN | {step.FROZEN: False})
    loop = bench.loop(side)
    method, batch = loop.method, step.first_batch(loop)

    def look(objective: Any, net: Any, x: torch.Tensor, aux: Any) -> torch.Tensor:
        gradient = step.backward(objective, net, x, aux)
        seen.append([parameter.grad is not None for parameter in net.parameters()])
        return gradient

    with side.attacking(), monkeypatch.context() as patched:
        patched.setattr(pgd, "input_gradient", look)
        method.maximise(label_loss, batch, aux=(batch.y,))
    assert len(seen) == method.recipe.attack.steps
    assert all(map(all, seen))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in method.student.parameters())


@pytest.mark.parametrize("gaps", [[0.02, -0.01, 0.03], [0.1, 0.1, 0.2, 0.4, -0.3]])
def test_the_interval_over_paired_seeds_is_students(gaps: list[float]) -> None:
    plain = [0.5 + 0.05 * i for i in range(len(gaps))]
    mean, low, high = switches.paired([a + b for a, b in zip(plain, gaps, strict=True)], plain)
    expected = stats.ttest_rel([a + b for a, b in zip(plain, gaps, strict=True)], plain).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert mean == pytest.approx((low + high) / 2)


def test_differences_without_a_spread_prove_nothing_unless_they_are_none() -> None:
    assert switches.paired([0.75, 0.5], [0.5, 0.25]) == (0.25, -1.0, 1.0)
    assert switches.paired([0.75, 0.5], [0.75, 0.5]) == (0.0, 0.0, 0.0)


def test_a_switch_that_is_there_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timed: list[list[str]] = []
    taken = [Seconds(2.0, 2.0), Seconds(1.0, 1.0), Seconds(4.0, 4.0)]

    class Known(switches.Runs):
        def bench(self, side: Side) -> Any:
            return SimpleNamespace(difference=lambda fast, plain: known_difference(fast))

        def accuracies(self, side: Side, seed: int) -> tuple[float, float]:
            folded = dict(side.settings)["fold_bn"]
            return 0.75, (0.5 + 0.01 * seed if folded else 0.25)

    def known_difference(fast: Side) -> Difference:
        shift = 0.5 if dict(fast.settings)["fold_bn"] else 0.0
        rows = [torch.tensor([1.0, -1.0 + s, 2.0, 3.0]) for s in (shift, 0)]
        return Difference(*(step.Outcome(torch.ones(()), torch.ones(4), row, torch.ones(4)) for row in rows))

    def known_seconds(wanted: list[str], options: Any, device: torch.device) -> dict[Side, list[Seconds]]:
        timed.append(wanted)
        sides = [switches.pair(name, "cpu") for name in wanted]
        return {side: taken[::-1] for _, side in sides} | {side: taken for side, _ in sides}

    monkeypatch.setattr(switches, "Runs", Known)
    monkeypatch.setattr(switches, "timed", known_seconds)
    for only in ("fold_bn", "fold_bn,frozen", "fold_bn"):
        switches.measure(*asked(only, tmp_path), CPU)
    switches.measure(*asked("attack,outer", tmp_path, "--time-limit", "0"), CPU)
    assert timed == [["fold_bn"], ["frozen"], ["attack", "outer"]]
    folded, frozen, attack = switch_rows.open_table(tmp_path / "switches-cpu.csv").rows()
    assert [folded[name] for name in ("switch", "seeds", "ratio", "ratio_min", "ratio_max")] == [
        "fold_bn", "3", "1.0", "0.5", "2.0",
    ]  # fmt: skip
    assert float(folded["attack_error"]) == pytest.approx(0.5 / 15**0.5)
    assert (float(folded["robust_difference"]), float(folded["plain_robust"])) == pytest.approx((0.26, 0.25))
    assert float(folded["clean_low"]) == float(folded["clean_high"]) == 0
    assert frozen["clean_difference"] == ""
    assert attack["switch"] == "attack"
    page = (tmp_path / "switches-cpu.md").read_text(encoding="utf-8")
    assert "+26.00 [+23.52, +28.48], **zero outside**" in page and "+0.00 [+0.00, +0.00], zero inside" in page


def asked(only: str, out: Path, *words: str) -> tuple[list[str], Any, int, float]:
    return switches.parse(["--only", only, "--seeds", "3", "--out", str(out), *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "fold"], "Unknown switch on cpu 'fold': did you mean 'fold_bn'?"),
        (["--only", "tf32"], "Unknown switch on cpu 'tf32'"),
        (["--seeds", "1"], "--seeds 1 has no spread: give 2 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        switches.parse(words)
    assert refusal.value.code == 2
    assert said in capsys.readouterr().err
