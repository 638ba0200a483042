"""What a method hands to the loop, held to the contract by types and shapes alone: nothing waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ardbench.data.batches import Batch
from ardbench.faults import blamed, refused
from ardbench.methods.base import Method, Step

COLUMNS = frozenset({
    "epoch", "loss", "learning_rate", "seconds", "images", "images_per_second", "peak_memory", "diagnostics",
    "val_clean", "val_robust", "test_clean", "test_robust",
})  # fmt: skip
"""The loop's own columns of metrics.jsonl."""


class Contract:
    """A method as the loop calls it.

    Args:
        method: as built.

    Raises:
        Fault: of every call, in one sentence, where the method's code fails or returns something else than it is asked for.
    """

    def __init__(self, method: Method[Any]) -> None:
        self.method, self.kind = method, type(method)
        self.looked = -1  # the epoch in which the parameters of the loss were last looked at

    def trainables(self) -> dict[str, nn.Module]:
        """Return the modules that have an optimizer each, by name; each has a parameter that learns."""
        with blamed(self.kind, "trainables"):
            found: Any = self.method.trainables()
        wanted = 'return a dict of modules by name, such as {"student": self.student}'
        if not isinstance(found, dict) or not found:
            raise refused(self.kind, f"returns {_told(found)} from trainables", wanted, "trainables")
        for name, net in found.items():
            if not isinstance(name, str) or not isinstance(net, nn.Module):
                raise refused(self.kind, f"has {_told(net)} as trainable {name!r}", wanted, "trainables")
            if not any(parameter.requires_grad for parameter in net.parameters()):
                raise refused(
                    self.kind, f"has nothing that learns in its trainable {name!r}", "leave it out", "trainables"
                )
        return found

    def begin_epoch(self, epoch: int) -> None:
        """Let the method and its modules begin an epoch."""
        with blamed(self.kind, "begin_epoch"):
            self.method.begin_epoch(epoch)
        for module in self.method.modules:
            module.begin_epoch(epoch)

    def step(self, batch: Batch, epoch: int, share: float) -> Step:
        """Return a step after backward of `share` times its loss."""
        with blamed(self.kind):
            step = self.method(batch, epoch)
            self._check(step)
            if epoch != self.looked:
                self.looked = epoch
                self._check_parameters(step.loss)
            (share * step.loss).backward()  # type: ignore[no-untyped-call]
        return step

    def deployed(self, student: nn.Module) -> nn.Module:
        """Return the network that is evaluated and exported."""
        with blamed(self.kind, "deployed"):
            net: Any = self.method.deployed(student)
        if not isinstance(net, nn.Module):
            raise refused(self.kind, f"returns {_told(net)} from deployed", "return a network", "deployed")
        return net

    def state(self) -> dict[str, Tensor]:
        """Return what must survive a restart."""
        with blamed(self.kind, "state"):
            state: Any = self.method.state()
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise refused(self.kind, f"returns {_told(state)} from state", "return a dict of tensors by name", "state")
        return state

    def _check(self, step: Any) -> None:
        """Refuse what is no step: the loss is one number with a gradient, the logs are one number each."""
        if not isinstance(step, Step):
            raise refused(self.kind, f"returns {_told(step)} from step", "return Step(loss, logs)")
        loss: Any = step.loss
        if not isinstance(loss, Tensor):
            raise refused(self.kind, f"has {_told(loss)} as loss", "give a tensor of one number")
        if loss.numel() != 1:
            raise refused(self.kind, f"has {_told(loss)} as loss", "give one number, such as its mean()")
        if not loss.requires_grad:
            wanted = "compute it from self.logits(...), without detach() and outside torch.no_grad()"
            raise refused(self.kind, "has a loss without gradient", wanted)
        logs: Any = step.logs
        if not isinstance(logs, dict):
            raise refused(self.kind, f"has {_told(logs)} as logs", "give a dict of tensors by name")
        for name, value in logs.items():
            if not isinstance(name, str) or name in COLUMNS:
                raise refused(
                    self.kind, f"calls a log {name!r}, as the loop calls one of its own", "give it another name"
                )
            if not isinstance(value, Tensor) or value.numel() != 1:
                wanted = "give a tensor of one number, left on its device: a mean(), without item()"
                raise refused(self.kind, f"logs {_told(value)} as {name!r}", wanted)

    def _check_parameters(self, loss: Tensor) -> None:
        """Refuse a loss that hangs on a parameter without optimizer: it would stay as it began, and nothing would tell."""
        known = {id(parameter) for net in self.trainables().values() for parameter in net.parameters()}
        held = [value for value in vars(self.method).values() if isinstance(value, Tensor)]
        for leaf in _leaves(loss):
            if id(leaf) not in known and (isinstance(leaf, nn.Parameter) or any(leaf is value for value in held)):
                raise refused(
                    self.kind,
                    f"has {self._name(leaf)} in its loss, which no optimizer trains",
                    "put its module into trainables(), or freeze it with requires_grad_(False)",
                    "__init__",
                )

    def _name(self, parameter: Tensor) -> str:
        for name, value in vars(self.method).items():
            if value is parameter:
                return f"self.{name}"
            for inner, one in value.named_parameters() if isinstance(value, nn.Module) else ():
                if one is parameter:
                    return f"self.{name}.{inner}"
        return f"a parameter of shape {tuple(parameter.shape)}"


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """Yield every tensor that gets a gradient in the backward of a loss."""
    seen, ahead = set[Any](), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            yield leaf
        ahead += [after for after, _ in node.next_functions]


def _told(value: Any) -> str:
    """Return what was given, such as "a float" or "a tensor of shape (50,)"."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
