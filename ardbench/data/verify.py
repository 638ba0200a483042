"""What is told of the files of a data set: whether they are there, and for `ardbench data` all that they hold."""

from __future__ import annotations

import os
from typing import Any

import torch

from ardbench.data import DatasetInfo, data_root, info, own
from ardbench.data.load import read
from ardbench.data.places import Place, decoded_size, no_room, place_of
from ardbench.data.raw import Raw
from ardbench.progress import Progress


def describe(
    name: str, root: str | os.PathLike[str] | None = None, download: bool = True, progress: Progress | None = None
) -> dict[str, Any]:
    """Return what a data set holds after reading all of it.

    Returns:
        name, title, root (None for embedded data), files (name, md5, verdict of each), shape (C, H, W), classes, train
        and test (images, and the fewest and most of a class).

    Raises:
        ArdbenchError: an unknown name, or files that are wrong (the first is named) or not to be had.
    """
    facts = info(name)
    raw = read(facts, root, download, progress)
    return {
        "name": name,
        "title": facts.title,
        "root": str(data_root(root)) if raw.files else None,
        "files": [vars(file) for file in raw.files],
        "shape": [facts.channels, facts.size, facts.size],
        "classes": list(raw.classes),
        "train": _counts(raw.train_labels, facts.num_classes),
        "test": _counts(raw.test_labels, facts.num_classes),
    } | (_of_own(facts, raw) if own.is_own(name) else {})


def whereabouts(name: str, root: str | os.PathLike[str] | None = None) -> str:
    """Return "embedded", or whether the files of a data set are "found" or "absent", by their names alone.

    Raises:
        ArdbenchError: an unknown name.
    """
    facts, folder = info(name), data_root(root)
    if name in ("digits", "fake"):
        return "embedded"
    if own.is_own(name):
        return "found"
    if name == "tiny-imagenet":
        from ardbench.data.tiny_imagenet import ARCHIVE, FOLDER

        there = (folder / ARCHIVE.name).is_file() or (folder / FOLDER).is_dir()
    else:
        from ardbench.data.cifar_svhn import files_of, published

        there = all((folder / file).is_file() for file in files_of(facts.name)) or all(
            (folder / one.name).is_file() for one in published(facts.name)
        )
    return "found" if there else "absent"


def place(name: str, device: torch.device, root: str | os.PathLike[str] | None = None) -> Place:
    """Return where the images of a data set would lie in a run on a device, and why; nothing is read.

    Raises:
        ArdbenchError: an unknown name.
    """
    facts, folder = info(name), data_root(root)
    if own.is_own(name) and (why := own.found(name).why):
        return Place("files", why)
    if name == "tiny-imagenet" and folder.is_dir():
        from ardbench.data.tiny_imagenet import CACHE

        if not (folder / CACHE).is_file() and (why := no_room(folder, decoded_size(facts))):
            return Place("files", why)
    return place_of(facts, device)


def _of_own(facts: DatasetInfo, raw: Raw) -> dict[str, Any]:
    """Return what nobody has published of one's own images: mean and deviation, images of each class, twins of the splits."""
    labels = {"train": raw.train_labels, "test": raw.test_labels}
    each = {split: torch.bincount(one, minlength=facts.num_classes).tolist() for split, one in labels.items()}
    counts = {split: dict(zip(facts.classes, counted, strict=True)) for split, counted in each.items()}
    return {
        "root": str(own.found(facts.name).folder),
        "mean": list(facts.mean),
        "std": list(facts.std),
        "classes_of": counts,
        "twins": own.twins(facts.name),
    }


def _counts(labels: torch.Tensor, classes: int) -> dict[str, int]:
    each = torch.bincount(labels, minlength=classes)
    return {"images": len(labels), "fewest_of_a_class": int(each.min()), "most_of_a_class": int(each.max())}
