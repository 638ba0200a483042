"""CIFAR-10, CIFAR-100 and SVHN in the folders of torchvision, which reads them and knows their md5s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ardbench.data import DatasetInfo
from ardbench.data.fetch import Published, absent, check_md5, fetch, move, scratch
from ardbench.data.raw import CheckedFile, Raw
from ardbench.errors import ArdbenchError


def read_torchvision(info: DatasetInfo, root: Path, download: bool) -> Raw:
    """Return the data set from `root`, fetched into it first where it is absent and `download` allows it.

    Extracted files are enough: the archive that they came in need not be there.

    Raises:
        ArdbenchError: a file is wrong (it is named and left alone), or absent and not to be had.
    """
    try:
        return _read(info, root)
    except RuntimeError:  # what torchvision says of an absent and of a wrong file alike
        _complete(info.name, root, download)
    except OSError as error:
        raise ArdbenchError(f"{info.name} cannot be read from {root}: {error}.") from None
    return _read(info, root)


def _read(info: DatasetInfo, root: Path) -> Raw:
    """Read what lies in `root`; torchvision raises RuntimeError unless every md5 is right."""
    from torchvision import datasets

    if info.name == "svhn":
        parts = [datasets.SVHN(root, split=split, download=False) for split in ("train", "test")]
        arrays = [(torch.from_numpy(part.data), torch.from_numpy(part.labels)) for part in parts]
    else:
        kind = _cifar(info.name)
        parts = [kind(root, train=train, download=False) for train in (True, False)]
        arrays = [(torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)) for part in parts]
    (train, train_labels), (test, test_labels) = arrays
    checked = tuple(CheckedFile(name, md5, "ok") for name, md5 in files_of(info.name).items())
    return Raw(train.contiguous(), train_labels, test.contiguous(), test_labels, info.classes, checked)


def _complete(name: str, root: Path, download: bool) -> None:
    """Name a wrong file, else fetch the absent ones."""
    needed = files_of(name)
    for file, md5 in needed.items():
        if (root / file).exists():
            check_md5(root / file, md5)
    missing = [file for file in needed if not (root / file).exists()]
    if not missing:
        return
    folder, _, first = missing[0].rpartition("/")
    if folder and (root / first).exists():
        raise ArdbenchError(
            f"{root} is the folder {folder} itself: give --data-root the folder above it, {root.parent}."
        )
    for one in published(name):
        archive = root / one.name
        if archive.exists():
            check_md5(archive, one.md5)
        elif not download:
            raise absent(name, root, missing[0])
        else:
            fetch(name, root, one)
        if one.name not in needed:
            _extract(archive, root, missing)


def _extract(archive: Path, root: Path, files: list[str]) -> None:
    """Move `files` out of an archive of known md5 into `root`, each whole or not at all."""
    from torchvision.datasets.utils import extract_archive

    with scratch(root) as folder:
        try:
            extract_archive(str(archive), str(folder))
            for file in files:
                move(folder / file, root / file)
        except OSError as error:
            raise ArdbenchError(
                f"{archive} cannot be unpacked: {error.strerror or error}; make room and repeat."
            ) from None


def files_of(name: str) -> dict[str, str]:
    """Return the md5 of each file that is read, by its path below the data root."""
    from torchvision.datasets import SVHN

    if name == "svhn":
        return {file: md5 for _, file, md5 in (SVHN.split_list[split] for split in ("train", "test"))}
    kind = _cifar(name)
    listed = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    return {f"{kind.base_folder}/{file}": md5 for file, md5 in listed}


def published(name: str) -> list[Published]:
    """Return the files as they are downloaded."""
    from torchvision.datasets import SVHN

    if name == "svhn":
        return [Published(*SVHN.split_list[split]) for split in ("train", "test")]
    kind = _cifar(name)
    return [Published(kind.url, kind.filename, kind.tgz_md5)]


def _cifar(name: str) -> Any:
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
