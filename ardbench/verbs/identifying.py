"""`ardbench.identify`: which architecture a file of weights is of, and by what its inputs are normalised."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench import data
from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.teachers import split_part
from ardbench.verbs import IMAGES
from ardbench.verbs.evaluating import check_range

if TYPE_CHECKING:
    from ardbench.evaluation.identify import Candidate
    from ardbench.progress import Progress


@dataclass(frozen=True)
class Identified:
    """What a file was found to be.

    Args:
        file, part, dataset: what was asked about.
        candidates: every architecture with every normalisation that fits its names and shapes, the likeliest first.
        says: what has to be known of the answer: that nothing fits, or that others fit as well.
    """

    file: Path
    part: str
    dataset: str
    candidates: Sequence[Candidate]
    says: Sequence[str]

    @property
    def best(self) -> Candidate:
        """The likeliest of them, which need not fit."""
        return self.candidates[0]

    def line(self, data_root: str | Path | None = None) -> list[str] | None:
        """Return the words of the command that measures the file as what it is; None where nothing fits."""
        seen = [word for pair in zip(("--mean", "--std"), self.best.typed, strict=False) for word in pair]
        place = [str(self.file), *(["--part", self.part] if self.part else [])]
        root = ["--data-root", str(data_root)] if data_root else []
        words = ["ardbench", "eval", *place, "--model", self.best.model, "--dataset", self.dataset, *seen, *root]
        return words if self.best.fits else None

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        about = {"file": str(self.file), "part": self.part, "dataset": self.dataset, "n": self.best.n}
        return {**about, "candidates": list(map(_facts, self.candidates)), "says": list(self.says)}


@data.heeds_data_root
def identify(
    file: str | Path,
    dataset: str,
    *,
    part: str = "",
    n: int | None = None,
    device: str = "auto",
    data_root: str | Path | None = None,
    progress: Progress | None = None,
) -> Identified:
    """Return which architecture a file of weights is of, and by what its inputs are normalised.

    Args:
        file: FILE, or FILE#PART of a file that holds several networks.
        dataset: that the network was trained on.
        part: of the file, where it is not in the name.
        n: look at so many test images, class-balanced; None is 500, or all where there are fewer.
        device, data_root, progress: as in `ardbench.train`.

    Raises:
        ArdbenchError: there is no such file or data set, or no architecture has its names and shapes.
    """
    info = data.info(dataset)
    check_range("n", n, 1)
    if n is not None and n > info.test_images:
        raise ArdbenchError(f"--n {n} is more than the {info.test_images} test images of {dataset}: give at most that.")
    whole, named = split_part(str(file))
    path, part = (whole, part or named) if whole.is_file() else (Path(file), part)
    if not path.is_file():
        raise ArdbenchError(f"There is no file {path}: give one of weights, such as best.pt.")
    from ardbench.data.load import load
    from ardbench.engine.device import choose, describe
    from ardbench.evaluation.identify import identify as look
    from ardbench.evaluation.identify import reversed_channels
    from ardbench.evaluation.measure import subset_of
    from ardbench.listeners.screen import heard_by

    chosen = choose(device)
    say(f"Device: {describe(chosen)}")
    root = None if data_root is None else Path(data_root)
    with heard_by(progress) as heard:
        split = subset_of(load(dataset, chosen, root, progress=heard).test, n or min(IMAGES, info.test_images))
        found = look(path, split, part, heard)
        turned = reversed_channels(path, split, found[0], part) if split.info.channels == 3 else None
    return Identified(path, part, dataset, found, said_of(found, turned))


def said_of(found: Sequence[Candidate], turned: Candidate | None) -> list[str]:
    """Return what has to be known of the answer: that nothing fits, or that others fit as well."""
    best, clearest = found[0], max(found, key=lambda one: one.clean)
    said = []
    if turned and best.worse(turned):
        said.append(
            f"With colours in reverse order (BGR) it is right on {100 * turned.clean:.1f} %: it was trained on them, which "
            "ardbench cannot feed; swap the input channels of its first convolution and save it again."
        )
    elif not best.fits:
        said.append(
            "Nothing fits: with none of these is it better than chance and its BatchNorms see what they remember. The data "
            "set, the normalisation (`ardbench eval --mean --std` takes any), layers or the order of labels are others."
        )
    equal = [one for one in found[1:] if one.fits and not one.worse(clearest)]
    if best.fits and best.worse(clearest):
        said.append(
            f"Ambiguous: running statistics speak for {_name(best)}, clean accuracy for {_name(clearest)}: try both."
        )
    elif best.fits and equal:
        names = "; ".join(map(_name, equal))
        apart = 100 * max(abs(one.clean - best.clean) for one in equal)
        said.append(
            f"Ambiguous: as likely on these {best.n} images: {names}; clean accuracy differs by at most {apart:.1f} points. "
            "More images (--n) may tell."
        )
    if best.fits and best.typed and any(one.label == "the file's" for one in found):
        said.append("The file's own mean and deviation do not fit: save it without them, or eval will refuse others.")
    return said


def _name(one: Candidate) -> str:
    return f"{one.model} with normalisation {one.label}"


def _facts(one: Candidate) -> dict[str, Any]:
    """Return a candidate as JSON holds it; a divergence that is not finite is the largest number there is."""
    low, high = one.interval
    typed = dict(zip(("mean", "std"), one.typed or (None, None), strict=True))
    gap = one.gap if one.gap is None else min(one.gap, sys.float_info.max)
    words = {"architecture": one.model, "normalisation": one.label, **typed}
    return {**words, "clean": one.clean, "low": low, "high": high, "running_statistics": gap, "fits": one.fits}
