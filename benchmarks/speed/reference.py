"""The plain training step that ardbench is compared with: the methods' maths in the manner of released scripts.

Written from `docs/methods.md`, in fp32 and NCHW: images through PIL one by one in a DataLoader, the student itself
attacked in eval mode with its BatchNorms and its parameters learning, SGD as it comes, the loss read at every step.
A further method is one more function in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
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
    """What a training script holds: the networks, the optimizer, the images, and its recipe's numbers."""

    recipe: Recipe
    student: nn.Module
    teacher: nn.Module | None
    images: Images
    workers: int
    device: torch.device
    gradient: str
    """How the attack differentiates: "backward", "grad" (`torch.autograd.grad` to the input), or as "released"."""

    def __post_init__(self) -> None:
        wanted = self.recipe.optimizer
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=wanted.lr, momentum=wanted.momentum, weight_decay=wanted.weight_decay
        )
        method = str(self.recipe.method["name"])
        self.batch_step, released = METHODS[method]
        self.gradient = released if self.gradient == "released" else self.gradient
        self._batches = self._forever()

    def step(self) -> None:
        """Train on the next batch, loading it included."""
        x, y = next(self._batches)
        loss = self.batch_step(self, x.to(self.device), y.to(self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        loss.item()

    def _forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(self.images, self.recipe.data.batch, shuffle=True, num_workers=self.workers, drop_last=True)
        while True:
            yield from loader


def attack(script: Script, x: Tensor, start: Tensor, loss_at: Callable[[Tensor], Tensor]) -> Tensor:
    """Return PGD's x' (B, C, H, W) in the L-inf ball; `loss_at` maps the student's logits to a scalar."""
    wanted, eps = script.recipe.attack, script.recipe.threat.eps
    assert wanted is not None
    script.student.eval()
    x_adv = torch.clamp(start, 0.0, 1.0)
    for _ in range(wanted.steps):
        x_adv.requires_grad_()
        loss = loss_at(script.student(x_adv))
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
    return x_adv.detach()


def pgd_at(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return CE(S(x'), y), x' = argmax CE(S(x'), y) from a uniform start that the host draws."""
    eps = script.recipe.threat.eps
    noise = torch.from_numpy(np.random.uniform(-eps, eps, x.shape)).float().to(x.device)
    x_adv = attack(script, x, x + noise, lambda logits: F.cross_entropy(logits, y))
    script.optimizer.zero_grad()
    return F.cross_entropy(script.student(x_adv), y)


def rslad(script: Script, x: Tensor, y: Tensor) -> Tensor:
    """Return s [a KL(T(x) || S(x')) + (1 - a) KL(T(x) || S(x))], x' = argmax KL(T(x) || S(x')) from a normal start."""
    assert script.teacher is not None
    alpha, scale = script.recipe.method["alpha"], script.recipe.method["scale"]
    with torch.no_grad():
        target = F.softmax(script.teacher(x), dim=1)  # (B, K)

    def divergence(logits: Tensor, reduction: str) -> Tensor:
        return F.kl_div(F.log_softmax(logits, dim=1), target, reduction=reduction)

    x_adv = attack(script, x, x + 0.001 * torch.randn_like(x), lambda logits: divergence(logits, "sum"))
    script.optimizer.zero_grad()
    adversarial = divergence(script.student(x_adv), "batchmean")
    clean = divergence(script.student(x), "batchmean")
    loss: Tensor = scale * (alpha * adversarial + (1 - alpha) * clean)
    return loss


METHODS: dict[str, tuple[Callable[[Script, Tensor, Tensor], Tensor], str]] = {
    "pgd-at": (pgd_at, "backward"),  # the IAD repository's teachers: loss.backward() in the attack
    "rslad": (rslad, "grad"),  # the RSLAD repository, after TRADES: autograd.grad to the input
}
"""Method -> the loss of a batch, and how the released script differentiates in its attack."""
