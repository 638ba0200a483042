"""`maximise`: projected gradient ascent of any objective, for training and evaluation alike."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ardbench.attacks.form import FastForm, frozen
from ardbench.attacks.graph import Graphs
from ardbench.attacks.threat import ascend, per_example, start_at
from ardbench.config import Attack, Precision, Threat
from ardbench.draws import Draws

if TYPE_CHECKING:
    from ardbench.attacks.objectives import Net, Objective, Target


class Maximiser:
    """The inner maximisation of a run: one threat, one attack, one precision, for whatever objective and network.

    Args:
        threat: the ball; the box is always [0, 1].
        attack: steps, step size, start, BatchNorm mode, restarts.
        precision: with `attack.bn = "eval"`, whether the network is attacked as a folded, bf16 or compiled copy, and whether
            the steps are replayed as a CUDA graph. With "train" it is never a copy: each crafting forward uses batch
            statistics and moves the network's own running statistics.
        momentum: decay of the gradients that are summed over the steps, each of L1 norm 1; 0 sums nothing. Source: Y. Dong
            et al., "Boosting adversarial attacks with momentum", CVPR 2018, eq. 6.
    """

    def __init__(self, threat: Threat, attack: Attack, precision: Precision, momentum: float = 0.0) -> None:
        self.threat, self.attack, self.precision, self.momentum = threat, attack, precision, momentum
        self._forms: WeakKeyDictionary[nn.Module, FastForm] = WeakKeyDictionary()
        self._graphs: WeakKeyDictionary[FastForm, Graphs] = WeakKeyDictionary()

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
    ) -> Tensor:
        """Return x' in ball and box that makes objective(net, x', *aux) large, per example.

        Args:
            objective: (net, x', *aux) -> (B,); closes over no tensor that changes from call to call.
            net: the attacked network; its modes and requires_grad are as before afterwards, also on an exception.
            x: (B, C, H, W) in [0, 1].
            aux: what the batch brings, such as labels or teacher logits.
            target: (net, x) -> tensor, evaluated once without gradient in the attack form and appended to `aux`.
            draws: the randomness of this step.
            purpose: names the start's draw; two calls in one step need two names.

        Returns:
            (B, C, H, W), detached, in the layout of x.
        """
        mode = self.attack.bn
        with frozen(net, mode, self.attack.bn_update):
            attacked = self._form(net) if mode == "eval" else self._itself(net)
            if target is not None:
                with torch.no_grad():
                    aux = (*aux, target(attacked, x))
            best = self._search(objective, attacked, x, aux, draws, purpose)
            if self.attack.restarts == 1:
                return best
            worst = _value(objective, attacked, best, aux)
            for restart in range(1, self.attack.restarts):
                x_adv = self._search(objective, attacked, x, aux, draws, f"{purpose}-{restart}")
                value = _value(objective, attacked, x_adv, aux)
                best = torch.where(per_example(value > worst, x), x_adv, best)
                worst = torch.maximum(value, worst)
        return best

    def _search(
        self, objective: Objective, net: Net, x: Tensor, aux: tuple[Tensor, ...], draws: Draws, purpose: str
    ) -> Tensor:
        start = start_at(x, self.attack.start, self.threat, draws, purpose)
        if not (self.precision.cuda_graph and x.is_cuda and isinstance(net, FastForm)):
            return self._climb(objective, net, x, start, *aux)
        graphs = self._graphs.setdefault(net, Graphs())
        return graphs(objective, partial(self._climb, objective, net), x, start, *aux)

    def _climb(self, objective: Objective, net: Net, x: Tensor, x_adv: Tensor, *aux: Tensor) -> Tensor:
        """Return where the steps lead from the first x'."""
        summed: Tensor | float = 0.0
        for _ in range(self.attack.steps):
            gradient = input_gradient(objective, net, x_adv, aux)
            if self.momentum:
                size = gradient.flatten(1).abs().sum(dim=1).clamp_min(1e-12)  # (B,)
                gradient = summed = self.momentum * summed + gradient / per_example(size, gradient)
            x_adv = ascend(x, x_adv, gradient, self.attack.step_size, self.threat)
        return x_adv

    def _form(self, net: nn.Module) -> Net:
        """Return the network's fast copy with its present weights, or the network itself where a copy gains nothing."""
        bf16, precision = self.precision.attack == "bf16", self.precision
        if not (bf16 or precision.fold_bn or precision.compile or precision.cuda_graph):
            return net
        if net not in self._forms:
            self._forms[net] = FastForm(net, bf16, self.precision)
        else:
            self._forms[net].refresh()
        return self._forms[net]

    def _itself(self, net: nn.Module) -> Net:
        def forward(x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16) if self.precision.attack == "bf16" else nullcontext():
                logits: Tensor = net(x)
            return logits.float() if logits.dtype == torch.bfloat16 else logits

        return forward


def input_gradient(objective: Objective, net: Net, x_adv: Tensor, aux: tuple[Tensor, ...]) -> Tensor:
    """Return the gradient of the objective's sum with respect to x' alone, shaped as x'."""
    x_adv = x_adv.detach().requires_grad_(True)
    with torch.enable_grad():
        value = objective(net, x_adv, *aux).sum()
    return torch.autograd.grad(value, x_adv)[0]


def _value(objective: Objective, net: Net, x_adv: Tensor, aux: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return objective(net, x_adv, *aux)
