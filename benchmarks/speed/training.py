"""Measure a training step against a plain reference loop: same process, same work, alternating.

    python benchmarks/speed/training.py --device cpu --methods pgd-at,rslad

Images are synthetic, of CIFAR-10's shape and number; students, teachers and peers are freshly initialised. Rows go to
results/speed/<device>.csv method by method, with a Markdown table beside it; rows that are there are not measured again.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from reference import GRADIENTS
from reference_losses import METHODS
from report import Row, open_table
from sides import (
    AT_LARGE,
    GRAPH,
    LARGE,
    SMALL,
    VARIANTS,
    Options,
    flop_of,
    gradient_of,
    kind_of,
    obstacle,
    ours,
    reference,
    synthetic,
)
from tables import Runner, alternate, paced

from ardbench.engine import device as devices
from ardbench.planning.counting import StepCounter

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precision -> the type of its products."""
MEMORY_STEPS = 2


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line, or refuse it."""
    parser = argparse.ArgumentParser(description="Measure a training step against a plain reference loop.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="resnet18", help="the student")
    parser.add_argument("--teacher", default="resnet18", help="every teacher, such as wrn-34-10, and the peer")
    parser.add_argument(
        "--batch", type=int, default=0, help=f"default: {LARGE} for {', '.join(AT_LARGE)}; else {SMALL}"
    )
    parser.add_argument("--repeats", type=int, default=7, help="timed samples of each side, alternating")
    parser.add_argument("--steps", type=int, default=None, help="steps of one sample (default: 1 on cpu, 20 on cuda)")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument("--variants", help="comma-separated forms of ours (default: all that the device has)")
    parser.add_argument(
        "--reference-gradient", choices=GRADIENTS, default="released", help="how the reference's attack differentiates"
    )
    parser.add_argument("--no-tf32", action="store_true", help="forbid TF32 to both sides (cuda; torch allows it)")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="begin no row after so many")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "speed")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # the child process that measures one side's peak
    given = parser.parse_args(arguments)
    usual = ",".join(name for name in VARIANTS if given.device == "cuda" or name != GRAPH)
    methods, variants = tuple(given.methods.split(",")), tuple((given.variants or usual).split(","))
    for kind, names, allowed in (("method", methods, METHODS), ("variant", variants, VARIANTS)):
        for name in names:
            if name not in allowed:
                parser.error(f"unknown {kind} {name!r}: choose from {', '.join(allowed)}")
    steps = given.steps or (1 if given.device == "cpu" else 20)
    gradient, tf32 = given.reference_gradient, given.device == "cuda" and not given.no_tf32
    return Options(
        given.device, given.model, given.teacher, given.batch, given.repeats, steps, methods, variants, gradient, tf32,
        given.again, given.out, given.memory_of, given.time_limit,
    )  # fmt: skip


def alone(method: str, side: str, options: Options, device: torch.device) -> Runner:
    """Return one side, holding its own form of the images and not the other's."""
    images, splits = synthetic(device)
    return reference(method, options, images, device) if side == "reference" else ours(method, side, options, splits)


def peak_here(method: str, side: str, options: Options, device: torch.device) -> float:
    """Return the MB by which training one side raises this process's peak: resident on the CPU, allocated on CUDA."""
    gc.collect()  # what was measured before
    if device.type == "cuda":
        devices.forget_peak(device)
    before = _resident("VmRSS") if device.type == "cpu" else devices.peak_memory(device) / 2**20
    runner = alone(method, side, replace(options, memory_of=side), device)
    for _ in range(MEMORY_STEPS):
        runner.prepare()
        runner.step()
    if device.type == "cpu":
        return _resident("VmHWM") - before
    devices.forget_peak(device)  # what cudnn.benchmark tried
    runner.prepare()
    runner.step()
    return devices.peak_memory(device) / 2**20 - before


def peak_of(method: str, side: str, options: Options, device: torch.device) -> float:
    """Return the peak memory of one side in MB, on the CPU in a process of its own: a high-water mark never falls there."""
    if device.type == "cuda":
        return peak_here(method, side, options, device)
    words = ["--model", options.model, "--teacher", options.teacher, "--batch", str(options.batch)]
    words += ["--reference-gradient", options.gradient, "--methods", method, "--memory-of", side]
    output = subprocess.check_output([sys.executable, __file__, *words], text=True)
    return float(json.loads(output.splitlines()[-1])["peak_mb"])


def missing(method: str, options: Options, device: torch.device) -> dict[str, Row]:
    """Return the rows of one method that are not in the table, by variant."""
    table = open_table(options.out / f"{device.type}.csv")
    gradient, kind = gradient_of(method, options), kind_of(method)
    teacher = options.teacher if kind.roles or kind.peer else ""
    facts = Row.here(device, options.model, teacher, options.batch, method, "", options.tf32, gradient)
    without = {variant: why for variant in options.variants if (why := obstacle(method, variant, options, device))}
    for why in dict.fromkeys(without.values()):
        print(f"{method}: {' and '.join(name for name in without if without[name] == why)} left out: {why}")
    rows = {variant: replace(facts, variant=variant) for variant in options.variants if variant not in without}
    absent = {variant: row for variant, row in rows.items() if options.again or not table.holds(row)}
    if rows and not absent:
        print(f"{method}: every row is in {table.path} already (--again measures anew)")
    return absent


def measure(method: str, rows: dict[str, Row], options: Options, device: torch.device) -> None:
    """Measure some variants of one method beside the reference, and write their rows."""
    print(f"{method}: reference ({gradient_of(method, options)}) against {', '.join(rows)}")
    devices.allow_tf32(options.tf32)
    rates = {name: devices.matrix_rate(device, DTYPES[name]) for name in {VARIANTS[variant] for variant in rows}}
    peaks = {side: peak_of(method, side, options, device) for side in ("reference", *rows)}
    images, splits = synthetic(device)
    runners = {"reference": reference(method, options, images, device)}
    runners |= {variant: ours(method, variant, options, splits) for variant in rows}
    samples = alternate(runners, options.repeats, options.steps, device)
    table, counter = open_table(options.out / f"{device.type}.csv"), StepCounter()
    # once more, for a rate that nothing has disturbed
    rates = {name: max(rate, devices.matrix_rate(device, DTYPES[name])) for name, rate in rates.items()}
    for variant, row in rows.items():
        row.measured(samples[variant], samples["reference"], peaks[variant], peaks["reference"], options.steps)
        row.counted(flop_of(method, variant, options, counter), rates[VARIANTS[variant]])
        table.write(row)


def _resident(what: str) -> float:
    """Return VmRSS or VmHWM in MB: ru_maxrss would count what the parent held when this process was started."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(what))
    return int(found.split()[1]) / 1024


def main() -> None:
    """Measure every method that was asked for."""
    options = parse()
    device = devices.choose(options.device)
    if options.memory_of is not None:
        print(json.dumps({"peak_mb": peak_here(options.methods[0], options.memory_of, options, device)}))
        return
    counter, works = StepCounter(), list[tuple[tuple[str, dict[str, Row], Options], float]]()
    for method in options.methods:
        its = options.of(method)
        if rows := missing(method, its, device):
            step = its.batch * flop_of(method, "fp32", its, counter)
            works.append(((method, rows, its), (1 + len(rows)) * step))  # as if the reference did no more than ours
    for method, rows, its in paced(works, options.limit):
        measure(method, rows, its, device)
        gc.collect()
    table = options.out / f"{device.type}.md"
    print(table.read_text(encoding="utf-8") if table.exists() else "")


if __name__ == "__main__":
    main()
