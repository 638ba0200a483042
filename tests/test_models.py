"""The networks: sizes from the literature, and that features, head, tracing and the meta device behave."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import fx, nn

from ardbench.data import DATASETS, DatasetInfo
from ardbench.errors import ArdbenchError
from ardbench.models import MODELS, build, describe_models
from ardbench.models.cost import cost
from ardbench.models.network import Network
from ardbench.models.vit import patch_size

CONVOLUTIONAL = [name for name in MODELS if not name.startswith("vit")]
SMALL = [
    "mobilenetv2",
    "preactresnet18",
    "preactresnet18-no-last-bn",
    "resnet8",
    "resnet8-tiny",
    "resnet18",
    "resnet20",
    "vit-micro",
    "vit-tiny",
]


CIFAR10, DIGITS = DATASETS["cifar10"], DATASETS["digits"]


def on_meta(name: str, info: DatasetInfo = CIFAR10, normalise: bool = False) -> Network:
    with torch.device("meta"):
        return build(name, info, normalise)


def settled(net: Network) -> Network:
    """Give every BatchNorm other statistics and weights than the initial ones, which hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net.eval()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_173_962),
        ("preactresnet18", 11_172_170),
        ("mobilenetv2", 2_296_922),
        ("wrn-28-10", 36_479_194),
        ("wrn-34-10", 46_160_474),
        ("wrn-34-20", 184_531_674),
        ("wrn-70-16", 266_796_506),
        ("wrn-70-16-swish", 266_796_506),
        ("resnet20", 272_474),
        ("resnet8", 78_042),
        ("resnet56", 855_770),
        ("wrn-16-2", 691_674),
        ("preactresnet18-no-last-bn", 11_172_170 - 2 * 512),
    ],
)
def test_parameters_are_those_of_the_literature(name: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "depth", "widen"),
    [
        ("wrn-16-2", 16, 2),
        ("wrn-22-6", 22, 6),
        ("wrn-70-16", 70, 16),
        ("wrn-94-16", 94, 16),
        ("wrn-94-16-swish", 94, 16),
    ],
)
def test_parameters_of_wide_networks_follow_the_formula(name: str, depth: int, widen: int) -> None:
    total, inside = 3 * 9 * 16, 16
    for width in (16 * widen, 32 * widen, 64 * widen):
        first = (
            2 * inside + 9 * inside * width + 2 * width + 9 * width**2 + inside * width
        )  # two BatchNorms, a shortcut
        total += first + ((depth - 4) // 6 - 1) * (4 * width + 18 * width**2)
        inside = width
    assert cost(name, CIFAR10).parameters == total + 2 * inside + 10 * inside + 10


def test_the_copy_without_a_last_batchnorm_averages_the_last_block_as_it_is() -> None:
    whole, copy = settled(build("preactresnet18", DIGITS)), build("preactresnet18-no-last-bn", DIGITS).eval()
    copy.load_state_dict({key: value for key, value in whole.state_dict().items() if not key.startswith("bn.")})
    seen: list[torch.Tensor] = []
    whole.get_submodule("layer4").register_forward_hook(lambda module, given, out: seen.append(out))
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        whole(x)
        assert torch.equal(copy.features(x), seen[0].mean((2, 3)))
    assert seen[0].min() < 0  # a ReLU would have been seen


@pytest.mark.parametrize(("name", "width", "depth", "patches"), [("vit-tiny", 192, 12, 64), ("vit-micro", 64, 2, 64)])
def test_parameters_of_transformers_follow_the_formula(name: str, width: int, depth: int, patches: int) -> None:
    block = 12 * width**2 + 13 * width  # qkv, projection and a 4x MLP with their biases, two LayerNorms
    ends = 3 * 4**2 * width + width + (patches + 2) * width + 2 * width + 10 * width + 10
    assert cost(name, CIFAR10).parameters == depth * block + ends


@pytest.mark.parametrize(
    ("name", "gflop"),
    [("resnet18", 1.111), ("preactresnet18", 1.111), ("mobilenetv2", 0.182), ("wrn-34-10", 13.32), ("wrn-28-10", 10.49),
     ("wrn-70-16", 77.5)],
)  # fmt: skip
def test_operations_are_those_counted_by_others(name: str, gflop: float) -> None:
    assert 2e-9 * cost(name, CIFAR10).macs == pytest.approx(gflop, rel=0.01)


def test_operations_of_resnet8_by_hand() -> None:
    area, macs = 32 * 32, 32 * 32 * 9 * 3 * 16
    macs += 2 * area * 9 * 16 * 16
    macs += area // 4 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32)
    macs += area // 16 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64)
    assert cost("resnet8", CIFAR10).macs == macs + 64 * 10


FAMILIES = (*SMALL, "preactresnet18-fast", "wrn-16-2", "wrn-28-10-swish")
SHAPES = [(name, info) for name in MODELS for info in DATASETS.values() if name in FAMILIES or info is DIGITS]
"""Every family sees the images of every data set; a deeper or wider one of it begins and ends alike."""


@pytest.mark.parametrize(("name", "info"), SHAPES, ids=lambda one: getattr(one, "name", one))
def test_logits_have_one_column_a_class_on_every_data_set(name: str, info: DatasetInfo) -> None:
    net = on_meta(name, info, normalise=True).eval()
    x = torch.empty(2, info.channels, info.size, info.size, device="meta")
    assert net(x).shape == (2, info.num_classes)
    assert net.features(x).shape == (2, net.head.in_features)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_forward_is_the_head_of_the_features(name: str, normalise: bool) -> None:
    net = settled(build(name, DIGITS, normalise))
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(x), net.head(net.features(x)))
        assert net(x).std(0).min() > 0  # it looks at its input


