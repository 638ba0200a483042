"""Every reader of a file with a name that it takes, and archives and files made to do harm."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ardbench.campaigns.suites import load_suite
from ardbench.engine.checkpoints import load_state, load_weights
from ardbench.engine.teacher_cache import Store, TeacherCache
from ardbench.errors import ArdbenchError
from ardbench.evaluation.adversarial import read_images
from ardbench.evaluation.autoattack import load_state as load_evaluation
from ardbench.evaluation.matrix import load_transfer
from ardbench.evaluation.verdicts import load_verdicts
from ardbench.models.files import read_state
from ardbench.recipes import resolve
from ardbench.reports import read


def with_sum(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def torch_saved(payload: object, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(payload, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def logits_in(path: Path) -> None:
    cache = object.__new__(TeacherCache)
    cache.classes, cache.places, cache.device = 10, 4, torch.device("cpu")
    cache._take(Store(torch.zeros(4, 10), torch.zeros(4, dtype=torch.bool)), path)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "trainer state": ("last.state", load_state),
    "weights": ("last.safetensors", load_weights),
    "pt": ("net.pt", read_state),
    "tar": ("net.tar", read_state),
    "safetensors": ("net.safetensors", read_state),
    "images": ("aa.adversarial.safetensors", read_images),
    "logits": ("ab.safetensors", logits_in),
    "verdicts": ("aa.json", load_verdicts),
    "evaluation": ("aa.state.json", load_evaluation),
    "matrix": ("transfer-ab.json", load_transfer),
    "results": ("report.csv", read),
    "recipe": ("own.toml", lambda path: resolve(str(path))),
    "suite": ("own.toml", lambda path: load_suite(str(path))),
}


def hostile_tar(path: Path, add: Callable[[tarfile.TarFile], None]) -> None:
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        add(archive)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b"x") -> Any:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, target, len(content) if kind == tarfile.REGTYPE else 0
    return lambda archive: archive.addfile(found, io.BytesIO(content))


BATCH = "cifar-10-batches-py/data_batch_1"


def refused_quickly(read_one: Callable[[], object], said: str) -> None:
    began = time.monotonic()
    with pytest.raises(ArdbenchError, match=said):
        read_one()
    assert time.monotonic() - began < 10
