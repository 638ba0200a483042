"""What this installation and machine are, for a bug report; nobody and nowhere is named in it."""

from __future__ import annotations

import getpass
import os
import platform
import re
import shutil
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "ardbench", "torch", "torchvision", "timm", "pyautoattack", "numpy", "pandas", "pydantic", "safetensors", "filelock",
    "click", "rich", "matplotlib", "tensorboard", "wandb", "mlflow", "ray",
)  # fmt: skip
VARIABLES = (
    "ARDBENCH_DATA", "ARDBENCH_TEACHERS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "RANK", "WORLD_SIZE",
)  # fmt: skip
"""What changes how ardbench works; no other variable is read."""
DRIVER = Path("/proc/driver/nvidia/version")
GIB = 2**30

Facts = dict[str, str]


def described(data_root: Path | None, runs: Path) -> dict[str, Facts]:
    """Return versions, hardware, precisions, room, data sets and where images lie, each by name; people have none."""
    sections = {
        "Versions": versions(),
        "Machine": dict(machine()),
        "Precision": precision(),
        "Folders": folders(data_root, runs),
        "Data sets": datasets(data_root),
        "Images lie": places(data_root),
        "Environment": {name: os.environ.get(name, "not set") for name in VARIABLES},
    }
    return {title: {name: anonymous(value) for name, value in facts.items()} for title, facts in sections.items()}


def anonymous(text: str) -> str:
    """Return a text in which the home folder is ~, and user and host have no names."""
    home, host = Path.home(), socket.gethostname()
    for folder in {home, home.resolve()} - {Path("/")}:
        text = text.replace(str(folder), "~")
    names = {host: "HOST", host.split(".")[0]: "HOST", home.name: "USER", _user(): "USER"}
    for name, word in names.items():
        text = re.sub(rf"(?<![a-zA-Z0-9]){re.escape(name)}(?![a-zA-Z0-9])", word, text) if name else text
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        return ""


def versions() -> Facts:
    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    import torch

    from ardbench.engine.train import environment

    facts = {"python": platform.python_version()} | {package: installed(package) for package in PACKAGES}
    source = environment(torch.device("cpu"))
    if source["git_sha"]:
        changed = ", with changes" if source["git_dirty"] else ""
        facts["ardbench"] += f", commit {source['git_sha'][:12]}{changed}"
    return facts


def machine() -> Iterator[tuple[str, str]]:
    """Yield what computes: system, processor, memory, CUDA."""
    import torch

    from ardbench.engine.device import hardware_name

    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield "processor", hardware_name(torch.device("cpu"))
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores", f"{there} of {os.cpu_count()} may be used; torch takes {torch.get_num_threads()} threads"
    yield "memory", _memory()
    yield "CUDA of torch", torch.version.cuda or "none: built for the CPU"
    if DRIVER.is_file():
        found = re.search(r"\d+\.\d+(\.\d+)*", DRIVER.read_text(encoding="utf-8"))
        yield "NVIDIA driver", found[0] if found else "unknown"
    if not torch.cuda.is_available():
        yield "CUDA devices", "none"
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        capability = f"compute capability {facts.major}.{facts.minor}"
        yield f"cuda:{index}", f"{facts.name}, {facts.total_memory / GIB:.1f} GiB, {capability}"


def _memory() -> str:
    import torch

    from ardbench.data.places import free_memory

    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{whole / GIB:.1f} GiB, {free_memory(torch.device('cpu')) / GIB:.1f} GiB available"


def precision() -> Facts:
    """Return which precisions each device computes in itself; on the others they are emulated, and slow."""
    import torch

    from ardbench.attacks.form import computes_bf16

    native = computes_bf16(torch.device("cpu"))
    facts = {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpu bf16": "yes" if native else "emulated: --fast and precision.attack = bf16 are slow",
    }
    for index in range(torch.cuda.device_count()):
        # both came with the same generation of devices
        facts[f"cuda:{index} bf16, TF32"] = "yes" if computes_bf16(torch.device("cuda", index)) else "no"
    return facts


def folders(root: Path | None, runs: Path) -> Facts:
    from ardbench import data
    from ardbench.models import zoo
    from ardbench.runs import all_runs

    found = len(all_runs(runs))
    return {
        "runs": f"{_room(runs)}, {found} run{'' if found == 1 else 's'}",
        "data": _room(data.data_root(root)),
        "teachers": _room(zoo.folder()),
    }


def _room(folder: Path) -> str:
    """Return a folder with the room on its disk, or on the one that it would be made on."""
    place = folder.absolute()
    try:
        there = next(path for path in (place, *place.parents) if path.exists())
        free = f"{shutil.disk_usage(there).free / GIB:.1f} GiB free"
    except OSError as error:
        return f"{place}: {error.strerror}"
    writable = "" if os.access(there, os.W_OK) else ", cannot be written"
    return f"{place}{'' if there == place else ' (not there yet)'}, {free}{writable}"


def datasets(root: Path | None) -> Facts:
    from ardbench import data
    from ardbench.data.verify import whereabouts

    return {name: whereabouts(name, root) for name in data.DATASETS}


def places(root: Path | None) -> Facts:
    """Return where a run would hold the images of each data set, and why."""
    import torch

    from ardbench import data
    from ardbench.data.verify import place

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {name: str(place(name, device, root)) for name in data.DATASETS}
