"""What all tests share: one thread, no denormals, a fixed seed, no plugins, and where real data lie."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from ardbench import plugins

settings.register_profile("ardbench", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("ardbench")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that a test starts: two that wait for each other spin


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.set_num_threads(1)  # small tensors gain nothing from more, and sums would depend on how many there are
    torch.set_flush_denormal(True)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test without the plugins of another, which a process would know to its end."""
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.setattr(plugins, "_expected", {})
    monkeypatch.setattr(plugins, "_typed", [])


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder with real CIFAR-10, or skip; tests that take it are marked `data`."""
    named = os.environ.get("ARDBENCH_DATA")
    if not named:
        pytest.skip("ARDBENCH_DATA names no folder of data sets")
    root = Path(named).expanduser()
    if not (root / "cifar-10-batches-py").is_dir():
        pytest.skip(f"ARDBENCH_DATA is {root}, where there is no cifar-10-batches-py")
    return root
