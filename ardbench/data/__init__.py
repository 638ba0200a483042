"""The data sets: what is known of each before it is loaded. This module imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from ardbench import plugins
from ardbench.data.epoch import Epoch
from ardbench.errors import ArdbenchError, unknown

if TYPE_CHECKING:
    from ardbench.data.raw import Raw

Words = ParamSpec("Words")
Answer = TypeVar("Answer")
RESIZED = ("resized-crop-flip", "resized-crop")
AUGMENTS = ("crop-flip", "crop", *RESIZED, "none")


@dataclass(frozen=True)
class DatasetInfo:
    """The facts of a data set.

    Args:
        classes: their names in the order of the labels; empty where they are read with the images.
        mean, std: one number a channel, of training pixels in [0, 1].
        pad: zero pixels on every side before an augmenting crop.
        flip: whether a mirrored image is still of its class.
        synthetic: whether the images are drawn by a program, for tests.
    """

    name: str
    title: str
    channels: int
    size: int
    num_classes: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_images: int
    test_images: int
    pad: int
    flip: bool
    synthetic: bool = False


@dataclass(frozen=True)
class Dataset:
    """A data set from outside, as a plugin has it in DATASETS.

    Args:
        info: its facts, under its own name.
        read: gives its images and labels; the folder that data sets lie in goes in.
    """

    info: DatasetInfo
    read: Callable[[DatasetInfo, Path], Raw]


DIGIT_NAMES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm
"""
CIFAR100_NAMES = tuple(_CIFAR100.split())

DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        name="digits",
        title="scikit-learn's handwritten digits (Alpaydin and Kaynak, UCI, 1998)",
        channels=1,
        size=8,
        num_classes=10,
        classes=DIGIT_NAMES,
        mean=(0.3047,),
        std=(0.3756,),
        train_images=1437,
        test_images=360,
        pad=1,
        flip=False,
    ),
    "cifar10": DatasetInfo(
        name="cifar10",
        title="CIFAR-10 (Krizhevsky, 2009)",
        channels=3,
        size=32,
        num_classes=10,
        classes=CIFAR10_NAMES,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2471, 0.2435, 0.2616),
        train_images=50_000,
        test_images=10_000,
        pad=4,
        flip=True,
    ),
    "cifar100": DatasetInfo(
        name="cifar100",
        title="CIFAR-100 (Krizhevsky, 2009)",
        channels=3,
        size=32,
        num_classes=100,
        classes=CIFAR100_NAMES,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        train_images=50_000,
        test_images=10_000,
        pad=4,
        flip=True,
    ),
    "svhn": DatasetInfo(
        name="svhn",
        title="Street View House Numbers, cropped digits (Netzer et al., 2011)",
        channels=3,
        size=32,
        num_classes=10,
        classes=DIGIT_NAMES,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        train_images=73_257,
        test_images=26_032,
        pad=4,
        flip=False,
    ),
    "tiny-imagenet": DatasetInfo(
        name="tiny-imagenet",
        title="Tiny-ImageNet-200 (Le and Yang, 2015), its validation images as the test set",
        channels=3,
        size=64,
        num_classes=200,
        classes=(),
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        train_images=100_000,
        test_images=10_000,
        pad=4,
        flip=True,
    ),
    "fake": DatasetInfo(
        name="fake",
        title="synthetic patterns with noise, for tests",
        channels=3,
        size=8,
        num_classes=10,
        classes=tuple(f"pattern {label}" for label in range(10)),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        train_images=256,
        test_images=64,
        pad=1,
        flip=True,
        synthetic=True,
    ),
}


def info(name: str) -> DatasetInfo:
    """Return the facts of the data set called `name`; one's own images (`folder:PATH`, `npz:FILE`) are decoded once for that.

    Raises:
        ArdbenchError: there is none of that name.
    """
    from ardbench.data import own

    if own.is_own(name):
        return own.found(name).info
    if name in DATASETS:
        return DATASETS[name]
    if plugins.find("dataset", name) is None:
        theirs = [
            f"torchvision:{one}" for one in _of_torchvision() if one.casefold() == name.replace("-", "").casefold()
        ]
        raise plugins.unknown("dataset", name, [*available(), *theirs])
    return outside(name).info


