"""`ardbench identify` finds the architecture and the normalisation of a file's network, or says that it cannot."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_call import call
from probed import CPU, DIGITS, by, correct, probed
from torch import nn

from ardbench import models
from ardbench.data.load import load
from ardbench.evaluation.identify import identify, reversed_channels
from ardbench.models.network import Network
from ardbench.verbs.identifying import said_of

WAYS: dict[str, nn.Module | None] = {
    "none": None, "digits": by(DIGITS.mean[0], DIGITS.std[0]), "half": by(0.5, 0.5), "x255": by(0, 1 / 255),
}  # fmt: skip


def looked(path: Path, *words: object) -> dict[str, Any]:
    result = call("identify", path, "--dataset", "digits", "--device", "cpu", "--json", *words)
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def saved(net: Network, path: Path, prefix: str = "") -> Path:
    torch.save({f"{prefix}{key}": tensor for key, tensor in net.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("model", ["resnet8", "vit-micro"])
@pytest.mark.parametrize("way", WAYS)
def test_what_the_network_was_made_with_is_found_and_typed(model: str, way: str, tmp_path: Path) -> None:
    net = probed(model, WAYS[way])
    path = saved(net, tmp_path / "net.pt")
    found = looked(path)
    best = found["candidates"][0]
    assert (best["architecture"], best["normalisation"], best["fits"]) == (model, way, True)
    assert round(best["clean"] * 360) == correct(net) and found["n"] == 360
    assert (best["running_statistics"] is None) == (model == "vit-micro")
    words = shlex.split(found["next"])
    assert words[:2] == ["ardbench", "eval"]
    result = call(*words[1:], "--protocol", "clean", "--device", "cpu", "--json", "--runs", tmp_path / "runs")
    assert round(json.loads(result.stdout)["results"][0]["accuracy"] * 360) == correct(net)


def test_two_architectures_of_the_same_shapes_are_told_apart(tmp_path: Path) -> None:
    found = looked(saved(probed("preactresnet18-fast"), tmp_path / "net.pt", "module."), "--n", 100)
    assert {one["architecture"] for one in found["candidates"]} == {"preactresnet18", "preactresnet18-fast"}
    best = found["candidates"][0]
    assert (best["architecture"], best["normalisation"]) == ("preactresnet18-fast", "none")
    assert not any(one["fits"] for one in found["candidates"] if one["architecture"] == "preactresnet18")


def test_numbers_in_the_file_are_tried_and_need_no_word(tmp_path: Path) -> None:
    net = probed("resnet8", by(0.2, 0.4))
    state = {f"1.{key}": tensor for key, tensor in net.state_dict().items()}
    torch.save(state | {"0.mean": torch.tensor([0.2]), "0.std": torch.tensor([0.4])}, tmp_path / "net.pt")
    found = looked(tmp_path / "net.pt")
    assert found["candidates"][0]["normalisation"] == "the file's" and "--mean" not in found["next"]
    torch.save(state | {"0.mean": torch.tensor([0.9]), "0.std": torch.tensor([0.05])}, tmp_path / "net.pt")
    assert looked(tmp_path / "net.pt")["candidates"][0]["normalisation"] != "the file's"


def test_labels_in_another_order_fit_nothing(tmp_path: Path) -> None:
    net = probed("resnet8")
    state = net.state_dict() | {
        f"head.{name}": net.state_dict()[f"head.{name}"].roll(1, 0) for name in ("weight", "bias")
    }
    torch.save(state, tmp_path / "net.pt")
    found = looked(tmp_path / "net.pt")
    assert found["next"] is None and found["says"][0].startswith("Nothing fits")
    said = call("identify", tmp_path / "net.pt", "--dataset", "digits", "--device", "cpu")
    assert "Nothing fits" in said.stdout and "Next:" not in said.stdout and said.exit_code == 0


def test_what_cannot_be_told_apart_is_said(tmp_path: Path) -> None:
    net = probed("vit-micro")
    found = looked(saved(net, tmp_path / "net.pt"), "--n", 10)  # ten images tell little
    others = found["candidates"][1:]
    alike = [one for one in others if one["fits"]]
    assert bool(alike) == any(text.startswith("Ambiguous") for text in found["says"])
    assert alike and alike[0]["normalisation"] in found["says"][0]


def test_a_part_is_looked_at_alone_and_a_strangers_network_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "two.pt"
    torch.save({"a": probed("resnet8").state_dict(), "b": probed("resnet8", by(0.5, 0.5), 1).state_dict()}, path)
    for words in ((f"{path}#b",), (path, "--part", "b")):
        found = looked(*words)  # type: ignore[arg-type]
        assert found["candidates"][0]["normalisation"] == "half" and "--part b" in found["next"]
    torch.save({"stem.weight": torch.zeros(3, 3), "stem.bias": torch.zeros(3)}, tmp_path / "odd.pt")
    said = call("identify", tmp_path / "odd.pt", "--dataset", "digits", "--device", "cpu")
    assert said.exit_code == 2 and "names and shapes of no architecture of ardbench on digits" in said.stderr


def test_colours_in_reverse_order_are_looked_at_and_told(tmp_path: Path) -> None:
    split = load("fake", CPU).test
    net = models.build("resnet8-tiny", split.info).eval()
    best = next(one for one in identify(saved(net, tmp_path / "net.pt"), split) if one.label == "none")
    turned = reversed_channels(tmp_path / "net.pt", split, best)
    with torch.no_grad():
        right = int((net(split.pixels(slice(None)).flip(1)).argmax(1) == split.labels).sum())
    assert turned.correct == right
    for count, told in ((60, True), (20, False)):
        said = said_of([replace(best, correct=20, gap=0.3)], replace(turned, correct=count))
        assert said[0].startswith("With colours in reverse order (BGR) it is right on 93.8 %") == told


@pytest.mark.data
def test_the_network_of_pyautoattack_sees_pixels_as_they_are(data_root: Path) -> None:
    from ardbench.models import zoo

    path = zoo.entry("zoo:clean-resnet18-cifar10").path
    words = ("--dataset", "cifar10", "--n", 50, "--data-root", data_root, "--device", "cpu", "--json")
    found = json.loads(call("identify", path, *words).stdout)
    best, second = found["candidates"][:2]
    assert (best["architecture"], best["normalisation"], best["fits"]) == ("resnet18", "none", True)
    assert best["running_statistics"] < 0.1 and second["running_statistics"] > 1 and not second["fits"]
