"""The speed benchmark of AutoAttack: both sides do the same work, and whatever they say otherwise is told."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import attacked
import pytest
import torch
from small import CPU, network
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "speed"))

import autoattack
import autoattack_report
from autoattack import Options, Ours, Outcome, Package, Work

from ardbench.config import Threat
from ardbench.data.load import load
from ardbench.errors import ArdbenchError
from ardbench.evaluation import batch_size
from ardbench.evaluation.measure import evaluate

TINY = ["--model", "resnet8-tiny", "--n", "8", "--batch", "8", "--package-batch", "8"]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked.shorten(monkeypatch)


@pytest.fixture
def trained() -> Work:
    """Return a trained network of which every attack takes some points and leaves some."""
    split = attacked.data(60, 10, seed=2)
    return Work(attacked.trained(10).eval(), "trained", "fresh", split, attacked.LINF)


def options(*more: str) -> Options:
    return autoattack.parse([*TINY, *more])


@pytest.mark.usefixtures("short")
def test_in_equal_batches_both_sides_say_the_same_and_tell_what_each_attack_took(trained: Work) -> None:
    package, ours = Package(trained, options("--package-batch", "20")), Ours(trained, "aa", 20)
    for side in (package, ours):
        side.step()
    assert ours.outcome.said == package.outcome.said
    assert autoattack.differences(trained, package.outcome, "aa", ours.outcome) == []
    assert torch.equal(ours.outcome.x_adv, package.outcome.x_adv)
    attacks = ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert list(ours.outcome.seconds) == list(package.outcome.seconds) == attacks
    expected = evaluate(trained.net, trained.split, "aa", trained.threat, batch=20)
    took = list(ours.outcome.took.values())
    assert {name: took.count(name) for name in attacks[1:]} == {a: expected.taken[a] for a in attacks[1:]}
    assert 0 < len(took) < 60


@pytest.mark.usefixtures("short")
def test_the_package_is_called_as_scripts_do_and_its_log_left_as_it_was(trained: Work) -> None:
    logger, seen = logging.getLogger("auto-attack"), []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((trained.net.training, all(p.requires_grad for p in trained.net.parameters()), len(x)))
            logits: Tensor = trained.net(x)
            return logits

    before = logger.level, list(logger.handlers)
    Package(replace(trained, net=Watched()), options("--package-batch", "32")).step()
    assert {flags[:2] for flags in seen} == {(False, True)} and max(size for *_, size in seen) == 32
    assert (logger.level, logger.handlers) == before
    assert any(parameter.grad is not None for parameter in trained.net.parameters())  # what FAB does to them
    autoattack.prepare(trained, tf32=False, ours=False)
    assert all(parameter.grad is None for parameter in trained.net.parameters())


def test_the_seconds_of_the_attacks_are_those_of_the_whole(trained: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr(autoattack.time, "perf_counter", lambda: next(ticks))
    clock = autoattack.Clock()
    clock.begin("apgd-ce")
    clock.begin("square")
    assert clock.seconds() == {"clean": 1.0, "apgd-ce": 2.0, "square": 4.0}


def test_a_differing_verdict_is_told_with_its_side_its_attack_and_the_margin_there(trained: Work) -> None:
    split = trained.split.take(list(range(3)))
    y, x = split.labels.tolist(), split.pixels(slice(None))
    other = [(label + 1) % 10 for label in y]
    package = Outcome([other[0], y[1], other[2]], 1 - x, {})
    ours = Outcome([y[0], other[1], other[2]], x, {}, {1: "fab-t"})
    told = autoattack.differences(replace(trained, split=split), package, "aa", ours)
    with torch.no_grad():
        at = [trained.net(1 - x)[0], trained.net(x)[1]]
    margins = [z[c] - torch.cat([z[:c], z[c + 1 :]]).max() for z, c in zip(at, y, strict=False)]
    assert told == [
        f"image 0: only by package, margin {margins[0].item():.3g}",
        f"image 1: only by aa (fab-t), margin {margins[1].item():.3g}",
    ]


def test_distances_of_a_linear_network_are_exact() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double(), torch.rand(5, 3, 2, 2, dtype=torch.float64)
    y, weight = net(x).argmax(1), net[1].weight
    logits = net(x)
    for i, label in enumerate(y.tolist()):
        others = [k for k in range(4) if k != label]
        exact = min((logits[i, label] - logits[i, k]) / (weight[label] - weight[k]).abs().sum() for k in others)
        assert autoattack.distances(net, x, y)[i].item() == pytest.approx(exact.item(), rel=1e-12)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("model", ["resnet8-tiny", "resnet8"])
def test_of_a_fresh_network_most_points_start_right_and_stay(model: str) -> None:
    given = autoattack.parse(["--model", model, "--n", "24"])
    work = autoattack.work_of(given, CPU)
    verdicts = evaluate(work.net, work.split, "aa:apgd-ce,apgd-t", work.threat, batch=24)
    assert verdicts.taken["clean"] == 0 and 0.5 < verdicts.accuracy < 1
    assert autoattack.work_of(given, CPU).threat == work.threat  # else no row would be found again
    assert autoattack.work_of(replace(given, eps=0.5), CPU).threat.eps == 0.5


def test_a_teacher_is_attacked_on_its_test_images_under_the_usual_threat(tmp_path: Path) -> None:
    net = network(0)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    given = autoattack.parse(["--teacher", f"{tmp_path / 'net.pt'}:resnet8-tiny", "--data", "fake", "--n", "20"])
    work = autoattack.work_of(given, CPU)
    test = load("fake", CPU).test.subset(20, 0)
    assert work.model == "resnet8-tiny" and len(work.weights) == 8
    assert torch.equal(work.split.images, test.images) and torch.equal(work.split.labels, test.labels)
    assert work.threat == Threat(norm="linf", eps=8 / 255) and not work.net.training
    assert all(parameter.requires_grad for parameter in work.net.parameters())
    with pytest.raises(ArdbenchError, match="fake"):
        autoattack.work_of(replace(given, n=10**6), CPU)


def test_a_row_that_is_there_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run: list[str] = []

    def quick(self: Package | Ours) -> None:
        run.append(self.protocol if isinstance(self, Ours) else "package")
        x, y = self.work.split.pixels(slice(None)), self.work.split.labels
        self.outcome = Outcome(y.tolist(), x, dict.fromkeys(autoattack_report.ATTACKS, 1.0))

    for kind in (Package, Ours):
        monkeypatch.setattr(kind, "step", quick)
    for protocols in ("aa", "aa,aa-fast", "aa,aa-fast"):
        autoattack.measure(options("--out", str(tmp_path), "--protocols", protocols), CPU)
    assert run == ["package", "aa", "package", "aa-fast"]
    autoattack.measure(options("--out", str(tmp_path), "--protocols", "aa", "--again", "--repeats", "2"), CPU)
    assert run[4:] == ["package", "aa", "package", "aa"]
    autoattack.measure(options("--out", str(tmp_path), "--protocols", "aa", "--package-batch", "4"), CPU)
    assert run[8:] == ["package", "aa"]  # another package's batch is another row
    rows = autoattack_report.open_table(tmp_path / "autoattack-cpu.csv").rows()
    told = [(row["protocol"], row["package_batch"], row["repeats"]) for row in rows]
    assert told == [("aa-fast", "8", "1"), ("aa", "8", "2"), ("aa", "4", "1")]


@pytest.mark.usefixtures("short")
def test_what_is_done_when_the_time_is_over_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = iter([0.0, 1.0, 1.0, 11.0])
    fake = type("Time", (), {"monotonic": lambda: next(clock), "perf_counter": lambda: 0})
    monkeypatch.setattr(autoattack, "time", fake)
    autoattack.measure(options("--out", str(tmp_path), "--time-limit", "10"), CPU)
    (row,) = autoattack_report.open_table(tmp_path / "autoattack-cpu.csv").rows()
    assert (row["protocol"], row["repeats"], row["weights"], row["n"]) == ("aa", "1", "fresh", "8")
    assert float(row["ratio"]) > 0 and float(row["processor_ratio"]) > 0
    assert 4 < int(row["robust"]) == int(row["package_robust"]) < 8  # in equal batches
    page = (tmp_path / "autoattack-cpu.md").read_text(encoding="utf-8")
    assert "| aa | resnet8-tiny | 8 |" in page and page.endswith("None.\n")


def test_differences_reach_the_page_and_the_batch_is_tuned_once(
    trained: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = autoattack_report.Row.here(CPU, "resnet18", "1a2b3c4d", 60, 8 / 255, 500, 250, False, "aa")
    row.timed(
        [autoattack.Seconds(2, 2), autoattack.Seconds(4, 4)], [autoattack.Seconds(6, 8), autoattack.Seconds(4, 4)],
        dict.fromkeys(autoattack_report.ATTACKS, 0.5), {"clean": 1.0, "apgd-ce": 5.0},  # which left nothing to the rest
    )  # fmt: skip
    row.judged([0, 1, 2], [0, 1, 0], [0, 2, 0], 4)
    row.explained(["image 1: only by package, margin -0.1", "image 7: only by aa (square), margin -1e-05"])
    autoattack_report.open_table(tmp_path / "a.csv").write(row)
    page = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert (
        "| resnet18 (1a2b3c4d) | 60 | 8/255 | 500 | 250 | 3 | 5 | 2.00x [1.00, 3.00], processor 2.50x | 2 | 1 | 2 | 4 |"
        in page
    )
    assert "| 0.50 / 1.00 | 0.50 / 5.00 | 0.50 / - | 0.50 / - | 0.50 / - |" in page
    assert "- aa, resnet18 (1a2b3c4d): image 7: only by aa (square), margin -1e-05\n" in page

    found = []
    monkeypatch.setattr(batch_size, "useful", lambda net, image: found.append(tuple(image.shape)) or 64)
    given = options("--out", str(tmp_path), "--batch", "auto")
    assert [autoattack.tuned(trained, given, CPU) for _ in range(2)] == [64, 64] and found == [(1, 1, 8, 8)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--protocols", "aa,ab"], "unknown protocol 'ab': choose from aa, aa-fast"),
        (["--teacher", "zoo:x", "--model", "resnet18"], "--teacher knows its model: leave out --model"),
        (["--batch", "0"], "argument --batch: 0 is no whole number from 1 on"),
        (["--eps", "8/25x"], "argument --eps: 8/25x is no radius in (0, 1]: give a fraction such as 8/255"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        autoattack.parse(given)
    assert refused.value.code == 2 and said in capsys.readouterr().err
