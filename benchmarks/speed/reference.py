"""The plain training script that ardbench is compared with, in the manner of released ones; losses in `reference_losses`.

In fp32 and NCHW: images through PIL one by one in a DataLoader, the student itself attacked with its BatchNorms and its
parameters learning, SGD as it comes, the loss read at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ardbench.config import Recipe

GRADIENTS = ("released", "backward", "grad")


class Images(Dataset[tuple[Tensor, int]]):
    """Images in memory, each cropped and mirrored through PIL as it is asked for.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,).
        pad: zero pixels on every side before the crop.
    """

    def __init__(self, images: NDArray[np.uint8], labels: list[int], pad: int) -> None:
        self.images, self.labels = images, labels
        crop = transforms.RandomCrop(images.shape[1], padding=pad)
        self.transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[row])), self.labels[row]


@dataclass
class Script:
    """What a training script holds: the networks, an optimizer each, the images, and its recipe's numbers."""

    recipe: Recipe
    student: nn.Module
    teachers: tuple[nn.Module, ...]
    peer: nn.Module | None
    images: Images
    workers: int
    device: torch.device
    loss: Callable[[Script, Tensor, Tensor], Tensor]
    """Of a batch, its attack included."""
    gradient: str
    """How the attack differentiates: "backward", or "grad" (`torch.autograd.grad` to the input)."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """What a method carries from batch to batch."""
    moved: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)
    """What is added to weights until the optimizer has stepped."""

    def __post_init__(self) -> None:
        wanted = self.recipe.optimizer
        words = {"lr": wanted.lr, "momentum": wanted.momentum, "weight_decay": wanted.weight_decay}
        learning = [net for net in (self.student, self.peer) if net is not None]
        self.optimizers = [torch.optim.SGD(net.parameters(), **words) for net in learning]  # type: ignore[arg-type]
        self._batches = forever(self.images, self.recipe.data.batch, self.workers)

    def step(self) -> None:
        """Train on the next batch, loading it included."""
        x, y = next(self._batches)
        loss = self.loss(self, x.to(self.device), y.to(self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
        self.move(-1)
        self.moved.clear()
        loss.item()

    @torch.no_grad()
    def move(self, sign: int) -> None:
        """Add what `moved` says to the weights, or take it back."""
        for parameter, step in self.moved:
            parameter.add_(step, alpha=sign)


def forever(images: Images, batch: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches, epoch after epoch.

    No method of `Script`: a generator of one would hold the script that holds it, and workers that only the collector of
    cycles finds are waited for 5 s each.
    """
    loader = DataLoader(images, batch, shuffle=True, num_workers=workers, drop_last=True)
    while True:
        yield from loader


def attack(script: Script, x: Tensor, loss_at: Callable[[Tensor], Tensor], start: Tensor | None = None) -> Tensor:
    """Return PGD's x' (B, C, H, W) in the L-inf ball, and leave the gradients at zero.

    Args:
        script: its student is in the mode of `attack.bn` meanwhile.
        x: (B, C, H, W) in [0, 1].
        loss_at: x' -> the scalar that x' maximises.
        start: the first x'; drawn on the device after the recipe unless given.
    """
    wanted, eps = script.recipe.attack, script.recipe.threat.eps
    assert wanted is not None
    script.student.train(wanted.bn == "train")
    if start is None:
        normal = wanted.start == "normal"
        start = x + (0.001 * torch.randn_like(x) if normal else torch.empty_like(x).uniform_(-eps, eps))
    x_adv = torch.clamp(start, 0.0, 1.0)
    for _ in range(wanted.steps):
        x_adv.requires_grad_()
        loss = loss_at(x_adv)
        if script.gradient == "backward":
            script.student.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            assert x_adv.grad is not None
            gradient = x_adv.grad
        else:
            gradient = torch.autograd.grad(loss, [x_adv])[0]
        x_adv = x_adv.detach() + wanted.step_size * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps)
        x_adv = torch.clamp(x_adv, 0.0, 1.0)
    script.student.train()
    for optimizer in script.optimizers:
        optimizer.zero_grad()
    return x_adv.detach()
