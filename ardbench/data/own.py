"""Data sets of one's own, by names that say all of it: `folder:PATH?size=64`, `npz:FILE?test_share=0.2`, `torchvision:NAME`.

What is decoded is kept in PATH.ardbench/ beside the data, as arrays that are mapped into memory, with the facts that were
counted, below a hash of the files' names, sizes and times. A run is known by the sha256 of the images. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.data import pictures
from ardbench.data.sources import Name, Source, files_of, identity_of, source_of
from ardbench.errors import ArdbenchError
from ardbench.untrusted import TEXT_LIMIT, parse_json, read_bytes

if TYPE_CHECKING:
    import numpy as np

    from ardbench.data import DatasetInfo

KINDS = ("folder", "npz", "torchvision")
OPTIONS = ("size", "test_share", "channels", "flip")
BESIDE = ".ardbench"
"""Ends the name of the folder beside the data, in which lies what was found out about them."""
PART = 1000
"""Images between two lines of progress."""


@dataclass(frozen=True)
class Found:
    """A data set of one's own, decoded.

    Args:
        info: its facts.
        sha256: of its classes, images and labels.
        folder: where train-labels.npy and test-labels.npy lie, and train.npy and test.npy where there was room for them.
        passed: files that are no pictures.
        why: there was none, in words.
    """

    info: DatasetInfo
    sha256: str
    folder: Path
    passed: int = 0
    why: str = ""


def is_own(name: str) -> bool:
    """Return whether a name is of a data set of one's own."""
    return name.partition(":")[0] in KINDS and ":" in name


def named(name: str | None, **options: object) -> str | None:
    """Return a name with options that were typed beside it, such as --size; None is left out."""
    given = {key: value for key, value in options.items() if value is not None}
    if not given:
        return name
    if name is None or not is_own(name):
        raise ArdbenchError(
            f"--{next(iter(given)).replace('_', '-')} is for images of your own, such as folder:PATH: leave it out."
        )
    place, _, query = name.partition("?")
    said = dict(text.partition("=")[::2] for text in query.split("&") if text)
    return f"{place}?{'&'.join(f'{key}={value}' for key, value in (said | given).items())}"


def parsed(name: str) -> Name:
    """Return what a name says.

    Raises:
        ArdbenchError: no path, an option that there is not, or a value out of range.
    """
    kind, _, rest = name.partition(":")
    place, _, query = rest.partition("?")
    options = dict(text.partition("=")[::2] for text in query.split("&") if text)
    form = f"{kind}:PATH?size=64&test_share=0.2"
    if not place or (unknown := next((key for key in options if key not in OPTIONS), None)) is not None:
        what = f"has no option {unknown!r}, only {', '.join(OPTIONS)}" if place else "names no place"
        raise ArdbenchError(f"{name!r} {what}: write it like {form}.")
    try:
        size = int(options["size"]) if "size" in options else None
        share = float(options["test_share"]) if "test_share" in options else None
        channels = int(options["channels"]) if "channels" in options else None
        flip = {"true": True, "false": False}[options["flip"]] if "flip" in options else None
    except (ValueError, KeyError):
        size, share, channels, flip = 0, None, None, None
    if (
        (size is not None and not 4 <= size <= 1024)
        or not (share is None or 0 < share < 1)
        or channels not in (None, 1, 3)
    ):
        raise ArdbenchError(
            f"{name!r} has an option that cannot be meant: size is 4 to 1024, test_share between 0 and 1, channels 1 or 3, "
            "flip true or false."
        )
    return Name(kind, Path(place).expanduser(), size, share, channels, flip)


def found(name: str) -> Found:
    """Return a data set of one's own, decoded once.

    Raises:
        ArdbenchError: it is not there, or holds what cannot be one.
    """
    from ardbench.data import data_root

    return found_below(data_root(), name)


@cache
def found_below(_: Path, name: str) -> Found:
    """Return `found(name)` where data sets lie in a folder, which one of torchvision is read from."""
    asked = parsed(name)
    query = f"{identity_of(asked)} {asked.size} {asked.test_share} {asked.channels} {asked.flip}"
    folder = _beside(asked) / hashlib.sha256(query.encode()).hexdigest()[:16]
    with suppress(OSError, ValueError, TypeError, KeyError, ArdbenchError):
        return _known(name, folder)
    shutil.rmtree(folder, ignore_errors=True)  # torn, or of another form
    source = source_of(asked)
    print(f"Decoding {sum(map(len, source.labels.values())):,} images of {name} once, into {folder}.", file=sys.stderr)
    with _whole(folder) as whole:
        (whole / "facts.json").write_text(json.dumps(_decode(source, whole, _no_room(source, whole))), encoding="utf-8")
    return _known(name, folder)


def files(name: str) -> tuple[dict[str, list[str]], Callable[[str], np.ndarray]]:
    """Return the files of training and test images of a folder, and what decodes one as (H, W, C) uint8."""
    asked = parsed(name)
    return files_of(asked), partial(_picture, channels=found(name).info.channels, side=asked.size)


def _picture(path: str, channels: int, side: int | None) -> np.ndarray:
    return pictures.decoded(Path(path), channels, side)


