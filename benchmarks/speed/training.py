"""Measure a training step against a plain reference loop: same process, same work, alternating.

    python benchmarks/speed/training.py --device cpu --methods pgd-at,rslad

Images are synthetic, of CIFAR-10's shape and number; students, teachers and peers are freshly initialised. Rows go to
results/speed/<device>.csv one by one, with a Markdown table beside it; rows that are there are not measured again.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from reference import GRADIENTS
from reference_losses import METHODS
from report import Row, open_table
from sides import AT_LARGE, LARGE, SMALL, Options, gradient_of, ours, reference, synthetic
from tables import Runner, alternate

from ardbench.engine import device as devices
from ardbench.methods import method_class

VARIANTS = ("fp32", "bf16")
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
    gradient, kind = gradient_of(method, options), method_class(method)
    table = open_table(options.out / f"{device.type}.csv")
    teacher = options.teacher if kind.roles or kind.peer else ""
    facts = Row.here(device, options.model, teacher, options.batch, method, options.tf32, gradient)
    rows = {variant: facts.of(variant) for variant in options.variants}
    missing = {v: row for v, row in rows.items() if options.again or not table.holds(row)}
    if not missing:
        print(f"{method}: every row is in {table.path} already (--again measures anew)")
        return
    print(f"{method}: reference ({gradient}) against {', '.join(missing)}")
    peaks = {side: peak_of(method, side, options) for side in ("reference", *missing)}
    images, splits = synthetic(device)
    runners = {"reference": reference(method, options, images, device)}
    runners |= {variant: ours(method, variant, options, splits) for variant in missing}
    samples = alternate(runners, options.repeats, options.steps, device)
    for variant, row in missing.items():
        row.measured(samples[variant], samples["reference"], peaks[variant], peaks["reference"], options.steps)
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
    for method in options.methods:
        measure(method, options.of(method), device)
        gc.collect()
    table = options.out / f"{device.type}.md"
    print(table.read_text(encoding="utf-8") if table.exists() else "")


if __name__ == "__main__":
    main()
