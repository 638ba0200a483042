"""What one training step computes on each side of a switch: the same weights, the same images, and what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ardbench.attacks import form, pgd
from ardbench.config import Recipe
from ardbench.data.batches import Batch, Splits
from ardbench.engine import device as devices
from ardbench.engine.checkpoints import load_weights
from ardbench.engine.loop import Loop
from ardbench.engine.train import build_method
from ardbench.methods.base import Method
from ardbench.progress import Progress
from ardbench.recipes import resolve
from ardbench.runs import Run, Teacher

if TYPE_CHECKING:
    from ardbench.attacks.objectives import Net, Objective, Target

FROZEN = "frozen"
"""Whether attacks spare the parameters' gradients: no field of `[precision]`, since nothing in ardbench switches it off."""


@dataclass(frozen=True)
class Side:
    """One way to compute the steps of a method.

    Args:
        method: whose recipes are taken.
        settings: values by name, of `FROZEN` and of fields of `[precision]`.
    """

    method: str
    settings: tuple[tuple[str, object], ...]

    @classmethod
    def of(cls, method: str, settings: Mapping[str, object]) -> Side:
        """Return the side; those of equal settings are equal."""
        return cls(method, tuple(sorted(settings.items())))

    @property
    def sets(self) -> dict[str, object]:
        """The changes of a recipe."""
        return {f"precision.{name}": value for name, value in self.settings if name != FROZEN}

    @property
    def tf32(self) -> bool:
        """Whether CUDA may round to TF32."""
        return bool(dict(self.settings).get("tf32", False))

    def attacking(self) -> AbstractContextManager[Any]:
        """Return the context in which attacks differentiate as this side does."""
        if dict(self.settings)[FROZEN]:
            return nullcontext()
        return patch.multiple(pgd, frozen=learning, input_gradient=backward)


@contextmanager
def learning(net: nn.Module, mode: str, update: bool = True) -> Iterator[None]:
    """Hold `net` as `frozen` does, but for the gradients of its parameters, which are thrown away after the attack."""
    wanted = [parameter for parameter in net.parameters() if parameter.requires_grad]
    with form.frozen(net, mode, update):
        for parameter in wanted:
            parameter.requires_grad_(True)
        yield
    net.zero_grad()


def backward(objective: Objective, net: Net, x_adv: Tensor, aux: tuple[Tensor, ...]) -> Tensor:
    """Return the gradient to x' as `loss.backward()` leaves it, beside that of every parameter of the attacked network."""
    assert isinstance(net, nn.Module), "only the network itself has parameters that learn: no folded, no bf16 copy"
    x_adv = x_adv.detach().requires_grad_(True)
    net.zero_grad()
    with torch.enable_grad():
        objective(net, x_adv, *aux).sum().backward()  # type: ignore[no-untyped-call]
    assert x_adv.grad is not None
    return x_adv.grad


@dataclass(frozen=True)
class Outcome:
    """What one step has computed.

    Args:
        loss: scalar, of the outer step.
        outer: its gradient to every parameter that learns, (P,).
        attack: the gradient of the inner objective to the image, (B, C, H, W).
        found: the adversarial examples of a whole search, (B, C, H, W): of chaos, to be compared where all bits are equal.
    """

    loss: Tensor
    outer: Tensor
    attack: Tensor
    found: Tensor


@dataclass(frozen=True)
class Difference:
    """How far a step lies from the plain one's: relative errors, and the share of equal signs."""

    fast: Outcome
    plain: Outcome

    @cached_property
    def loss(self) -> float:
        """The relative error of the loss."""
        return error(self.fast.loss, self.plain.loss)

    @cached_property
    def outer(self) -> float:
        """The relative error of the outer step's gradient."""
        return error(self.fast.outer, self.plain.outer)

    @cached_property
    def attack(self) -> float:
        """The relative error of the input gradient."""
        return error(self.fast.attack, self.plain.attack)

    @cached_property
    def signs(self) -> float:
        """The share of pixels whose gradients have one sign: all that an L-inf attack follows."""
        return (self.fast.attack.sign() == self.plain.attack.sign()).double().mean().item()

    @property
    def equal(self) -> bool:
        """Whether the steps are the same to the bit."""
        return self.loss == self.outer == self.attack == 0 and torch.equal(self.fast.found, self.plain.found)


