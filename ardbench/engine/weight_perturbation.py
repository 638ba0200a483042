"""The gradients of one batch: of the loss as it is, or at weights that were moved to where it is larger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ardbench.config import Recipe, WeightPerturbation
from ardbench.data.batches import Batch
from ardbench.engine.distribution import reduce
from ardbench.methods.base import Method, Step

Moved = list[tuple[nn.Parameter, Tensor]]
"""Parameters of the student, and what they were."""


class Backward:
    """Makes a step of a method and its gradients; with `recipe.weight_perturbation` from `begin` on, at perturbed weights.

    g = grad_w L,  v = |w| g / |g| for each tensor of the student's,  gradients at w + gamma v

    x' is crafted and teachers are asked once, at w; draws and the method's state are the same in both passes, and the
    state moves once. Nets that are not the student are not perturbed. `awp`: of the student's weights of convolutions and
    linear layers; the pass at w + gamma v alone moves running statistics (beside the attack's own), the optimizer steps
    there, and what it changed is then applied to w. `sam-like`: of every parameter; the pass at w moves the statistics, and
    w is back before the optimizer steps.

    Args:
        method: on its device.
        once: makes one step and the backward of `share` times its loss; else they are made without checks.

    Source: Wu, Xia and Wang, NeurIPS 2020, and its released code; sam-like: Wu et al., ICLR 2024, released code.
    """

    def __init__(
        self, method: Method[Any], recipe: Recipe, once: Callable[[Batch, int, float], Step] | None = None
    ) -> None:
        self.method, self.section, self._pass = method, recipe.weight_perturbation, once or self._unchecked
        self.nets = list(method.trainables().values())
        norms = [m for net in self.nets for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.norms = [norm for norm in norms if norm.track_running_stats]

    @contextmanager
    def __call__(self, batch: Batch, epoch: int, share: float) -> Iterator[Step]:
        """Give a step whose gradients are there; the optimizers step inside. After an exception w is as it was, to the bit.

        Args:
            share: of the global batch that these rows are.
        """
        if self.section is None or epoch < self.method.epoch_of(self.section.begin):
            yield self._pass(batch, epoch, share)
            return
        awp = self.section.variant == "awp"
        kept = [(p, p.detach().clone()) for p in self._chosen(self.section)]
        try:
            step = self._perturbed(batch, epoch, share, self.section, kept)
            if not awp:
                _put(kept)
            moved = [p.detach().clone() for p, _ in kept] if awp else []
            yield step
            if awp:
                _put([(p, _after(p, was, at)) for (p, was), at in zip(kept, moved, strict=True)])
        except BaseException:  # Ctrl-C too: whoever goes on must not find the perturbed weights
            _put(kept)
            raise

    def _perturbed(self, batch: Batch, epoch: int, share: float, section: WeightPerturbation, kept: Moved) -> Step:
        """Return the step at perturbed weights, its gradients in place."""
        states = [{name: tensor.clone() for name, tensor in part.state().items()} for part in self.method.parts]
        repeat, usual = _Repeat(self.norms, batch.x.device), self.method.once
        try:
            self.method.once = repeat.make
            with _recording(self.norms, section.variant == "sam-like"):
                reduce(self._pass(batch, epoch, share), share, self.nets)
            with torch.no_grad():
                for parameter, _ in kept:
                    if parameter.grad is not None:
                        parameter.add_(section.gamma * _direction(parameter, parameter.grad))
            for net in self.nets:
                net.zero_grad(set_to_none=True)
            for part, state in zip(self.method.parts, states, strict=True):
                part.load_state(state)
            repeat.rewind()
            with _recording(self.norms, section.variant == "awp"):
                return self._pass(batch, epoch, share)
        finally:
            self.method.once = usual

    def _unchecked(self, batch: Batch, epoch: int, share: float) -> Step:
        step = self.method(batch, epoch)
        (share * step.loss).backward()  # type: ignore[no-untyped-call]
        return step

    def _chosen(self, section: WeightPerturbation) -> list[nn.Parameter]:
        named = [(name, p) for name, p in self.method.student.named_parameters() if p.requires_grad]
        return [p for name, p in named if section.variant == "sam-like" or (name.endswith("weight") and p.dim() > 1)]


def _direction(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return |w| g / |g|, or 0 where g = 0."""
    norm = gradient.norm()
    return gradient * torch.where(norm > 0, weight.norm() / norm, 0.0)


def _after(stepped: Tensor, was: Tensor, moved: Tensor) -> Tensor:
    """Return w with what the optimizer changed at w'; an element that it left alone is w to the bit."""
    return torch.where(stepped == moved, was, stepped - (moved - was)).detach()


@torch.no_grad()
def _put(values: Moved) -> None:
    for parameter, value in values:
        parameter.copy_(value)


@contextmanager
def _recording(norms: Sequence[nn.Module], wanted: bool) -> Iterator[None]:
    """Let BatchNorms in train mode, which use batch statistics, record them or not."""
    before = [norm.track_running_stats for norm in norms]
    try:
        for norm in norms:
            norm.track_running_stats = wanted or not norm.training  # type: ignore[assignment]
        yield
    finally:
        for norm, tracks in zip(norms, before, strict=True):
            norm.track_running_stats = tracks


class _Repeat:
    """What the first pass made, given back in its order in the second, with the states of torch's own generators."""

    def __init__(self, norms: Sequence[nn.Module], device: torch.device) -> None:
        self._norms, self._device = norms, device
        self._begun, self._made = self._states(), list[tuple[Tensor, list[Tensor]]]()
        self._left: Iterator[tuple[Tensor, list[Tensor]]] | None = None

    def make(self, work: Callable[[], Tensor]) -> Tensor:
        """Return work(), which may move running statistics as it always does; in the second pass what it was in the first."""
        if self._left is None:
            with _recording(self._norms, True):
                self._made.append((work(), self._states()))
            return self._made[-1][0]
        made, states = next(self._left)
        self._give(states)
        return made

    def rewind(self) -> None:
        """Begin the second pass."""
        self._left = iter(self._made)
        self._give(self._begun)

    def _generators(self) -> list[torch.Generator]:
        if self._device.type != "cuda":
            return [torch.default_generator]
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        return [torch.default_generator, torch.cuda.default_generators[index]]

    def _states(self) -> list[Tensor]:
        return [one.get_state() for one in self._generators()]

    def _give(self, states: list[Tensor]) -> None:
        for one, state in zip(self._generators(), states, strict=True):
            one.set_state(state)
