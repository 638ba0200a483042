"""Networks of timm and torchvision, named wherever ours are: the library's function, our head, files in the library's names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from cli_call import call
from torch import nn

import ardbench
from ardbench import data, models
from ardbench.engine import networks
from ardbench.errors import ArdbenchError
from ardbench.models import library
from ardbench.models.names import split, split_source
from ardbench.progress import Progress
from ardbench.runs import as_file_name

CPU = torch.device("cpu")
FAKE = data.info("fake")
WIDE = replace(FAKE, size=32)


def native(name: str) -> nn.Module:
    torch.manual_seed(3)
    made: nn.Module
    if name.startswith("timm:"):
        made = timm.create_model(name.removeprefix("timm:"), num_classes=10)
    else:
        made = torchvision.models.get_model(name.removeprefix("torchvision:"), num_classes=10)
    return made.eval()


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [
        ("timm:resnet10t", "module."), ("timm:mobilenetv3_small_050", ""), ("timm:convnext_atto", "model.backbone."),
        ("torchvision:resnet18", ""), ("torchvision:mobilenet_v3_small", "_orig_mod."), ("torchvision:regnet_y_400mf", ""),
    ],
)  # fmt: skip
def test_a_librarys_file_gives_the_librarys_function(name: str, wrapped: str, tmp_path: Path) -> None:
    theirs = native(name)
    torch.save(
        {"state_dict": {wrapped + key: tensor for key, tensor in theirs.state_dict().items()}}, tmp_path / "w.pt"
    )
    net = networks.of_file(tmp_path / "w.pt", name, WIDE, CPU)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(x), theirs(x))
        assert torch.equal(net.head(net.features(x)), theirs(x))


def test_classes_channels_and_size_come_from_the_data_set() -> None:
    grey = replace(FAKE, channels=1, num_classes=7, size=16)
    for name in ("timm:vit_tiny_patch16_224?patch_size=4&depth=2", "torchvision:resnet18?stem=small", "timm:resnet10t"):
        assert models.build(name, grey)(torch.rand(2, 1, 16, 16)).shape == (2, 7), name


@pytest.mark.parametrize(
    "name", ["timm:resnet10t", "timm:mobilenetv3_small_050", "torchvision:resnet18", "torchvision:densenet121"]
)
def test_a_small_stem_keeps_the_images(name: str) -> None:
    def side(of: str) -> int:
        with torch.device("meta"):
            net = models.build(of, WIDE).eval()
            seen: list[int] = []
            convs = [one for one in net.modules() if isinstance(one, nn.Conv2d)]
            convs[0].register_forward_hook(lambda *given: seen.append(given[2].shape[-1]))
            net(torch.empty(1, 3, 32, 32))
        return seen[0]

    assert (side(name), side(f"{name}?stem=small")) == (16, 32)
    assert models.build(name, WIDE).notes and not models.build(f"{name}?stem=small", WIDE).notes
    assert not models.build(name, replace(FAKE, size=224)).notes


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnt18", "Unknown network of timm 'resnt18': did you mean 'resnet18'?"),
        ("torchvision:resnet19", "Unknown network of torchvision 'resnet19': did you mean 'resnet18'?"),
        ("timm:resnet18?depht=3", "timm:resnet18?depht=3 cannot be built (TypeError: "),
        ("timm:resnet18?stem", "timm:resnet18?stem: 'stem' is no option: write each once as key=value"),
        ("timm:resnet18?stem=big", "Unknown stem 'big': choose one of: small."),
        ("timm:convnext_atto?stem=small", "does not begin with a convolution of stride 2"),
        ("timm:deit_tiny_distilled_patch16_224", "has 2 heads, and a network here has one"),
        ("torchvision:squeezenet1_0", "classifies by no linear layer, and a network here by a single linear layer"),
        ("torchvision:alexnet", "torchvision:alexnet takes no images of 3x8x8 (RuntimeError: "),
        ("timm:", "'timm:' names no network: give one such as timm:resnet18."),
        ("tim:resnet18", "Unknown model 'tim:resnet18': did you mean 'resnet18'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_student_is_one_sentence(name: str, said: str, tmp_path: Path) -> None:
    result = call("train", "pgd-at-digits", "--dataset", "fake", "--student", name, "--runs", tmp_path / "runs")
    assert result.exit_code == 2 and said in result.stderr and not list(tmp_path.glob("runs/*")), result.stderr


@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_a_network_with_several_outputs_is_refused_with_the_option_that_leaves_one() -> None:
    with pytest.raises(ArdbenchError, match="gives GoogLeNetOutputs, which is no tensor, for 2 images"):
        library.check("torchvision:googlenet", WIDE)
    library.check("torchvision:googlenet?aux_logits=false", WIDE)


def test_a_network_that_begins_with_nan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.LibraryNetwork, "features", lambda self, x: x.new_full((len(x), 512), torch.nan))
    with pytest.raises(ArdbenchError, match="not finite before any training"):
        networks.fresh("timm:resnet10t", "fake", False, 0, "student", CPU)


def test_names_are_taken_apart_where_files_and_options_meet() -> None:
    assert split_source("a:b.pt:timm:resnet18?stem=small") == ("a:b.pt", "timm:resnet18?stem=small")
    assert split_source("w.pt:resnet18") == ("w.pt", "resnet18")
    assert split("timm:n?a=1&b=0.5&c=true&d=word") == ("timm", "n", {"a": 1, "b": 0.5, "c": True, "d": "word"})
    assert as_file_name("timm:resnet18?stem=small&a=1") == "timm-resnet18-stem-small-a-1"
    assert as_file_name("wrn-28-10") == "wrn-28-10"


def test_one_is_trained_distilled_measured_exported_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sets = {"data.train_images": 64, "data.validation": 20, "attack.steps": 1, "selection.protocol": "fgsm"}
    words: dict[str, Any] = {"dataset": "fake", "epochs": 1, "set": sets, "device": "cpu", "progress": Progress()}
    teacher = ardbench.train("pgd-at-digits", student="timm:resnet10t?stem=small", **words)
    assert teacher.path.name.startswith("pgd-at-digits-fake-timm-resnet10t-stem-small-s0-")
    torch.save(native("timm:mobilenetv3_small_050").state_dict(), "w.pt")
    for source in (teacher, "w.pt:timm:mobilenetv3_small_050", "robust=w.pt:timm:mobilenetv3_small_050?drop_rate=0.1"):
        student = ardbench.distill("rslad-digits", student="torchvision:mobilenet_v3_small", teachers=[source], **words)
    found = ardbench.evaluate(student, protocols=["clean"], checkpoints=["last"])
    assert call("export", f"{student.path}@last", "--out", "out").exit_code == 0
    again = ardbench.evaluate("out", protocols=["clean"], device="cpu")
    assert (again.robust["clean"] == found.robust["clean"]).all()
    assert ardbench.load("out").name == "torchvision:mobilenet_v3_small"
    measured = ardbench.evaluate("w.pt:timm:mobilenetv3_small_050", "fake", protocols=["clean"], n=20, device="cpu")
    assert measured.subject.folder.name.endswith("-timm-mobilenetv3_small_050-fake")


def test_models_of_a_library_are_listed_by_a_pattern() -> None:
    rows = json.loads(call("list", "models", "timm:mobilenetv3_small_0*", "--dataset", "cifar10", "--json").stdout)[
        "models"
    ]
    assert [row["name"] for row in rows] == ["timm:mobilenetv3_small_050", "timm:mobilenetv3_small_075"]
    theirs = sum(one.numel() for one in native("timm:mobilenetv3_small_050").parameters())
    assert rows[0]["parameters"] == theirs
    assert [row["name"] for row in json.loads(call("list", "models", "resnet*8", "--json").stdout)["models"]] == [
        "resnet8", "resnet18",
    ]  # fmt: skip
    assert "Unknown network of timm 'nothing*'" in call("list", "models", "timm:nothing*").stderr
    assert "is a pattern for `list models`" in call("list", "suites", "digits*").stderr
