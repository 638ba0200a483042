"""The profiles of a step: each side's longest operations, as shares of all of it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small import CPU

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "speed"))

import profiles
import sides
from tables import Runner

TINY = ["--model", "resnet8-tiny", "--teacher", "resnet8-tiny", "--batch", "8", "--variant", "fp32"]


def test_what_takes_longest_comes_first_with_its_share_of_the_whole() -> None:
    a, prepared = torch.rand(300, 300), []

    def step() -> None:
        for _ in range(20):
            a @ a
        a.abs()

    (first, calls, seconds, share), *others = profiles.longest(Runner(lambda: prepared.append(0), step), CPU)
    assert first == "aten::mm" and calls == 20 and seconds > 0 and share > 0.5 and len(prepared) == 2
    assert [one[0] for one in others if one[0] == "aten::abs"] and len(others) < profiles.LONGEST
    assert share + sum(one[3] for one in others) <= 1 + 1e-9
    assert [one[2] for one in others] == sorted((one[2] for one in others), reverse=True)


def test_a_profiler_that_sees_nothing_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sides, "HEAP", 1)
    monkeypatch.setattr(profiles, "profile", lambda **_: nullcontext(SimpleNamespace(key_averages=list)))
    with pytest.raises(SystemExit) as refused:
        profiles.main([*TINY, "--methods", "pgd-at", "--out", str(tmp_path)])
    assert refused.value.code == 2
    assert "Error: torch's profiler saw no operations here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_both_sides_of_a_method_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sides, "HEAP", 1)  # nothing is timed here
    for _ in range(2):
        profiles.main([*TINY, "--methods", "rslad", "--out", str(tmp_path)])
    rows = profiles.open_table(tmp_path / "profile-cpu.csv").rows()
    assert [(row["side"], row["rank"]) for row in rows] == [
        (side, str(rank)) for side in ("reference", "fp32") for rank in range(1, profiles.LONGEST + 1)
    ]
    assert {row["operation"] for row in rows[:3]} & {"aten::convolution_backward", "aten::mkldnn_convolution"}
    text = (tmp_path / "profile-cpu.md").read_text(encoding="utf-8")
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == [f"## rslad, resnet8-tiny from resnet8-tiny, batch 8, {side}" for side in ("reference", "fp32")]
    assert text in capsys.readouterr().out