@pytest.mark.parametrize("name", ["resnet8-tiny", "vit-micro"])
def test_normalising_is_the_plain_network_on_normalised_pixels(name: str) -> None:
    plain, normalising = settled(build(name, CIFAR10)), build(name, CIFAR10, normalise=True).eval()
    normalising.load_state_dict(plain.state_dict(), strict=True)  # the normalisation is no part of the state
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    by_hand = torch.stack([(x[:, c] - CIFAR10.mean[c]) / CIFAR10.std[c] for c in range(3)], dim=1)
    with torch.no_grad():
        # its numbers are kept in fp32, of a relative error of 6e-8
        torch.testing.assert_close(normalising.double()(x), plain.double()(by_hand), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutional_networks_are_traced_with_their_normalisation(name: str) -> None:
    graph = fx.symbolic_trace(on_meta(name, normalise=True))
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    layers = [key for key, m in on_meta(name).named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    assert sorted(set(called) & set(layers)) == sorted(layers)  # each layer once, under its own name
    assert len(called) == len(set(called))


@pytest.mark.parametrize(
    ("name", "pairs"),
    [("resnet18", 20), ("resnet20", 21), ("resnet8", 9), ("mobilenetv2", 3 * 17 + 2 + 4), ("preactresnet18", 8),
     ("wrn-34-10", 15 + 1), ("wrn-70-16-swish", 33 + 1)],
)  # fmt: skip
def test_convolutions_read_by_a_batchnorm_alone_can_be_found(name: str, pairs: int) -> None:
    graph = fx.symbolic_trace(on_meta(name))
    found = 0
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(graph.get_submodule(node.target), nn.BatchNorm2d):
            before = node.args[0]
            if before.op == "call_module" and len(before.users) == 1:
                found += isinstance(graph.get_submodule(before.target), nn.Conv2d)
    assert found == pairs


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "preactresnet18"])
def test_the_trace_computes_the_same(name: str) -> None:
    net = settled(build(name, DIGITS, normalise=True))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(fx.symbolic_trace(net)(x), net(x))


def test_swish_networks_pad_stride_two_below_and_to_the_right() -> None:
    block = on_meta("wrn-28-10-swish").get_submodule("layer.1.block.0")
    assert block.pad(torch.ones(1, 1, 2, 2)).tolist() == [[[[1, 1, 0], [1, 1, 0], [0, 0, 0]]]]


def test_names_of_weights_are_those_of_the_field() -> None:
    assert {
        "conv1.weight",
        "bn1.weight",
        "layer1.0.conv1.weight",
        "layer2.0.shortcut.1.running_var",
        "head.bias",
    } <= set(on_meta("resnet18").state_dict())
    assert {"block1.layer.0.bn1.weight", "block1.layer.0.convShortcut.weight", "bn1.running_mean"} <= set(
        on_meta("wrn-34-10").state_dict()
    )
    assert {"layer.0.block.0.batchnorm_0.weight", "init_conv.weight"} <= set(on_meta("wrn-70-16-swish").state_dict())
    assert {"layers.0.conv1.weight", "layers.16.bn3.weight"} <= set(on_meta("mobilenetv2").state_dict())


def test_transformers_have_the_names_and_the_function_of_timm() -> None:
    from timm.models.vision_transformer import VisionTransformer

    net = build("vit-micro", DIGITS).eval()
    timm = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=64, depth=2, num_heads=4
    ).eval()
    timm.load_state_dict(net.state_dict(), strict=True)
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(net.double()(x), timm.double()(x))


def test_patches_cut_each_size_of_image() -> None:
    assert [patch_size(size) for size in (8, 28, 32, 64, 96)] == [2, 2, 4, 8, 12]


@pytest.mark.parametrize("name", ["resnet8-tiny", "mobilenetv2", "vit-micro", "preactresnet18"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    net = build(name, DIGITS)
    net(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_same_seed_draws_the_same_network() -> None:
    first, second = (torch.random.manual_seed(3) and build("resnet8", DIGITS).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ArdbenchError, match="Unknown model 'resnet-18': did you mean 'resnet18'"):
        build("resnet-18", CIFAR10)


def test_models_are_described_the_cheapest_first() -> None:
    rows = describe_models(CIFAR10)
    assert {row.name for row in rows} == set(MODELS)
    assert [row.macs for row in rows] == sorted(row.macs for row in rows)
    assert next(row for row in rows if row.name == "resnet18").parameters == 11_173_962


def test_naming_the_models_loads_no_torch() -> None:
    code = "import sys, ardbench.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
