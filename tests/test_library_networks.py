"""Networks of timm and torchvision, named wherever ours are: the library's function, our head, files in the library's names."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from cli_call import call
from safetensors.torch import save_file
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional as F

import ardbench
from ardbench import data, models, processes
from ardbench.attacks.form import FastForm, activates, folds
from ardbench.config import Precision
from ardbench.engine import networks
from ardbench.engine.distribution import GlobalBatchNorm2d, synchronise
from ardbench.errors import ArdbenchError
from ardbench.models import library, names
from ardbench.models.cost import cost
from ardbench.models.names import split, split_source
from ardbench.models.normalisation import NAMED
from ardbench.progress import Progress
from ardbench.runs import as_file_name, sha256_of
from ardbench.teachers import resolve_teachers

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


def test_images_in_patches_have_a_note_of_their_own() -> None:
    (note,) = models.build("timm:test_vit", WIDE).notes
    assert "timm:test_vit?patch_size=4 keeps more of them" in note
    assert not models.build("timm:test_vit?patch_size=4", WIDE).notes


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnt18", "Unknown network of timm 'resnt18': did you mean 'resnet18'?"),
        ("torchvision:resnet19", "Unknown network of torchvision 'resnet19': did you mean 'resnet18'?"),
        ("timm:resnet18?stem_typ=x", "Unknown option of timm:resnet18: 'stem_typ': did you mean 'stem_type'?"),
        ("timm:resnet18?checkpoint_path=w.pt", "Unknown option of timm:resnet18: 'checkpoint_path'"),
        ("timm:resnet18?num_classes=3", "timm:resnet18: num_classes comes from the data set: leave it out"),
        ("timm:resnet18?drop_rate=0.1", "draws random numbers, which a run that is resumed could not draw again"),
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


def test_nothing_of_a_network_is_drawn_while_it_trains() -> None:
    name = "torchvision:mobilenet_v3_small"
    net, x = models.build(name, WIDE).train(), torch.rand(4, 3, 32, 32)
    assert any("without its dropout" in note for note in net.notes)
    said = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        said.append(net(x))
    assert torch.equal(*said)
    theirs = torchvision.models.get_model(name.removeprefix("torchvision:"), num_classes=10).train()
    assert not torch.equal(theirs(x), theirs(x)), "it would draw otherwise"


def test_resnet18_with_a_small_stem_is_ours_with_a_weight_for_a_weight() -> None:
    """Two ways to the ResNet-18 of CIFAR papers: torchvision's with a small stem, and the one that is written here."""
    ours, theirs = (
        models.build("resnet18", WIDE).double(),
        models.build("torchvision:resnet18?stem=small", WIDE).double(),
    )
    state = {key.removeprefix("body."): tensor for key, tensor in theirs.state_dict().items()}
    ours.load_state_dict({key.replace("downsample", "shortcut"): tensor for key, tensor in state.items()})
    x = torch.rand(4, 3, 32, 32).double()
    assert torch.allclose(ours.train()(x), theirs.train()(x), rtol=1e-10)
    assert cost("torchvision:resnet18?stem=small", WIDE) == cost("resnet18", WIDE)


def test_macs_of_a_transformer_are_those_of_its_equations() -> None:
    width, depth, tokens, pixels = 64, 6, 1 + 16, 3 * 8 * 8  # of timm's test_vit on 32x32 in patches of 8
    block = 3 * tokens * width**2 + 2 * tokens**2 * width + tokens * width**2 + 2 * 3 * tokens * width**2
    wanted = 16 * pixels * width + depth * block + width * 10
    assert cost("timm:test_vit?patch_size=8", WIDE).macs == wanted


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
    for source in (teacher, "w.pt:timm:mobilenetv3_small_050", "robust=w.pt:timm:mobilenetv3_small_050?drop_rate=0"):
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
    (small,) = json.loads(call("list", "models", "torchvision:resnet18?stem=small", "--json").stdout)["models"]
    assert (small["parameters"], small["MACs"]) == (11_173_962, 555_422_720)  # of our resnet18
    assert "Unknown network of timm 'nothing*'" in call("list", "models", "timm:nothing*").stderr
    assert "is a pattern for `list models`" in call("list", "suites", "digits*").stderr


QUICK = [
    "test_resnet", "test_efficientnet", "resnet10t", "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "regnetx_002",
    "ghostnet_050", "tinynet_e", "lcnet_035", "cs3darknet_focus_s", "hardcorenas_a", "shvit_s1",
]  # fmt: skip
"""Families of timm, each by a small network, all of whose BatchNorms are folded."""
LARGER = [
    "mobilenetv2_035", "efficientnet_lite0", "regnety_002", "hrnet_w18_small", "res2net50_14w_8s", "resnest14d", "selecsls42",
    "rexnet_100", "mnasnet_small", "fbnetc_100", "gernet_s", "ese_vovnet19b_dw", "xception41", "skresnet18", "fasternet_t0",
    "legacy_seresnet18", "hgnetv2_b0", "semnasnet_050", "tresnet_m", "darknet17", "seresnet33ts",
]  # fmt: skip
PARTLY = ["densenet121", "mobileone_s0", "repvgg_a0", "repghostnet_050", "starnet_s1", "inception_next_atto"]
"""Where BatchNorms stand before convolutions, or alone."""
NOT = ["tf_mobilenetv3_small_minimal_100", "vgg11_bn", "mobilevit_xxs", "convmixer_768_32"]
"""Convolutions that pad by the image's size, control flow on sizes, and activations before BatchNorm."""


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in (*LARGER, *PARTLY, *NOT))]
)
def test_a_family_of_timm_is_folded_to_the_same_function(name: str) -> None:
    net = models.build(f"timm:{name}", replace(FAKE, size=64)).double().train()
    with torch.no_grad():
        for _ in range(2):
            net(torch.rand(4, 3, 64, 64).double())  # running statistics that are not the initial ones
    form, x = (
        FastForm(net.eval(), bf16=False, precision=Precision()),
        torch.rand(2, 3, 64, 64).double().requires_grad_(),
    )
    for parameter in net.parameters():
        parameter.data.mul_(1.01)
    form.refresh()
    ours, theirs = form(x), net(x)
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12 * float(theirs.detach().abs().max()))
    (one,), (other,) = (torch.autograd.grad(logits.square().sum(), x) for logits in (ours, theirs))
    assert (one - other).norm() < 1e-9 * other.norm()
    norms, folded = sum(isinstance(one, nn.BatchNorm2d) for one in net.modules()), len(form._pairs)
    assert folded == (0 if name in NOT else norms) or (name in PARTLY and 0 < folded < norms)


