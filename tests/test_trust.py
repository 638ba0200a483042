"""Trust checks: each trips on a network that is built to trip it, and on no honest one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli_call import call
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from ardbench.config import Threat
from ardbench.data import DATASETS
from ardbench.data.batches import Split
from ardbench.errors import ArdbenchError
from ardbench.evaluation import trust
from ardbench.evaluation.measure import evaluate
from ardbench.evaluation.network_checks import evaluates, examine, gives_logits
from ardbench.evaluation.statistics import wilson
from ardbench.evaluation.trust import LIMITS, Finding
from ardbench.evaluation.verdicts import Verdicts
from ardbench.verbs.measuring import Evaluation

LINF = Threat(norm="linf", eps=8 / 255)
KEY = {"weights": "abc"}
NEEDED = ("clean", "fgsm", "pgd20", "cw20", "aa", "pgd20-scaled", "unbounded")
Change = Callable[[Tensor], Tensor]


class Plain(nn.Module):
    """Five linear classes; with a large `gain` the cross-entropy of nearly every image is exactly zero in fp32."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain, self.weight = gain, torch.randn(5, 64, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * ((x.flatten(1) - 0.5) @ self.weight.T)


class Barrier(nn.Module):
    """Its margin has a hill between 1 and 7 of 255 levels: a step of 8 jumps over it, steps of 2 turn back at its foot."""

    def forward(self, x: Tensor) -> Tensor:
        u = 255 * (x.flatten(1).mean(dim=1) - 128 / 255)
        margin = 1 - 0.5 * u + 0.35 * u**2 - 0.045 * u**3
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def split_of(net: nn.Module, n: int = 40, grey: bool = False) -> Split:
    """Return images that a network classifies right: random ones, or the same grey one."""
    source = torch.Generator().manual_seed(1)
    images = torch.randint(128 if grey else 0, 129 if grey else 256, (n, 1, 8, 8), generator=source, dtype=torch.uint8)
    return Split(images, net(images / 255).argmax(1), torch.arange(n), DATASETS["digits"])


def findings_of(net: nn.Module, split: Split, store: Path, protocols: tuple[str, ...] = NEEDED) -> dict[str, Finding]:
    for name in protocols:
        evaluate(net, split, name, LINF, batch=100, store=store, key=KEY)
    return {finding.check: finding for finding in examine(net, split, store, None, KEY)}


def test_an_honest_network_trips_nothing(tmp_path: Path) -> None:
    net = Plain()
    found = findings_of(net, split_of(net), tmp_path)
    levels = dict.fromkeys(found, "ok") | {"running-statistics": "unchecked"}  # it has no BatchNorm
    assert {check: finding.level for check, finding in found.items()} == levels
    assert set(found) == {"eval-mode", "logits", "running-statistics", "clean", "ball-and-box", *LIMITS.limits}
    assert "fgsm, pgd20" in found["ball-and-box"].reason and "clean" not in found["ball-and-box"].reason
    assert trust.load(tmp_path / "trust.json") == (list(found.values()), "abc")


def test_logits_that_eat_their_gradient_trip_all_that_looks_for_it(tmp_path: Path) -> None:
    net = Plain(gain=300)
    found = findings_of(net, split_of(net), tmp_path)
    tripped = {check for check, finding in found.items() if finding.level == "warning"}
    assert tripped == {"pgd-minus-aa", "margin-under-pgd", "scaled-under-pgd", "unbounded"}
    assert all(LIMITS.limits[check].meaning in found[check].reason for check in tripped)


def test_a_hill_that_one_step_jumps_over_trips_fgsm(tmp_path: Path) -> None:
    net = Barrier()
    found = findings_of(net, split_of(net, grey=True), tmp_path, ("fgsm", "pgd20"))
    assert found["fgsm-under-pgd"].level == "warning"
    assert found["fgsm-under-pgd"].reason.startswith("pgd20 minus fgsm is 100.0 points, at least ")