def error(fast: Tensor, plain: Tensor) -> float:
    """Return |a - b| / |b|."""
    a, b = fast.double(), plain.double()
    return float((a - b).norm() / b.norm())


def layout_of(recipe: Recipe) -> torch.memory_format:
    """Return how a recipe's images lie in memory."""
    return torch.channels_last if recipe.precision.channels_last else torch.contiguous_format


def first_batch(loop: Loop) -> Batch:
    """Return the first batch of a loop, in the layout of its recipe."""
    batch = loop.batches.batch(0, 0)
    return replace(batch, x=batch.x.contiguous(memory_format=layout_of(loop.recipe)))


class Bench:
    """A trained student and the adversarial examples of one batch, at which any side makes its step.

    Args:
        run: of the student, finished; its recipe decides everything but the precision.
        plain: the side that crafts the examples.
        teachers: of the method's roles.
        splits: the run's data, on the device.
    """

    def __init__(self, run: Run, plain: Side, teachers: Sequence[Teacher], splits: Splits) -> None:
        self.run, self.teachers, self.splits = run, teachers, splits
        self.weights = load_weights(run.weights("last"))
        crafted: list[Tensor] = []
        loop = self.loop(plain)
        loop.method.watch = lambda _, x_adv: crafted.append(x_adv)
        self._step(loop)
        self.x_adv = crafted[0]

    def loop(self, side: Side) -> Loop:
        """Return the engine's loop as a side has it; nothing is written."""
        recipe, device = self.run.recipe, self.splits.train.images.device
        recipe = resolve(recipe.name, student=recipe.student, sets=side.sets)
        method = build_method(recipe, self.teachers, device)
        return Loop(Run(Path("nowhere")), recipe, method, self.splits, lambda: False, Progress())

    def outcome(self, side: Side) -> Outcome:
        """Return what a side computes in its second step: by then everything that was kept from the first is used."""
        devices.allow_tf32(side.tf32)
        loop = self.loop(side)
        gradients, found = observe(loop.method, self.x_adv)
        with side.attacking():
            for _ in range(2):
                loss = self._step(loop)
        learnt = [parameter.grad for net in loop.trainables.values() for parameter in net.parameters()]
        outer = torch.cat([gradient.flatten() for gradient in learnt if gradient is not None])
        return Outcome(loss, outer, gradients[-1], found[-1])

    def difference(self, fast: Side, plain: Side) -> Difference:
        """Return how far the step of a fast side lies from that of a plain one."""
        return Difference(self.outcome(fast), self.outcome(plain))

    def _step(self, loop: Loop) -> Tensor:
        """Make one step from the trained weights and statistics, and return its loss; gradients stay."""
        student = loop.method.student
        student.load_state_dict(self.weights)
        student.train()
        student.zero_grad()
        loss = loop.method.step(first_batch(loop), 0).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def observe(method: Method[Any], x_adv: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Have each inner maximisation of the method answer with `x_adv`, and return the lists to which each adds what it did.

    Returns:
        (gradients of its objective at `x_adv`, examples that it has found). The gradient is taken through the form in which
        the network is attacked, whatever that is: a target is handed just that.
    """
    gradients, found, maximise = list[Tensor](), list[Tensor](), method.maximise
    layout = layout_of(method.recipe)

    def watched(
        objective: Objective, batch: Batch, aux: tuple[Tensor, ...] = (), target: Target | None = None, **others: Any
    ) -> Tensor:
        at = x_adv.contiguous(memory_format=layout)

        def look(attacked: Net, x: Tensor) -> Tensor:
            answer = x if target is None else target(attacked, x)
            known = aux if target is None else (*aux, answer)
            gradients.append(pgd.input_gradient(objective, attacked, at, known))
            return answer

        found.append(maximise(blind(objective) if target is None else objective, batch, aux, look, **others))
        return at

    method.maximise = watched  # type: ignore[assignment, method-assign]
    return gradients, found


@cache
def blind(objective: Objective) -> Objective:
    """Return the objective that does not see the last of its `aux`: one object for each, as a captured attack wants it."""
    return lambda net, x_adv, *aux: objective(net, x_adv, *aux[:-1])
