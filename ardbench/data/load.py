"""A data set by name: checked, split by class with its own seed, and moved to a device once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ardbench import plugins
from ardbench.config import Data
from ardbench.data import DatasetInfo, check_sizes, data_root, info, outside, own
from ardbench.data.batches import Extra, Split, Splits
from ardbench.data.extra import opened
from ardbench.data.fetch import check_root
from ardbench.data.images import Elsewhere, FileImages, HostImages
from ardbench.data.places import Place, place_of
from ardbench.data.raw import CheckedFile, Raw, Undecoded
from ardbench.errors import ArdbenchError
from ardbench.progress import Progress


def load(
    name: str,
    device: torch.device | str,
    root: str | os.PathLike[str] | None = None,
    validation: int = 0,
    train_images: int | None = None,
    download: bool = True,
    progress: Progress | None = None,
    place: str = "auto",
    workers: int | None = None,
) -> Splits:
    """Return a data set for a device; its validation split is the same for every teacher, student and seed of a run.

    Args:
        name: one of `DATASETS`, or of a plugin.
        root: the folder that data sets lie in; None takes $ARDBENCH_DATA, else `data`.
        validation: images held out of the training set, the classes in proportion.
        train_images: how many of the others to train on, the classes in proportion; None takes all.
        download: whether an absent file may be fetched.
        place, workers: as `data.place` and `data.workers` say it.

    Raises:
        ArdbenchError: an unknown name, sizes that do not fit, or files that are wrong or not to be had.
    """
    facts = info(name)
    check_sizes(facts, validation, train_images)
    raw = read(facts, root, download, progress, place)
    lie = _place(facts, raw, torch.device(device), place)

    def split(images: Tensor | Undecoded, labels: Tensor) -> Split:
        there: Tensor | Elsewhere
        if isinstance(images, Undecoded):
            there = FileImages(images, device, workers=workers)
        else:
            there = images if lie.name == "device" else HostImages(images.numpy(), device)
        return Split(there, labels, torch.arange(len(labels)), facts)  # on the host, on its way to the device

    whole = split(raw.train_images, raw.train_labels)
    held, rest = None, whole
    if validation:
        order = whole.order("validation")
        held, rest = (whole.take(sorted(part)) for part in (order[:validation], order[validation:]))
    if train_images is not None and train_images < len(rest):
        rest = rest.take(sorted(rest.order("train")[:train_images]))
    test = split(raw.test_images, raw.test_labels)
    return Splits(_on(device, rest), None if held is None else _on(device, held), _on(device, test), lie)


def extra_of(section: Data, device: torch.device | str) -> Extra | None:
    """Return the extra images that a recipe names, mapped into memory; None where it names none.

    Raises:
        ArdbenchError: they do not fit the data set, are others than the recipe says, or cannot be decoded.
    """
    if section.extra is None or section.extra_share is None:
        return None
    facts = info(section.name)
    file = opened(section, facts)
    array = file.array(file.image).reshape(*file.image.shape[:3], -1)
    # in memory, in few bytes: to look them up in a file that is mapped takes a page for each
    few = np.min_scalar_type(facts.num_classes)
    labels = None if file.label is None else file.array(file.label).reshape(-1).astype(few)
    return Extra(HostImages(array, device, channels_last=True), labels, section.extra_share)


def read(
    facts: DatasetInfo,
    root: str | os.PathLike[str] | None,
    download: bool,
    progress: Progress | None = None,
    place: str = "device",
) -> Raw:
    """Return a data set as its files hold it, after every check that there is; undecoded where its images lie in `place`.

    Raises:
        ArdbenchError: files that are wrong or not to be had.
    """
    raw = _read(facts, data_root(root), download, progress or Progress(), place)
    for kind, images, labels, count in (
        ("training", raw.train_images, raw.train_labels, facts.train_images),
        ("test", raw.test_images, raw.test_labels, facts.test_images),
    ):
        shape = (count, facts.channels, facts.size, facts.size)
        if tuple(images.shape) != shape or tuple(labels.shape) != (count,):
            raise ArdbenchError(
                f"The {kind} set of {facts.name} has the shape {tuple(images.shape)}, {shape} is needed."
            )
        if len(torch.bincount(labels, minlength=facts.num_classes)) != facts.num_classes:
            raise ArdbenchError(f"The {kind} set of {facts.name} has labels outside 0 to {facts.num_classes - 1}.")
    return raw


def _read(facts: DatasetInfo, root: Path, download: bool, progress: Progress, place: str) -> Raw:
    if own.is_own(facts.name):
        there = own.found(facts.name)
        passed = f", {there.passed} files that are no pictures left out" if there.passed else ""
        about = CheckedFile(str(own.parsed(facts.name).path), None, f"decoded into {there.folder}{passed}")
        train, test = own.labels(facts.name)
        images = _own_images(facts, there.why, place)
        return Raw(images[0], torch.from_numpy(train), images[1], torch.from_numpy(test), facts.classes, (about,))
    if plugins.find("dataset", facts.name) is not None:
        return _read_outside(facts, root)
    if facts.name in ("digits", "fake"):
        from ardbench.data.embedded import read_digits, read_fake

        return read_digits(facts) if facts.name == "digits" else read_fake(facts)
    check_root(root)
    if facts.name == "tiny-imagenet":
        from ardbench.data.tiny_imagenet import read_tiny_imagenet

        return read_tiny_imagenet(facts, root, download, progress, place)
    from ardbench.data.cifar_svhn import read_torchvision

    return read_torchvision(facts, root, download)


def _own_images(facts: DatasetInfo, why: str, place: str) -> Sequence[Tensor | Undecoded]:
    if not why and place != "files":
        return [torch.from_numpy(array) for array in own.arrays(facts.name)]
    if own.parsed(facts.name).kind != "folder":
        raise ArdbenchError(
            f"data.place = 'files' decodes images, and those of {facts.name} are decoded: give 'host' or 'auto'."
        )
    names, decode = own.files(facts.name)
    size = (facts.channels, facts.size, facts.size)
    return [Undecoded(names[split], size, decode, why) for split in ("train", "test")]


def _read_outside(facts: DatasetInfo, root: Path) -> Raw:
    """Return a data set of a plugin or a package; its shape and labels are looked at as those of ours are."""
    one = plugins.of("dataset")[facts.name]
    raw = plugins.called(one, outside(facts.name).read, facts, root)
    if not isinstance(raw, Raw) or not all(
        getattr(images, "dtype", torch.uint8) == torch.uint8 and labels.dtype == torch.int64
        for images, labels in ((raw.train_images, raw.train_labels), (raw.test_images, raw.test_labels))
    ):
        raise ArdbenchError(
            f"The {one.word} of {one.origin} was read as something else than images (N, C, H, W) of uint8 with labels (N,) of "
            "int64: return an ardbench.data.raw.Raw of such tensors."
        )
    return raw


def _place(facts: DatasetInfo, raw: Raw, device: torch.device, asked: str) -> Place:
    if isinstance(raw.train_images, Undecoded):
        return Place("files", raw.train_images.why or f"data.place = {asked}")
    if asked == "files":
        raise ArdbenchError(
            f"data.place = 'files' decodes images when they are wanted, and those of {facts.name} do not lie in a file each: "
            "give 'host' or 'auto'."
        )
    return place_of(facts, device, asked)


def _on(device: torch.device | str, split: Split) -> Split:
    try:
        images = split.images.to(device) if isinstance(split.images, Tensor) else split.images
        return Split(images, split.labels.to(device), split.index.to(device), split.info)
    except torch.OutOfMemoryError:
        raise ArdbenchError(
            f"The images of {split.info.name} do not fit on {device}: give --set data.place=host, or free the device."
        ) from None
