"""A trained network as a folder that stands alone: its weights, and what is needed to build it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ardbench import data
from ardbench.engine import networks
from ardbench.errors import ArdbenchError
from ardbench.exports import CONFIG, WEIGHTS, export_in
from ardbench.models.network import Network
from ardbench.runs import EXPORT, Run, sha256_of, write_atomic, write_json


def export(run: Run, checkpoint: str, out: Path) -> dict[str, Any]:
    """Write a checkpoint's weights and config.json into a folder, and return what config.json says.

    Args:
        run: finished.
        checkpoint: one that it has.
        out: new, empty, or an earlier export of the same checkpoint.

    Raises:
        ArdbenchError: the run is unfinished, its weights are damaged or no longer those that it finished with, or the
            folder holds something else.
    """
    networks.of_run(run, checkpoint, torch.device("cpu"))  # refuses what has changed or does not load
    config = describe(run, checkpoint)
    _may_write(out, config)
    write_json(out / CONFIG, config)  # first: what is cut short here can then be written again
    write_atomic(out / WEIGHTS, run.weights(checkpoint).read_bytes())
    return config


def describe(run: Run, checkpoint: str) -> dict[str, Any]:
    """Return what config.json says of a checkpoint; folders of the machine that trained it are left out."""
    recipe = run.recipe
    info = data.info(recipe.data.name)
    teachers = [
        {"name": Path(teacher.source).name, "role": teacher.role, "model": teacher.model, "sha256": teacher.sha256}
        for teacher in run.teachers
    ]
    return {
        "format": EXPORT,
        "architecture": recipe.student,
        "dataset": info.name,
        "image": [info.channels, info.size, info.size],
        "num_classes": info.num_classes,
        "classes": list(info.classes),
        "normalise": {"mean": list(info.mean), "std": list(info.std)} if recipe.data.normalise else None,
        "sha256": sha256_of(run.weights(checkpoint)),
        "run": run.identity,
        "checkpoint": checkpoint,
        "recipe": recipe.model_dump(mode="json"),
        "teachers": teachers,
    }


def load(folder: str | Path, device: str | torch.device = "cpu") -> Network:
    """Return the network of an exported folder in eval mode; see `ardbench.load`."""
    folder = Path(folder)
    found = export_in(folder)
    if found is None:
        raise ArdbenchError(f"{folder} is no exported network: give a folder that `ardbench export` wrote.")
    return networks.of_export(folder, found, torch.device(device))


def _may_write(out: Path, config: dict[str, Any]) -> None:
    """Refuse a folder in which something else lies."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    there = export_in(out)
    if there is None:
        raise ArdbenchError(f"{out} holds other files: give a new or empty folder with --out.")
    if (there.run, there.checkpoint) != (config["run"], config["checkpoint"]):
        raise ArdbenchError(f"{out} holds the export of another run or checkpoint: give another folder with --out.")
