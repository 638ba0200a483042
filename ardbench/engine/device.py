"""Choosing the device aloud, and setting it up for reproducible arithmetic."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ardbench import processes
from ardbench.attacks.form import computes_bf16
from ardbench.config import Precision, Recipe
from ardbench.errors import ArdbenchError, unknown
from ardbench.methods import METHODS, module_class

DEVICES = ("auto", "cuda", "cpu")
"""The words for where to compute."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Of glibc's malloc.h."""
TF32_SINCE = (8, 0)
"""The compute capability from which on a GPU has TF32 (Ampere)."""


def choose(wanted: str) -> torch.device:
    """Return the device for auto, cuda or cpu, set up for training.

    Raises:
        ArdbenchError: another word, or CUDA was asked for and is absent; nothing falls back silently.
    """
    if wanted not in DEVICES:
        raise unknown("device", str(wanted), DEVICES)
    present = torch.cuda.is_available()
    if wanted == "cuda" and not present:
        raise ArdbenchError(
            "--device cuda was given, but torch sees no CUDA device: check the driver, or give --device cpu."
        )
    torch.set_flush_denormal(True)  # gradients of a net that fits its data are denormal: more than 10 times slower
    if present and wanted != "cpu":
        return torch.device("cuda")
    keep_freed_memory(True)
    return torch.device("cpu")


def keep_freed_memory(keep: bool) -> None:
    """Say whether memory that tensors on the CPU have freed stays with the process, or goes back as C's library sees fit.

    Of large tensors glibc gives every page back at once and fetches it anew for the next one: an eighth of a step of a
    ResNet-18 in fp32. Another C library is left as it is.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0 if keep else 2**16)  # its default
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 64 * 2**20)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # where its own rule, which every mallopt ends, had arrived
        if not keep:
            libc.malloc_trim(0)


def check_precision(precision: Precision, device: torch.device) -> list[str]:
    """Return what a user should know of a recipe's precision on this device, in sentences.

    Raises:
        ArdbenchError: nothing here can compile.
    """
    notes = []
    if "bf16" in (precision.attack, precision.outer) and not computes_bf16(device):
        notes.append(
            f"This {device.type} has no instructions for bf16 and is slower in it than in fp32: give "
            "--set precision.attack=fp32 --set precision.outer=fp32."
        )
    slow = not precision.tf32 and "fp32" in (precision.attack, precision.outer)
    if device.type == "cuda" and slow and torch.cuda.get_device_capability(device) >= TF32_SINCE:
        notes.append(
            "fp32 here forbids TF32, which torch, and so most released scripts, allow in convolutions: expect about a third of "
            "their speed on an H100. --set precision.tf32=true allows it, --fast computes in bf16; either is another run."
        )
    compiler = os.environ.get("CXX", "g++")
    if precision.compile and device.type == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
        raise ArdbenchError(
            f"precision.compile = true needs a C++ compiler, and there is no {compiler}: install one, or leave it false."
        )
    if precision.compile and device.type == "cuda" and not find_spec("triton"):
        raise ArdbenchError("precision.compile = true needs Triton on CUDA: pip install triton, or leave it false.")
    return notes


def with_graphs(recipe: Recipe, device: torch.device) -> tuple[Recipe, str | None]:
    """Return the recipe with `precision.cuda_graph` decided, and a sentence where it was wanted and does nothing."""
    asked, attack = recipe.precision.cuda_graph, recipe.attack
    why = None
    if asked and device.type != "cuda":
        why = "on the CPU"
    elif asked and attack is None:
        why = f"for {recipe.method['name']}, which attacks nothing"
    elif asked and attack is not None and attack.bn == "train" and recipe.sync_bn and processes.size() > 1:
        why = "where attack.bn = 'train' makes the processes exchange statistics in each forward: see sync_bn = false"
    elif asked and attack is not None and attack.kind == "nuat" and processes.size() > 1:
        why = "where attack.kind = 'nuat' makes the processes exchange what the norm of the batch needs"
    elif asked and (watching := [m["name"] for m in recipe.modules if module_class(m["name"]).watches]):
        why = f"for the module {watching[0]}, which watches each step of the attack"
    elif asked == "auto" and recipe.method["name"] not in METHODS:
        why = (
            f"unasked for {recipe.method['name']}, which another package brings: --set precision.cuda_graph=true if its "
            "objective is one function that holds no changing tensor"
        )
    settled = recipe.precision.model_copy(update={"cuda_graph": bool(asked) and why is None})
    said = why is not None and not (asked == "auto" and device.type != "cuda")
    note = f"precision.cuda_graph does nothing {why}." if said else None
    return recipe.model_copy(update={"precision": settled}), note


def describe(device: torch.device) -> str:
    """Return the device in words, such as "cuda (NVIDIA H200)" or "cpu (2 threads)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def hardware_name(device: torch.device) -> str:
    """Return the device's own name: the GPU's, or the processor's with the bf16 instructions that it has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    told = dict(line.split("\t", 1) for line in lines if "\t" in line)
    name = told.get("model name", platform.processor()).strip(" \t:")
    extra = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in told.get("flags", "").split()]
    return " ".join([name, *extra])


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` begin anew from what the process holds now."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what graphs have kept that are there no more would still count as kept
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # no Linux, or not allowed: the peak stays the process's
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held since `forget_peak`: on CUDA taken from the device, else resident.

    On CUDA these are tensors, and what recorded graphs keep between their replays.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) + _kept_by_graphs(device)
    status = Path("/proc/self/status")  # ru_maxrss would count what the parent held when it started this process
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _kept_by_graphs(device: torch.device) -> int:
    """Return the bytes that belong to recorded graphs and to no tensor."""
    at = torch.cuda.current_device() if device.index is None else device.index
    private = [part for part in torch.cuda.memory_snapshot() if part["device"] == at and any(part["segment_pool_id"])]  # type: ignore[no-untyped-call]
    return sum(part["total_size"] - part["allocated_size"] for part in private)


def allow_tf32(allowed: bool) -> None:
    """Say whether CUDA may round the inputs of fp32 products and convolutions to TF32; torch alone allows it for some."""
    backends: Any = torch.backends
    for operator in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        operator.fp32_precision = "tf32" if allowed else "ieee"


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s that the device reaches in products of this dtype, on the CPU in 3x3 convolutions if these are faster.

    It takes well under a second. fp32 on CUDA is TF32 where `allow_tf32` allows that.
    """
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    rate = 2 * side**3 / least_seconds(lambda: a @ b, device)
    if device.type == "cpu":  # oneDNN's fp32 products are half as fast as its convolutions
        x = torch.randn(64, 128, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
        weight = torch.randn(128, 128, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
        flop = 2 * x.numel() * weight[0].numel()
        rate = max(rate, flop / least_seconds(lambda: torch.conv2d(x, weight, padding=1), device))
    return rate


def least_seconds(work: Callable[[], object], device: torch.device, budget: float = 0.2) -> float:
    """Return the least seconds that `work` takes once it is warm, by the device's own clock."""
    work()
    taken, until = list[float](), time.perf_counter() + budget
    while not taken or time.perf_counter() < until:
        taken.append(_seconds(work, device))
    return min(taken)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
