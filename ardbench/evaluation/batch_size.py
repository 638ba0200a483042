"""How many images at a time: `--batch auto`, found by trial once and remembered, and less where the memory does not suffice."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ardbench.attacks.objectives import label_loss
from ardbench.attacks.pgd import input_gradient
from ardbench.errors import ArdbenchError
from ardbench.evaluation.confirm import measuring
from ardbench.runs import read_json, write_json

SIZES = tuple(2**power for power in range(5, 14))
"""32 to 8192."""
LARGEST = 2**20
"""What a file of batches may name."""
GAIN = 1.1
"""Twice the batch has to bring so many times the images per second: less is noise, and memory for nothing."""
SHORT = 0.25
"""Seconds of a trial below which a batch only has to lose nothing: the attacks make thousands of forwards one after the other
for a batch of any size, and what a forward costs beside its images is then worth sharing among more of them."""
ROOM = 0.8
"""The share of a CUDA device's memory that a trial may take: the attacks hold images beside the forward and backward."""
TRIALS = 3

Answer = TypeVar("Answer")


def remembered(file: Path, name: str, net: nn.Module, image: Tensor) -> int:
    """Return the batch that `file` names for `name`, or find it and write it there.

    Args:
        file: JSON, {name: batch}; made where it is absent.
        name: of the network and the device.
        net, image: as in `useful`.
    """
    known = read_json(file) if file.exists() else {}
    if name not in known:
        known[name] = useful(net, image)
        write_json(file, known)
    batch = known[name]
    if type(batch) is not int or not 1 <= batch <= LARGEST:
        raise ArdbenchError(f"{file} gives {reprlib.repr(batch)} as the batch of {name}: delete the file to try again.")
    return batch


def fitting(work: Callable[[], Answer]) -> Answer | None:
    """Return work(), or None where it needs more memory than the device has; what it held is free again by then."""
    try:
        return work()
    except torch.OutOfMemoryError:
        pass  # left before the cache is emptied, since the traceback holds the tensors of its frames
    torch.cuda.empty_cache()
    return None


def halved(batch: int, what: str) -> int:
    """Return half of a batch that did not fit.

    Raises:
        ArdbenchError: it was a single image.
    """
    if batch == 1:
        raise ArdbenchError(
            f"Out of device memory in {what} with one image at a time: free the device, or take another."
        )
    return batch // 2


def useful(net: nn.Module, image: Tensor) -> int:
    """Return the batch from which on doubling gains nothing and trials are long, or the largest that fits.

    A trial is one gradient of the loss with respect to the images, in fp32 on the network itself: what the gradient
    attacks do at each step.

    Args:
        net: gives logits (B, K).
        image: (1, C, H, W) in [0, 1], on the network's device.

    Raises:
        ArdbenchError: not even 32 images fit.
    """
    best, fastest = 0, 0.0
    for batch in SIZES:
        speed = _speed(net, image.expand(batch, -1, -1, -1).contiguous())
        if speed is None or speed < fastest * (1 / GAIN if batch / speed < SHORT else GAIN):
            break
        best, fastest = batch, max(speed, fastest)
    if not best:
        raise ArdbenchError(f"Not even {SIZES[0]} images at a time fit on the device: give a smaller --batch.")
    return best


def _speed(net: nn.Module, x: Tensor) -> float | None:
    """Return the images per second of the fastest of a few trials, or None where x (B, C, H, W) does not fit."""
    device, seconds = x.device, []
    y = torch.zeros(len(x), dtype=torch.int64, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with measuring(net, device):
            for _ in range(TRIALS):
                begun = time.perf_counter()
                input_gradient(label_loss, net, x, (y,)).sum().item()  # a number waits for the device
                seconds.append(time.perf_counter() - begun)
    except torch.OutOfMemoryError:
        return None
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return None if _crowded(device) else len(x) / min(seconds)


def _crowded(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    return torch.cuda.max_memory_allocated(device) > ROOM * torch.cuda.get_device_properties(device).total_memory
