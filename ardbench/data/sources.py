"""Where the images of one's own data sets come from: class folders, an .npz file, or torchvision. Only the last loads torch."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError, unknown

if TYPE_CHECKING:
    import numpy as np

LABELS = "labels are 0 to K - 1, K at least 2, each of some image."


@dataclass(frozen=True)
class Name:
    """What a name says.

    Args:
        kind: folder, npz or torchvision.
        path: where the data lie; of torchvision, their name.
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
class Source:
    """Images to decode: `labels` by split, and the image of a split at a place."""

    asked: Name
    classes: tuple[str, ...]
    size: int
    channels: int
    labels: dict[str, list[int]]
    image: Callable[[str, int], np.ndarray]
    passed: int = 0


def identity_of(asked: Name) -> str:
    """Return what changes whenever the files do, as far as can be told without reading them."""
    from ardbench.data import pictures
    from ardbench.data.npz import Npz

    if asked.kind == "torchvision":
        return asked.path.name  # what it fetches has one content
    return (
        pictures.tree_of(asked.path).identity if asked.kind == "folder" else Npz(asked.path, split=True).contents.sha256
    )


def source_of(asked: Name) -> Source:
    """Return where the images of a data set of one's own come from.

    Raises:
        ArdbenchError: nothing is there, or it cannot be a data set.
    """
    return {"folder": _of_folder, "npz": _of_npz, "torchvision": _of_torchvision}[asked.kind](asked)


def files_of(asked: Name) -> dict[str, list[str]]:
    """Return the files of a folder's training and test images, in the order of their labels; none is opened."""
    return {split: [str(path) for path, _ in files] for split, files in _tree(asked)[2].items()}


