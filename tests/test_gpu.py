"""What only an accelerator can show: each method's step and a whole short run on CUDA."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import batch, method, recipe
from test_extra import extra_images
from test_places import fake_in_files

from ardbench import methods
from ardbench.attacks.graph import DRAWN, Graphs
from ardbench.attacks.objectives import label_loss
from ardbench.config import Recipe
from ardbench.data.batches import TrainBatches, as_pixels
from ardbench.data.load import extra_of, load
from ardbench.data.views import resized_crop
from ardbench.engine.device import forget_peak, peak_memory
from ardbench.engine.loop import Loop
from ardbench.methods.base import Context
from ardbench.progress import Progress
from ardbench.runs import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: torch sees no device"),
]


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_a_step_is_the_one_of_the_cpu(name: str) -> None:
    """In float64: fp32 turns signs of small gradients, and SAAD's weights are differences. TRADES's first gradient is 0."""
    wanted = recipe(name, attack__start="none")  # noise differs between devices; nothing else may
    losses = []
    for device in ("cpu", "cuda"):
        built = method(wanted, to=torch.empty(0, dtype=torch.float64, device=device))
        losses.append(built.step(batch(wanted, dtype=torch.float64).to(device), 15).loss.detach().cpu())
    assert torch.allclose(losses[0], losses[1], rtol=2e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_resumes_on_cuda(precision: str, tmp_path: Path) -> None:
    device = torch.device("cuda")
    wanted = recipe("pgd-at", schedule__epochs=2, precision__attack=precision, precision__outer=precision)
    splits = load("fake", device, validation=wanted.data.validation)
    kind = methods.method_class("pgd-at")
    for stop in (lambda: True, lambda: False):
        student = method(wanted).student.to(device)
        finished = Loop(Run(tmp_path), wanted, kind(Context(wanted, student)), splits, stop, Progress()).fit()
    assert finished
    assert [row["epoch"] for row in Run(tmp_path).metrics] == [0, 1]


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[torch.cuda.CUDAGraph]:
    """Return a list to which each graph is added when it is replayed; kernels are chosen to be the same each time."""
    seen: list[torch.cuda.CUDAGraph] = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (seen.append(graph), replay(graph))[1])
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    return seen


def attacked(wanted: Recipe, tell: Callable[[str], None] | None = None) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Return the x' of three steps, the third of which repeats the first, and the state of the student after them."""
    built = method(wanted, to="cuda", tell=tell)
    seen: list[torch.Tensor] = []
    built.watch = lambda _, x_adv: seen.append(x_adv)
    first = {name: net_state(net) for name, net in built.trainables().items()}
    for step in (0, 1, 0):  # recorded, replayed with other images, and replayed with the first again
        for name, net in built.trainables().items():
            net.load_state_dict(first[name])  # each step moves running statistics
        torch.cuda.manual_seed(step)
        built.step(batch(wanted, step).to("cuda"), 0)
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    return seen, net_state(built.student)


def net_state(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("bn", "name"),
    [("eval", name) for name in ("pgd-at", "rslad", "trades", "adaad", "peeraid")]
    + [("train", name) for name in ("iad-i", "trades", "adaad")],
)
def test_a_replayed_attack_is_the_eager_one_to_the_bit(
    name: str, precision: str, bn: str, replays: list[torch.cuda.CUDAGraph]
) -> None:
    words = {"precision__attack": precision, "attack__bn": bn, "data__batch": 8}
    (eager, plain), (replayed, state) = (
        attacked(recipe(name, precision__cuda_graph=graphed, **words)) for graphed in (False, True)
    )
    assert len(replays) == 3 and len(set(replays)) == 1
    assert all(torch.equal(a, b) for a, b in zip(eager, replayed, strict=True))
    assert all(torch.equal(plain[key], state[key]) for key in plain)


