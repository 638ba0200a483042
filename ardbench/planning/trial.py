"""How fast a device trains or attacks, by a few seconds of the work itself, where no earlier run tells it.

Only shapes decide how long a step takes, so a trial works on random pixels: no data set is read or downloaded for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ardbench import data
from ardbench.config import Recipe, Selection
from ardbench.data.batches import Split, Splits
from ardbench.draws import derive
from ardbench.engine.device import allow_tf32, check_precision, least_seconds
from ardbench.engine.loop import Loop
from ardbench.engine.train import build_method
from ardbench.evaluation.confirm import measuring
from ardbench.evaluation.cost import flop
from ardbench.planning.counting import StepCounter
from ardbench.planning.estimate import images_per_epoch
from ardbench.progress import Progress
from ardbench.runs import Run, Teacher

SECONDS = 10.0
"""How long a trial takes, once it is warm."""
EPOCH = 64
"""Batches of a trial's epoch, at most."""


def training(recipe: Recipe, teachers: Sequence[Teacher], device: torch.device, seconds: float = SECONDS) -> float:
    """Return the FLOP/s that steps of this recipe reach; the first step, in which things are set up, is left out.

    Raises:
        ArdbenchError: a step cannot be counted, or the device cannot compute what the recipe asks for.
    """
    check_precision(recipe.precision, device)
    allow_tf32(recipe.precision.tf32)
    made = recipe.model_copy(
        update={"selection": Selection(by="last", protocol="clean"), "keep_every": None, "start": None}
    )
    split = _random(recipe.data.name, min(images_per_epoch(recipe), EPOCH * recipe.data.batch), device)
    seen = list[tuple[int, float]]()  # images and seconds after each batch
    with TemporaryDirectory() as folder:
        method = build_method(made, teachers, device)
        until = time.monotonic() + seconds

        def stop() -> bool:
            seen.append((loop.at.images, loop.at.seconds))
            return len(seen) > 1 and time.monotonic() >= until

        loop = Loop(Run(Path(folder) / "runs" / "trial"), made, method, Splits(split, None, split), stop, Progress())
        loop.fit()
    (before, began), (after, ended) = seen[0] if seen[1:] else (0, 0.0), seen[-1]
    counted = StepCounter().flop(recipe, teachers, range(min(loop.at.epoch + 1, recipe.schedule.epochs)))
    return (after - before) * counted / (ended - began)


def attacking(net: nn.Module, model: str, dataset: str, batch: int, seconds: float = SECONDS) -> float:
    """Return the FLOP/s of forwards and of backwards to the image, as an evaluation makes them.

    Args:
        net: as it is measured, on its device.
        model, dataset: what it is and sees.
        batch: images at a time.
    """
    device = next(net.parameters()).device
    x = _random(dataset, batch, device).pixels(slice(0, batch)).requires_grad_()

    def work() -> None:
        with torch.enable_grad():
            torch.autograd.grad(net(x).sum(), x)

    with measuring(net, device):
        return 2 * flop("clean", batch, model, dataset) / least_seconds(work, device, seconds)


def _random(dataset: str, images: int, device: torch.device) -> Split:
    """Return so many images of a data set's shape, of random pixels and labels."""
    info, source = data.info(dataset), torch.Generator().manual_seed(derive("trial"))
    pixels = torch.randint(256, (images, info.channels, info.size, info.size), generator=source, dtype=torch.uint8)
    labels = torch.randint(info.num_classes, (images,), generator=source)
    return Split(pixels.to(device), labels.to(device), torch.arange(images, device=device), info)
