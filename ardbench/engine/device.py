"""Choosing the device aloud, and setting it up for reproducible arithmetic."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import torch

from ardbench.errors import ArdbenchError


def choose(wanted: str) -> torch.device:
    """Return the device for auto, cuda or cpu, set up for training.

    Raises:
        ArdbenchError: CUDA was asked for and is absent; nothing falls back silently.
    """
    present = torch.cuda.is_available()
    if wanted == "cuda" and not present:
        raise ArdbenchError(
            "--device cuda was given, but torch sees no CUDA device: check the driver, or give --device cpu."
        )
    torch.set_flush_denormal(True)  # gradients of a net that fits its data are denormal: more than 10 times slower
    return torch.device("cuda" if present and wanted != "cpu" else "cpu")


def describe(device: torch.device) -> str:
    """Return the device in words, such as "cuda (NVIDIA H200)" or "cpu (2 threads)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held: allocated on CUDA, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")  # ru_maxrss would count what the parent held when it started this process
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def allow_tf32(allowed: bool) -> None:
    """Say whether CUDA may round the inputs of fp32 products and convolutions to TF32; torch alone allows it for some."""
    backends: Any = torch.backends
    for operator in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        operator.fp32_precision = "tf32" if allowed else "ieee"
