"""Data sets of one's own, by names that say all of it: `folder:PATH?size=64&test_share=0.2`, `npz:FILE?test_share=0.2`.

What is decoded is kept in PATH.ardbench/ beside the data, as arrays that are mapped into memory, with the facts that were
counted, below a hash of the files' names, sizes and times. A run is known by the sha256 of the images. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError
from ardbench.untrusted import TEXT_LIMIT, parse_json, read_bytes

if TYPE_CHECKING:
    import numpy as np

    from ardbench.data import DatasetInfo

KINDS = ("folder", "npz")
OPTIONS = ("size", "test_share", "channels", "flip")
BESIDE = ".ardbench"
"""Ends the name of the folder beside the data, in which lies what was found out about them."""
PART = 1000
"""Images between two lines of progress."""


@dataclass(frozen=True)
class Name:
    """What a name says.

    Args:
        kind: folder or npz.
        path: where the data lie.
        size: side to which images are resized; None where they have one.
        test_share: how much of each class is the test set, where nothing says which images are.
        channels: 1 or 3; None finds out.
        flip: whether a mirrored image is of its class; None takes colour pictures for such.
    """

    kind: str
    path: Path
    size: int | None = None
    test_share: float | None = None
    channels: int | None = None
    flip: bool | None = None


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


@cache
def found(name: str) -> Found:
    """Return a data set of one's own, decoded once.

    Raises:
        ArdbenchError: it is not there, or holds what cannot be one.
    """
    asked = parsed(name)
    source = _source(asked)
    query = f"{source.identity} {asked.size} {asked.test_share} {asked.channels} {asked.flip}"
    folder = _beside(asked.path) / hashlib.sha256(query.encode()).hexdigest()[:16]
    with suppress(OSError, ValueError, TypeError, KeyError, ArdbenchError):
        return _known(name, folder)
    print(f"Decoding {sum(map(len, source.labels.values())):,} images of {name} once, into {folder}.", file=sys.stderr)
    with _whole(folder) as partial:
        (partial / "facts.json").write_text(
            json.dumps(_decode(source, partial, _no_room(source, partial))), encoding="utf-8"
        )
    return _known(name, folder)


def files(name: str) -> tuple[dict[str, list[str]], Callable[[str], np.ndarray]]:
    """Return the files of training and test images of a folder, and what decodes one as (H, W, C) uint8."""
    from functools import partial

    from ardbench.data import pictures

    source = _source(parsed(name))
    return source.files, partial(_picture, channels=source.channels, side=source.asked.size, read=pictures.decoded)


def _picture(path: str, channels: int, side: int | None, read: Callable[..., np.ndarray]) -> np.ndarray:
    return read(Path(path), channels, side)


def labels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels (N,) int64 of the training set, and those of the test set."""
    import numpy as np

    folder = found(name).folder
    train, test = (np.load(folder / f"{split}-labels.npy", allow_pickle=False) for split in ("train", "test"))
    return train, test