def _of_torchvision() -> list[str]:
    """Return the names of torchvision's data sets, read where it lists them: to load it takes seconds."""
    spec = find_spec("torchvision")
    listed = spec and spec.origin and Path(spec.origin).parent / "datasets" / "__init__.py"
    return (
        re.findall(r'^    "(\w+)",$', listed.read_text(encoding="utf-8"), re.M) if listed and listed.is_file() else []
    )


def available() -> list[str]:
    """Return every data set by name: ours, those of plugins and of installed packages."""
    return [*DATASETS, *plugins.of("dataset")]


def outside(name: str) -> Dataset:
    """Return a data set from outside, which is there.

    Raises:
        ArdbenchError: it cannot be loaded, or is none.
    """
    one = plugins.of("dataset")[name]
    found = plugins.load("dataset", name, one.value)
    if not (isinstance(found, Dataset) and isinstance(found.info, DatasetInfo) and found.info.name == name):
        raise ArdbenchError(
            f"The data set {name} of {one.origin} is no ardbench.data.Dataset whose info has that name: make it one."
        )
    return found


def known(name: str) -> bool:
    """Return whether a name is of a data set; of one's own images only its form is looked at."""
    from ardbench.data import own

    return name in DATASETS or own.is_own(name) or plugins.find("dataset", name) is not None


def check_augment(info: DatasetInfo, augment: str) -> None:
    """Refuse an unknown augmentation, and mirroring where a mirrored image is of no class."""
    if augment not in AUGMENTS:
        raise unknown("augmentation", augment, AUGMENTS)
    if augment.endswith("flip") and not info.flip:
        raise ArdbenchError(
            f"data.augment = {augment!r} mirrors images, and a mirrored digit of {info.name} is no digit: "
            f"choose {augment.removesuffix('-flip')!r} or 'none'."
        )


def check_sizes(info: DatasetInfo, validation: int, train_images: int | None) -> None:
    """Refuse a validation split and a training subset that together need more images than the training set has."""
    wanted = validation + (1 if train_images is None else train_images)
    if validation < 0 or (train_images is not None and train_images < 1) or wanted > info.train_images:
        subset = "" if train_images is None else f" and data.train_images = {train_images}"
        raise ArdbenchError(
            f"data.validation = {validation}{subset} cannot be taken from the {info.train_images} training images of "
            f"{info.name}: together they must leave at least one image to train on and need no more than there are."
        )


def check_batch(epoch: Epoch) -> None:
    """Refuse a batch that is larger than the training images where incomplete ones are dropped."""
    if not len(epoch):
        raise ArdbenchError(
            f"data.batch = {epoch.batch} with data.drop_last leaves no batch of {epoch.images} training images: lower it."
        )


_said: ContextVar[str | os.PathLike[str] | None] = ContextVar("data_root", default=None)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that data sets lie in: what was given, else as `lying_in` says, else $ARDBENCH_DATA, else `data`."""
    return Path(root or _said.get() or os.environ.get("ARDBENCH_DATA") or "data").expanduser()


@contextmanager
def lying_in(root: str | os.PathLike[str] | None) -> Iterator[None]:
    """Let data sets lie in a folder meanwhile, those too whose facts alone are asked for; None changes nothing."""
    before = _said.set(root or _said.get())
    try:
        yield
    finally:
        _said.reset(before)


def heeds_data_root(verb: Callable[Words, Answer]) -> Callable[Words, Answer]:
    """Let the `data_root` of a function say where data sets lie for all that it does."""

    @wraps(verb)
    def heeding(*words: Words.args, **named: Words.kwargs) -> Answer:
        with lying_in(cast("str | os.PathLike[str] | None", named.get("data_root"))):
            return verb(*words, **named)

    return heeding
