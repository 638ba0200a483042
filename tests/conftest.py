"""What every test runs under: one thread, denormals flushed, a fixed seed, no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("ardbench", deadline=None, max_examples=50)
settings.load_profile("ardbench")


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)


@pytest.fixture
def data_root() -> Path:
    """The folder with real data sets; the test is skipped where there is none."""
    root = os.environ.get("ARDBENCH_DATA")
    if not root or not (Path(root) / "cifar-10-batches-py").is_dir():
        pytest.skip("needs real CIFAR-10: set ARDBENCH_DATA to a folder that holds cifar-10-batches-py")
    return Path(root)