def _tree(asked: Name) -> tuple[int, tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """Return how many files of a folder are no pictures, its classes, and the pictures of each half with their labels."""
    from ardbench.data import pictures

    tree = pictures.tree_of(asked.path)
    classes = tuple(sorted(next(iter(tree.splits.values()))))
    return tree.passed, classes, _listed(_halves(asked, tree.splits), classes)


def _of_folder(asked: Name) -> Source:
    from ardbench.data import pictures

    passed, classes, listed = _tree(asked)
    headers = [pictures.header(path) for files in listed.values() for path, _ in files]
    channels = asked.channels or (1 if all(grey for *_, grey in headers) else 3)
    size = _side(asked, Counter((width, height) for width, height, _ in headers))

    def image(split: str, place: int) -> np.ndarray:
        return pictures.decoded(listed[split][place][0], channels, asked.size)

    labels = {split: [label for _, label in files] for split, files in listed.items()}
    return Source(asked, classes, size, channels, labels, image, passed)


def _of_npz(asked: Name) -> Source:
    import numpy as np
    from PIL import Image, ImageOps

    from ardbench.data.npz import Npz

    file = Npz(asked.path, split=True)
    if bare := [image.name for image, label in file.parts.values() if label is None]:
        raise ArdbenchError(
            f"{asked.path} has no array of labels beside `{bare[0]}`: add one with the class of each image, 0 to K - 1."
        )
    arrays = [file.array(image) for image, _ in file.parts.values()]
    begins = np.cumsum([0, *map(len, arrays)])  # images are numbered through all arrays
    lowest, highest = file.contents.lowest, file.contents.highest
    if lowest != 0 or not highest or highest >= begins[-1]:
        raise ArdbenchError(f"{asked.path} has labels {lowest} to {highest}: {LABELS}")
    classes = tuple(map(str, range(highest + 1)))
    parts: dict[str, dict[str, list[int]]] = {}
    for (split, (_, label)), begin in zip(file.parts.items(), begins, strict=False):
        labels = file.array(label).reshape(-1) if label else ()
        parts[split] = {name: (begin + np.flatnonzero(labels == k)).tolist() for k, name in enumerate(classes)}
    found = parts if "" in parts else _joined(asked, parts)
    if absent := [name for name in classes if not next(iter(found.values()))[name]]:
        raise ArdbenchError(f"{asked.path} has no image of class {absent[0]} to train on: {LABELS}")
    listed = _listed(_halves(asked, found), classes)
    shapes = [array.shape[1:] if array.ndim == 4 else (*array.shape[1:], 1) for array in arrays]
    channels = shapes[0][2]
    if several := {shape[2] for shape in shapes} - {channels}:
        raise ArdbenchError(
            f"{asked.path} has images of {channels} and of {several.pop()} channels: give one number of them."
        )
    if asked.channels not in (None, channels):
        raise ArdbenchError(f"{asked.path} has {channels} channels, not {asked.channels}: leave channels out.")
    if channels not in (1, 3) and asked.size is not None:
        raise ArdbenchError(f"{asked.path} has {channels} channels, which are not resized: leave size out.")
    sizes = Counter[tuple[int, int]]()
    for array, (height, width, _) in zip(arrays, shapes, strict=True):
        sizes[width, height] += len(array)
    side = _side(asked, sizes)

    def image(split: str, place: int) -> np.ndarray:
        row = listed[split][place][0]
        part = int(np.searchsorted(begins, row, "right")) - 1
        one: np.ndarray = arrays[part][row - begins[part]].reshape(shapes[part])
        if asked.size is None:
            return one
        picture = Image.fromarray(one[..., 0] if channels == 1 else one)
        fitted = ImageOps.fit(picture, (asked.size, asked.size), Image.Resampling.BICUBIC)
        return np.asarray(fitted, np.uint8).reshape(asked.size, asked.size, channels)

    told = {split: [label for _, label in files] for split, files in listed.items()}
    return Source(asked, classes, side, channels, told, image)


def _of_torchvision(asked: Name) -> Source:
    """Return a data set of torchvision, from where its files lie below the data root, or fetched by it."""
    from torchvision import datasets

    from ardbench.data import data_root, pictures

    kinds = {
        one
        for one in datasets.__all__
        if {"train", "split"} & inspect.signature(getattr(datasets, one)).parameters.keys()
    }
    name = asked.path.name
    if name not in kinds:
        raise unknown("data set of torchvision", name, kinds)
    halves = {split: _half(getattr(datasets, name), data_root(), split == "train") for split in ("train", "test")}
    splits = _halves(asked, halves)
    labels: dict[str, list[int]] = {"train": [], "test": []}
    sizes, grey = Counter[tuple[int, int]](), True
    for split, half in splits.items():
        for place in range(len(half)):
            picture, label = half[place]
            if not (isinstance(label, int) and hasattr(picture, "getbands")):
                raise ArdbenchError(f"torchvision:{name} has no pictures of one class each: choose another.")
            labels[split].append(label)
            sizes[picture.size] += 1
            grey = grey and picture.mode in pictures.GREY
    count = 1 + max(max(several) for several in labels.values())
    if absent := sorted(set(range(count)) - set(labels["train"])):
        raise ArdbenchError(f"torchvision:{name} has no training image of class {absent[0]}: choose another.")
    named = tuple(map(str, getattr(splits["train"], "classes", ())))
    channels = asked.channels or (1 if grey else 3)
    side = _side(asked, sizes)

    def image(split: str, place: int) -> np.ndarray:
        return pictures.as_array(splits[split][place][0], channels, asked.size)

    classes = named if len(named) == count else tuple(map(str, range(count)))
    return Source(asked, classes, side, channels, labels, image)


def _half(kind: Any, root: Path, train: bool) -> Any:
    """Return the training or the test set of one of torchvision's classes, which fetches it where it is absent."""
    words = inspect.signature(kind).parameters
    said: dict[str, Any] = {"split": "balanced"} if kind.__name__ == "EMNIST" else {}
    if "train" in words:
        choices: Sequence[dict[str, Any]] = [{"train": train}]
    elif "split" in words:
        choices = [{"split": name} for name in (("trainval", "train") if train else ("test", "val"))]
    else:
        raise ArdbenchError(f"torchvision:{kind.__name__} has no training and test set: choose another.")
    refused = ""
    for choice in choices:
        for download in ({"download": False}, {"download": True}) if "download" in words else ({},):
            try:
                return kind(str(root), **said, **choice, **download)
            except Exception as error:  # of torchvision: no such split, absent files, no network
                refused = str(error).strip().partition("\n")[0][:200]
    raise ArdbenchError(
        f"torchvision:{kind.__name__} is not in {root} and cannot be fetched ({refused}): put its files there as torchvision "
        "does, or name the folder by --data-root."
    )


def _listed(splits: dict[str, dict[str, list[Any]]], classes: Sequence[str]) -> dict[str, list[tuple[Any, int]]]:
    """Return what each split has, by class, each with its label."""
    return {s: [(one, k) for k, name in enumerate(classes) for one in splits[s][name]] for s in ("train", "test")}


def _halves(asked: Name, found: dict[str, Any]) -> dict[str, Any]:
    """Return a training and a test set of what is split, or of what nothing has split, which lies under "".

    Raises:
        ArdbenchError: a share is said for the test set where the data say it themselves, or none where they do not.
    """
    if "" in found:
        return _shared(asked, found[""])
    if asked.test_share is not None:
        raise ArdbenchError(f"{asked.path} says itself which images are for the test: leave --test-share out.")
    return found


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


def _joined(asked: Name, found: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
    """Return the training and the test set of what is split; images to validate on beside a test set join the training set.

    Raises:
        ArdbenchError: there are not both.
    """
    tests = [found[name] for name in ("test", "val") if name in found]
    if not tests:
        raise ArdbenchError(
            f"{asked.path} has training images and none for the test: add them, or call the arrays image and label and give "
            "--test-share 0.2."
        )
    train = {name: [one for part in (found["train"], *tests[1:]) for one in part[name]] for name in found["train"]}
    return {"train": train, "test": tests[0]}


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
