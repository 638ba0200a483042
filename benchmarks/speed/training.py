"""Measure a training step against a plain reference loop: same process, same work, alternating.

    python benchmarks/speed/training.py --device cpu --methods pgd-at,rslad

Images are synthetic, of CIFAR-10's shape and number; networks and the teacher are freshly initialised. Rows go to
results/speed/<device>.csv one by one, with a Markdown table beside it; rows that are there are not measured again.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from reference import GRADIENTS, METHODS, Images, Script
from report import Row, Seconds, known, write
from torch import nn

from ardbench import data
from ardbench.config import Recipe
from ardbench.data.batches import Split, Splits
from ardbench.engine import device as devices
from ardbench.engine import networks
from ardbench.engine.loop import LOOK_EVERY, Loop
from ardbench.methods import method_class
from ardbench.methods.base import Context
from ardbench.progress import Progress
from ardbench.recipes import resolve
from ardbench.runs import Run

DATASET = "cifar10"
VARIANTS = ("fp32", "bf16")
MEMORY_STEPS = 2


@dataclass(frozen=True)
class Options:
    """What the command line asked for; steps are those of one timed sample."""

    device: str
    model: str
    teacher: str
    batch: int
    repeats: int
    steps: int
    methods: tuple[str, ...]
    variants: tuple[str, ...]
    gradient: str
    tf32: bool
    again: bool
    out: Path
    memory_of: str | None


@dataclass(frozen=True)
class Runner:
    """One side of a comparison: `prepare` sets the process up as this side's users have it, `step` trains a batch."""

    prepare: Callable[[], None]
    step: Callable[[], None]


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line, or refuse it."""
    parser = argparse.ArgumentParser(description="Measure a training step against a plain reference loop.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="resnet18", help="the student")
    parser.add_argument("--teacher", default="resnet18", help="the teacher of rslad, such as wrn-34-10")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7, help="timed samples of each side, alternating")
    parser.add_argument("--steps", type=int, default=None, help="steps of one sample (default: 1 on cpu, 20 on cuda)")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated precisions of ours")
    parser.add_argument(
        "--reference-gradient", choices=GRADIENTS, default="released", help="how the reference's attack differentiates"
    )
    parser.add_argument("--no-tf32", action="store_true", help="forbid TF32 to both sides (cuda; torch allows it)")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "speed")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # the child process that measures one side's peak
    given = parser.parse_args(arguments)
    methods, variants = tuple(given.methods.split(",")), tuple(given.variants.split(","))
    for kind, names, allowed in (("method", methods, METHODS), ("variant", variants, VARIANTS)):
        for name in names:
            if name not in allowed:
                parser.error(f"unknown {kind} {name!r}: choose from {', '.join(allowed)}")
    steps = given.steps or (1 if given.device == "cpu" else 20)
    gradient, tf32 = given.reference_gradient, given.device == "cuda" and not given.no_tf32
    return Options(
        given.device, given.model, given.teacher, given.batch, given.repeats, steps, methods, variants, gradient, tf32,
        given.again, given.out, given.memory_of,
    )  # fmt: skip


def recipe_of(method: str, variant: str, options: Options) -> Recipe:
    """Return the as-released recipe of a method in one precision, attack and outer step alike."""
    precision = {"precision.attack": variant, "precision.outer": variant, "precision.tf32": options.tf32}
    sets: dict[str, object] = precision | {"data.batch": options.batch}
    if options.memory_of is not None:
        sets["attack.steps"] = 2  # an attack step leaves nothing behind, so more of them raise no peak
    return resolve(f"{method}-{DATASET}", student=options.model, sets=sets)


def synthetic(device: torch.device) -> tuple[Images, Splits]:
    """Return the same random images for the reference (H, W, C in memory) and for ours (uint8 on the device)."""
    info, source = data.info(DATASET), np.random.default_rng(0)
    images = source.integers(0, 256, (info.train_images, info.size, info.size, info.channels), dtype=np.uint8)
    labels = source.integers(0, info.num_classes, info.train_images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    train = Split(pixels, torch.from_numpy(labels).to(device), torch.arange(len(labels), device=device), info)
    return Images(images, labels.tolist(), info.pad), Splits(train, None, train.take([0]))


def teachers_of(method: str, options: Options, device: torch.device) -> tuple[nn.Module, ...]:
    """Return the teachers that a method wants, frozen; random weights cost what trained ones do."""
    nets = (networks.fresh(options.teacher, DATASET, False, 1, "teacher", device) for _ in method_class(method).roles)
    return tuple(net.eval().requires_grad_(False) for net in nets)


def reference(method: str, options: Options, images: Images, device: torch.device) -> Runner:
    """Return the reference loop on its own network, with torch's defaults and cudnn.benchmark as scripts set it."""
    recipe = recipe_of(method, "fp32", options)
    student = networks.fresh(options.model, DATASET, False, 0, "student", device)
    teacher = next(iter(teachers_of(method, options, device)), None)
    workers = 0 if device.type == "cpu" else 2
    script = Script(recipe, student.train(), teacher, images, workers, device, options.gradient)

    def prepare() -> None:
        torch.backends.cudnn.benchmark = True
        devices.allow_tf32(False)
        torch.backends.cudnn.allow_tf32 = options.tf32  # torch's default: convolutions in TF32, products in fp32

    return Runner(prepare, script.step)