def test_a_batchnorm_of_timm_with_weights_in_its_activation_is_refreshed_and_folded() -> None:
    torch.manual_seed(0)
    norm = BatchNormAct2d(4, act_layer=nn.PReLU)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(144, 10)).double().train()
    net(torch.rand(16, 3, 8, 8).double())
    form, x = FastForm(net.eval(), bf16=False, precision=Precision()), torch.rand(5, 3, 8, 8).double()
    norm.act.weight.data.fill_(-2.0)
    assert not torch.allclose(form(x), net(x))
    form.refresh()
    assert torch.allclose(form(x), net(x), rtol=1e-12) and len(form._pairs) == 1


def test_a_batchnorm_of_timm_over_all_processes_is_itself_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more, the sums are those of the global batch; activation and running statistics are as timm's."""
    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr(processes, "total", lambda sums: sums)  # the other process has no images
    theirs = BatchNormAct2d(4, act_layer=nn.SiLU).double()
    ours = synchronise(copy.deepcopy(theirs))
    assert isinstance(ours, GlobalBatchNorm2d)
    x = torch.rand(6, 4, 5, 5).double()
    for training in (True, True, False):
        assert torch.allclose(ours.train(training)(x), theirs.train(training)(x), rtol=1e-12)
    for key, tensor in ours.state_dict().items():
        assert torch.allclose(tensor, theirs.state_dict()[key], rtol=1e-12), key
    assert folds(ours) and activates(ours)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("timm:resnet10t?checkpoint_path=/etc/hostname", "Unknown option of timm:resnet10t: 'checkpoint_path'"),
        ("timm:hf-hub:someone/network", "Unknown network of timm 'hf-hub:someone/network'"),
        ("timm:vit_tiny_patch16_224?depth=1000000000", "depth is larger than any network's: give 8192 at most"),
        (
            "timm:test_vit?patch_size=4&embed_dim=8192&depth=24&num_heads=64",
            "parameters, and a network here 4294967296",
        ),
    ],
)
def test_a_strangers_export_names_no_network_that_harms(architecture: str, said: str, tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(10, 512)}, tmp_path / "model.safetensors")
    facts = {"format": "ardbench-export-1", "architecture": architecture, "dataset": "fake", "normalise": None}
    digest = sha256_of(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(facts | {"sha256": digest}))
    with pytest.raises(ArdbenchError, match=re.escape(said)):
        ardbench.load(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "w.pt#ema:NAME", "w.pt#ema:NAME@32", "w.pt#ema:NAME+mean=imagenet+std=imagenet", "w.pt#ema:NAME?global_pool=avg@16",
        "w.pt#ema:NAME?stem=small&global_pool=avg@16+mean=0.5,0.4,0.3+std=1/2", "robust=w.pt#ema:NAME?global_pool=avg",
    ],
)  # fmt: skip
def test_a_librarys_name_goes_with_everything_that_is_typed_around_one(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = native("timm:mobilenetv3_small_050")
    torch.save({"ema": theirs.state_dict(), "model": native("timm:mobilenetv3_small_075").state_dict()}, "w.pt")
    (teacher,) = resolve_teachers([source.replace("NAME", "timm:mobilenetv3_small_050")], "rslad", ("robust",))
    net, x = networks.of_teacher(teacher, "fake", CPU), torch.rand(2, 3, 8, 8)
    side = int(source.partition("@")[2].partition("+")[0] or 8)
    seen = x if side == 8 else F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    if "imagenet" in source:
        seen = (seen - torch.tensor(NAMED["imagenet"]["mean"]).view(3, 1, 1)) / torch.tensor(
            NAMED["imagenet"]["std"]
        ).view(3, 1, 1)
    if "+mean=0.5" in source:
        seen = (seen - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.5
    if "stem=small" in source:
        theirs.conv_stem.stride = (1, 1)
    with torch.no_grad():
        assert torch.allclose(net(x), theirs(seen), rtol=1e-4, atol=1e-5)
    assert teacher.model.startswith("timm:mobilenetv3_small_050")


@pytest.mark.parametrize("name", names.LIBRARIES)
def test_networks_of_a_library_are_known_by_its_source(name: str) -> None:
    known = library._known(name)
    assert [one for one in known[::20] if not names.stands_in_source(name, one)] == []
    assert not names.stands_in_source(name, "resnt18") and not names.stands_in_source(name, "resnet1")
