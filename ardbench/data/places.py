"""Where the images of a data set lie while it is used - on the device, on the host or in their files - and why."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from ardbench.data import DatasetInfo

SHARE = 0.5
"""What images may take of the memory that is free on the device: networks, activations and kept logits want the rest."""
MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True)
class Place:
    """Where images lie: "device", "host" or "files", and why, in words."""

    name: str
    why: str

    def __str__(self) -> str:
        where = {"device": "on the device", "host": "on the host", "files": "in their files"}[self.name]
        return f"{where}: {self.why}"


def place_of(info: DatasetInfo, device: torch.device, asked: str = "auto") -> Place:
    """Return where the images of a data set lie that are decoded; `asked` is `data.place`."""
    size, free = decoded_size(info), free_memory(device)
    why = f"they take {in_bytes(size)}, and {in_bytes(free)} are free on {device.type}"
    if asked != "auto":
        return Place(asked, f"data.place = {asked} ({why})")
    if size <= SHARE * free:
        return Place("device", why)
    return Place("host", f"{why}, of which they may have half; batches are copied ahead")


def no_room(folder: Path, size: int) -> str:
    """Return why so many bytes of decoded images are not to be kept in a folder that is there, in words; "" where they fit."""
    free = shutil.disk_usage(folder).free
    if size <= free:
        return ""
    return f"decoded they would take {in_bytes(size)}, and {in_bytes(free)} are free in {folder}; they are decoded when wanted"


def decoded_size(info: DatasetInfo) -> int:
    """Return the bytes of a data set's training and test images."""
    return (info.train_images + info.test_images) * info.channels * info.size**2


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not MEMORY.is_file():
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = dict(line.split(":", 1) for line in MEMORY.read_text(encoding="utf-8").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def in_bytes(size: int) -> str:
    """Return bytes in words of three digits, such as "1.24 GB"."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min((len(str(size)) - 1) // 3, len(units) - 1)
    return f"{float(f'{size / 1000**power:.3g}'):g} {units[power]}"
