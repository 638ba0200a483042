"""CIFAR-10, CIFAR-100 and SVHN in the folders of torchvision, which knows their md5s."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from ardbench.data import DatasetInfo
from ardbench.data.cifar_batches import read_batch
from ardbench.data.fetch import Published, absent, check_md5, fetch, move, read_checked, scratch
from ardbench.data.raw import CheckedFile, Raw
from ardbench.errors import ArdbenchError
from ardbench.untrusted import MEMBER_LIMIT, UNPACKED_LIMIT


def read_torchvision(info: DatasetInfo, root: Path, download: bool) -> Raw:
    """Return the data set from `root`, fetched into it first where it is absent and `download` allows it.

    Extracted files are enough: the archive that they came in need not be there. The bytes of which the md5 was taken are
    those that are read.

    Raises:
        ArdbenchError: a file is wrong (it is named and left alone), or absent and not to be had.
    """
    _complete(info.name, root, download)
    train, test = _svhn(root) if info.name == "svhn" else _cifar_sets(info.name, root)
    checked = tuple(CheckedFile(name, md5, "ok") for name, md5 in files_of(info.name).items())
    return Raw(*train, *test, info.classes, checked)


def _cifar_sets(name: str, root: Path) -> list[tuple[Tensor, Tensor]]:
    """Return images (N, 3, 32, 32) and labels of the training and the test batches."""
    kind, sets = _cifar(name), []
    for listed in (kind.train_list, kind.test_list):
        rows, labels = [], []
        for file, md5 in listed:
            path = root / kind.base_folder / file
            try:
                images, classes = read_batch(read_checked(path, md5))
            except pickle.UnpicklingError as error:
                raise ArdbenchError(f"{path} is refused: {error}; move it away to have it fetched again.") from None
            rows.append(images)
            labels += classes
        sets.append((torch.from_numpy(np.vstack(rows).reshape(-1, 3, 32, 32)), torch.tensor(labels)))
    return sets


def _svhn(root: Path) -> list[tuple[Tensor, Tensor]]:
    """Return images (N, 3, 32, 32) and labels of both files, in which the digit 0 has the label 10."""
    from scipy.io import loadmat

    sets = []
    for file, md5 in files_of("svhn").items():
        arrays = loadmat(io.BytesIO(read_checked(root / file, md5)), variable_names=("X", "y"))
        labels = arrays["y"].astype(np.int64).reshape(-1) % 10
        sets.append((torch.from_numpy(arrays["X"]).permute(3, 2, 0, 1).contiguous(), torch.from_numpy(labels)))
    return sets


def _complete(name: str, root: Path, download: bool) -> None:
    """Fetch what is absent; a wrong file is named before."""
    needed = files_of(name)
    missing = [file for file in needed if not (root / file).exists()]
    if not missing:
        return
    for file, md5 in needed.items():
        if file not in missing:
            check_md5(root / file, md5)
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
    """Write `files` of an archive below `root`, each whole or not at all; nothing else of it touches the disk.

    Raises:
        ArdbenchError: one of them is absent, a link, or too large, or the disk is full.
    """
    left = set(files)
    try:
        with (
            scratch(root) as folder,
            gzip.open(archive) as packed,
            tarfile.open(fileobj=cast(IO[bytes], _Bounded(packed, archive)), mode="r|") as tar,
        ):
            while left and (member := tar.next()) is not None:
                if member.name in left and member.isreg() and (file := tar.extractfile(member)) is not None:
                    (folder / "file").write_bytes(file.read(MEMBER_LIMIT))
                    move(folder / "file", root / member.name)
                    left.remove(member.name)
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise ArdbenchError(
            f"{archive} is torn or no archive ({error}): move it away to have it fetched again."
        ) from None
    except OSError as error:
        raise ArdbenchError(f"{archive} cannot be unpacked: {error.strerror or error}; make room and repeat.") from None
    if left:
        raise ArdbenchError(f"{archive} has no file {min(left)}: move it away to have it fetched again.")


class _Bounded:
    """An archive as it is unpacked, up to the limit: headers and members together, whatever sizes they claim."""

    def __init__(self, packed: gzip.GzipFile, archive: Path) -> None:
        self.packed, self.archive, self.left = packed, archive, UNPACKED_LIMIT

    def read(self, size: int) -> bytes:
        """Return the next bytes, `size` at most."""
        content = self.packed.read(min(size, self.left + 1))
        self.left -= len(content)
        if self.left < 0:
            raise ArdbenchError(
                f"{self.archive} would unpack to more than the {UNPACKED_LIMIT} bytes allowed: it is not the published "
                "archive; move it away to have it fetched again."
            )
        return content


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
