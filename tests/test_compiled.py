"""torch.compile and CUDA graphs: the same step by other means."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small import CPU, batch, cosine, method, recipe

from ardbench.attacks.graph import MOST, Graphs
from ardbench.data.load import load
from ardbench.engine.loop import Loop
from ardbench.errors import ArdbenchError
from ardbench.progress import Progress
from ardbench.runs import Run

COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("outer", ["fp32", "bf16"])
def test_a_compiled_step_is_the_step(outer: str) -> None:
    words: dict[str, Any] = {"precision__attack": outer, "precision__outer": outer, "attack__start": "none"}
    losses, gradients = [], []
    for compiled in (False, True):
        wanted = recipe("rslad", precision__compile=compiled, **words)
        built = method(wanted)
        step = built.step(batch(wanted), 0)
        step.loss.backward()
        losses.append(step.loss.item())
        gradients.append([parameter.grad for parameter in built.student.parameters()])
    bf16 = outer == "bf16"
    assert losses[1] == pytest.approx(losses[0], rel=2e-2 if bf16 else 1e-4)
    assert cosine(*gradients) > (0.98 if bf16 else 0.9999)


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_run_trains_and_its_weights_are_plain(tmp_path: Path) -> None:
    wanted = recipe("pgd-at", schedule__epochs=1, precision__compile=True)
    splits = load("fake", CPU, validation=wanted.data.validation)
    built = method(wanted)
    assert Loop(Run(tmp_path), wanted, built, splits, lambda: False, Progress()).fit()
    method(wanted).student.load_state_dict(built.student.state_dict())


def test_graphs_record_each_shape_once_and_refuse_names_that_never_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = []

    def record(graphs: Graphs, work: Any, tensors: Any) -> Any:
        recorded.append([len(tensor) for tensor in tensors])
        return work

    monkeypatch.setattr(Graphs, "_recorded", record)
    graphs, double = Graphs(), (lambda x: 2 * x)
    for size in (4, 4, 3, 4):
        x = torch.ones(size)
        assert torch.equal(graphs("double", double, x), 2 * x)
    assert recorded == [[4], [3]]
    for _ in range(MOST - 2):
        graphs(object(), double, torch.ones(2))
    with pytest.raises(ArdbenchError, match="one object in all steps"):
        graphs(object(), double, torch.ones(2))