def hand(protocol: str, right: int, n: int = 1000, eps: float = 0.1) -> Verdicts:
    """Return verdicts in which the first images are classified right."""
    said = [0] * right + [1] * (n - right)
    return Verdicts(protocol, 1, {"norm": "linf", "eps": eps}, [0] * n, said, list(range(n)), 1.0, 5, 0, n)


@pytest.mark.parametrize(
    ("check", "right", "level"),
    [
        ("pgd-minus-aa", (500, 451), "ok"),
        ("pgd-minus-aa", (500, 450), "note"),
        ("pgd-minus-aa", (500, 430), "note"),
        ("pgd-minus-aa", (500, 429), "warning"),
        ("margin-under-pgd", (500, 450), "ok"),
        ("margin-under-pgd", (500, 449), "warning"),
        ("scaled-under-pgd", (500, 480), "ok"),
        ("scaled-under-pgd", (500, 479), "warning"),
        ("scaled-under-pgd", (500, 600), "ok"),
        ("fgsm-under-pgd", (500, 499), "ok"),
        ("fgsm-under-pgd", (500, 480), "warning"),
        ("fgsm-under-pgd", (500, 550), "ok"),
        ("unbounded", (10,), "ok"),
        ("unbounded", (11,), "warning"),
    ],
)
def test_limits_are_where_they_are_said_to_be(check: str, right: tuple[int, ...], level: str) -> None:
    protocols = LIMITS.limits[check].protocols
    measured = {name: hand(name, count) for name, count in zip(protocols, right, strict=True)}
    (finding,) = (one for one in trust.judged(measured) if one.check == check)
    assert finding.level == level
    assert "(n = 1000)" in finding.reason and (level == "ok") == (LIMITS.limits[check].meaning not in finding.reason)


@pytest.mark.parametrize(
    ("right", "n", "classes", "level"),
    [
        (0, 100, 10, "warning"),  # labels shifted by one
        (10, 100, 10, "warning"),
        (15, 100, 10, "warning"),
        (16, 100, 10, "ok"),  # the interval begins at 10.1 %
        (1, 1, 2, "warning"),
        (2, 100, 200, "ok"),
        (1, 100, 200, "warning"),
    ],
)
def test_clean_accuracy_at_chance_is_warned_of(right: int, n: int, classes: int, level: str) -> None:
    low, _ = wilson(right, n)
    finding = trust.above_chance(hand("clean", right, n), classes)
    assert (low > 1 / classes) == (level == "ok") and finding.level == level
    assert f"{100 / classes:.3g} % (n = {n})" in finding.reason
    assert trust.above_chance(None, classes).level == "unchecked"


def test_what_was_not_measured_says_what_to_type() -> None:
    found = {finding.check: finding for finding in trust.judged({"pgd20": hand("pgd20", 500)})}
    assert found["pgd-minus-aa"] == Finding("pgd-minus-aa", "unchecked", "aa not measured: add --protocol aa.")
    zero = {name: hand(name, 500, eps=0) for name in ("pgd20", "aa")}
    assert trust.judged(zero)[0] == Finding(
        "pgd-minus-aa", "unchecked", "nothing is searched at eps 0: evaluate under a larger one."
    )


class Stuck(nn.BatchNorm1d):
    def train(self, mode: bool = True) -> nn.BatchNorm1d:
        return super().train(True)


class Acting(nn.Module):
    """A linear network whose inputs or outputs pass through a function, whatever its mode."""

    def __init__(self, before: Change = lambda x: x, after: Change = lambda x: x) -> None:
        super().__init__()
        self.plain, self.before, self.after = Plain(), before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.plain(self.before(x.flatten(1))))


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (nn.Sequential(nn.Flatten(), Stuck(64), nn.Linear(64, 5)), "1 stays in train mode"),
        (Acting(before=lambda x: x - x.mean(dim=0)), "change with the other images"),
        (Acting(before=lambda x: functional.dropout(x, 0.5, training=True)), "change with the other images"),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 5)), ""),
        (Acting(), ""),
    ],
    ids=["stuck", "batch statistics", "dropout", "ordinary", "linear"],
)
def test_behaving_as_in_train_mode_is_noticed(net: nn.Module, said: str) -> None:
    finding = evaluates(net.eval(), torch.rand(16, 1, 8, 8))
    assert (finding.level == "warning") == bool(said) and said in finding.reason


