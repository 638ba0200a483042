"""What only an accelerator can show: each method's step and a whole short run on CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import batch, method, recipe

from ardbench import methods
from ardbench.attacks.graph import Graphs
from ardbench.data.load import load
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
    wanted = recipe(name, attack__start="none")  # noise differs between devices; nothing else may
    losses = []
    for device in ("cpu", "cuda"):
        built = method(wanted, to=device)
        losses.append(built.step(batch(wanted).to(device), 15).loss.detach().cpu())
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


@pytest.mark.parametrize("name", ["pgd-at", "rslad", "trades", "adaad"])
@pytest.mark.parametrize("attack", ["fp32", "bf16"])
def test_a_replayed_attack_is_the_eager_one_to_the_bit(name: str, attack: str) -> None:
    found = []
    for graphed in (False, True):
        wanted = recipe(name, precision__attack=attack, precision__cuda_graph=graphed)
        built = method(wanted, to="cuda")
        seen: list[torch.Tensor] = []
        built.watch = lambda _, x_adv, seen=seen: seen.append(x_adv)
        for step in (0, 1, 0):  # recorded, replayed with other images, and replayed with the first again
            built.step(batch(wanted, step).to("cuda"), 0)
        assert torch.equal(seen[0], seen[2])
        found.append(seen)
    assert all(torch.equal(eager, replayed) for eager, replayed in zip(*found, strict=True))


@pytest.mark.parametrize("sets", [{}, {"precision__compile": True}, {"precision__cuda_graph": True}], ids=str)
def test_training_waits_for_the_device_only_where_it_looks(sets: dict[str, bool], tmp_path: Path) -> None:
    device = torch.device("cuda")
    wanted = recipe("rslad", precision__attack="bf16", precision__outer="bf16", **sets)
    splits = load("fake", device, validation=wanted.data.validation)
    loop = Loop(Run(tmp_path), wanted, method(wanted, to="cuda"), splits, lambda: False, Progress())
    for index in range(2):  # compiles, records, and asks the teacher about the views of the epoch
        loop._step(loop.batches.batch(0, index), 0, index)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop._step(loop.batches.batch(0, 2), 0, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


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
    torch.zeros(2**28, device=device)  # 1 GiB, of another run
    forget_peak(device)
    assert peak_memory(device) < 2**29
    before = torch.cuda.memory_allocated(device)
    graphs = Graphs()
    graphs("sum", lambda x: x.repeat(16).sum(), x)  # 64 MiB that the recording keeps, and no tensor holds
    assert torch.cuda.memory_allocated(device) - before < 2**25
    forget_peak(device)
    assert peak_memory(device) - before >= 2**26
    del graphs
    forget_peak(device)
    assert peak_memory(device) - before < 2**25
