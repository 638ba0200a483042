"""Measure what each switch of the fast path brings and what it changes: alone, and all together.

    python benchmarks/speed/switches.py --device cpu --only fold_bn,attack

For each switch: the seconds of a step on synthetic images of CIFAR-10's shape, with it and without; loss and gradients of
one step of a network trained on digits; and final accuracies of whole runs on digits over paired seeds. Everything else
is off meanwhile. Rows go to results/speed/switches-<device>.csv one by one, with a Markdown table beside it; rows that are
there are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

import sides
import torch
import training
from scipy.special import stdtrit
from step import FROZEN, Bench, Side, first_batch
from switch_rows import Row, open_table
from tables import Runner, Seconds, alternate

from ardbench.data.batches import Splits
from ardbench.data.load import load
from ardbench.engine import device as devices
from ardbench.engine import networks
from ardbench.engine.train import train
from ardbench.errors import ArdbenchError, unknown
from ardbench.evaluation.measure import evaluate
from ardbench.methods import method_class
from ardbench.recipes import resolve
from ardbench.runs import Run
from ardbench.teachers import of_run

Effect = Literal["equal", "rounding", "rough"]
"""On a gradient: equal to the bit; relative error below 1e-5; cosine above 0.99 and 95 % of the signs equal."""
ALL = "all"
"""The name of every switch of the method at once."""
REAL = "digits"


@dataclass(frozen=True)
class Switch:
    """One way to compute a step faster.

    Args:
        off, on: the values of the field that has the switch's name.
        attack, outer: what it does to the gradients of the inner maximisation and of the outer step.
        method: whose step and runs show it.
        devices: where it can be on.
        apart: whether it is left out of all together, as what pays back only in long runs.
    """

    off: object
    on: object
    attack: Effect
    outer: Effect
    method: str = "pgd-at"
    devices: tuple[str, ...] = ("cpu", "cuda")
    apart: bool = False


SWITCHES: dict[str, Switch] = {
    FROZEN: Switch(False, True, "equal", "equal"),
    "channels_last": Switch(False, True, "rounding", "rounding"),
    "fold_bn": Switch(False, True, "rounding", "equal"),
    "attack": Switch("fp32", "bf16", "rough", "equal"),
    "outer": Switch("fp32", "bf16", "equal", "rough"),
    "tf32": Switch(False, True, "rough", "rough", devices=("cuda",)),
    "compile": Switch(False, True, "rounding", "rounding", apart=True),
    "cuda_graph": Switch(False, True, "equal", "equal", devices=("cuda",)),
    "cache_gb": Switch(0.0, 4.0, "rounding", "rounding", method="rslad"),
}
"""Every switch by its field of `[precision]`; `frozen` has none, being always on."""
PLAIN = {name: switch.off for name, switch in SWITCHES.items()} | {FROZEN: True}
"""What the others are measured against: fp32, no copy, no layout, and the gradients that ardbench never takes left out."""


def names_on(device: str) -> list[str]:
    """Return the switches that a device has, and all of them together."""
    return [*(name for name, switch in SWITCHES.items() if device in switch.devices), ALL]


def method_of(name: str) -> str:
    """Return the method whose step and runs show a switch."""
    return "pgd-at" if name == ALL else SWITCHES[name].method


def pair(name: str, device: str) -> tuple[Side, Side]:
    """Return the side with a switch on and the one without, everything else being off."""
    method = method_of(name)
    together = [
        other
        for other, switch in SWITCHES.items()
        if device in switch.devices and switch.method == method and not switch.apart
    ]
    changed = together if name == ALL else [name]
    on = {field: SWITCHES[field].on for field in changed}
    off = {} if name == ALL else {name: SWITCHES[name].off}
    return Side.of(method, PLAIN | on), Side.of(method, PLAIN | off)


def exact(name: str) -> bool:
    """Return whether a switch is said to change no bit of any step."""
    return name != ALL and SWITCHES[name].attack == SWITCHES[name].outer == "equal"


def label(side: Side) -> str:
    """Return a side's method and where it is not plain, in words."""
    return ", ".join([side.method, *(f"{name} {value}" for name, value in side.settings if PLAIN[name] != value)])


