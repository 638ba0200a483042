"""Measure how a training step's throughput and memory grow: one base point, and each axis of it varied alone.

    python benchmarks/speed/scaling.py --device cpu                     # images of CIFAR-10's shape
    python benchmarks/speed/scaling.py --device cpu --dataset digits    # the digits suite's students, as its plan needs

Axes are the batch, the steps of PGD, the student and the number of images. Rows go to results/speed/scaling-<device>.csv one
by one, with a Markdown page and a figure (.png, .svg) beside it; rows that are there are not measured again.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scaling_report import AXES, Measured, Row, draw, open_table
from tables import Runner, alternate, wait_for

from ardbench import data, models
from ardbench.attacks.form import computes_bf16
from ardbench.config import Recipe
from ardbench.data.batches import Split, Splits
from ardbench.engine import device as devices
from ardbench.engine import networks
from ardbench.engine.loop import Loop
from ardbench.errors import ArdbenchError, unknown
from ardbench.evaluation.batch_size import fitting
from ardbench.methods import method_class
from ardbench.methods.base import Context
from ardbench.planning.counting import StepCounter
from ardbench.progress import Progress
from ardbench.recipes import resolve
from ardbench.runs import Run

VALUES: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "cpu": {
        "batch": (16, 32, 64, 128, 256),
        "steps": (0, 1, 2, 5, 10, 20),
        "model": ("resnet8-tiny", "resnet8", "resnet20", "mobilenetv2", "resnet18"),
        "images": (1000, 5000, 50_000),
    },
    "cuda": {
        "batch": (16, 32, 64, 128, 256, 512, 1024),
        "steps": (0, 1, 2, 5, 10, 20),
        "model": ("resnet8-tiny", "resnet8", "resnet20", "mobilenetv2", "resnet18"),
        "images": (1000, 5000, 50_000),
    },
}
"""Device -> axis -> where it is measured; on the CPU what fits into minutes."""
ON_DIGITS: Mapping[str, tuple[Any, ...]] = {"model": ("resnet8-tiny", "resnet8", "vit-micro")}
"""The axis around the base of the digits."""
KILLED = -9
"""The exit status of a process that the system ended for want of memory."""
SAMPLED = {"cpu": 1, "cuda": 20}
"""Training steps of one sample."""


@dataclass(frozen=True)
class Point:
    """What is trained: a student by PGD of so many steps, in batches, on so many images of a data set's shape."""

    model: str
    batch: int
    steps: int
    images: int
    dataset: str = "cifar10"


BASE = Point("resnet20", 128, 10, 50_000)
BASES = {"cifar10": BASE, "digits": Point("resnet8-tiny", 128, 10, 1437, "digits")}


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    device: str
    points: tuple[Point, ...]
    precision: str
    repeats: int
    deadline: float
    again: bool
    out: Path
    alone: bool


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line, or refuse it."""
    parser = argparse.ArgumentParser(description="Measure how a training step's throughput and memory grow.")
    parser.add_argument("--device", choices=tuple(VALUES), default="cpu")
    parser.add_argument("--dataset", choices=tuple(BASES), default=BASE.dataset, help="whose images' shape is taken")
    kinds: dict[str, Callable[[str], Any]] = {"model": str, "batch": _count, "steps": _steps, "images": _count}
    for axis, kind in kinds.items():
        parser.add_argument(f"--{axis}", type=kind, help=f"of the base ({AXES[axis]})")
        parser.add_argument(f"--axis-{axis}", type=_several(kind), help="comma-separated; none leaves this axis out")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="default: bf16 where the device has instructions; digits: fp32"
    )
    parser.add_argument("--repeats", type=_count, default=5, help="samples, of which the median counts")
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="seconds after which no point is begun")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "speed")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # the child that measures the base
    given = parser.parse_args(arguments)
    on_digits = given.dataset == "digits"
    chosen_base = {axis: chosen for axis in kinds if (chosen := getattr(given, axis)) is not None}
    base, values = replace(BASES[given.dataset], **chosen_base), dict(ON_DIGITS if on_digits else VALUES[given.device])
    values |= {axis: chosen for axis in kinds if (chosen := getattr(given, f"axis_{axis}")) is not None}
    points = (base,) if given.alone else star(base, values)
    for point in points:
        if point.model not in models.MODELS:
            parser.error(str(unknown("model", point.model, models.MODELS)))
        if point.images < point.batch:
            parser.error(f"{point.images} images hold no batch of {point.batch}: give more images or a smaller batch")
    bf16 = not on_digits and computes_bf16(torch.device(given.device))
    precision = given.precision or ("bf16" if bf16 else "fp32")
    deadline = time.monotonic() + given.time_limit
    return Options(given.device, points, precision, given.repeats, deadline, given.again, given.out, given.alone)


def star(base: Point, values: Mapping[str, tuple[Any, ...]]) -> tuple[Point, ...]:
    """Return the base, and around it the points that differ from it in one axis."""
    around = (replace(base, **{axis: value}) for axis, chosen in values.items() for value in chosen)
    return tuple(dict.fromkeys([base, *around]))


def recipe_of(point: Point, precision: str) -> Recipe:
    """Return the recipe of PGD adversarial training on a point's data set, at that point; only whole batches."""
    sets: dict[str, object] = {"data.batch": point.batch, "attack.steps": point.steps, "data.drop_last": True}
    sets |= {"precision.attack": precision, "precision.outer": precision}
    return resolve(f"pgd-at-{point.dataset}", student=point.model, sets=sets)


