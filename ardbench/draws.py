"""Random numbers as a function of (seed, purpose, epoch, step): no generator state is ever saved."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch


def derive(*key: object) -> int:
    """Return a 63-bit seed that depends on every part of `key` and on nothing else."""
    digest = hashlib.sha256("|".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(device: torch.device, *key: object) -> torch.Generator | None:
    """Return a generator on `device` seeded by `key`; None on the meta device, which draws nothing."""
    if device.type == "meta":
        return None
    return torch.Generator(device).manual_seed(derive(*key))


@contextmanager
def seeded(*key: object) -> Iterator[None]:
    """Let torch's global generator on the host be a function of `key`, and give it back as it was: for initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(*key))
        yield


def seed_operations(device: torch.device, *key: object) -> None:
    """Let what draws on `device` without a generator of its own, such as dropout, be a function of `key`.

    `torch.manual_seed` does so for every device that there may be, which takes up to 0.6 ms.
    """
    seed = derive(*key)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[
            torch.cuda.current_device() if device.index is None else device.index
        ].manual_seed(seed)


@dataclass(frozen=True)
class Draws:
    """The draws of one step, made for the global batch and sliced to the rows that this process holds.

    Args:
        seed, epoch, step: the position that, with a purpose, decides every number.
        rows: examples in the global batch.
        first: position of this process's first row in it.
    """

    seed: int
    epoch: int
    step: int
    rows: int
    first: int = 0

    def uniform(self, purpose: str, like: torch.Tensor) -> torch.Tensor:
        """Return U(-1, 1) numbers in the shape, type and device of `like` (b, ...)."""
        full = torch.rand(self._shape(like), generator=self._generator(purpose, like.device), device=like.device)
        return self._rows(full, like).mul(2).sub(1).to(like.dtype)

    def normal(self, purpose: str, like: torch.Tensor) -> torch.Tensor:
        """Return N(0, 1) numbers in the shape, type and device of `like` (b, ...)."""
        full = torch.randn(self._shape(like), generator=self._generator(purpose, like.device), device=like.device)
        return self._rows(full, like).to(like.dtype)

    def coin(self, purpose: str, probability: float) -> bool:
        """Return one coin for the whole global batch, drawn on the host, so that no device is waited for."""
        return random.Random(derive(self.seed, purpose, self.epoch, self.step)).random() < probability

    def _generator(self, purpose: str, device: torch.device) -> torch.Generator | None:
        return generator(device, self.seed, purpose, self.epoch, self.step)

    def _shape(self, like: torch.Tensor) -> Sequence[int]:
        return (self.rows, *like.shape[1:])

    def _rows(self, full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return full[self.first : self.first + len(like)]
