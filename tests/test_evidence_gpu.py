"""`make evidence-gpu`: refused without a device; with one, a teacher and its cells in calls that go on from what was kept."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_call import call
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "evidence_gpu.sh"
SUITE = """
title = "Tiny"
dataset = "fake"
protocols = ["clean", "fgsm"]
set = {{ data.validation = 20, data.train_images = 64, attack.steps = 1, schedule.epochs = 1, selection.protocol = "fgsm" }}
runs = [{runs}]
"""
FIRST = '{ name = "robust", recipe = "trades-digits" }'
SECOND = '{ name = "teacher", recipe = "pgd-at-digits" }, { name = "rslad", recipe = "rslad-digits", teachers = ["teacher"] }'


def script(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run([SCRIPT, out], env=known, capture_output=True, text=True, check=False)


def test_without_cuda_it_is_refused_in_a_sentence(tmp_path: Path) -> None:
    done = script(tmp_path / "out", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
    assert f"'{sys.executable}' has no torch that sees a CUDA device" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: torch sees no device")
@pytest.mark.skipif(hasattr(ctypes.CDLL(None), "null_launches"), reason="the stand-in ends at child processes")
def test_calls_go_on_until_nothing_is_missing(tmp_path: Path) -> None:
    suites = {"first": FIRST, "second": SECOND}
    for name, runs in suites.items():
        (tmp_path / f"{name}.toml").write_text(SUITE.format(runs=runs))
    words = {"SUITES": " ".join(str(tmp_path / f"{name}.toml") for name in suites), "RUNS": str(tmp_path / "runs")}
    out = tmp_path / "out"
    short = script(out, LIMIT="1", **words)
    assert short.returncode == 3 and "type the same command again" in short.stdout
    done = script(out, LIMIT="300", **words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(out.glob("runs/*/done"))) == 3 and not list(out.glob("runs/*/last.state"))
    assert call("verify", out / "runs").exit_code == 0
    (half,) = (out / "teachers").iterdir()
    kept = load_file(next(out.glob("runs/trades-*/best.safetensors")))
    for name, tensor in load_file(half).items():
        assert torch.equal(tensor, kept[name].half() if kept[name].is_floating_point() else kept[name])
