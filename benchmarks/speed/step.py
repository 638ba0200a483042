"""What one training step computes on each side of a switch: the same weights, the same images, and what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ardbench.attacks import form, pgd
from ardbench.data.batches import Batch, Splits, TrainBatches
from ardbench.engine import device as devices
from ardbench.engine.checkpoints import load_weights
from ardbench.engine.train import build_method
from ardbench.methods.base import Method
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
    """

    loss: Tensor
    outer: Tensor
    attack: Tensor


@dataclass(frozen=True)
class Difference:
    """How far a step lies from the plain one's: relative errors, cosines, and the share of equal signs."""

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
        return self.loss == self.outer == self.attack == 0


def error(fast: Tensor, plain: Tensor) -> float:
    """Return |a - b| / |b|."""
    a, b = fast.double(), plain.double()
    return float((a - b).norm() / b.norm())


def cosine(fast: Tensor, plain: Tensor) -> float:
    """Return the cosine of two tensors."""
    a, b = fast.double().flatten(), plain.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


class Bench:
    """A trained student and one batch of adversarial examples, on which any side makes its step.

    Args:
        run: of the student, finished; its recipe decides everything but the precision.
        plain: the side that crafts the examples, with the recipe's whole attack.
        teachers: of the method's roles.
        splits: the run's data, on the device.
    """

    def __init__(self, run: Run, plain: Side, teachers: Sequence[Teacher], splits: Splits) -> None:
        self.name, self.model, self.teachers = run.recipe.name, run.recipe.student, teachers
        self.device, self.weights = splits.train.images.device, load_weights(run.weights("last"))
        data = run.recipe.data
        first = TrainBatches(splits.train, data.augment, data.batch, data.drop_last, run.recipe.seed).batch(0, 0)
        crafted: list[Tensor] = []
        method = self._method(plain, {})
        method.watch = lambda _, x_adv: crafted.append(x_adv)
        self._step(method, first)
        self.batch = replace(first, x=crafted[0])

    def outcome(self, side: Side) -> Outcome:
        """Return what a side computes at the examples, in its second step: by then everything kept from the first is used."""
        devices.allow_tf32(side.tf32)
        method = self._method(side, {"attack.steps": 0, "attack.start": "none"})
        gradients = observe(method)
        layout = torch.channels_last if dict(side.settings).get("channels_last") else torch.contiguous_format
        batch = replace(self.batch, x=self.batch.x.contiguous(memory_format=layout))
        with side.attacking():
            for _ in range(2):
                loss = self._step(method, batch)
        learnt = [parameter.grad for net in method.trainables().values() for parameter in net.parameters()]
        outer = torch.cat([gradient.flatten() for gradient in learnt if gradient is not None])
        return Outcome(loss, outer, gradients[-1])

    def difference(self, fast: Side, plain: Side) -> Difference:
        """Return how far the step of a fast side lies from that of a plain one."""
        return Difference(self.outcome(fast), self.outcome(plain))

    def _method(self, side: Side, sets: dict[str, object]) -> Method[Any]:
        recipe = resolve(self.name, student=self.model, sets=sets | side.sets)
        return build_method(recipe, self.teachers, self.device)

    def _step(self, method: Method[Any], batch: Batch) -> Tensor:
        """Make one step from the trained weights and statistics, and return its loss; gradients stay."""
        method.student.load_state_dict(self.weights)
        method.student.train()
        method.student.zero_grad()
        loss = method.step(batch, 0).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def observe(method: Method[Any]) -> list[Tensor]:
    """Return a list to which each inner maximisation of the method adds its objective's gradient at the batch itself.

    It is taken through the form in which the network is attacked, whatever that is: a target is handed just that.
    """
    seen: list[Tensor] = []
    maximise = method.maximise

    def watched(
        objective: Objective, batch: Batch, aux: tuple[Tensor, ...] = (), target: Target | None = None, **others: Any
    ) -> Tensor:
        def look(attacked: Net, x: Tensor) -> Tensor:
            own = () if target is None else (target(attacked, x),)
            seen.append(pgd.input_gradient(objective, attacked, x, (*aux, *own)))
            return own[0] if own else x

        return maximise(objective, batch, aux, look, **others)

    method.maximise = watched  # type: ignore[assignment, method-assign]
    return seen
