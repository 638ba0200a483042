"""What a finished run exports is read back as the network that was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import CPU, batch, method, recipe
from torch import nn

from ardbench.data.load import load
from ardbench.engine import networks
from ardbench.engine.loop import Loop
from ardbench.models.feature_map import FeatureMap
from ardbench.progress import Progress
from ardbench.runs import Run, write_json


@pytest.mark.parametrize("drop", [False, True])
def test_a_darht_student_is_exported_folded_unless_it_drops_blocks(drop: bool, tmp_path: Path) -> None:
    wanted = recipe("darht", schedule__epochs=1, method__drop_block=drop, average__kind="swa")
    run, built = Run(tmp_path), method(wanted)
    run.create(wanted, (), {})
    loop = Loop(run, wanted, built, load("fake", CPU, validation=32), lambda: False, Progress())
    loop.fit()
    write_json(tmp_path / "done", {"epochs": 1})
    x = batch(wanted).x
    assert loop.averaged is not None
    for checkpoint, trained in (("last", built.student), ("averaged", loop.averaged.module)):
        net = networks.of_run(run, checkpoint, CPU)
        assert isinstance(net.head, FeatureMap if drop else nn.Linear)
        torch.manual_seed(1)
        expected = trained.eval()(x)
        torch.manual_seed(1)
        assert torch.allclose(net(x), expected, rtol=1e-4, atol=1e-5)


def test_a_dropping_student_answers_anew_each_time_and_loses_one_block() -> None:
    torch.manual_seed(0)
    head = FeatureMap(5, teachers=3, classes=4, drop_block=True)
    features = torch.randn(7, 5)
    z, (weight, bias) = head.map(features), (head.out.weight, head.out.bias)
    without = [z.clone() for _ in range(3)]
    for i, kept in enumerate(without):
        kept[:, 4 * i : 4 * i + 4] = 0
    possible = [kept @ weight.T + bias for kept in without]
    answers = [head(features) for _ in range(60)]
    drawn = [[i for i, f in enumerate(possible) if torch.allclose(answer, f, atol=1e-6)] for answer in answers]
    assert all(len(fitting) == 1 for fitting in drawn)
    assert {fitting[0] for fitting in drawn} == {0, 1, 2}
