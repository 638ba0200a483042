"""The contract of a method: one function of a batch, and the networks that it trains, asks and deploys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ardbench import data
from ardbench.config import MethodConfig, Point, Recipe, epoch_at
from ardbench.losses import kl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ardbench.attacks.objectives import Net, Objective, Target
    from ardbench.data.batches import Batch
    from ardbench.methods.module import Module

Config = TypeVar("Config", bound=MethodConfig)


@dataclass(frozen=True)
class Step:
    """What one batch asks the loop to minimise.

    Args:
        loss: scalar; the loop calls backward on it once and steps every optimizer.
        logs: scalars for metrics.jsonl and the progress bar, detached by the loop; never read on the host here.
        examples: (b,) whose mean the loss is, where the method has them: modules may weigh them (`Method.examples`).
    """

    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    examples: Tensor | None = None

    @classmethod
    def over(cls, examples: Tensor, terms: Mapping[str, Tensor] | None = None) -> Step:
        """Return the step of a mean over examples: their losses (b,), and terms (b,) of which the means are logged."""
        return cls(examples.mean(), {name: term.mean() for name, term in (terms or {}).items()}, examples)

    def plus(self, name: str, weight: float, term: Tensor) -> Step:
        """Return the step with weight times the mean of a term (b,) added, which is logged by its name."""
        logs = self.logs | {name: term.mean()}
        if self.examples is None:
            return Step(self.loss + weight * logs[name], logs)
        examples = self.examples + weight * term
        return Step(examples.mean(), logs, examples)

    def times(self, weights: Tensor) -> Step:
        """Return the step whose examples are multiplied by weights (b,), constants."""
        assert self.examples is not None, "recipes.resolve refuses a method without them"
        examples = weights * self.examples
        return Step(examples.mean(), self.logs, examples)


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


@dataclass
class _Present:
    """What modules see of the step that is being made: its batch, x', and who has answered what, and where."""

    batch: Batch | None = None
    x_adv: Tensor | None = None
    answers: list[tuple[int | None, Tensor, Tensor]] = field(default_factory=list)