def arrays(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (N, C, H, W) uint8 of the training set, mapped, and those of the test set."""
    import numpy as np

    folder = found(name).folder
    train, test = (np.load(folder / f"{split}.npy", mmap_mode="c", allow_pickle=False) for split in ("train", "test"))
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


# Sources ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """Images to decode: `labels` by split, and the image of a split at a place."""

    asked: Name
    identity: str
    classes: tuple[str, ...]
    size: int
    channels: int
    labels: dict[str, list[int]]
    image: Callable[[str, int], np.ndarray]
    passed: int = 0
    files: dict[str, list[str]] = field(default_factory=dict)


def _source(asked: Name) -> _Source:
    return _of_folder(asked) if asked.kind == "folder" else _of_npz(asked)


def _of_folder(asked: Name) -> _Source:
    from ardbench.data import pictures

    tree = pictures.tree_of(asked.path)
    classes = tuple(sorted(next(iter(tree.splits.values()))))
    splits = tree.splits if "" not in tree.splits else _shared(asked, tree.splits[""])
    listed = _listed(splits, classes)
    headers = [pictures.header(path) for files in listed.values() for path, _ in files]
    channels = asked.channels or (1 if all(grey for *_, grey in headers) else 3)
    size = _side(asked, Counter((width, height) for width, height, _ in headers))

    def image(split: str, place: int) -> np.ndarray:
        return pictures.decoded(listed[split][place][0], channels, asked.size)

    labels = {split: [label for _, label in files] for split, files in listed.items()}
    named = {split: [str(path) for path, _ in files] for split, files in listed.items()}
    return _Source(asked, tree.identity, classes, size, channels, labels, image, tree.passed, named)


def _of_npz(asked: Name) -> _Source:
    import numpy as np
    from PIL import Image, ImageOps

    from ardbench.data.npz import Npz

    file = Npz(asked.path)
    if file.label is None:
        raise ArdbenchError(f"{asked.path} has no array `label`: add one with the class of each image, 0 to K - 1.")
    images, labels = file.array(file.image), file.array(file.label).astype(np.int64)
    count = int(labels.max()) + 1
    absent = sorted(set(range(count)) - set(labels.tolist()))
    if labels.min() < 0 or count < 2 or absent:
        what = (
            f"no image of class {absent[0]}"
            if absent and labels.min() >= 0
            else f"labels {labels.min()} to {labels.max()}"
        )
        raise ArdbenchError(f"{asked.path} has {what}: labels are 0 to K - 1, K at least 2, each of some image.")
    shape = images.shape[1:] if images.ndim == 4 else (*images.shape[1:], 1)
    channels = shape[2]
    if channels not in (1, 3) and asked.size is not None:
        raise ArdbenchError(f"{asked.path} has {channels} channels, which are not resized: leave size out.")
    side = _side(asked, Counter({(shape[1], shape[0]): len(labels)}))
    classes = tuple(map(str, range(count)))
    splits = _shared(asked, {name: [int(i) for i in np.flatnonzero(labels == k)] for k, name in enumerate(classes)})
    listed = _listed(splits, classes)

    def image(split: str, place: int) -> np.ndarray:
        one: np.ndarray = images[listed[split][place][0]].reshape(shape)
        if asked.size is None:
            return one
        picture = Image.fromarray(one[..., 0] if channels == 1 else one)
        fitted = ImageOps.fit(picture, (asked.size, asked.size), Image.Resampling.BICUBIC)
        return np.asarray(fitted, np.uint8).reshape(asked.size, asked.size, channels)

    told = {split: [label for _, label in files] for split, files in listed.items()}
    return _Source(asked, file.contents.sha256, classes, side, channels, told, image)


def _listed(splits: dict[str, dict[str, list[Any]]], classes: Sequence[str]) -> dict[str, list[tuple[Any, int]]]:
    """Return what each split has, by class, each with its label."""
    return {s: [(one, k) for k, name in enumerate(classes) for one in splits[s][name]] for s in ("train", "test")}


def _shared(asked: Name, found: dict[str, list[Any]]) -> dict[str, dict[str, list[Any]]]:
    """Return a training and a test set of what nothing has split: of each class a share, by a hash of each one's place.

    Raises:
        ArdbenchError: no share is said, or a class has a single image.
    """
    if asked.test_share is None:
        raise ArdbenchError(
            f"Nothing in {asked.path} says which images are for the test: give --test-share 0.2, or in a folder train/ and "
            "test/."
        )
    splits: dict[str, dict[str, list[Any]]] = {"train": {}, "test": {}}
    for name, several in found.items():
        if len(several) < 2:
            raise ArdbenchError(
                f"The class {name!r} of {asked.path} has one image, and training and test need one each: add some."
            )
        count = min(max(1, round(asked.test_share * len(several))), len(several) - 1)
        places = [str(one.relative_to(asked.path)) if isinstance(one, Path) else str(one) for one in several]
        order = sorted(range(len(several)), key=lambda i: hashlib.sha256(f"{name}/{places[i]}".encode()).digest())
        held = set(order[:count])
        splits["test"][name] = [one for i, one in enumerate(several) if i in held]
        splits["train"][name] = [one for i, one in enumerate(several) if i not in held]
    return splits


def _side(asked: Name, sizes: Counter[tuple[int, int]]) -> int:
    """Return the side of all images.

    Raises:
        ArdbenchError: they have several, are not square, or are smaller than what they are to be resized to.
    """
    if asked.size is not None:
        smallest = min(sizes, key=min)
        if min(smallest) < asked.size:
            raise ArdbenchError(
                f"size = {asked.size} is larger than the smallest image of {asked.path}, {smallest[0]}x{smallest[1]}: give at "
                f"most {min(smallest)}."
            )
        return asked.size
    width, height = next(iter(sizes))
    if len(sizes) > 1 or width != height:
        told = ", ".join(f"{w}x{h} ({n})" for (w, h), n in sizes.most_common(5)) + (", ..." if len(sizes) > 5 else "")
        raise ArdbenchError(
            f"The images of {asked.path} have the sizes {told}, and all must be square and of one: give --size "
            f"{min(map(min, sizes))}."
        )
    return width


# The decoded images -------------------------------------------------------------------------------------------------------


def _no_room(source: _Source, folder: Path) -> str:
    """Return why the decoded images are not to be kept in a folder, in words; "" where they fit."""
    size = sum(map(len, source.labels.values())) * source.channels * source.size**2
    free = shutil.disk_usage(folder).free
    if not source.files or size <= free:
        return ""
    return f"decoded they would take {size:,} bytes, and {free:,} are free in {folder.parent}; they are decoded when wanted"


def _decode(source: _Source, folder: Path, why: str) -> dict[str, Any]:
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


def _beside(path: Path) -> Path:
    """Return the folder of what was found out: beside the data, or in $ARDBENCH_DATA or ./data where that cannot be written."""
    from ardbench.data import data_root

    whole = path.absolute()
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
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        with suppress(OSError):  # another process was first, with the same
            os.replace(partial, folder)
    except OSError as error:
        raise ArdbenchError(
            f"{folder} cannot be written ({error.strerror or error}): make room, or move the data."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
