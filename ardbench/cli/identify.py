"""`ardbench identify`: which architecture and which normalisation a file of weights is of, and the line to measure it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.listeners.drawn import table

if TYPE_CHECKING:
    from ardbench.evaluation.identify import Candidate

IMAGES, ROWS = 500, 8


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dataset", metavar="NAME", required=True, help="The data set that the network was trained on.")
@click.option(
    "--part", default="", metavar="PART", help="Of a file that holds several networks: which, such as ema or student."
)
@click.option(
    "--n",
    type=click.IntRange(min=1),
    help=f"Look at so many test images, class-balanced; without it {IMAGES}, or all where there are fewer.",
)
@options.device
@options.data_root
@options.quiet
@options.as_json
def identify(
    file: Path, dataset: str, part: str, n: int | None, device: str, data_root: Path | None, quiet: bool, as_json: bool
) -> None:
    """Find out which architecture a file of weights is of, and by what its inputs are normalised.

    Every architecture that its names and shapes fit is tried with the usual normalisations: none, the file's, the data
    set's, 0.5, ImageNet's, pixels up to 255. Right are those with which BatchNorms see what they remember of training and
    images are classified correctly. The `ardbench eval` line to type follows.
    """
    from ardbench import data
    from ardbench.teachers import split_part

    info = data.info(dataset)
    if n is not None and n > info.test_images:
        raise ArdbenchError(f"--n {n} is more than the {info.test_images} test images of {dataset}: give at most that.")
    whole, named = split_part(str(file))
    file, part = (whole, part or named) if whole.is_file() else (file, part)
    if not file.is_file():
        raise ArdbenchError(f"There is no file {file}: give one of weights, such as best.pt.")
    output = Output(as_json)
    found, turned = _found(file, part, dataset, n or min(IMAGES, info.test_images), device, data_root, quiet, output)
    columns = ["architecture", "normalisation", "clean %", "running statistics"]
    rows = [
        (one.model, one.label, f"{100 * one.clean:.2f}", "no BatchNorm" if one.gap is None else f"{one.gap:.2g}")
        for one in found[:ROWS]
    ]
    output.show(table(columns, rows, columns[2:]))
    if len(found) > ROWS:
        output.line(f"... and {len(found) - ROWS} less likely ones (--json has all).")
    says, best = _says(found, turned), found[0]
    place = [str(file), *(["--part", part] if part else [])]
    seen = [word for pair in zip(("--mean", "--std"), best.typed, strict=False) for word in pair]
    root = ["--data-root", str(data_root)] if data_root else []
    line = shlex.join(["ardbench", "eval", *place, "--model", best.model, "--dataset", dataset, *seen, *root])
    for text in says:
        output.line(text)
    if best.fits:
        output.line(f"Next: {line}")
    rest = {"n": best.n, "candidates": list(map(_facts, found)), "says": says, "next": line if best.fits else None}
    output.document({"file": str(file), "part": part, "dataset": dataset, **rest})


def _found(
    file: Path, part: str, dataset: str, n: int, device: str, data_root: Path | None, quiet: bool, output: Output
) -> tuple[list[Candidate], Candidate | None]:
    """Return the candidates, and the best one again with colours in reverse order where there are colours."""
    from ardbench.data.load import load
    from ardbench.engine.device import choose, describe
    from ardbench.evaluation.identify import identify as look
    from ardbench.evaluation.identify import reversed_channels
    from ardbench.evaluation.measure import subset_of
    from ardbench.listeners.screen import shown

    chosen = choose(device)
    say(f"Device: {describe(chosen)}")
    with output.working(), shown(quiet) as progress:
        split = subset_of(load(dataset, chosen, data_root, progress=progress).test, n)
        found = look(file, split, part, progress)
        return found, reversed_channels(file, split, found[0], part) if split.info.channels == 3 else None


def _says(found: Sequence[Candidate], turned: Candidate | None) -> list[str]:
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