def ours(method: str, variant: str, options: Options, splits: Splits) -> Runner:
    """Return the engine's own loop on its own network: batch, step and look at the losses as in `Loop._epoch`."""
    recipe, device = recipe_of(method, variant, options), splits.train.images.device
    student: nn.Module = networks.fresh(options.model, DATASET, False, 0, "student", device)
    if recipe.precision.channels_last:
        student = student.to(memory_format=torch.channels_last)
    built = method_class(method)(Context(recipe, student, teachers_of(method, options, device)))
    folder = Path(tempfile.gettempdir()) / "ardbench-speed-writes-nothing"
    loop = Loop(Run(folder), recipe, built, splits, lambda: False, Progress())
    loop.method.begin_epoch(0)
    for net in loop.trainables.values():
        net.train()
    full, made = len(splits.train) // options.batch, 0

    def prepare() -> None:
        torch.backends.cudnn.benchmark = False
        devices.allow_tf32(recipe.precision.tf32)

    def step() -> None:
        nonlocal made
        index = made % full
        loop._step(loop._batch(0, index), 0, index)
        if device.type == "cpu" or index % LOOK_EVERY == LOOK_EVERY - 1:
            loop.ledger.check(0)
        made += 1

    return Runner(prepare, step)


def seconds_of(runner: Runner, steps: int, device: torch.device) -> Seconds:
    """Return the seconds of one step, the mean of `steps` in a row."""
    runner.prepare()
    _wait(device)
    began, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        runner.step()
    _wait(device)
    return Seconds((time.perf_counter() - began) / steps, (time.process_time() - busy) / steps)


def alternate(runners: dict[str, Runner], options: Options, device: torch.device) -> dict[str, list[Seconds]]:
    """Return the samples of every side, taken in turn; the first round warms up and is thrown away."""
    samples: dict[str, list[Seconds]] = {name: [] for name in runners}
    for repeat in range(options.repeats + 1):
        for name, runner in runners.items():
            taken = seconds_of(runner, options.steps, device)
            print(
                f"  round {repeat}/{options.repeats} {name}: {taken.wall:.3f} s ({taken.processor:.3f} s of processor)"
            )
            samples[name] += [taken] if repeat else []
        sys.stdout.flush()
    return samples


def alone(method: str, side: str, options: Options, device: torch.device) -> Runner:
    """Return one side, holding its own form of the images and not the other's."""
    images, splits = synthetic(device)
    return reference(method, options, images, device) if side == "reference" else ours(method, side, options, splits)


def peak_here(method: str, side: str, options: Options, device: torch.device) -> float:
    """Return the MB by which training one side raises this process's peak: resident on the CPU, allocated on CUDA."""
    before = _resident("VmRSS")
    runner = alone(method, side, options, device)
    runner.prepare()
    for _ in range(MEMORY_STEPS):
        runner.step()
    if device.type == "cpu":
        return _resident("VmHWM") - before
    torch.cuda.reset_peak_memory_stats(device)  # forget what cudnn.benchmark tried
    runner.step()
    return torch.cuda.max_memory_allocated(device) / 2**20


def peak_of(method: str, side: str, options: Options) -> float:
    """Return the peak memory of one side in MB, measured in a process of its own: a high-water mark never falls."""
    words = ["--device", options.device, "--model", options.model, "--teacher", options.teacher]
    words += ["--batch", str(options.batch), "--reference-gradient", options.gradient, "--methods", method]
    words += ["--memory-of", side] + ([] if options.tf32 else ["--no-tf32"])
    output = subprocess.check_output([sys.executable, __file__, *words], text=True)
    return float(json.loads(output.splitlines()[-1])["peak_mb"])


def measure(method: str, options: Options, device: torch.device) -> None:
    """Measure the missing rows of one method and write them."""
    released = METHODS[method][1]
    gradient = released if options.gradient == "released" else options.gradient
    path = options.out / f"{device.type}.csv"
    teacher = options.teacher if method_class(method).roles else ""
    facts = Row.here(device, options.model, teacher, options.batch, method, options.tf32, gradient)
    rows = {variant: facts.of(variant) for variant in options.variants}
    missing = {v: row for v, row in rows.items() if options.again or row.key not in known(path)}
    if not missing:
        print(f"{method}: every row is in {path} already (--again measures anew)")
        return
    print(f"{method}: reference ({gradient}) against {', '.join(missing)}")
    peaks = {side: peak_of(method, side, options) for side in ("reference", *missing)}
    images, splits = synthetic(device)
    runners = {"reference": reference(method, options, images, device)}
    runners |= {variant: ours(method, variant, options, splits) for variant in missing}
    samples = alternate(runners, options, device)
    for variant, row in missing.items():
        row.measured(samples[variant], samples["reference"], peaks[variant], peaks["reference"], options.steps)
        write(path, row)


def _resident(what: str) -> float:
    """Return VmRSS or VmHWM in MB: ru_maxrss would count what the parent held when this process was started."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(what))
    return int(found.split()[1]) / 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure every method that was asked for."""
    options = parse()
    device = devices.choose(options.device)
    if options.memory_of is not None:
        print(json.dumps({"peak_mb": peak_here(options.methods[0], options.memory_of, options, device)}))
        return
    for method in options.methods:
        measure(method, options, device)
        gc.collect()
    table = options.out / f"{device.type}.md"
    print(table.read_text(encoding="utf-8") if table.exists() else "")


if __name__ == "__main__":
    main()