class Runs:
    """Whole runs on digits, each made once: what several switches are compared with is shared.

    Args:
        root: where they lie; they are found again there under their names.
        sets: changes of every recipe, such as fewer epochs.
    """

    def __init__(self, root: Path, device: torch.device, sets: Mapping[str, object] | None = None) -> None:
        self.root, self.device, self.sets = root, device, dict(sets or {})
        self._measured: dict[Run, tuple[float, float]] = {}

    def trained(self, side: Side, seed: int) -> Run:
        """Return the finished run of a side, its teacher the plain run of pgd-at with seed 0."""
        once = {"selection.by": "last", "selection.every": 1000, "seed": seed}  # validated at the end alone
        recipe = resolve(f"{side.method}-{REAL}", sets=once | self.sets | side.sets)
        teachers = [of_run(self.teacher, role, "last") for role in map(str, method_class(side.method).roles)]
        folder = "-".join(
            str(value) for _, value in side.settings
        )  # a run's own name leaves out what changes no number
        run = Run.place(self.root / folder, recipe, teachers)
        with side.attacking():
            train(recipe, teachers, run, self.device)
        return run

    @property
    def teacher(self) -> Run:
        """The run that teaches."""
        return self.trained(Side.of("pgd-at", PLAIN), 0)

    def accuracies(self, side: Side, seed: int) -> tuple[float, float]:
        """Return the clean and the PGD-20 accuracy of a run's last network on all test images."""
        run = self.trained(side, seed)
        if run not in self._measured:
            net, split = networks.of_run(run, "last", self.device), load(REAL, self.device).test
            verdicts = evaluate(net, split, "pgd20", run.recipe.evaluation, batch=len(split))
            self._measured[run] = 1 - verdicts.taken["clean"] / verdicts.n, verdicts.accuracy
            clean, robust = self._measured[run]
            print(f"  {label(side)}, seed {seed}: clean {clean:.4f}, PGD-20 {robust:.4f}", flush=True)
        return self._measured[run]

    def effects(self, fast: Side, plain: Side, seeds: int) -> list[tuple[float, float, float, float]]:
        """Return for the clean and the PGD-20 accuracy the plain side's mean, and what the fast one adds (see `paired`)."""
        ours, theirs = ([self.accuracies(side, seed) for seed in range(seeds)] for side in (fast, plain))
        return [
            (fmean(b), *paired(a, b)) for a, b in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)
        ]

    def bench(self, side: Side) -> Bench:
        """Return the plain run of a side's method as a trained network to make single steps on."""
        plain = Side.of(side.method, PLAIN)
        run = self.trained(plain, 0)
        return Bench(run, plain, run.teachers, load(REAL, self.device, validation=run.recipe.data.validation))


