"""Profile one training step: the operations that a plain reference loop spends its time on, and ours beside them.

    python benchmarks/speed/profiles.py --device cpu --methods pgd-at,rslad

Each side makes one step under torch's profiler after one that warms up. The ten operations that take longest by themselves (on
CUDA: kernels) go to results/speed/profile-<device>.csv with a Markdown page beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
import training
from reference_losses import METHODS
from sides import VARIANTS, Options, kind_of
from tables import Cells, Measurement, Runner, Table, markdown, today, wait_for, where
from torch.profiler import ProfilerActivity, profile

from ardbench.engine import device as devices
from ardbench.errors import ArdbenchError

LONGEST = 10
NAME = 60
"""Letters of an operation's name that are kept: templates of kernels have hundreds."""
NOTE = """\
One step of each side under torch's profiler, networks and images as in the table of training speed: the operations that took
longest by themselves, nested ones not counted. A profiler slows a step a little; the shares are what to read.
"""


@dataclass
class Row(Measurement):
    """One operation of one side; everything up to `rank` is its key."""

    model: str
    teacher: str
    batch: int
    method: str
    side: str
    rank: int
    operation: str
    calls: int
    seconds: float
    share: float
    date: str


def parse(arguments: list[str] | None = None) -> tuple[Options, str]:
    """Read the command line, or refuse it; return what to profile and the form of ours."""
    parser = argparse.ArgumentParser(description="Profile one training step of the reference and of ours.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--methods", default="pgd-at,rslad", help=f"comma-separated: {', '.join(METHODS)}")
    parser.add_argument("--variant", choices=tuple(VARIANTS), default="bf16", help="form of ours")
    parser.add_argument("--model", default="resnet18", help="the student")
    parser.add_argument("--teacher", default="resnet18", help="every teacher, and the peer")
    parser.add_argument("--batch", type=int, default=0, help="default: as in training.py")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "speed")
    given = parser.parse_args(arguments)
    words = ["--device", given.device, "--methods", given.methods, "--model", given.model, "--teacher", given.teacher]
    return training.parse([*words, "--batch", str(given.batch), "--out", str(given.out)]), given.variant


def longest(runner: Runner, device: torch.device) -> Iterator[tuple[str, int, float, float]]:
    """Yield (operation, calls, seconds, share of all) of one warm step, those that took longest.

    Raises:
        ArdbenchError: the profiler saw nothing that took time.
    """
    cuda = device.type == "cuda"
    runner.prepare()
    runner.step()
    runner.prepare()
    wait_for(device)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        runner.step()
        wait_for(device)
    events = [event for event in seen.key_averages() if (event.device_type.name == "CUDA") == cuda]
    taken = {event.key: event.self_device_time_total if cuda else event.self_cpu_time_total for event in events}
    whole = sum(taken.values())
    if not whole:
        raise ArdbenchError(
            f"torch's profiler saw no {'kernels' if cuda else 'operations'} here: another profiler may hold the device, or its "
            "counters be forbidden (NVIDIA: ERR_NVGPUCTRPERM); no profile was written."
        )
    for event in sorted(events, key=lambda event: -taken[event.key])[:LONGEST]:
        yield event.key[:NAME], event.count, taken[event.key] / 1e6, taken[event.key] / whole


def profiled(method: str, variant: str, options: Options, device: torch.device) -> Iterator[Row]:
    """Yield the rows of one method, each side with images and networks of its own."""
    kind = kind_of(method)
    facts = (options.model, options.teacher if kind.roles or kind.peer else "", options.batch, method)
    for side in ("reference", variant):
        found = longest(training.alone(method, side, options, device), device)
        for rank, (operation, calls, seconds, share) in enumerate(found, start=1):
            numbers = round(seconds, 5), round(share, 4)
            yield Row.here(device, *facts, side, rank, operation, calls, *numbers, today())


def open_table(path: Path) -> Table:
    """Return the table in a CSV."""
    return Table.of(Row, "rank", path, page)


def page(rows: list[Cells]) -> str:
    """Return the Markdown page of the rows: a table for each step that was profiled."""

    def step(row: Cells) -> tuple[str, str]:
        of = f"{row['model']} from {row['teacher']}" if row["teacher"] else row["model"]
        return f"{row['method']}, {of}, batch {row['batch']}, {row['side']}", where(row)

    parts = []
    for (title, place), several in groupby(rows, key=step):
        lines = [
            [row["operation"], row["calls"], f"{float(row['seconds']):.3g}", f"{100 * float(row['share']):.1f} %"]
            for row in several
        ]
        parts.append(f"## {title}\n\nOn {place}.\n\n" + markdown(["operation", "calls", "seconds", "share"], lines))
    return f"# Profiles of a step\n\n{NOTE}\n" + "\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Profile every method that was asked for, and print the page."""
    options, variant = parse(arguments)
    device = devices.choose(options.device)
    devices.allow_tf32(options.tf32)
    table = open_table(options.out / f"profile-{device.type}.csv")
    try:
        for method in options.methods:
            for row in profiled(method, variant, replace(options.of(method), variants=(variant,)), device):
                table.write(row)
    except ArdbenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    print(table.path.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
