"""Data sets that need no file: scikit-learn's digits, and synthetic patterns for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from ardbench.data import DatasetInfo
from ardbench.data.raw import Raw
from ardbench.data.stratify import stratified
from ardbench.draws import derive


def read_digits(info: DatasetInfo) -> Raw:
    """Return the 1,797 digits of 8x8 pixels; a fixed fifth of each class is the test set."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = torch.from_numpy(bunch.images).to(torch.int64).unsqueeze(1)  # (1797, 1, 8, 8), 0..16
    images = ((levels * 255 + 8) // 16).to(torch.uint8)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    order = stratified(labels.tolist(), range(len(labels)), info.name, "test")
    test = torch.tensor(sorted(order[: info.test_images]))
    train = torch.tensor(sorted(order[info.test_images :]))
    return Raw(images[train], labels[train], images[test], labels[test], info.classes)


def read_fake(info: DatasetInfo) -> Raw:
    """Return one random pattern a class under noise: learnable in seconds, the same on every machine."""
    source = torch.Generator().manual_seed(derive("fake", "patterns"))
    shape = (info.channels, info.size, info.size)
    patterns = 48 + 160 * torch.rand((info.num_classes, *shape), generator=source)  # (K, C, H, W)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % info.num_classes
        noise = 32 * torch.randn((count, *shape), generator=source)
        return (patterns[labels] + noise).round().clamp(0, 255).to(torch.uint8), labels

    return Raw(*draw(info.train_images), *draw(info.test_images), info.classes)