def paired(fast: Sequence[float], plain: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of fast - plain over paired seeds and Student's 95 % interval of it, (mean, low, high).

    Differences that are all one number other than 0 tell nothing of their spread: the interval is [-1, 1].
    """
    gaps = [a - b for a, b in zip(fast, plain, strict=True)]
    mean, spread = fmean(gaps), stdev(gaps)
    if spread == 0:
        return (mean, -1.0, 1.0) if mean else (0.0, 0.0, 0.0)
    half = float(stdtrit(len(gaps) - 1, 0.975)) * spread / sqrt(len(gaps))
    return mean, mean - half, mean + half


def runner(side: Side, options: sides.Options, splits: Splits) -> Runner:
    """Return a side's training step, always on the same batch: what is kept from step to step is used."""
    sets = {"data.batch": options.batch} | sides.unaveraged(side.method) | side.sets
    recipe = resolve(f"{side.method}-{sides.DATASET}", student=options.model, sets=sets)
    loop = sides.loop_on(recipe, side.method, options, splits)

    def prepare() -> None:
        torch.backends.cudnn.benchmark = False
        devices.allow_tf32(side.tf32)

    def step() -> None:
        with side.attacking():
            loop._step(first_batch(loop), 0, 0)

    return Runner(prepare, step)


def timed(wanted: Sequence[str], options: sides.Options, device: torch.device) -> dict[Side, list[Seconds]]:
    """Return the samples of both sides of the switches, all taken in turn."""
    _, splits = sides.synthetic(device)
    both = {side: runner(side, options, splits) for name in wanted for side in pair(name, device.type)}
    samples = alternate({label(side): run for side, run in both.items()}, options.repeats, options.steps, device)
    return {side: samples[label(side)] for side in both}


def measure(wanted: Sequence[str], options: sides.Options, seeds: int, limit: float, device: torch.device) -> None:
    """Measure the switches whose rows are missing, and write them one by one; begin no second one after `limit`."""
    until = time.monotonic() + limit
    table = open_table(options.out / f"switches-{device.type}.csv")
    rows = {name: Row.here(device, options.model, options.batch, method_of(name), seeds, name) for name in wanted}
    missing = {name: row for name, row in rows.items() if options.again or not table.holds(row)}
    if not missing:
        print(f"every row is in {table.path} already (--again measures anew)")
        return
    seconds = timed(list(missing), options, device)
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), device)
        for place, (name, row) in enumerate(missing.items()):
            if place and time.monotonic() > until:
                print(f"--time-limit is over: {', '.join([*missing][place:])} are left to the next call")
                return
            print(name, flush=True)
            fast, plain = pair(name, device.type)
            row.timed(seconds[fast], seconds[plain], options.steps)
            step = runs.bench(fast).difference(fast, plain)
            row.compared(step.loss, step.outer, step.attack, step.signs)
            if not (step.equal and exact(name)):  # else every later step is equal too
                row.ran(*runs.effects(fast, plain, seeds))
            table.write(row)


def parse(arguments: list[str] | None = None) -> tuple[list[str], sides.Options, int, float]:
    """Read the command line, or refuse it: the switches, what `training.py` asks for too, the seeds and the time limit."""
    parser = argparse.ArgumentParser(description="Measure each switch of the fast path alone, and all together.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="resnet18", help="what is timed, teachers too")
    parser.add_argument("--batch", type=int, default=sides.SMALL)
    parser.add_argument("--repeats", type=int, default=7, help="timed samples of each side, alternating")
    parser.add_argument("--seeds", type=int, default=5, help="runs on digits with each switch and without it")
    parser.add_argument("--only", default="", help="comma-separated switches (default: all that the device has)")
    parser.add_argument(
        "--time-limit", type=float, default=float("inf"), help="seconds after which no second switch is begun"
    )
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "speed")
    given = parser.parse_args(arguments)
    if given.seeds < 2:
        parser.error(f"--seeds {given.seeds} has no spread: give 2 or more")
    names = names_on(given.device)
    wanted = given.only.split(",") if given.only else names
    for name in wanted:
        if name not in names:
            parser.error(str(unknown(f"switch on {given.device}", name, names)))
    words = ["--device", given.device, "--model", given.model, "--teacher", given.model, "--batch", str(given.batch)]
    words += ["--repeats", str(given.repeats), "--out", str(given.out)] + (["--again"] if given.again else [])
    return wanted, training.parse(words), given.seeds, given.time_limit


def main() -> None:
    """Measure every switch that was asked for."""
    wanted, options, seeds, limit = parse()
    try:
        measure(wanted, options, seeds, limit, devices.choose(options.device))
    except ArdbenchError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    table = options.out / f"switches-{options.device}.md"
    print(table.read_text(encoding="utf-8") if table.exists() else "")


if __name__ == "__main__":
    main()
