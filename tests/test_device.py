"""How a device is set up, and what is said of a recipe's precision on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch
from small import CPU, recipe

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
PEAKS = """
import torch
from ardbench.engine import device as devices

cpu = torch.device("cpu")
devices.keep_freed_memory(False)
torch.zeros(2**26).fill_(1.0)  # 256 MB
print(devices.peak_memory(cpu))
devices.forget_peak(cpu)
print(devices.peak_memory(cpu))
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


@pytest.mark.parametrize(
    ("device", "name", "sets", "processes", "served", "said"),
    [
        ("cuda", "rslad", {}, 1, True, None),
        ("cuda", "rslad", {"attack__bn": "train"}, 1, True, None),
        ("cuda", "rslad", {"attack__bn": "train"}, 2, False, "sync_bn = false"),
        ("cuda", "rslad", {"attack__bn": "train", "sync_bn": False}, 2, True, None),
        ("cuda", "rslad", {}, 2, True, None),
        ("cuda", "standard", {}, 1, False, "for standard, which attacks nothing"),
        ("cpu", "rslad", {"precision__cuda_graph": True}, 1, False, "precision.cuda_graph does nothing on the CPU."),
        ("cpu", "rslad", {}, 1, False, None),
        ("cuda", "rslad", {"precision__cuda_graph": False}, 1, False, None),
    ],
)
def test_attacks_are_replayed_where_that_serves(
    device: str, name: str, sets: dict[str, Any], processes: int, served: bool, said: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(devices.processes, "size", lambda: processes)
    wanted = recipe(name, **{"precision__cuda_graph": "auto"} | sets)
    wanted = wanted.model_copy(update={"attack": None}) if name == "standard" else wanted
    decided, note = devices.with_graphs(wanted, torch.device(device))
    assert decided.precision.cuda_graph is served
    assert decided.identity() == wanted.identity()
    assert note is None if said is None else said in (note or "")


def test_attacks_of_another_package_are_replayed_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "METHODS", {})
    for asked, served in (("auto", False), (True, True)):
        decided, note = devices.with_graphs(recipe("rslad", precision__cuda_graph=asked), torch.device("cuda"))
        assert decided.precision.cuda_graph is served
        assert (note is None) is served


def test_what_fp32_costs_on_a_gpu_with_tf32_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, capability = torch.device("cuda"), (9, 0)
    monkeypatch.setattr(devices, "computes_bf16", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    for precision in (Precision(), Precision(attack="bf16")):
        (note,) = devices.check_precision(precision, cuda)
        assert "forbids TF32" in note and "precision.tf32=true" in note and "--fast" in note
    for precision in (Precision(tf32=True), Precision(attack="bf16", outer="bf16")):
        assert devices.check_precision(precision, cuda) == []
    capability = (7, 5)
    assert devices.check_precision(Precision(), cuda) == []


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system forgets no peak")
def test_a_peak_is_that_since_it_was_forgotten() -> None:
    # in a process of its own, which gives large tensors back
    grown, forgotten = map(int, subprocess.check_output([sys.executable, "-c", PEAKS], text=True).split())
    assert grown > 256 * 2**20 and forgotten < grown - 200 * 2**20


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ArdbenchError, match="needs a C\\+\\+ compiler"):
        devices.check_precision(Precision(compile=True), CPU)
    assert devices.check_precision(Precision(), CPU) == []
