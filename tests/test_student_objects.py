"""Students that a caller of Python gives as networks: trained, resumed, measured and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cli_call import call
from safetensors.torch import load_file
from torch import Tensor, nn

import ardbench
from ardbench import data, models
from ardbench.errors import ArdbenchError
from ardbench.models import objects
from ardbench.progress import Progress
from ardbench.runs import Run

SHORT: dict[str, Any] = {
    "data.train_images": 96, "data.batch": 32, "attack.steps": 1, "selection.protocol": "clean", "data.validation": 32,
}  # fmt: skip


class Plain(nn.Module):
    """A network that is none of ours."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.out = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.norm(self.conv(x)).relu().mean((2, 3)))
        return logits


def plain(seed: int = 0, classes: int = 10) -> Plain:
    torch.manual_seed(seed)
    return Plain(classes)


def trained(net: nn.Module, runs: Path, **words: Any) -> Run:
    told = {"epochs": 1, "set": SHORT} | words
    return ardbench.train("pgd-at", dataset="fake", student=net, runs=runs, progress=Progress(), **told)


def test_a_network_is_trained_from_its_weights_and_left_alone(tmp_path: Path) -> None:
    net, same = plain(), plain()
    run = trained(net, tmp_path, set=SHORT | {"optimizer.lr": 1e-30, "optimizer.weight_decay": 0})
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), same.state_dict().values(), strict=True))
    assert net.training and objects.identity(net) == run.config["recipe"]["start"]["identity"]
    weights = load_file(run.weights("last"))
    assert all(torch.allclose(weights[name], value, 0, 1e-20) for name, value in net.named_parameters()), "tiny steps"
    assert weights["norm.num_batches_tracked"] > 0
    assert run.recipe.student == "object:test_student_objects.Plain" and ":" not in run.path.name
    assert trained(plain(), tmp_path).path == trained(plain(), tmp_path).path != trained(plain(1), tmp_path).path


def test_it_goes_on_with_the_same_network(tmp_path: Path) -> None:
    whole = trained(plain(), tmp_path / "a", epochs=2)
    part = trained(plain(), tmp_path / "b", epochs=2, time_limit=1e-9)
    assert part.done is None
    while part.done is None:
        part = trained(plain(), tmp_path / "b", epochs=2)
    a, b = load_file(whole.weights("last")), load_file(part.weights("last"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_it_learns_from_teachers_and_is_measured(tmp_path: Path) -> None:
    torch.manual_seed(1)
    teacher = models.build("resnet8-tiny", data.info("fake")).eval()
    words = {"dataset": "fake", "teachers": [teacher], "epochs": 1, "runs": tmp_path, "progress": Progress()}
    run = ardbench.distill("rslad", student=plain(), set=SHORT, **words)
    assert run.done and run.teachers_checked
    found = ardbench.evaluate(run, model=plain(5), protocols=["clean"], checkpoints=["last"], progress=Progress())
    net = plain(7)
    net.load_state_dict(load_file(run.weights("last")))
    by_hand = ardbench.evaluate(net, "fake", protocols=["clean"], runs=tmp_path / "else", progress=Progress())
    assert found.table["accuracy"][0] == by_hand.table["accuracy"][0]
    assert (run.path / "eval/last/clean.json").is_file()
    assert call("report", run.path).exit_code == 0 and call("status", run.path).exit_code == 0
    page = call("report", run.path, "--html", tmp_path / "page.html")
    assert page.exit_code == 0, page.output
    taught = ("distill", "rslad-digits", "--set", "data.name=fake", "--teacher", run.path, "--runs", tmp_path / "x")
    for line in (("eval", run.path), ("export", run.path, "--out", tmp_path / "out"), taught):
        refused = call(*line)
        assert refused.exit_code == 2 and "of Python, of class test_student_objects.Plain, which" in refused.output
    assert not (tmp_path / "out").exists() and not list((tmp_path / "x").glob("*"))


def test_what_cannot_be_a_student_is_one_sentence(tmp_path: Path) -> None:
    run = trained(plain(), tmp_path)
    with pytest.raises(ArdbenchError, match=r"gives \(2, 12\) for 2 images: a network gives logits \(2, 10\)"):
        trained(plain(classes=12), tmp_path)
    with pytest.raises(ArdbenchError, match="begins with its own weights: leave out init"):
        trained(plain(), tmp_path, init=run)
    with pytest.raises(ArdbenchError, match="darht looks inside its student, at features and head"):
        ardbench.distill("darht", dataset="fake", student=plain(), teachers=[plain()], runs=tmp_path)
    with pytest.raises(ArdbenchError, match="is a network object, which a longer run cannot ask for"):
        ardbench.train(extend=run, epochs=4, runs=tmp_path)
    with pytest.raises(ArdbenchError, match=r"linear\.Linear was given: give one of its class"):
        ardbench.evaluate(run, model=nn.Linear(3, 4), protocols=["clean"], progress=Progress())
    with pytest.raises(ArdbenchError, match="do not fit the network that was given"):
        ardbench.evaluate(run, model=plain(classes=3), protocols=["clean"], progress=Progress())
    assert len(list(tmp_path.iterdir())) == 1, "what is refused leaves nothing"
