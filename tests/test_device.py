"""How a device is set up, and what is said of a recipe's precision on it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from small import CPU

from ardbench.config import Precision
from ardbench.engine import device as devices
from ardbench.errors import ArdbenchError

FAULTS = """
import resource, torch
from ardbench.engine import device as devices

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(16):
        a = torch.empty(2**24).fill_(1.0)  # 64 MB, 16384 pages
        b = torch.relu(a)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for keep in (False, True):
    devices.keep_freed_memory(keep)
    faults()
    print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
def test_freed_memory_stays_and_is_not_fetched_again() -> None:
    # in a process of its own, whose heap nothing else has cut into pieces
    given_back, kept = map(int, subprocess.check_output([sys.executable, "-c", FAULTS], text=True).split())
    assert given_back > 16 * 16384
    assert kept < given_back / 4


def test_bf16_without_instructions_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "computes_bf16", lambda device: False)
    assert devices.check_precision(Precision(), CPU) == []
    (note,) = devices.check_precision(Precision(outer="bf16"), CPU)
    assert "no instructions for bf16" in note and "precision.outer=fp32" in note


def test_a_cuda_graph_on_the_cpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.check_precision(Precision(cuda_graph=True), CPU) == ["precision.cuda_graph does nothing on the CPU."]


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ArdbenchError, match="needs a C\\+\\+ compiler"):
        devices.check_precision(Precision(compile=True), CPU)
    assert devices.check_precision(Precision(), CPU) == []