class Method(ABC, Generic[Config]):
    """A way to train a student. Subclasses state their min-max problem and its source, their `Config`, and `step`.

    The loop calls `begin_epoch`, puts every trainable in train mode, calls the method for each batch, that is `step` and
    the recipe's modules, one backward, and one optimizer step per trainable. Phases compare `epoch` with
    `self.epoch_of(share)`. A parameter outside the present loss keeps the gradient None, so that neither momentum nor
    weight decay moves it.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    roles: ClassVar[tuple[str | EllipsisType, ...]] = ()
    """The teachers that the method wants, such as ("robust", "clean"); a last Ellipsis allows more of the one before."""
    attacks: ClassVar[bool] = True
    """Whether the method has an inner maximisation, and its recipe therefore an [attack] section."""
    peer: ClassVar[bool] = False
    """Whether a peer is trained beside the student: a distillation without a trained teacher."""
    others: ClassVar[tuple[str, ...]] = ()
    """The trainables beside the student, which a recipe may let learn in their own way ([trainables.NAME])."""
    examples: ClassVar[bool] = False
    """Whether every step is a mean over examples and says so (`Step.over`)."""
    inside: ClassVar[bool] = False
    """Whether it asks more of the student than logits: `features` and `head`."""
    gradients: ClassVar[bool] = False
    """Whether it asks the first teacher's gradient to x: `teacher_gradient`."""
    averages: ClassVar[bool] = False
    """Whether the method asks `average`, and its recipe therefore has `average.kind = "ema"` from the start."""

    def __init__(self, context: Context) -> None:
        from ardbench.attacks.form import FastForm
        from ardbench.attacks.pgd import Maximiser
        from ardbench.methods import module_class

        recipe = context.recipe
        self.recipe = recipe
        self.config: Config = self.Config.model_validate(recipe.method)  # type: ignore[assignment]
        self.classes = data.info(recipe.data.name).num_classes
        self.student = context.student
        attack = recipe.attack and (recipe.threat, recipe.attack, recipe.precision)
        self._maximiser = Maximiser(*attack, tell=context.tell) if attack else None
        bf16 = recipe.precision.outer == "bf16"
        self.teachers: tuple[Net, ...] = tuple(
            FastForm(net, bf16, recipe.precision).settled() for net in context.teachers
        )
        self.exact: Net | None = None
        """The first teacher in fp32, whose gradient to x is asked."""
        if self.gradients:
            in_fp32 = FastForm(context.teachers[0], False, recipe.precision).settled() if bf16 else self.teachers[0]
            self.exact = in_fp32
        self.watch: Callable[[Batch, Tensor], None] | None = None
        """Sees each batch and the x' that was crafted on the student, when diagnostics were asked for."""
        self.remembered: Callable[[Batch, int], Tensor] | None = None
        """Knows a teacher's logits at the clean view of a batch, when the engine keeps them."""
        self.average: nn.Module = self.student
        """The moving average of the student, in place of which the student stands where the engine keeps none."""
        self.epoch_steps = 1
        """Steps of an epoch, as the engine says."""
        self.once: Callable[[Callable[[], Tensor]], Tensor] = lambda make: make()
        """Makes what a step has no need to make again when it is repeated at other weights: x', answers of teachers."""
        self._compiled: dict[nn.Module, Net] = {}
        self._present = _Present()
        self.modules = tuple(module_class(section["name"])(self, section) for section in recipe.modules)

    def __call__(self, batch: Batch, epoch: int) -> Step:
        """Return the step of one batch with what the recipe's modules make of it, in order."""
        self._present = _Present(batch)
        step = self.step(batch, epoch)
        for module in self.modules if isinstance(step, Step) else ():  # else the engine says what it is
            step = module(step, batch, epoch)
        self._present = _Present(x_adv=self.x_adv)
        return step

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

    @property
    def x_adv(self) -> Tensor | None:
        """The x' that the present or last step has crafted on the student, or None where it crafted none."""
        return self._present.x_adv

    @property
    def parts(self) -> tuple[Method[Any] | Module[Any], ...]:
        """The method and its modules: all that has a state, and turns it over between epochs."""
        return (self, *self.modules)

    def iteration(self, batch: Batch) -> tuple[int, int]:
        """Return which step of the run (from 0) a batch belongs to, and how many there are."""
        whole = self.epoch_steps * self.recipe.schedule.epochs
        return batch.draws.epoch * self.epoch_steps + batch.draws.step, whole

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
        maximiser, attacked = self._maximiser, self.student if net is None else net
        watching = [module for module in self.modules if module.watches and attacked is self.student]

        def observe(number: int, iterate: Tensor, logits: Tensor) -> None:
            for module in watching:
                module.observe(batch, number, iterate, logits)

        def search() -> Tensor:
            words = (objective, attacked, batch.x, aux, target)
            seen_by = observe if watching else None
            x_adv = maximiser(*words, draws=batch.draws, purpose=purpose, observe=seen_by)
            if self.watch is not None and attacked is self.student:
                self.watch(batch, x_adv)
            return x_adv

        x_adv = self.once(search)
        if attacked is self.student:
            self._present.x_adv = x_adv
        return x_adv

    def disagreement(self, net: Net, x_adv: Tensor) -> Tensor:
        """Return KL(T(x') || net(x')) (B,), T the first teacher: an objective whose gradient goes through both networks."""
        return kl(net(x_adv), self.teachers[0](x_adv))

    def logits(self, x: Tensor, net: Net | None = None) -> Tensor:
        """Return the student's (or `net`'s) logits (B, K) in the precision of the outer step, as fp32 numbers."""
        import torch

        own, bf16 = net is None, self.recipe.precision.outer == "bf16"
        net = self.student if net is None else net
        if self.recipe.precision.compile and isinstance(net, torch.nn.Module):
            if net not in self._compiled:
                self._compiled[net] = torch.compile(net, dynamic=False)
            net = self._compiled[net]
        with torch.autocast(x.device.type if x.device.type != "meta" else "cpu", torch.bfloat16, enabled=bf16):
            logits: Tensor = net(x)
        logits = logits.float() if bf16 else logits
        if own and logits.requires_grad:
            self._remember(None, x, logits)
        return logits

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
        if self.remembered is None:
            return self.ask(batch.x, teacher)
        known = self.remembered
        return self._told(batch.x, teacher, lambda: known(batch, teacher))

    def ask(self, x: Tensor, teacher: int = 0) -> Tensor:
        """Return a teacher's logits (B, K) at any x, in eval mode and without gradient."""
        return self._told(x, teacher, lambda: self.teachers[teacher](x))

    def teacher_gradient(self, batch: Batch, of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the first teacher's logits (b, K) at x, and the gradient (b, C, H, W) of the sum of of(logits); constants."""
        import torch

        exact, x = self.exact, batch.x.detach().requires_grad_(True)
        assert exact is not None, "the class says `gradients = True`"
        logits = self.once(lambda: exact(x))
        return logits.detach(), self.once(lambda: torch.autograd.grad(of(logits).sum(), x)[0])

    def answered(self, x: Tensor, teacher: int | None = None) -> Tensor:
        """Return what the student in train mode, or a teacher, has answered at this very x in this step, or ask it now.

        Of a teacher it is the answer itself, which no module has replaced.
        """
        for who, seen, answer in self._present.answers:
            if who == teacher and seen is x:
                return answer
        return self.logits(x) if teacher is None else self._told(x, teacher, lambda: self.teachers[teacher](x), False)

    def _told(self, x: Tensor, teacher: int, answer: Callable[[], Tensor], replaced: bool = True) -> Tensor:
        """Return a teacher's logits at x, made once a step, as the modules replace them."""
        import torch

        with torch.no_grad():
            logits = self.once(answer)
            self._remember(teacher, x, logits)
            if replaced and self._present.batch is not None:
                for module in self.modules:
                    logits = module.targets(logits, self._present.batch)
        return logits

    def _remember(self, who: int | None, x: Tensor, answer: Tensor) -> None:
        if self.modules:
            self._present.answers.append((who, x, answer))