@pytest.mark.parametrize(
    ("after", "level"),
    [
        (lambda z: z.softmax(dim=1), "warning"),
        (lambda z: z.log_softmax(dim=1), "ok"),
        (lambda z: z.sigmoid(), "ok"),
        (lambda z: z - z.mean(dim=1, keepdim=True) + 0.2, "ok"),  # sums to 1, leaves [0, 1]
        (lambda z: z, "ok"),
    ],
)
def test_probabilities_are_no_logits(after: Change, level: str) -> None:
    assert gives_logits(Acting(after=after), torch.rand(16, 1, 8, 8)).level == level


@pytest.mark.parametrize(
    ("change", "level", "said"),
    [
        (lambda x: x, "ok", "and as kept of pgd20."),
        (lambda x: (x + 0.04).clamp(0, 1), "warning", "trust-me left the linf ball: 0.04"),
        (lambda x: x - 0.03, "warning", "left the pixel box [0, 1]: [-0.03"),
        (lambda x: x[1:], "warning", "another shape"),
    ],
)
def test_kept_images_are_checked_as_they_lie(tmp_path: Path, change: Any, level: str, said: str) -> None:
    net = Plain()
    split = split_of(net)
    assert findings_of(net, split, tmp_path, ("clean",))["ball-and-box"].level == "unchecked"
    evaluate(net, split, "pgd20", LINF, batch=100, store=tmp_path, key=KEY)
    save_file({"x_adv": change(split.pixels(slice(None)))}, tmp_path / "pgd20.adversarial.safetensors")
    finding = findings_of(net, split, tmp_path, ())["ball-and-box"]
    assert finding.level == level and said.replace("trust-me", "pgd20.adversarial.safetensors") in finding.reason


def test_verdicts_of_other_weights_images_or_versions_judge_nothing(tmp_path: Path) -> None:
    net = Plain()
    split = split_of(net)
    evaluate(net, split, "pgd20", LINF, batch=100, store=tmp_path, key=KEY)
    index = split.index.tolist()
    assert list(trust.measured_in(tmp_path, KEY, index)) == ["pgd20"]
    assert trust.measured_in(tmp_path, {"weights": "other"}, index) == {}
    assert trust.measured_in(tmp_path, KEY, [41, 42]) == {}
    assert trust.measured_in(tmp_path, KEY, index[1:])["pgd20"].index == index[1:]
    document = json.loads((tmp_path / "pgd20.json").read_text())
    (tmp_path / "pgd20.json").write_text(json.dumps(document | {"version": 99}))
    assert trust.measured_in(tmp_path, KEY, index) == {}


def test_two_numbers_are_held_against_each_other_on_the_images_that_both_are_on(tmp_path: Path) -> None:
    """PGD on all images and AutoAttack on some: the difference is that of these, and the file on the most images tells."""

    def told(name: str, index: list[int], right: set[int], suffix: str = "") -> None:
        said = [0 if position in right else 1 for position in index]
        verdicts = Verdicts(
            name, 1, {"norm": "linf", "eps": 0.1}, [0] * len(index), said, index, 1.0, 9, 0, 100, key=KEY
        )
        verdicts.save(tmp_path / f"{name}{suffix}.json")

    told("pgd20", list(range(100)), set(range(60)))
    told("pgd20", [0, 1], set(), "-n2")
    told("aa", list(range(79, 39, -1)), set(range(40, 56)), "-n40")  # in another order
    assert trust.measured_in(tmp_path, KEY, range(100))["aa"].index == list(range(40, 80))
    for index in (range(100), range(40, 80)):
        found = {one.check: one for one in trust.judged(trust.measured_in(tmp_path, KEY, list(index)))}
        assert found["pgd-minus-aa"].level == "warning"  # 20 of the 40 are right under pgd20, 16 under aa
        assert "pgd20 minus aa is 10.0 points" in found["pgd-minus-aa"].reason
        assert "(n = 40)" in found["pgd-minus-aa"].reason
    apart = {one.check: one for one in trust.judged(trust.measured_in(tmp_path, KEY, [0, 1, 2]))}
    assert apart["pgd-minus-aa"].reason.startswith("aa not measured")
    told("fgsm", [90, 91], {90}, "-n2")
    told("pgd20", list(range(50)), {1})
    found = {one.check: one for one in trust.judged(trust.measured_in(tmp_path, KEY, list(range(100))))}
    assert found["fgsm-under-pgd"].level == "unchecked" and "no image in common" in found["fgsm-under-pgd"].reason


