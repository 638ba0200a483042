"""Running statistics against what comes in: by hand on known Gaussians, and on networks that were trained."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log
from pathlib import Path

import pytest
import torch
from cli_call import call
from torch import Tensor, nn

from ardbench.data import DATASETS
from ardbench.data.batches import Split
from ardbench.data.load import load
from ardbench.engine import networks
from ardbench.engine.distribution import GlobalBatchNorm2d
from ardbench.evaluation.running_statistics import keeps_statistics, statistics_gap
from ardbench.runs import Run
from ardbench.teachers import locate

CPU = torch.device("cpu")
Change = Callable[[Tensor], Tensor]
SEEN = ((3.0, 4.0), (0.0, 1.0), (-1.0, 0.25))
"""Mean and variance of three channels of what comes in."""
REMEMBERED = ((1.0, 2.0), (0.5, 1.0), (-1.0, 4.0))


def kl(seen: tuple[float, float], remembered: tuple[float, float], eps: float) -> float:
    """Return KL(N(m, v) || N(r, s)) = (log(s / v) + (v + (m - r)^2) / s - 1) / 2, with eps in both variances."""
    (m, v), (r, s) = seen, remembered
    v, s = v + eps, s + eps
    return 0.5 * (log(s / v) + (v + (m - r) ** 2) / s - 1)


def inputs(*beyond: int) -> Tensor:
    """Return (64, 3, ...) with exactly the means and (unbiased) variances of SEEN."""
    source = torch.randn(64, 3, *beyond, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flat = source.transpose(0, 1).flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
    mean, variance = torch.tensor(SEEN, dtype=torch.float64).T.unsqueeze(2)
    exact = (mean + flat * variance.sqrt()).unflatten(1, (64, *beyond)).transpose(0, 1)
    return exact.float().contiguous()


def filled(norm: nn.modules.batchnorm._BatchNorm) -> nn.modules.batchnorm._BatchNorm:
    assert norm.running_mean is not None and norm.running_var is not None
    mean, variance = torch.tensor(REMEMBERED).T
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    return norm


@pytest.mark.parametrize(
    ("kind", "beyond"),
    [
        (nn.BatchNorm1d, ()),
        (nn.BatchNorm1d, (5,)),
        (nn.BatchNorm2d, (4, 4)),
        (GlobalBatchNorm2d, (4, 4)),
        (nn.BatchNorm3d, (2, 2, 2)),
        (nn.SyncBatchNorm, (4, 4)),
    ],
)
@pytest.mark.parametrize("batch", [64, 7])
def test_the_gap_is_the_median_divergence_by_hand(kind: type, beyond: tuple[int, ...], batch: int) -> None:
    norm = filled(kind(3))
    by_hand = sorted(kl(seen, remembered, norm.eps) for seen, remembered in zip(SEEN, REMEMBERED, strict=True))
    gap = statistics_gap(nn.Sequential(norm), inputs(*beyond), batch)
    assert gap == {"0": pytest.approx(by_hand[1], rel=1e-5)}


def test_equal_statistics_have_no_gap_and_dead_channels_are_equal() -> None:
    norm, x = nn.BatchNorm2d(3, momentum=None), inputs(4, 4)
    x[:, 1] = 7.0
    norm(x)
    assert statistics_gap(norm, x)[""] == pytest.approx(0, abs=1e-6)
    assert (statistics_gap(norm, x + 0.1)[""]) > 1e-4


def test_the_network_is_as_before_and_what_is_no_gap_has_no_number() -> None:
    stuck = nn.BatchNorm2d(3)
    stuck.train = lambda mode=True: stuck  # type: ignore[method-assign]
    twice = filled(nn.BatchNorm2d(3))
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), stuck, twice, nn.ReLU(), twice)
    whole = Changed(lambda x: x, net)
    whole.unused = nn.BatchNorm2d(3)
    whole.train()
    before = {name: tensor.clone() for name, tensor in twice.state_dict().items()}
    gap = statistics_gap(nn.Sequential(twice, nn.ReLU(), twice), inputs(4, 4))
    assert list(gap) == ["0"] and twice.training and not twice._forward_pre_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in twice.state_dict().items())
    assert list(statistics_gap(whole, inputs(4, 4))) == ["net.2"]
    assert statistics_gap(nn.Sequential(nn.LayerNorm(4), nn.InstanceNorm2d(3)), inputs(4, 4)) == {}


def split_of(images: int) -> Split:
    pixels = torch.randint(256, (images, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(pixels, torch.arange(images) % 10, torch.arange(images), DATASETS["digits"])


def test_what_cannot_be_checked_says_so_and_nan_is_far() -> None:
    norm = nn.BatchNorm2d(1)
    assert keeps_statistics(norm, split_of(31), 10).level == "unchecked"
    assert "32" in keeps_statistics(norm, split_of(31), 10).reason
    assert keeps_statistics(nn.Flatten(), split_of(40), 10).level == "unchecked"
    assert norm.running_mean is not None
    norm.running_mean.fill_(float("nan"))
    assert statistics_gap(norm, split_of(40).pixels(slice(None))) == {"": inf}
    assert keeps_statistics(norm, split_of(40), 10).level == "warning"


class Changed(nn.Module):
    """A network whose pixels pass through a function before."""

    def __init__(self, change: Change, net: nn.Module) -> None:
        super().__init__()
        self.change, self.net = change, net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(self.change(x))
        return out


MEAN, STD = DATASETS["digits"].mean[0], DATASETS["digits"].std[0]
WRONG: dict[str, Change] = {
    "a normalisation too many": lambda x: (x - MEAN) / STD,
    "in [-1, 1]": lambda x: 2 * x - 1,
    "the mean too much": lambda x: x - MEAN,
    "the deviation too much": lambda x: x / STD,
    "of 255": lambda x: 255 * x,
    "divided twice": lambda x: x / 255,
    "inverted": lambda x: 1 - x,
}


@pytest.fixture(scope="module", params=["standard", "pgd-at"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """Return a network that learnt digits, from clean images or from adversarial ones."""
    torch.set_num_threads(1)
    words = [f"{request.param}-digits", "--epochs", "8", "--device", "cpu", "--quiet"]
    words += ["--set", "attack.steps=2"] if request.param == "pgd-at" else []
    lines = call("train", *words, "--runs", str(tmp_path_factory.mktemp("runs"))).stdout.splitlines()
    return networks.of_run(Run.open(Path(lines[0])), "last", CPU)


@pytest.mark.parametrize("images", [50, 360])
def test_a_trained_network_is_right_on_its_images_and_wrong_on_changed_ones(trained: nn.Module, images: int) -> None:
    split = load("digits", CPU).test.subset(images, 0)
    right = keeps_statistics(trained, split, 100)
    assert right.level == "ok" and f"n = {images}" in right.reason
    for name, change in WRONG.items():
        found = keeps_statistics(Changed(change, trained), split, 100)
        assert found.level == "warning", (name, found.reason)


@pytest.mark.data
def test_a_known_network_is_right_on_cifar10_and_wrong_when_normalised(data_root: Path) -> None:
    net = networks.of_teacher(locate("zoo:clean-resnet18-cifar10"), "cifar10", CPU)
    split = load("cifar10", CPU, data_root).test.subset(64, 0)
    assert keeps_statistics(net, split, 64).level == "ok"
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (split.info.mean, split.info.std))
    half = Changed(lambda x: (2 * x - 1) * std + mean, net)  # 0.5 and 0.5 for a network of CIFAR-10's own numbers
    for wrong in (Changed(lambda x: (x - mean) / std, net), half):
        assert keeps_statistics(wrong, split, 64).level == "warning"
