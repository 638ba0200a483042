"""Small things that several tests stand on: a recipe that runs in a moment, its data, nets and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from ardbench import data, methods, models
from ardbench.config import Recipe
from ardbench.data import batches
from ardbench.data.batches import Batch, TrainBatches
from ardbench.data.load import load
from ardbench.methods.base import Context, Method, Step
from ardbench.recipes import resolve

CPU = torch.device("cpu")
SMALL = {
    "data.name": "fake", "data.validation": 32, "data.augment": "crop-flip", "data.batch": 50, "attack.steps": 2,
    "selection.by": "best-val",
}  # fmt: skip


MODULES = {"igdm": {"name": "igdm", "alpha": 2}, "fair": {"name": "fair"}}


def recipe(method: str, **sets: Any) -> Recipe:
    """Return the digits recipe of a method on the fake data set, with short attacks; `a__b` stands for a.b.

    Args:
        method: also with what is laid over it, as in "rslad+igdm+fair+awp".
    """
    base, *over = method.split("+")
    changes = {key.replace("__", "."): value for key, value in sets.items()}
    composed: dict[str, Any] = {"modules": [MODULES[name] for name in over if name in MODULES]} if over else {}
    for variant in {"awp", "sam-like"} & set(over):
        composed |= {"weight_perturbation.gamma": 0.01, "weight_perturbation.variant": variant}
    return resolve(f"{base}-digits", sets=SMALL | composed | changes)


def network(seed: int, model: str = "resnet8-tiny") -> nn.Module:
    """Return a network in train mode, with running statistics that are not the initial ones."""
    torch.manual_seed(seed)
    net = models.build(model, data.info("fake"))
    net.train()
    with torch.no_grad():
        for _ in range(2):
            net(torch.rand(16, 3, 8, 8))
    return net


def method(
    wanted: Recipe, model: str = "resnet8-tiny", to: Any = torch.float32, tell: Callable[[str], None] | None = None
) -> Method[Any]:
    """Return a method with a student and as many teachers as its roles name, frozen as the engine freezes them.

    Args:
        wanted: its recipe.
        model: of student and teachers.
        to: the type or the device of all networks.
        tell: hears what a user should know.
    """
    kind = methods.method_class(wanted.method["name"])
    teachers = tuple(network(10 + i, model).to(to).eval().requires_grad_(False) for i in range(len(kind.roles)))
    built = kind(Context(wanted, network(0, model).to(to), teachers, lambda name: network(5, name).to(to), tell))
    for net in built.trainables().values():
        net.to(to).train()  # with what the method has added
    return built


def in_double(patch: pytest.MonkeyPatch) -> None:
    """Let images be float64, as networks of float64 want them.

    There two ways to compute one thing differ by some 1e-15, on every processor. In fp32 they differ by what its kernels
    round, and more where that turns the sign of a gradient or of what a ReLU is given: no tolerance holds everywhere.
    """
    original = batches.as_pixels
    patch.setattr(batches, "as_pixels", lambda images: original(images).double())


def batch(wanted: Recipe, step: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Return a training batch of the recipe."""
    split = load("fake", CPU, validation=wanted.data.validation).train
    made = TrainBatches(split, wanted.data.augment, wanted.data.batch, False, wanted.seed).batch(0, step)
    return replace(made, x=made.x.to(dtype))


def watched(built: Method[Any], given: Batch, epoch: int = 0) -> tuple[Step, torch.Tensor]:
    """Return a step, and the x' that the method crafted for it, or x where it crafted none."""
    seen = [given.x]
    built.watch = lambda _, x_adv: seen.append(x_adv)
    return built.step(given, epoch), seen[-1]


def cosine(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Return the cosine between two lists of tensors."""
    x, y = (torch.cat([t.flatten().double() for t in tensors]) for tensors in (a, b))
    return float(x @ y / (x.norm() * y.norm()))
