"""The contract of a method, over every registered one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import CPU, batch, method, recipe
from torch import Tensor, nn

from ardbench import methods
from ardbench.config import Recipe
from ardbench.data.load import load
from ardbench.engine.contract_checks import Bench, crafts_alike, goes_on, learns, repeats, sees_no_values
from ardbench.engine.loop import Loop
from ardbench.methods.base import Method
from ardbench.progress import Progress
from ardbench.runs import Run

OURS = sorted(methods.METHODS)
OF_LIBRARIES = ["timm:test_vit?patch_size=4", "timm:test_resnet", "torchvision:shufflenet_v2_x0_5?stem=small"]
"""The smallest of libraries: a transformer, convolutions, and another library."""


def networks_for(name: str, turn: int) -> list[str]:
    """Return the libraries' networks that a method is asked on: all where it looks at more than logits, else one in turn."""
    kind = methods.method_class(name)
    return OF_LIBRARIES if kind.inside or kind.gradients else OF_LIBRARIES[turn % 3 :][:1]


PAIRS = [(name, model) for turn, name in enumerate(OURS) for model in networks_for(name, turn)]


def made(name: str, to: Any = torch.float32, model: str = "resnet8-tiny", **sets: Any) -> tuple[Method[Any], Recipe]:
    wanted = recipe(name, **sets)
    return method(wanted, model, to), wanted


def bench(name: str, model: str = "resnet8-tiny", **sets: Any) -> Bench:
    """Return what the checks of the contract ask, which `ardbench check` asks of a plugin's method too."""
    wanted = recipe(name, **sets)
    return Bench(lambda to: method(wanted, model, to), lambda step: batch(wanted, step), wanted.schedule.epochs, 10)


@pytest.mark.parametrize("name", OURS)
def test_contract(name: str) -> None:
    learns_wholly(name, "resnet8-tiny")


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_contract_on_a_network_of_a_library(name: str, model: str) -> None:
    learns_wholly(name, model)


def learns_wholly(name: str, model: str) -> None:
    asked = bench(name, model, schedule__epochs=4)
    learns(asked)
    trained = asked.method(torch.float32).trainables().values()
    assert all(p.requires_grad for net in trained for p in net.parameters()), (
        "a method of ours freezes nothing by itself"
    )


@pytest.mark.parametrize("name", OURS)
def test_a_step_is_a_function_of_its_batch(name: str) -> None:
    repeats(bench(name))


@pytest.mark.parametrize("name", OURS)
def test_a_step_runs_on_the_meta_device(name: str) -> None:
    sees_no_values(bench(name))


def test_what_is_outside_the_loss_stays_to_the_bit(tmp_path: Any) -> None:
    """DARHT's B and b when the labels leave, and a trainable that no loss has reached.

    B and b were trained, so their momentum is not zero: a gradient of zero would still move them, and so would weight decay.
    """
    phases = {"method__distill_from": 0.25, "method__label_until": 0.5, "method__p_adv": 1}
    built, wanted = made("darht", schedule__epochs=4, selection__by="last", data__validation=0, **phases)
    head, late = built.student.get_submodule("head"), nn.Linear(2, 2)
    nets = built.trainables() | {"late": late}
    built.trainables = lambda: nets  # type: ignore[method-assign]
    loop = Loop(Run(tmp_path), wanted, built, load("fake", CPU), lambda: False, Progress())
    parts, seen = (head.out, head.map, late), list[list[list[Tensor]]]()
    for epoch in range(4):
        loop.at.step = 0
        loop._epoch(epoch)
        seen.append([[p.detach().clone() for p in part.parameters()] for part in parts])

    def moved(part: int, first: int, last: int) -> list[bool]:
        return [not torch.equal(a, b) for a, b in zip(seen[first][part], seen[last][part], strict=True)]

    assert moved(0, 0, 1) == [True, True] and moved(0, 1, 3) == [False, False]
    assert moved(1, 0, 1) == moved(1, 1, 2) == moved(1, 2, 3) == [True, True]
    assert moved(2, 0, 3) == [False, False]
    momentum = [loop.optimizers["student"].state[p]["momentum_buffer"] for p in head.out.parameters()]
    assert all(buffer.abs().sum() > 0 for buffer in momentum)


@pytest.mark.parametrize("name", OURS)
def test_a_step_leaves_modes_and_requires_grad_as_it_found_them(name: str) -> None:
    built, wanted = made(name)
    nets = list(built.trainables().values())
    part = built.student.get_submodule("layer1")
    part.eval().requires_grad_(False)

    def found() -> list[Any]:
        modes = [(m.training, getattr(m, "track_running_stats", None)) for net in nets for m in net.modules()]
        return [*modes, *(p.requires_grad for net in nets for p in net.parameters())]

    before = found()
    for epoch in (0, 19):
        built(batch(wanted), epoch)
        assert found() == before


@pytest.mark.parametrize("name", OURS)
def test_an_objective_holds_no_tensor(name: str) -> None:
    """What a batch brings travels in aux; one objective serves every step, so that a captured graph can replay it."""
    crafts_alike(bench(name))


@pytest.mark.parametrize(
    ("name", "epoch", "forwards"),
    [
        ("standard", 0, 1), ("pgd-at", 0, 1), ("trades", 0, 2), ("hat", 0, 3), ("lbgat", 0, 2),
        ("mtard", 0, 2), ("absld", 0, 2), ("saad", 0, 2), ("b-mtard", 0, 2), ("dgad", 0, 2), ("adr", 0, 1 + 2),
        ("ciard", 0, 2), ("kdiga", 0, 1),
        ("mart", 0, 2), ("rslad", 0, 2), ("adaad", 0, 1),
        ("ard", 0, 1 + 2), ("akd2", 0, 1 + 2), ("crdnd", 0, 2), ("peeraid", 0, 2),
        ("adaiad", 5, 1), ("adaiad", 6, 2),
        ("darht", 0, 1), ("darht", 5, 1), ("darht", 19, 1),
        ("iad-i", 5, 1 + 2), ("iad-i", 6, 2 + 2), ("iad-ii", 3, 1 + 2), ("iad-ii", 4, 2 + 2),
    ],
)  # fmt: skip
def test_batchnorm_sees_each_train_mode_forward_of_the_method_once(name: str, epoch: int, forwards: int) -> None:
    """Outer forwards, and with `bn = train` (ARD, AKD2, IAD) the two of the search: one more or less is another algorithm."""
    built, wanted = made(name)
    norms = [m for m in built.student.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [int(norm.num_batches_tracked) for norm in norms]  # type: ignore[arg-type]
    built(batch(wanted), epoch)
    assert {int(m.num_batches_tracked) - b for m, b in zip(norms, before, strict=True)} == {forwards}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OURS)
def test_a_method_goes_on_from_its_state_as_if_nothing_had_happened(name: str) -> None:
    """Modules, optimizers and `state` are all that is kept; the third step sees the same in both."""
    goes_on(bench(name, schedule__epochs=2))


@pytest.mark.parametrize("beside", ["peeraid", "lbgat"])
def test_a_peer_is_never_deployed(beside: str) -> None:
    built, _ = made(beside)
    peer = {id(p) for p in built.trainables()["peer"].parameters()}
    assert not peer & {id(p) for p in built.deployed(built.student).parameters()}