def test_what_draws_is_not_recorded_and_says_so_once(replays: list[torch.cuda.CUDAGraph]) -> None:
    words = {"method__drop_block": True, "method__p_adv": 1, "data__batch": 8}
    told: list[str] = []
    eager, replayed = (
        attacked(recipe("darht", precision__cuda_graph=graphed, **words), told.append)[0] for graphed in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(eager, replayed, strict=True))
    assert replays == []
    assert told == [DRAWN]


def test_recordings_share_one_pool_and_replay_in_any_order(replays: list[torch.cuda.CUDAGraph]) -> None:
    graphs, others = Graphs(), Graphs()
    a, b = torch.rand(2, 1000, device="cuda")
    calls = [(graphs, "double", lambda x: (x + x).mul(1.0)), (others, "square", lambda x: (x * x).add(0.0))]
    for known, name, work in (*calls, *calls[::-1], *calls):
        for x in (a, b):
            assert torch.equal(known(name, work, x), work(x))
    assert len(set(replays)) == 2
    assert len({graph.pool() for graph in replays}) == 1


def test_a_network_whose_weights_have_moved_in_memory_is_recorded_again(replays: list[torch.cuda.CUDAGraph]) -> None:
    wanted = recipe("pgd-at", precision__cuda_graph=True, data__batch=8)
    built, given = method(wanted, to="cuda"), batch(wanted).to("cuda")
    built.maximise(label_loss, given, aux=(given.y,))
    for parameter in built.student.parameters():
        parameter.data = 1.1 * parameter.data
    found = built.maximise(label_loss, given, aux=(given.y,))
    fresh = method(recipe("pgd-at"), to="cuda")
    fresh.student.load_state_dict(built.student.state_dict())
    assert torch.equal(found, fresh.maximise(label_loss, given, aux=(given.y,)))
    assert len(set(replays)) == 2


BF16 = {"precision__attack": "bf16", "precision__outer": "bf16"}
SWITCHES = [
    {},
    {"precision__compile": True, **BF16},
    {"precision__cuda_graph": True, **BF16},
    {"attack__bn": "train", **BF16},
    {"attack__kind": "n-fgsm", "attack__steps": 1},
    {"attack__kind": "nuat", "attack__steps": 1},
    {"attack__kind": "nuat", "attack__steps": 1, "precision__cuda_graph": True, **BF16},
    {"average__kind": "ema", "average__decay": 0.9, "diagnostics": True},
]