def test_a_damaged_file_of_findings_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "trust.json").write_text('{"findings": [{"check": "logits", "level": "fine", "reason": ""}]}')
    with pytest.raises(ArdbenchError, match=r"trust\.json holds no trust checks"):
        trust.load(tmp_path / "trust.json")


def test_eval_prints_keeps_and_reports_what_it_found(tmp_path: Path) -> None:
    words = ["--epochs", "1", "--set", "data.train_images=64", "--set", "data.validation=20", "--dataset", "fake"]
    words += ["--set", "attack.steps=1", "--set", "selection.by=last", "--device", "cpu", "--runs", str(tmp_path)]
    run = Path(call("train", "pgd-at-digits", *words).stdout.splitlines()[0])
    evaluation = ["eval", run, "--n", "20", "--device", "cpu"]
    protocols = [word for name in ("clean", "fgsm", "pgd20", "unbounded") for word in ("--protocol", name)]
    lines = [line.split() for line in call(*evaluation, *protocols).stdout.splitlines()]
    kept, _ = trust.load(run / "eval" / "last" / "trust-n20.json")
    levels = ("warning", "note", "unchecked")
    printed = [line[:3] for line in lines if line[2:3] == ["last"] and line[0] in levels]
    assert printed == [[one.level, one.check, "last"] for one in kept if one.level != "ok"] != []
    shown = json.loads(call("show", run, "--json").stdout)["evaluations"]
    assert [Path(file).stem for file in shown] == ["clean-n20", "fgsm-n20", "pgd20-n20", "unbounded-n20"]
    document = json.loads(call(*evaluation, *protocols, "--json").stdout)
    assert [(one["verdict"], one["check"], one["reason"]) for one in document["trust"]] == [
        (one.level, one.check, one.reason) for one in kept
    ]
    trust.save(
        run / "eval" / "last" / "trust-n20.json",
        [Finding("logits", "ok", "fine."), Finding("unbounded", "warning", "unbounded leaves 7 %.")],
        json.loads((run / "done").read_text())["weights"]["last"],
    )
    report = call("report", run).stdout
    assert "Trust checks, made 1 time. ok: logits (1)." in report
    assert f"Trust checks, warning, unbounded: {run.name} (last): unbounded leaves 7 %." in report
    header = next(line for line in report.splitlines() if "fgsm" in line)
    assert "pgd20" in header and "unbounded" not in header
    trust.save(run / "eval" / "last" / "trust-n20.json", [Finding("logits", "warning", "bad.")], "other weights")
    assert "Trust checks" not in call("report", run).stdout


def test_a_reason_that_holds_for_several_checkpoints_is_told_once() -> None:
    told = [("warning", "clean", "best", "low"), ("ok", "logits", "best", ""), ("warning", "clean", "last", "low")]
    told += [("warning", "clean", "averaged", "lower"), ("unchecked", "clean", "last", "low")]
    rows = [dict(zip(("verdict", "check", "checkpoint", "reason"), row, strict=True)) for row in told]
    doubts = Evaluation.doubts.fget(SimpleNamespace(trust=rows))  # type: ignore[attr-defined]
    assert [tuple(row.values()) for row in doubts] == [
        ("warning", "clean", "best, last", "low"), ("warning", "clean", "averaged", "lower"),
        ("unchecked", "clean", "last", "low"),
    ]  # fmt: skip
