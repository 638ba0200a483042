"""The contract of a method, asked of it in a few steps: what a training would tell late, or never.

The tests of our own methods and `ardbench check` ask the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ardbench.attacks.form import FastForm
from ardbench.attacks.pgd import Maximiser
from ardbench.data.batches import Batch
from ardbench.engine.contract import Contract
from ardbench.faults import raised, refused
from ardbench.methods.base import Method, Step


@dataclass(frozen=True)
class Bench:
    """A method that can be made again and again, always the same, and its batches.

    Args:
        method: makes it, all of its networks of a type or on a device.
        batch: gives the training batch of a step, on the CPU.
        epochs: of its recipe, over which its phases go.
        classes: K.
    """

    method: Callable[[Any], Method[Any]]
    batch: Callable[[int], Batch]
    epochs: int
    classes: int


def learns(bench: Bench) -> None:
    """Each part that is trained gets a finite gradient, modes and teachers stay, and what is deployed gives logits."""
    built, given = bench.method(torch.float32), bench.batch(0)
    kind, contract = type(built), Contract(built)
    teachers = [net for net in built.teachers if isinstance(net, FastForm)]  # not those that the method trains
    taught = [net(given.x) for net in teachers]
    assert not any(logits.requires_grad for logits in taught), "nothing in a teacher learns"
    parts = {f"{name}.{key}": p for name, net in contract.trainables().items() for key, p in net.named_parameters()}
    without = {key for key, parameter in parts.items() if parameter.requires_grad}
    for epoch in range(bench.epochs):
        contract.begin_epoch(epoch)
        before = _modes(built)
        step = contract.step(given, epoch, 1.0)
        if _modes(built) != before:
            wanted = "ask a network that is trained by self.eval_logits(x, net), and set modes back"
            raise refused(
                kind, "leaves a network in another mode, or with other frozen parameters, than it was in", wanted
            )
        if (step.examples is not None) != built.examples:
            wanted = "return Step.over(examples, terms) in each step with `examples = True`, and in none without it"
            raise refused(kind, f"has examples = {built.examples}, and its step is otherwise", wanted)
        for key, parameter in parts.items():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                raise refused(kind, f"gives {key} a gradient that is not finite in epoch {epoch}", "mend the loss")
            without -= {key} if parameter.grad is not None else set()
            parameter.grad = None
    if without:
        wanted = "let the loss depend on it, or leave it out of trainables() or freeze it"
        raise refused(kind, f"gives {min(without)} no gradient in any of {bench.epochs} epochs", wanted)
    if not all(torch.equal(net(given.x), before) for net, before in zip(teachers, taught, strict=True)):
        raise refused(kind, "changes a teacher", "train networks of trainables() alone")
    shape, wanted_shape = contract.deployed(built.student).eval()(given.x).shape, (len(given.y), bench.classes)
    if tuple(shape) != wanted_shape:
        raise refused(kind, f"deploys a network that gives {tuple(shape)}", f"give logits {wanted_shape}", "deployed")


def repeats(bench: Bench) -> None:
    """A step is a function of its batch: nothing comes from torch's global generator."""
    losses = []
    for seed in (0, 1):
        built = bench.method(torch.float32)
        torch.manual_seed(seed)
        losses.append(built(bench.batch(0), bench.epochs - 1).loss.detach())
    if not torch.equal(*losses):
        wanted = "draw from batch.draws, so that a run goes on where it stopped, to the bit"
        raise refused(type(built), "gives two losses for one batch", wanted)


def sees_no_values(bench: Bench) -> None:
    """A step runs without numbers, on the meta device: it names no device, and waits for none."""
    built = bench.method("meta")
    for epoch in (0, bench.epochs - 1):
        try:
            built(bench.batch(0).to("meta"), epoch).loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            if isinstance(error, AssertionError):
                raise
            wanted = "look at no number with item(), float() or `if`, and make tensors from others, as by new_zeros"
            what = raised(error, type(built).__module__.partition(".")[0]).rstrip(".")
            raise refused(type(built), f"names a device or waits for it: {what}", wanted) from error


def crafts_alike(bench: Bench) -> None:
    """An objective is one function in every step and holds no tensor, so that it can be compiled and captured."""
    built = bench.method(torch.float32)
    search, seen = built._maximiser, list[Any]()

    def watching(objective: Any, net: Any, x: Tensor, aux: Any = (), target: Any = None, **words: Any) -> Tensor:
        seen.append((objective, target))
        assert search is not None
        return search(objective, net, x, aux, target, **words)

    built._maximiser = watching if isinstance(search, Maximiser) else None  # type: ignore[assignment]
    for step in (0, 1):
        built(bench.batch(step), bench.epochs - 1)
    if len(seen) != 2 * built.attacks:
        wanted = "maximise once, or say `attacks = False`" if built.attacks else "say `attacks = True`"
        raise refused(type(built), f"searches x' {len(seen)} times in 2 steps", wanted)
    held = any(getattr(function, "__closure__", None) for pair in seen for function in pair)
    if held or len(set(seen)) != len(seen) // 2:
        wanted = "write a function of the module, (net, x, *aux) -> (B,), and give what a batch brings by aux"
        raise refused(type(built), "has an objective that is another in each step, or holds what a step has", wanted)


def goes_on(bench: Bench) -> None:
    """Modules, optimizers and `state` are all that must be kept: the step after a restart is the same to the bit."""
    built = bench.method(torch.float32)
    built.begin_epoch(0)
    for step in (0, 1):
        built(bench.batch(step), 0)
    built.begin_epoch(1)
    kept = {name: value.clone() for name, value in Contract(built).state().items()}
    again = bench.method(torch.float32)
    for net, old in zip(again.trainables().values(), built.trainables().values(), strict=True):
        net.load_state_dict(old.state_dict())
    again.load_state(kept)
    first, second = (one(bench.batch(2), 1) for one in (built, again))
    gradients = zip(_gradients(built, first), _gradients(again, second), strict=True)
    same = torch.equal(first.loss, second.loss) and first.logs.keys() == second.logs.keys()
    if not (same and all(torch.equal(a, b) for a, b in gradients)):
        wanted = "return from state() what it counts, and take it back in load_state()"
        raise refused(type(built), "goes on otherwise after a restart", wanted, "state")


CHECKS = (learns, repeats, sees_no_values, crafts_alike, goes_on)
"""What is asked of every method, the first to fail being the one to mend first."""


def _modes(built: Method[Any]) -> list[Any]:
    nets = list(built.trainables().values())
    modes = [
        (module.training, getattr(module, "track_running_stats", None)) for net in nets for module in net.modules()
    ]
    return [*modes, *(parameter.requires_grad for net in nets for parameter in net.parameters())]


def _gradients(built: Method[Any], step: Step) -> list[Tensor]:
    parameters = [p for net in built.trainables().values() for p in net.parameters() if p.requires_grad]
    return list(torch.autograd.grad(step.loss, parameters, materialize_grads=True))
