"""A trained network as a folder that stands alone: its weights, and what is needed to build it again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ardbench import data
from ardbench.campaigns.copies import portable
from ardbench.data import DatasetInfo
from ardbench.engine import networks
from ardbench.engine.checkpoints import packed
from ardbench.errors import ArdbenchError
from ardbench.exports import CONFIG, WEIGHTS, export_in
from ardbench.models.network import Network, Normalise
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


def export_other(net: nn.Module, model: str, dataset: str, source: str, sha256: str, out: Path) -> dict[str, Any]:
    """Write a network that is of no run into a folder, and return what config.json says.

    Args:
        net: as a file gave it.
        model, dataset: its architecture, and whose images it sees.
        source, sha256: the file's name, and the checksum of its weights, for people.
        out: as in `export`.

    Raises:
        ArdbenchError: it resizes its images, which no weights tell, or the folder holds something else.
    """
    info = data.info(dataset)
    if not isinstance(net, Network) or net.info.size != info.size:
        raise ArdbenchError(
            f"{source} sees images of another size than those of {dataset}, which an export cannot say."
        )
    seen = net.normalise if isinstance(net.normalise, Normalise) else None
    facts = {"model": model, "dataset": dataset, "normalise": str(seen is not None).lower()}
    content = packed(net, facts)
    normalise = {name: getattr(seen, name).flatten().tolist() for name in ("mean", "std")} if seen else None
    config = _facts(info, model, normalise, hashlib.sha256(content).hexdigest())
    config |= {"recipe": {}, "teachers": [], "source": {"name": source, "sha256": sha256}}
    _may_write(out, config)
    write_json(out / CONFIG, config)
    write_atomic(out / WEIGHTS, content)
    return config


def _facts(info: DatasetInfo, model: str, normalise: dict[str, list[float]] | None, sha256: str) -> dict[str, Any]:
    """Return what config.json says of every network, whatever it came from."""
    return {
        "format": EXPORT,
        "architecture": model,
        "dataset": info.name,
        "image": [info.channels, info.size, info.size],
        "num_classes": info.num_classes,
        "classes": list(info.classes),
        "normalise": normalise,
        "sha256": sha256,
        "run": "",
        "checkpoint": "",
    }


def describe(run: Run, checkpoint: str) -> dict[str, Any]:
    """Return what config.json says of a checkpoint; folders of the machine that trained it are left out."""
    recipe = run.recipe
    info = data.info(recipe.data.name)
    teachers = [
        {"name": Path(teacher.source).name, "role": teacher.role, "model": teacher.model, "sha256": teacher.sha256}
        for teacher in run.teachers
    ]
    normalise = {"mean": list(info.mean), "std": list(info.std)} if recipe.data.normalise else None
    return _facts(info, recipe.student, normalise, sha256_of(run.weights(checkpoint))) | {
        "run": run.identity,
        "checkpoint": checkpoint,
        "recipe": portable(recipe.model_dump(mode="json")),
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
    same = config["run"] or there.sha256 == config["sha256"]  # what is of no run is known by its weights
    if not same or (there.run, there.checkpoint) != (config["run"], config["checkpoint"]):
        raise ArdbenchError(f"{out} holds the export of another run or checkpoint: give another folder with --out.")