def loop_of(point: Point, precision: str, folder: Path, device: torch.device) -> Loop:
    """Return the engine's loop over random images; it trains one batch at a time, and writes into `folder`."""
    recipe, info = recipe_of(point, precision), data.info(point.dataset)
    source = torch.Generator().manual_seed(0)
    shape = (point.images, info.channels, info.size, info.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source).to(device)
    labels = torch.randint(0, info.num_classes, (point.images,), generator=source).to(device)
    train = Split(images, labels, torch.arange(point.images, device=device), info)
    student = networks.fresh(point.model, point.dataset, recipe.data.normalise, 0, "student", device)
    if recipe.precision.channels_last:
        student = student.to(memory_format=torch.channels_last)
    method = method_class(recipe.method["name"])(Context(recipe, student, (), lambda _: student))
    return Loop(Run(folder), recipe, method, Splits(train, None, train.take([0])), lambda: True, Progress())


def measure_here(point: Point, options: Options, device: torch.device) -> Measured:
    """Return what a point takes in this process; between two samples an epoch is closed and the next one begun."""
    devices.allow_tf32(False)
    before, overheads = devices.peak_memory(device), list[float]()
    if device.type == "cuda":
        devices.forget_peak(device)
    with tempfile.TemporaryDirectory() as folder:
        loop = loop_of(point, options.precision, Path(folder), device)

        def prepare() -> None:
            if not loop.at.images:
                return
            wait_for(device)
            began = time.perf_counter()
            loop._close(loop.at.epoch)
            loop.method.begin_epoch(loop.at.epoch)
            loop.batches._order(loop.at.epoch)
            wait_for(device)
            overheads.append(time.perf_counter() - began)

        def step() -> None:
            if loop._epoch(loop.at.epoch):  # that was its last batch
                loop.at.epoch, loop.at.step = loop.at.epoch + 1, 0

        samples = alternate({str(point): Runner(prepare, step)}, options.repeats, SAMPLED[device.type], device)
    # a process may hold less than it did before, where what others have left in it is given back
    peak = max(0, devices.peak_memory(device) - (before if device.type == "cpu" else 0))
    walls, busy = zip(*((taken.wall, taken.processor) for taken in samples[str(point)]), strict=True)
    return Measured(median(walls), median(busy), median(overheads), peak / 2**20)


def measure_alone(point: Point, options: Options) -> Measured | None:
    """Return what a point takes in a process of its own, since a high-water mark never falls; None if memory ran out."""
    words = [word for axis, value in asdict(point).items() for word in (f"--{axis}", str(value))]
    words += [
        "--device",
        options.device,
        "--precision",
        options.precision,
        "--repeats",
        str(options.repeats),
        "--alone",
    ]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == KILLED:
        return None
    done.check_returncode()
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def measure_on(point: Point, options: Options, device: torch.device) -> Measured | None:
    """Return what a point takes on an accelerator, whose peaks are told apart; None if memory ran out."""
    gc.collect()  # a loop that was measured before
    return fitting(partial(measure_here, point, options, device))


def measure(options: Options, device: torch.device) -> None:
    """Measure the missing points and write them."""
    table, counted = open_table(options.out / f"scaling-{device.type}.csv"), StepCounter()
    for point in options.points:
        row = Row.here(device, options.precision, **asdict(point))
        if not options.again and table.holds(row):
            print(f"{point} is in {table.path} already (--again measures anew)")
            continue
        if time.monotonic() > options.deadline:
            print("the time limit is over: the same command measures what is missing")
            return
        flop = counted.flop(recipe_of(point, options.precision), (), range(1))
        taken = measure_alone(point, options) if device.type == "cpu" else measure_on(point, options, device)
        if taken is None:
            print(f"{point} is left out: it does not fit into memory")
            continue
        row.measured(taken, flop, options.repeats)
        table.write(row)
        print(f"{point}: {row.images_per_second:.5g} images/s, {row.tflops:.3g} TFLOP/s, {row.peak_mb} MB", flush=True)


def main() -> None:
    """Measure what was asked for, draw it, and show the page."""
    options = parse()
    try:
        device = devices.choose(options.device)
        if options.alone:
            print(json.dumps(asdict(measure_here(options.points[0], options, device))))
            return
        measure(options, device)
    except ArdbenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    table = open_table(options.out / f"scaling-{device.type}.csv")
    if table.path.exists():
        draw([row for row in table.rows() if row["dataset"] == BASE.dataset], table.path.with_suffix(""))
        print(table.path.with_suffix(".md").read_text(encoding="utf-8"))


def _several(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: () if text == "none" else tuple(map(kind, text.split(",")))


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def _steps(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 on")
    return int(text)


if __name__ == "__main__":
    main()
