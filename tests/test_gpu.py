"""What only an accelerator can show: each method's step and a whole short run on CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import batch, method, recipe

from ardbench import methods
from ardbench.data.load import load
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
