"""The contract of a method: one function of a batch, and the networks that it trains, asks and deploys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from ardbench import data
from ardbench.config import MethodConfig, Point, Recipe, epoch_at

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ardbench.attacks.objectives import Net, Objective, Target
    from ardbench.data.batches import Batch

Config = TypeVar("Config", bound=MethodConfig)


@dataclass(frozen=True)
class Step:
    """What one batch asks the loop to minimise.

    Args:
        loss: scalar; the loop calls backward on it once and steps every optimizer.
        logs: scalars for metrics.jsonl and the progress bar, detached by the loop; never read on the host here.
    """

    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a method is built from.

    Args:
        recipe: the resolved recipe of the run.
        student: the network to train, on its device.
        teachers: trained networks in the order of the method's roles; a method holds them in their fast form, frozen but
            not under no_grad, so that it may differentiate through them to x.
        build: makes another network of the data set's shape from a registered name, for peers.
        tell: hears in a sentence what a user should know.
    """

    recipe: Recipe
    student: nn.Module
    teachers: tuple[nn.Module, ...] = ()
    build: Callable[[str], nn.Module] | None = None
    tell: Callable[[str], None] | None = None


class Method(ABC, Generic[Config]):
    """A way to train a student. Subclasses state their min-max problem and its source, their `Config`, and `step`.

    The loop calls `begin_epoch`, puts every trainable in train mode, calls `step` for each batch, one backward, and
    one optimizer step per trainable. Phases compare `epoch` with `self.epoch_of(share)`. A parameter outside the present
    loss keeps the gradient None, so that neither momentum nor weight decay moves it.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    roles: ClassVar[tuple[str | EllipsisType, ...]] = ()
    """The teachers that the method wants, such as ("robust", "clean"); a last Ellipsis allows more of the one before."""
    attacks: ClassVar[bool] = True
    """Whether the method has an inner maximisation, and its recipe therefore an [attack] section."""
    peer: ClassVar[bool] = False
    """Whether a peer is trained beside the student: a distillation without a trained teacher."""

    def __init__(self, context: Context) -> None:
        from ardbench.attacks.form import FastForm
        from ardbench.attacks.pgd import Maximiser

        recipe = context.recipe
        self.recipe = recipe
        self.config: Config = self.Config.model_validate(recipe.method)  # type: ignore[assignment]
        self.classes = data.info(recipe.data.name).num_classes
        self.student = context.student
        attack = recipe.attack and (recipe.threat, recipe.attack, recipe.precision)
        self._maximiser = Maximiser(*attack, tell=context.tell) if attack else None
        bf16 = recipe.precision.outer == "bf16"
        self.teachers = tuple(FastForm(net, bf16, recipe.precision).settled() for net in context.teachers)
        self.watch: Callable[[Batch, Tensor], None] | None = None
        """Sees each batch and the x' that was crafted on the student, when diagnostics were asked for."""
        self.remembered: Callable[[Batch, int], Tensor] | None = None
        """Knows a teacher's logits at the clean view of a batch, when the engine keeps them."""
        self._compiled: dict[nn.Module, Net] = {}

    @abstractmethod
    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the loss of one batch in epoch `epoch` (from 0)."""

    def begin_epoch(self, epoch: int) -> None:
        """Do what the method does between epochs: called once an epoch, before its first batch.

        What it changes belongs in `state`, since a run that resumes inside the epoch does not call it again.
        """

    def trainables(self) -> dict[str, nn.Module]:
        """Return the modules that have an optimizer each, by name."""
        return {"student": self.student}

    def deployed(self, student: nn.Module) -> nn.Module:
        """Return the network that is evaluated and exported, of the recipe's architecture: never a peer or a projection.

        Args:
            student: the trained student, or its averaged weights.
        """
        return student

    def state(self) -> dict[str, Tensor]:
        """Return what must survive a restart beyond modules and optimizers, such as running counts."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""

    def epoch_of(self, share: float) -> int:
        """Return the epoch (from 0) at which `share` of the run is over."""
        return epoch_at(share, self.recipe.schedule.epochs)

    def maximise(
        self,
        objective: Objective,
        batch: Batch,
        aux: tuple[Tensor, ...] = (),
        target: Target | None = None,
        net: nn.Module | None = None,
        purpose: str = "start",
    ) -> Tensor:
        """Return x' (B, C, H, W) that maximises objective(net, x', *aux) over the threat; net: the student unless given."""
        assert self._maximiser is not None, (
            "recipes.resolve refuses a recipe without the [attack] that its method needs"
        )
        attacked = self.student if net is None else net
        x_adv = self._maximiser(objective, attacked, batch.x, aux, target, draws=batch.draws, purpose=purpose)
        if self.watch is not None and attacked is self.student:
            self.watch(batch, x_adv)
        return x_adv

    def logits(self, x: Tensor, net: Net | None = None) -> Tensor:
        """Return the student's (or `net`'s) logits (B, K) in the precision of the outer step, as fp32 numbers."""
        import torch

        net, bf16 = self.student if net is None else net, self.recipe.precision.outer == "bf16"
        if self.recipe.precision.compile and isinstance(net, torch.nn.Module):
            if net not in self._compiled:
                self._compiled[net] = torch.compile(net, dynamic=False)
            net = self._compiled[net]
        with torch.autocast(x.device.type if x.device.type != "meta" else "cpu", torch.bfloat16, enabled=bf16):
            logits: Tensor = net(x)
        return logits.float() if bf16 else logits

    def student_at(
        self, x: Tensor, x_adv: Tensor, needed: Sequence[Point], forwards: Sequence[Point] = ()
    ) -> dict[Point, Tensor]:
        """Return the student's logits (B, K) at "x" and "x_adv", those of `needed` with a gradient.

        Args:
            needed: what the loss needs, in the order of the forwards unless `forwards` says another.
            forwards: every forward, in order; one that is not needed, or made before, moves the running statistics alone.
        """
        import torch

        images: dict[Point, Tensor] = {"x": x, "x_adv": x_adv}
        answers: dict[Point, Tensor] = {}
        for point in forwards or needed:
            with torch.set_grad_enabled(point in needed and point not in answers):
                logits = self.logits(images[point])
            answers.setdefault(point, logits)
        return answers

    def eval_logits(self, x: Tensor, net: nn.Module) -> Tensor:
        """Return the logits (B, K) of a network that is being trained, as it would answer now: eval mode, no gradient."""
        import torch

        from ardbench.attacks.form import frozen

        with frozen(net, "eval"), torch.no_grad():
            return self.logits(x, net)

    def teacher_logits(self, batch: Batch, teacher: int = 0) -> Tensor:
        """Return a teacher's logits (B, K) at the clean view of the batch, without gradient."""
        return self.ask(batch.x, teacher) if self.remembered is None else self.remembered(batch, teacher)

    def ask(self, x: Tensor, teacher: int = 0) -> Tensor:
        """Return a teacher's logits (B, K) at any x, in eval mode and without gradient."""
        import torch

        with torch.no_grad():
            return self.teachers[teacher](x)
