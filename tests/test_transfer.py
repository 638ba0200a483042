"""Transfer between teachers, against linear networks whose worst point is known, and the command around it."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_call import call
from small import CPU
from torch import Tensor, nn

from ardbench.config import Threat
from ardbench.data import DATASETS
from ardbench.data.batches import Split
from ardbench.data.load import load
from ardbench.engine.networks import of_teacher
from ardbench.errors import ArdbenchError
from ardbench.evaluation.matrix import Question, Transfer, best_set, mean_rate
from ardbench.evaluation.statistics import wilson
from ardbench.evaluation.transfer import transfer
from ardbench.recipes import resolve
from ardbench.reports.transfer import Matrix
from ardbench.runs import Teacher
from ardbench.teachers import locate

LINF, NARROW = Threat(norm="linf", eps=0.1), Threat(norm="linf", eps=0.03)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what is measured is kept in ./runs


class Linear(nn.Module):
    """Two classes: the second one where w (x - 1/2) + b > 0."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.head = nn.Linear(64, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.stack([-weight, weight]) / 2)
            offset = bias / 2 - self.head.weight[1].sum() / 2
            self.head.bias.copy_(torch.stack([-offset, offset]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


def linear(seed: int, bias: float = 0.0) -> Linear:
    return Linear(torch.randn(64, generator=torch.Generator().manual_seed(seed)), bias)


def images(n: int = 300) -> Split:
    source = torch.Generator().manual_seed(9)
    pixels = torch.randint(0, 256, (n, 1, 8, 8), generator=source, dtype=torch.uint8)
    return Split(pixels, torch.randint(0, 2, (n,), generator=source), torch.arange(n), DATASETS["digits"])


def worst(net: Linear, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return the one point of ball and box at which the loss of a linear network is highest."""
    direction = (net.head.weight[1 - y] - net.head.weight[y]).sign().view_as(x)
    return (x + eps * direction).clamp(0, 1)


def test_every_count_of_linear_networks_is_the_closed_form() -> None:
    """The third has a bias that the ball cannot overcome: its examples fool it never, and count all the same."""
    nets, split, threat = [linear(0), linear(1), Linear(linear(0).head.weight[1], bias=5.0)], images(), NARROW
    x, y = split.pixels(slice(None)), split.labels
    found = transfer(nets, split, threat, batch=70)
    for i, source in enumerate(nets):
        right = source(x).argmax(1) == y
        said = [net(worst(source, x[right], y[right], threat.eps)).argmax(1) for net in nets]
        assert found.right[i] == int(right.sum())
        assert found.fooled[i] == tuple(int((one != y[right]).sum()) for one in said)
    assert found.fooled[2][2] == 0
    unattacked = int((nets[0](x[y == 1]).argmax(1) != 1).sum())
    assert found.right[2] == int((y == 1).sum()) and found.fooled[2][0] > unattacked
    assert found.rates[0][1] == found.fooled[0][1] / found.right[0]


def test_what_ignores_the_image_is_never_fooled_and_a_copy_is_as_its_original() -> None:
    deaf, split = Linear(torch.zeros(64), bias=1.0), images()
    found = transfer([linear(0), linear(0), deaf], split, LINF)
    y, right = split.labels, linear(0)(split.pixels(slice(None))).argmax(1) == split.labels
    assert found.fooled[0] == found.fooled[1] and found.fooled[0][0] == found.fooled[0][1] > 0
    assert found.fooled[0][2] == int((right & (y == 0)).sum())  # it says 1 of whatever it is shown
    assert found.right[2] == int((y == 1).sum()) and found.fooled[2][2] == 0


def test_without_a_ball_only_the_errors_on_clean_images_are_left() -> None:
    nets, split = [linear(0), linear(1)], images()
    right = [net(split.pixels(slice(None))).argmax(1) == split.labels for net in nets]
    found = transfer(nets, split, Threat(norm="linf", eps=0))
    assert found.fooled == ((0, int((right[0] & ~right[1]).sum())), (int((right[1] & ~right[0]).sum()), 0))


def test_l2_moves_away_from_the_boundary_by_eps() -> None:
    """Inside the box an example is fooled where |w (x - 1/2)| < eps ||w||, and a copy with it."""
    net, split, eps = linear(0), images(), 0.4
    inside = Split(split.images // 2 + 64, split.labels, split.index, split.info)
    x, y = inside.pixels(slice(None)).double().flatten(1), inside.labels
    weight = 2 * net.head.weight[1].double()
    margin = (2 * y - 1) * ((x - 0.5) @ weight) / weight.norm()
    assert ((margin - eps).abs() > 1e-4).all()
    found = transfer([net, linear(0)], inside, Threat(norm="l2", eps=eps))
    assert found.fooled[0] == (int(((margin > 0) & (margin < eps)).sum()),) * 2


def test_a_seed_decides_the_noise_and_everything_is_put_back() -> None:
    torch.manual_seed(3)
    nets = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 2))
        for _ in range(2)
    ]
    nets[0][1].weight.requires_grad_(False)
    split, before = images(600), torch.get_rng_state()
    flags = [[p.requires_grad for p in net.parameters()] for net in nets]
    first, again, other = (transfer(nets, split, LINF, steps=2, batch=100, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())
    assert flags == [[p.requires_grad for p in net.parameters()] for net in nets]
    assert all(module.training for net in nets for module in net.modules())
    assert all(p.grad is None for net in nets for p in net.parameters())


def test_a_teacher_that_is_never_right_and_a_hostile_attack_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    split = images()
    ones = split.take((split.labels == 1).nonzero().flatten().tolist())
    with pytest.raises(ArdbenchError, match="Teacher 2 classifies none of the"):
        transfer([linear(0), Linear(torch.zeros(64), bias=-1.0)], ones, LINF)
    attack = "pyautoattack.autopgd_base.APGDAttack.perturb"
    monkeypatch.setattr(attack, lambda self, x, y, best_loss: (x + 0.11).clamp(0, 1))
    with pytest.raises(ArdbenchError, match="apgd-ce left the linf ball"):
        transfer([linear(0), linear(1)], split, LINF)


SIXTEENTHS = [[15, 8, 3, 10], [4, 15, 6, 2], [9, 6, 15, 3], [3, 5, 9, 15]]
"""Sums of pairs: 01 12, 02 12, 03 13, 12 12, 13 7, 23 12; of triples: 012 36, 013 32, 023 37, 123 31; of all 68."""


def test_the_set_with_the_lowest_mean_worked_out_by_hand() -> None:
    rates = [[value / 16 for value in row] for row in SIXTEENTHS]
    assert best_set(rates, 2) == (1, 3) and mean_rate(rates, (1, 3)) == 3.5 / 16
    assert best_set(rates, 3) == (1, 2, 3) and mean_rate(rates, (1, 2, 3)) == 31 / 6 / 16
    assert best_set(rates, 4) == (0, 1, 2, 3) and mean_rate(rates, range(4)) == 68 / 12 / 16
    assert best_set([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]], 2) == (0, 1)


def test_rows_are_sources_in_every_dress_and_names_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("ardbench.reports.transfer.save", lambda figure, path: drawn.append(figure) or [])
    teachers = tuple(Teacher(source, "robust", "", "", "", "ab") for source in ("x/net", "y/net"))
    question = Question(teachers, "fake", LINF, 100)
    matrix = Matrix(question, Transfer((4, 10), ((3, 1), (2, 9))), 2)
    assert (matrix.chosen, matrix.mean) == ((0, 1), pytest.approx(0.225))
    matrix.write(tmp_path / "transfer")
    (axes,) = drawn[0].axes
    assert axes.images[0].get_array().tolist() == [[75, 25], [20, 90]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1 x/net", "2 y/net"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("crafted on", "misclassified by")
    rows = [[entry.text for entry in row.entries] for row in matrix.table().rows]
    assert rows == [["1 x/net", "4", "(75.0)", "25.0"], ["2 y/net", "10", "20.0", "(90.0)"]]
    pairs = [(row["source"], row["target"], row["fooled"]) for row in matrix.rows()]
    assert pairs == [("x/net", "x/net", 3), ("x/net", "y/net", 1), ("y/net", "x/net", 2), ("y/net", "y/net", 9)]


LEARNT = "--epochs 6 --dataset fake --set data.batch=32 --set data.validation=0 --set selection.by=last"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run and two files that know a little: what is typed."""
    folder, runs = tmp_path_factory.mktemp("transfer"), []
    for recipe in ("pgd-at-digits --set attack.steps=1", "standard-digits", "standard-digits --seed 1"):
        words = shlex.split(f"train {recipe} {LEARNT} --device cpu --runs {folder}")
        runs.append(call(*words).stdout.splitlines()[0])
    for run in runs[1:]:
        Path(f"{run}.safetensors").write_bytes((Path(run) / "last.safetensors").read_bytes())
    return [runs[0], *(f"{run}.safetensors:resnet8-tiny" for run in runs[1:])]


def measured(*words: object) -> dict[str, Any]:
    result = call("transfer", *words, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_data_set_and_threat_are_those_of_the_run_and_the_counts_those_of_the_networks(sources: list[str]) -> None:
    document = measured(*reversed(sources), "--batch", 30, "--n", 50)
    threat = resolve("pgd-at-digits").evaluation
    assert (document["dataset"], document["threat"]) == ("fake", threat.model_dump(mode="json"))
    teachers = [locate(source) for source in reversed(sources)]
    assert document["teachers"] == [vars(teacher) for teacher in teachers]
    split = load("fake", CPU).test.subset(50, 0)
    assert len({row["rate"] for row in document["pairs"]}) > 3
    found = transfer([of_teacher(one, "fake", CPU) for one in teachers], split, threat, batch=30)
    assert [pair["n"] for pair in document["pairs"]] == [n for n in found.right for _ in range(3)]
    assert [pair["fooled"] for pair in document["pairs"]] == [count for row in found.fooled for count in row]


def test_the_files_hold_what_is_printed(sources: list[str], tmp_path: Path) -> None:
    document = measured(*sources, "--eps", "4/255", "--out", tmp_path)
    with (tmp_path / "transfer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row.values()) for row in rows] == [[str(value) for value in row.values()] for row in document["pairs"]]
    rates = [[document["pairs"][3 * i + j]["rate"] for j in range(3)] for i in range(3)]
    for row in document["pairs"]:
        assert row["rate"] == row["fooled"] / row["n"] and (row["low"], row["high"]) == wilson(row["fooled"], row["n"])
    chosen = best_set(rates, 2)
    assert document["chosen"] == [sources[i] for i in chosen] and document["mean"] == mean_rate(rates, chosen)
    assert len({row["rate"] for row in rows}) > 6
    text = " ".join((tmp_path / "transfer.md").read_text().split())
    assert f"| ({100 * rates[0][0]:.1f}) [" in text and f"| {100 * rates[0][1]:.1f} [" in text
    assert document["teachers"][0]["sha256"] in text


def test_the_table_shows_the_matrix_and_names_the_set(sources: list[str]) -> None:
    words = [*sources, "--size", 3, "--n", 40, "--eps", "4/255"]
    result, document = call("transfer", *words, "--device", "cpu", "--quiet"), measured(*words)
    lines = [line.split() for line in result.stdout.splitlines()]
    for i in range(3):
        pairs = document["pairs"][3 * i : 3 * i + 3]
        cells = [f"{100 * row['rate']:.1f}" for row in pairs]
        cells[i] = f"({cells[i]})"
        assert next(line for line in lines if line[0] == str(i + 1))[2:] == [str(pairs[0]["n"]), *cells]
    assert "40 images, linf, eps 4/255" in result.stdout
    mean = sum(row["rate"] for row in document["pairs"] if row["source"] != row["target"]) / 6
    assert f"{100 * mean:.1f} % over its ordered pairs" in result.stdout.splitlines()[-1]


def test_a_second_call_measures_nothing_and_gives_the_same_files(
    sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*sources, "--n", 30, "--runs", tmp_path]
    first = measured(*words, "--out", tmp_path / "a")["files"]
    monkeypatch.setattr("ardbench.evaluation.transfer.transfer", None)
    again = measured(*words, "--out", tmp_path / "b")["files"]
    assert "commit" in (tmp_path / "a" / "transfer.md").read_text()
    assert sorted(Path(file).suffix for file in first) == [".csv", ".md", ".pdf", ".png", ".svg"]
    for one, other in zip(first, again, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()


def test_a_suite_stands_for_its_teachers_each_once_and_measures_them_itself_when_asked(tmp_path: Path) -> None:
    sets = "set = { schedule.epochs = 1, data.train_images = 64, data.validation = 20, attack.steps = 1 }"
    suite = tmp_path / "two.toml"
    suite.write_text(
        'title = "Two"\ndataset = "fake"\nseeds = [0, 1]\nprotocols = ["clean"]\ntransfer = { size = 2, n = 40 }\n'
        f'[[runs]]\nname = "a"\nrecipe = "pgd-at-digits"\n{sets}\n'
        f'[[runs]]\nname = "b"\nrecipe = "standard-digits"\n{sets}\n'
        f'[[runs]]\nname = "c"\nrecipe = "darht-digits"\nteachers = ["a", "b"]\n{sets}\n'
        f'[[runs]]\nname = "d"\nrecipe = "rslad-digits"\nteachers = ["b"]\n{sets}\n'
    )
    runs, out = ["--runs", tmp_path], tmp_path / "out"
    assert "Teacher a of the suite is not there yet: type ardbench reproduce" in call("transfer", suite, *runs).stderr
    done = [call("reproduce", suite, *runs, "--device", "cpu", "--jobs", 1, "--out", out) for _ in range(2)]
    assert [result.exit_code for result in done] == [0, 0], done[0].output
    assert ["Measured before" in result.stderr for result in done] == [False, True]
    document = measured(suite, *runs, "--n", 40, "--out", tmp_path / "again")
    assert [teacher["source"] for teacher in document["teachers"]] == ["a", "b"]
    for ending in ("csv", "md", "png", "svg"):
        again = tmp_path / "again" / f"transfer.{ending}"
        assert (out / f"two-transfer.{ending}").read_bytes() == again.read_bytes()


def test_a_suite_cannot_choose_more_teachers_than_it_has(tmp_path: Path) -> None:
    suite = tmp_path / "one.toml"
    suite.write_text(
        'title = "One"\nprotocols = ["clean"]\ntransfer = { size = 2 }\n'
        'runs = [{ name = "a", recipe = "pgd-at-digits" }, { name = "b", recipe = "rslad-digits", teachers = ["a"] }]\n'
    )
    result = call("reproduce", suite, "--dry-run")
    assert result.exit_code == 2 and "transfer.size is 2, but the runs name 1 in all as teachers" in result.stderr


def test_robustbench_is_asked_for_the_data_set_and_the_norm(
    sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def absent(name: str, dataset: str) -> None:
        asked.append((name, dataset))
        raise ArdbenchError("absent")

    monkeypatch.setattr("ardbench.models.robustbench.load", absent)
    call("transfer", "robustbench:One", sources[1], "--dataset", "cifar10", "--norm", "l2", "--eps", "0.5")
    call("transfer", "robustbench:Two", "zoo:clean-resnet18-cifar10")
    assert asked == [("L2/One", "cifar10"), ("Linf/Two", "cifar10")]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{run}", "--size 2 needs as many different teachers, but 1 was named: name more"),
        ("{run} {run}", "but 1 was named"),
        ("{run} {a} --size 3", "--size 3 needs as many different teachers, but 2 were named"),
        ("{a} {b}", "No teacher says what it was trained on: give --dataset"),
        ("{a} {b} --dataset fakes", "Unknown data set 'fakes'"),
        ("{run} {a} --norm l2", "--norm l2 needs --eps with it"),
        ("{run} {a} --eps 8", "give a fraction such as 8/255"),
        ("{run} {a} --n 1000000", "is more than the"),
        ("{run} nowhere", "Teacher 'nowhere' is no run directory"),
        ("{run} {a} --dataset digits", "was trained on fake"),
        ("", "Missing argument"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_one_sentence(line: str, sentence: str, sources: list[str]) -> None:
    run, a, b = sources
    result = call("transfer", *shlex.split(line.format(run=run, a=a, b=b)), "--device", "cpu", "--quiet")
    assert result.exit_code == 2 and sentence in result.stderr, result.output
    assert next(text for text in result.stderr.splitlines() if not text.startswith("Device: ")).startswith("Error: ")
