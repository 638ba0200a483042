"""Networks that know digits without having been trained: random features whose BatchNorms have seen the training images,
and a head by least squares. Saved with their normalisation left to code, they are what people have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ardbench import data, models
from ardbench.data.load import load
from ardbench.models.network import Network, Normalise

CPU = torch.device("cpu")
DIGITS = data.info("digits")


def probed(model: str, way: nn.Module | None = None, seed: int = 0) -> Network:
    """Return a network in eval mode that has learnt digits behind a first layer `way`."""
    torch.manual_seed(seed)
    net = models.build(model, DIGITS)
    net.normalise = way or nn.Identity()
    train = load("digits", CPU).train
    x, y = train.pixels(slice(None)), train.labels
    for one in net.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.momentum = None  # the mean over all batches
    with torch.no_grad():
        net.train()
        for some in x.split(479):
            net(some)
        net.eval()
        features = torch.cat([net.features(some) for some in x.split(479)]).double()  # (N, d)
        mean = features.mean(0)
        away = features - mean
        gram = away.T @ away + 1e-3 * away.square().sum(0).mean() * torch.eye(len(mean), dtype=torch.float64)
        targets = F.one_hot(y, 10).double()
        weight = torch.linalg.solve(gram, away.T @ (targets - 0.1)).T  # (K, d)
        assert isinstance(net.head, nn.Linear)
        net.head.weight.copy_(weight)
        net.head.bias.copy_(0.1 - weight @ mean)
    return net


def correct(net: nn.Module) -> int:
    """Return how many of the 360 test images a network classifies correctly."""
    test = load("digits", CPU).test
    with torch.no_grad():
        return int((net(test.pixels(slice(None))).argmax(1) == test.labels).sum())


def by(mean: float, std: float) -> Normalise:
    """Return a first layer for digits."""
    return Normalise((mean,), (std,))
