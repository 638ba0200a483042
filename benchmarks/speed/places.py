"""Measure images/s where images lie on the device, on the host and in their files: of batches alone, and of PGD-10 steps.

    python benchmarks/speed/places.py --device cuda --workers 12

The same images in the three places: generated JPEGs of Tiny-ImageNet's size, decoded once for the first two. Rows go to
results/speed/places-<device>.csv, with a page beside it; rows that are there are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tables import Cells, Measurement, Table, markdown, today, wait_for, where
from torch import Tensor

from ardbench import data
from ardbench.data.batches import Split, Splits
from ardbench.data.images import Elsewhere, FileImages, HostImages
from ardbench.data.raw import Undecoded
from ardbench.engine import device as devices
from ardbench.engine import networks
from ardbench.engine.loop import Loop
from ardbench.errors import ArdbenchError
from ardbench.methods import method_class
from ardbench.methods.base import Context
from ardbench.progress import Progress
from ardbench.recipes import resolve
from ardbench.runs import Run

INFO = data.info("tiny-imagenet")
PLACES = ("device", "host", "files")
WORKS = {"batches": "batches alone", "steps": "PGD-10 steps"}
WARM = 20
"""Batches that are not measured: what was read ahead of the first ones."""
Images = Tensor | Elsewhere


@dataclass
class Row(Measurement):
    """What a place brings; up to `workers` it is the row's key."""

    lie: str
    work: str
    model: str
    precision: str
    batch: int
    images: int
    workers: int
    images_per_second: float
    date: str


def photograph(source: np.random.Generator) -> Image.Image:
    """Return an image as smooth as photographs are, so that its JPEG is as long as theirs."""
    coarse = Image.fromarray(source.integers(0, 256, (INFO.size // 4, INFO.size // 4, 3), dtype=np.uint8))
    return coarse.resize((INFO.size, INFO.size), Image.Resampling.BICUBIC)


def decode(folder: Path, name: str) -> np.ndarray:
    """Return one image (H, W, 3)."""
    with Image.open(folder / name) as image:
        return np.asarray(image.convert("RGB"))


def places(count: int, folder: Path, device: torch.device, workers: int) -> dict[str, Images]:
    """Return the same images in each place; files and an array are written to `folder`."""
    names, source = [f"{row}.jpg" for row in range(count)], np.random.default_rng(0)
    array = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, INFO.size, INFO.size, 3))
    for row, name in enumerate(names):
        photograph(source).save(folder / name, quality=90)
        array[row] = decode(folder, name)
    undecoded = Undecoded(names, (3, INFO.size, INFO.size), partial(decode, folder))
    return {
        "device": torch.from_numpy(array).permute(0, 3, 1, 2).contiguous().to(device),
        "host": HostImages(np.load(folder / "images.npy", mmap_mode="c"), device, channels_last=True),
        "files": FileImages(undecoded, device, workers=workers),
    }


def loop_of(images: Images, options: argparse.Namespace, folder: Path, device: torch.device) -> Loop:
    """Return the engine's loop over these images."""
    sets = {"data.batch": options.batch, "data.drop_last": True, "attack.steps": 10, "data.validation": 0}
    sets |= {"precision.attack": options.precision, "precision.outer": options.precision, "selection.by": "last"}
    recipe = resolve("pgd-at-tiny-imagenet-level", student=options.model, sets=sets)
    index = torch.arange(len(images), device=device)
    student = networks.fresh(options.model, INFO.name, recipe.data.normalise, 0, "student", device)
    method = method_class("pgd-at")(Context(recipe, student.to(memory_format=torch.channels_last)))
    train = Split(images, index % INFO.num_classes, index, INFO)
    return Loop(Run(folder), recipe, method, Splits(train, None, train), lambda: False, Progress())


def rate(work: Callable[[int, int], object], loop: Loop, seconds: float, device: torch.device) -> float:
    """Return the images/s of a work that is done at one (epoch, step) after the other."""
    steps, done, began, since = len(loop.batches), 0, 0.0, 0
    while not began or time.perf_counter() - began < seconds or done - since < WARM:
        work(*divmod(done, steps))
        done += 1
        if done == WARM:
            wait_for(device)
            began, since = time.perf_counter(), done
    wait_for(device)
    return (done - since) * loop.batches.size / (time.perf_counter() - began)


def measure(options: argparse.Namespace, device: torch.device, table: Table) -> None:
    """Measure the missing rows and write them."""
    devices.allow_tf32(False)
    with tempfile.TemporaryDirectory() as folder:
        found = places(options.images, Path(folder), device, options.workers)
        for place in PLACES:
            loop = loop_of(found[place], options, Path(folder), device)

            def step(epoch: int, index: int, loop: Loop = loop) -> None:
                loop._step(loop.batches.batch(epoch, index), 0, index)

            for name, work in (("batches", loop.batches.batch), ("steps", step)):
                about = (options.model, options.precision, options.batch, options.images, options.workers)
                row = Row.here(device, place, name, *about, 0.0, today())
                if table.holds(row) and not options.again:
                    print(f"{name} from {place} are in {table.path} already (--again measures anew)")
                    continue
                row.images_per_second = round(rate(work, loop, options.seconds, device), 1)
                table.write(row)
                print(f"{name} from {place}: {row.images_per_second:,} images/s", flush=True)


def page(rows: list[Cells]) -> str:
    """Return the Markdown of all rows: what each place costs against the device."""
    shared = ("name", "torch_version", "threads", "work", "model", "precision", "batch", "images")
    alike: dict[tuple[str, ...], list[Cells]] = {}
    for row in rows:
        alike.setdefault(tuple(row[name] for name in shared), []).append(row)
    lines = []
    for several in alike.values():
        base = next((float(row["images_per_second"]) for row in several if row["lie"] == "device"), None)
        for row in several:
            speed = float(row["images_per_second"])
            longer = "" if base is None else f"{100 * (base / speed - 1):+.0f} %"
            workers = row["workers"] if row["lie"] == "files" else ""
            about = [WORKS[row["work"]], row["lie"], workers, f"{speed:,.0f}", longer, row["model"], row["precision"]]
            lines.append([*about, row["batch"], row["images"], where(row)])
    heads = [
        "work",
        "images lie",
        "workers",
        "images/s",
        "a batch takes",
        "student",
        "precision",
        "batch",
        "images",
        "on",
    ]
    return "# Where images lie\n\n" + markdown(heads, lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure images/s where images lie in each place.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8, help="processes that decode")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row, once it is warm")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "speed")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure what was asked for, and show the page."""
    options = parse()
    try:
        device = devices.choose(options.device)
        table = Table.of(Row, "workers", options.out / f"places-{device.type}.csv", page)
        measure(options, device, table)
    except ArdbenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    print(table.path.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
