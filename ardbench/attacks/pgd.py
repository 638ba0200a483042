"""`maximise`: projected gradient ascent of any objective, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ardbench.attacks.form import CastForm, FastForm, frozen
from ardbench.attacks.graph import Graphs
from ardbench.attacks.nuclear import nuclear_terms
from ardbench.attacks.threat import ascend, leap, per_example, start_at
from ardbench.config import Attack, Precision, Threat
from ardbench.draws import Draws

if TYPE_CHECKING:
    from ardbench.attacks.objectives import Net, Objective, Target


Observer = Callable[[int, Tensor, Tensor], None]
NUCLEAR = 4.0
"""Weight of NuAT's norm beside the sum over examples, as in the released code of one-step distillation."""


class Maximiser:
    """The inner maximisation of a run: one threat, one attack, one precision, for whatever objective and network.

    Args:
        threat: the ball; the box is always [0, 1].
        attack: kind, steps, step size, start, BatchNorm mode, restarts.
        precision: with `attack.bn = "eval"`, whether the network is attacked as a folded, bf16 or compiled copy. With
            "train" each crafting forward uses batch statistics and moves the network's own running statistics. Either is
            replayed as a CUDA graph where `cuda_graph` says so.
        momentum: decay of the gradients that are summed over the steps, each of L1 norm 1; 0 sums nothing. Source: Y. Dong
            et al., "Boosting adversarial attacks with momentum", CVPR 2018, eq. 6.
        tell: hears in a sentence why an attack is not replayed although `cuda_graph` says so.
    """

    def __init__(
        self,
        threat: Threat,
        attack: Attack,
        precision: Precision,
        momentum: float = 0.0,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.threat, self.attack, self.precision, self.momentum, self.tell = threat, attack, precision, momentum, tell
        self._forms: WeakKeyDictionary[nn.Module, FastForm | CastForm] = WeakKeyDictionary()
        self._graphs: WeakKeyDictionary[nn.Module, Graphs] = WeakKeyDictionary()

    def __call__(
        self,
        objective: Objective,
        net: nn.Module,
        x: Tensor,
        aux: tuple[Tensor, ...] = (),
        target: Target | None = None,
        *,
        draws: Draws,
        purpose: str = "start",
        observe: Observer | None = None,
    ) -> Tensor:
        """Return x' in ball and box that makes objective(net, x', *aux) large, per example.

        Args:
            objective: (net, x', *aux) -> (B,); closes over no tensor that changes from call to call, and looks at no
                network that is trained but the one it is given.
            net: the attacked network; its modes and requires_grad are as before afterwards, also on an exception.
            x: (B, C, H, W) in [0, 1].
            aux: what the batch brings, such as labels or teacher logits.
            target: (net, x) -> tensor, evaluated once without gradient in the attack form and appended to `aux`.
            draws: the randomness of this step.
            purpose: names the start's draw; two calls in one step need two names.
            observe: called before each step from the first start, with the step's number from 0, the iterate (B, C, H, W) and
                the attacked network's logits there, (B, K); an attack that is observed is not replayed.

        Returns:
            (B, C, H, W), detached, in the layout of x.
        """
        names = (purpose, *(f"{purpose}-{restart}" for restart in range(1, self.attack.restarts)))
        starts = [start_at(x, self.attack.start, self.threat, draws, name) for name in names]
        search = partial(self._search, objective, target, net, observe)
        if observe is not None or not (self.precision.cuda_graph and x.is_cuda):
            return search(x, *starts, *aux)
        if net not in self._graphs:
            moved = net.buffers() if self.attack.bn == "train" else ()
            self._graphs[net] = Graphs((*net.parameters(), *net.buffers()), tuple(moved), self.tell)
        modes = tuple(module.training for module in net.modules()) if self.attack.bn == "train" else ()
        return self._graphs[net]((objective, target, modes), search, x, *starts, *aux)

    def _search(
        self,
        objective: Objective,
        target: Target | None,
        net: nn.Module,
        observe: Observer | None,
        x: Tensor,
        *rest: Tensor,
    ) -> Tensor:
        """Return the best of where the steps lead, from as many starts as there are restarts; aux comes after these."""
        starts, aux = rest[: self.attack.restarts], rest[self.attack.restarts :]
        with self._attacked(net) as attacked:
            if target is not None:
                with torch.no_grad():
                    aux = (*aux, target(attacked, x))
            if self.attack.kind == "nuat":
                with torch.no_grad():
                    objective, aux = _spread(objective), (attacked(x), *aux)
            best = self._climb(objective, attacked, x, starts[0], aux, observe)
            if len(starts) == 1:
                return best
            worst = _value(objective, attacked, best, aux)
            for start in starts[1:]:
                x_adv = self._climb(objective, attacked, x, start, aux)
                value = _value(objective, attacked, x_adv, aux)
                best = torch.where(per_example(value > worst, x), x_adv, best)
                worst = torch.maximum(value, worst)
        return best

    def _climb(
        self,
        objective: Objective,
        net: Net,
        x: Tensor,
        x_adv: Tensor,
        aux: tuple[Tensor, ...],
        observe: Observer | None = None,
    ) -> Tensor:
        """Return where the steps lead from the first x'."""
        summed: Tensor | float = 0.0
        for number in range(self.attack.steps):
            asked = net if observe is None else _Overheard(net)
            gradient = input_gradient(objective, asked, x_adv, aux)
            if observe is not None and isinstance(asked, _Overheard):
                observe(number, x_adv, asked.answers[0].detach())
            if self.momentum:
                size = gradient.flatten(1).abs().sum(dim=1).clamp_min(1e-12)  # (B,)
                gradient = summed = self.momentum * summed + gradient / per_example(size, gradient)
            if self.attack.kind == "n-fgsm":
                x_adv = leap(x_adv, gradient, self.attack.step_size)
            else:
                x_adv = ascend(x, x_adv, gradient, self.attack.step_size, self.threat)
        return x_adv

    @contextmanager
    def _attacked(self, net: nn.Module) -> Iterator[Net]:
        """Give the network's copy with its present weights, or the network itself, held still, where a copy gains nothing."""
        bf16, precision, mode = self.precision.attack == "bf16", self.precision, self.attack.bn
        copied = bf16 or (mode == "eval" and (precision.fold_bn or precision.compile))
        if copied and net not in self._forms:
            self._forms[net] = FastForm(net, bf16, precision) if mode == "eval" else CastForm(net)
        form = self._forms[net] if copied else None
        if form is not None:
            form.refresh()
        if isinstance(form, FastForm):  # all of it is a copy
            yield form
        else:
            with frozen(net, mode, self.attack.bn_update):
                yield net if form is None else form


class _Overheard:
    """A network whose answers are kept; the first of an objective is that at x'."""

    def __init__(self, net: Net) -> None:
        self._net, self.answers = net, list[Tensor]()

    def __call__(self, x: Tensor) -> Tensor:
        self.answers.append(self._net(x))
        return self.answers[-1]


def _spread(objective: Objective) -> Objective:
    """Return the objective (B,) of NuAT, of (net, x', S(x), *aux): with what each example adds to |S(x') - S(x)|_nuclear.

    Source: G. Sriramanan et al., "Towards efficient and effective adversarial training", NeurIPS 2021.
    """

    def both(net: Net, x_adv: Tensor, clean: Tensor, *aux: Tensor) -> Tensor:
        heard = _Overheard(net)
        value = _of_each(objective, heard, x_adv, aux)
        return value + NUCLEAR * nuclear_terms(heard.answers[0] - clean)

    return both


def input_gradient(objective: Objective, net: Net, x_adv: Tensor, aux: tuple[Tensor, ...]) -> Tensor:
    """Return the gradient of the objective's sum with respect to x' alone, shaped as x'."""
    x_adv = x_adv.detach().requires_grad_(True)
    with torch.enable_grad():
        total = _of_each(objective, net, x_adv, aux).sum()
    return torch.autograd.grad(total, x_adv)[0]


def _of_each(objective: Objective, net: Net, x_adv: Tensor, aux: tuple[Tensor, ...]) -> Tensor:
    """Return the objective (B,), and refuse another shape: a mean would climb too, and nothing would tell."""
    value = objective(net, x_adv, *aux)
    if getattr(value, "shape", None) != x_adv.shape[:1]:
        given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        name = getattr(objective, "__name__", "objective")
        raise ValueError(f"{name} returns {given} for {len(x_adv)} images: an objective returns one number each, (B,)")
    return value


def _value(objective: Objective, net: Net, x_adv: Tensor, aux: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return objective(net, x_adv, *aux)