def labels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels (N,) int64 of the training set, and those of the test set."""
    import numpy as np

    folder = found(name).folder
    train, test = (np.load(folder / f"{split}-labels.npy") for split in ("train", "test"))
    return train, test


def arrays(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (N, C, H, W) uint8 of the training set, mapped, and those of the test set."""
    import numpy as np

    folder = found(name).folder
    train, test = (np.load(folder / f"{split}.npy", mmap_mode="c") for split in ("train", "test"))
    return train, test


def check(name: str, sha256: str | None) -> None:
    """Refuse images of one's own that are others than those of a run.

    Raises:
        ArdbenchError: with what they were.
    """
    if sha256 is not None and (there := found(name).sha256) != sha256:
        raise ArdbenchError(
            f"{name} holds other images than the run learnt from (sha256 {there[:16]}..., not {sha256[:16]}...): restore "
            "those, or train another run."
        )


def twins(name: str) -> int:
    """Return how many test images are the same, pixel for pixel, as a training image."""
    train: Iterator[Any]
    test: Iterator[Any]
    if found(name).why:
        there, read = files(name)
        train, test = (iter(map(read, there[split])) for split in ("train", "test"))
    else:
        train, test = (iter(array) for array in arrays(name))
    seen = {hashlib.sha256(image.tobytes()).digest() for image in train}
    return sum(hashlib.sha256(image.tobytes()).digest() in seen for image in test)


# The decoded images -------------------------------------------------------------------------------------------------------


def _no_room(source: Source, folder: Path) -> str:
    """Return why the decoded images are not to be kept in a folder, in words; "" where they fit."""
    size = sum(map(len, source.labels.values())) * source.channels * source.size**2
    free = shutil.disk_usage(folder).free
    if source.asked.kind != "folder" or size <= free:
        return ""
    return f"decoded they would take {size:,} bytes, and {free:,} are free in {folder.parent}; they are decoded when wanted"


def _decode(source: Source, folder: Path, why: str) -> dict[str, Any]:
    """Write the arrays into a folder, images unless `why` says otherwise, and return the facts that were counted on the way."""
    import numpy as np

    digest = hashlib.sha256(json.dumps(source.classes).encode())
    size, channels = source.size, source.channels
    sums, squares, count = np.zeros(channels), np.zeros(channels), 0
    for split, labels in source.labels.items():
        shape = (len(labels), channels, size, size)
        array = None if why else np.lib.format.open_memmap(folder / f"{split}.npy", "w+", np.uint8, shape)
        for place in range(len(labels)):
            image = source.image(split, place)
            if array is not None:
                array[place] = image.transpose(2, 0, 1)
            digest.update(image.tobytes())
            if split == "train":
                pixels = image.reshape(-1, channels) / 255
                sums, squares, count = sums + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
            if place % PART == PART - 1:
                print(f"  {split}: {place + 1:,} of {len(labels):,}", file=sys.stderr)
        if array is not None:
            array.flush()
            del array
        told = np.array(labels, np.int64)
        np.save(folder / f"{split}-labels.npy", told)
        digest.update(told.tobytes())
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0)).clip(1 / 255)
    return {
        "classes": source.classes, "size": size, "channels": channels, "mean": mean.tolist(), "std": std.tolist(),
        "train": len(source.labels["train"]), "test": len(source.labels["test"]),
        "flip": channels == 3 if source.asked.flip is None else source.asked.flip,
        "sha256": digest.hexdigest(), "passed": source.passed, "why": why,
    }  # fmt: skip


def _known(name: str, folder: Path) -> Found:
    """Return what is kept in a folder."""
    from ardbench.data import DatasetInfo

    said = parse_json(read_bytes(folder / "facts.json", TEXT_LIMIT))
    mean, std = (tuple(float(f"{one:.4f}") for one in said[key]) for key in ("mean", "std"))
    info = DatasetInfo(
        name=name, title=f"{parsed(name).path.name}, your own", channels=said["channels"], size=said["size"],
        num_classes=len(said["classes"]), classes=tuple(said["classes"]), train_images=said["train"], test_images=said["test"],
        pad=max(1, said["size"] // 8), flip=said["flip"], mean=mean, std=std,
    )  # fmt: skip
    return Found(info, said["sha256"], folder, said["passed"], said["why"])


def _beside(asked: Name) -> Path:
    """Return the folder of what was found out: beside the data, or in $ARDBENCH_DATA or ./data where that cannot be written."""
    from ardbench.data import data_root

    if asked.kind == "torchvision":
        return data_root() / BESIDE / asked.path.name
    whole = asked.path.absolute()
    beside = whole.with_name(whole.name + BESIDE)
    if beside.is_dir() or os.access(whole.parent, os.W_OK):
        return beside
    return data_root() / BESIDE / hashlib.sha256(str(whole).encode()).hexdigest()[:16]


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Give a folder beside the one that is wanted, which takes its place when all of it is written.

    Raises:
        ArdbenchError: there is no room, or it may not be written.
    """
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        with suppress(OSError):  # another process was first, with the same
            os.replace(unfinished, folder)
    except OSError as error:
        raise ArdbenchError(
            f"{folder} cannot be written ({error.strerror or error}): make room, or move the data."
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