@pytest.mark.parametrize(
    ("name", "sets"),
    [("rslad", sets) for sets in SWITCHES]
    + [(name, SWITCHES[-1]) for name in sorted(methods.METHODS) if name != "rslad"],
    ids=str,
)
def test_training_waits_for_the_device_only_where_it_looks(name: str, sets: dict[str, Any], tmp_path: Path) -> None:
    loop = begun(recipe(name, data__batch=8, **sets), tmp_path)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop._step(loop.batches.batch(0, 2), 0, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("labels", [None, True, False])
@pytest.mark.parametrize("name", ["pgd-at", "rslad"])
def test_training_from_the_host_waits_for_the_device_at_the_first_step_of_an_epoch_alone(
    name: str, labels: bool | None, tmp_path: Path
) -> None:
    extra = {}
    if labels is not None:
        with_labels = labels or name == "pgd-at"
        path = extra_images(tmp_path, labels=with_labels)
        extra = {"data__extra": f"npz:{path}", "data__extra_share": 0.5}
    loop = begun(recipe(name, data__batch=8, data__place="host", **extra), tmp_path)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index in range(2, 10):
            loop._step(loop.batches.batch(0, index), 0, index)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("place", ["host", "files"])
def test_batches_from_the_host_are_those_of_the_device(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_in_files(monkeypatch, tmp_path)
    here, there = (
        TrainBatches(load("fake", "cuda", place=name).train, "crop-flip", 40, False, 3) for name in ("device", place)
    )
    for epoch, step in ((0, 0), (0, 1), (0, 2), (0, 3), (0, 6), (1, 0), (1, 1), (0, 4)):
        one, other = here.batch(epoch, step), there.batch(epoch, step)
        assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y)


def test_resized_crops_wait_for_nobody_and_have_the_bits_of_the_cpu() -> None:
    batches = TrainBatches(load("fake", "cuda").train, "resized-crop-flip", 40, False, 3)
    batches.batch(0, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = batches.batch(0, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    images = load("fake", "cpu").train.images
    assert isinstance(images, torch.Tensor)
    assert torch.equal(batch.x.cpu(), as_pixels(resized_crop(images, batch.index.cpu(), batch.view.cpu())))


def begun(wanted: Recipe, folder: Path) -> Loop:
    """Return a loop after two steps, in which it compiles, records, and asks the teacher about the views of the epoch."""
    words = ("fake", torch.device("cuda"), None, wanted.data.validation)
    splits = replace(load(*words, place=wanted.data.place), extra=extra_of(wanted.data, "cuda"))
    loop = Loop(Run(folder), wanted, method(wanted, to="cuda"), splits, lambda: False, Progress())
    for index in range(2):
        loop._step(loop.batches.batch(0, index), 0, index)
    return loop


LAUNCHES = {
    ("eval", "pgd-at"): (439, 474, 241), ("train", "pgd-at"): (478, 512, 241),
    ("eval", "trades"): (695, 757, 462), ("train", "trades"): (763, 824, 462),
    ("eval", "rslad"): (661, 721, 474), ("train", "rslad"): (700, 759, 474),
    ("eval", "adaad"): (688, 733, 300), ("train", "adaad"): (727, 771, 300),
    ("eval", "iad-i"): (453, 488, 255), ("train", "iad-i"): (492, 526, 255),
}  # fmt: skip
"""The most launches of a step of a ResNet-8 at batch 2 with 2 attack steps: in fp32, bf16, and bf16 that is replayed."""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "null_launches"), reason="a real device launches by its own libraries"
)
@pytest.mark.parametrize(("bn", "name"), sorted(LAUNCHES))
def test_a_step_launches_no_more_than_it_did(bn: str, name: str, tmp_path: Path) -> None:
    found = []
    for sets in ({}, BF16, {"precision__cuda_graph": True, **BF16}):
        loop = begun(recipe(name, attack__bn=bn, data__batch=2, **sets), tmp_path)
        before = launches()
        loop._step(loop.batches.batch(0, 2), 0, 2)
        found.append(launches() - before)
    assert all(a <= b for a, b in zip(found, LAUNCHES[bn, name], strict=True)), found


def launches() -> int:
    return ctypes.c_long.in_dll(ctypes.CDLL(None), "null_launches").value


def test_the_teacher_cache_on_cuda_says_what_the_teacher_says(tmp_path: Path) -> None:
    device = torch.device("cuda")
    wanted = recipe("rslad")
    splits = load("fake", device, validation=wanted.data.validation)
    loop = Loop(Run(tmp_path), wanted, method(wanted, to="cuda"), splits, lambda: False, Progress())
    for step in (0, 1, 0):
        given = loop.batches.batch(0, step)
        with torch.no_grad():
            expected = loop.method.teachers[0](given.x)
        torch.testing.assert_close(loop.method.teacher_logits(given), expected, rtol=1e-4, atol=1e-4)


def test_the_peak_of_a_run_is_its_own_and_holds_what_graphs_keep() -> None:
    device, x = torch.device("cuda"), torch.ones(2**20, device="cuda")  # 4 MiB
    gc.collect()  # recordings of earlier tests, which share the pool
    forget_peak(device)
    rest = peak_memory(device)
    torch.zeros(2**28, device=device)  # 1 GiB, of another run
    assert peak_memory(device) >= rest + 2**30
    forget_peak(device)
    assert peak_memory(device) < rest + 2**25
    before = torch.cuda.memory_allocated(device)
    graphs = Graphs()
    graphs("sum", lambda x: x.repeat(16).sum(), x)  # 64 MiB that the recording keeps, and no tensor holds
    assert torch.cuda.memory_allocated(device) - before < 2**25
    forget_peak(device)
    assert peak_memory(device) >= rest + 2**26
    del graphs
    forget_peak(device)
    assert peak_memory(device) < rest + 2**25
