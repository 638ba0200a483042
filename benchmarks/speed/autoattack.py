"""Measure AutoAttack against its authors' package called plainly: same process, same network and images, in turn.

    python benchmarks/speed/autoattack.py --device cpu
    python benchmarks/speed/autoattack.py --device cuda --teacher runs/pgd-at-... --data cifar10

Rows go to results/speed/autoattack-<device>.csv one by one, with a Markdown page beside it; rows that are there are not
measured again. Whatever differs between the verdicts is listed image by image.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from autoattack_report import Row, open_table
from pyautoattack import AutoAttack
from safetensors.torch import load_file
from tables import Runner, Seconds, seconds_of
from torch import Tensor, nn

from ardbench import data
from ardbench.attacks.objectives import label_loss
from ardbench.attacks.pgd import input_gradient
from ardbench.config import Threat
from ardbench.data.batches import Split
from ardbench.data.load import load
from ardbench.engine import device as devices
from ardbench.engine import networks
from ardbench.engine.device import hardware_name
from ardbench.errors import ArdbenchError
from ardbench.evaluation.autoattack import load_state
from ardbench.evaluation.batch_size import remembered
from ardbench.evaluation.confirm import finite_logits, measuring, predict
from ardbench.evaluation.measure import evaluate, subset_of
from ardbench.progress import Progress
from ardbench.teachers import locate

DATASET = "cifar10"
PROTOCOLS = ("aa", "aa-fast")
FALLS = 0.25
"""The share of points whose first-order distance from another class is the eps of a fresh network."""
USUAL_EPS = 8 / 255
SEED = 0
TEXTURE = 0.1
"""The share of noise in a synthetic image, the rest being one colour."""
DEFAULT = {"cpu": ("resnet8", 100, 1), "cuda": ("resnet18", 1000, 3)}
"""Device -> model, n and repeats: a point that stays costs 9,767 passes, 11 TFLOP in a ResNet-18."""


@dataclass(frozen=True)
class Options:
    """What the command line asked for; a batch of 0 is tuned, an eps of None is that of the network."""

    device: str
    model: str
    teacher: str | None
    data: str
    n: int
    eps: float | None
    batch: int
    package_batch: int
    protocols: tuple[str, ...]
    tf32: bool
    repeats: int
    deadline: float
    again: bool
    out: Path


@dataclass(frozen=True, eq=False)
class Work:
    """What every side attacks: a network in eval mode that learns as scripts leave it, images, and the ball."""

    net: nn.Module
    model: str
    weights: str
    split: Split
    threat: Threat


@dataclass
class Outcome:
    """What one run of a side says.

    Args:
        said: (n) classes under attack.
        x_adv: (n, C, H, W) on the CPU; where a point fell the image that took it.
        seconds: of each attack, "clean" first.
        took: the attack that took each point that was right at first, where the side tells.
        unconfirmed: claims in bf16 that fp32 did not confirm.
    """

    said: list[int]
    x_adv: Tensor
    seconds: dict[str, float]
    took: dict[int, str] = field(default_factory=dict)
    unconfirmed: int = 0


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line, or refuse it."""
    parser = argparse.ArgumentParser(description="Measure AutoAttack against its authors' package called plainly.")
    parser.add_argument("--device", choices=tuple(DEFAULT), default="cpu")
    parser.add_argument("--model", help="a fresh network (default: resnet8 on cpu, resnet18 on cuda)")
    parser.add_argument("--teacher", help="attack this one: RUN, RUN@CHECKPOINT, FILE:ARCH or zoo:NAME")
    parser.add_argument("--data", default=DATASET, help="whose test images --teacher sees")
    parser.add_argument("--n", type=_count, help="images (default: 100 on cpu, 1000 on cuda)")
    parser.add_argument(
        "--eps", type=_eps, help="such as 8/255 (default: that for --teacher, else fitted, see the page)"
    )
    parser.add_argument("--batch", type=_batch, default=0, help="of ours; auto, the default: tuned and remembered")
    parser.add_argument("--package-batch", type=_count, default=250, help="of the package (default: its own, 250)")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="comma-separated, of ours")
    parser.add_argument("--no-tf32", action="store_true", help="forbid TF32 to the package too (cuda; torch allows it)")
    parser.add_argument("--repeats", type=_count, help="runs of each side, in turn (default: 1 on cpu, 3 on cuda)")
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="seconds after which no run is begun")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "speed")
    given = parser.parse_args(arguments)
    protocols = tuple(given.protocols.split(","))
    for name in protocols:
        if name not in PROTOCOLS:
            parser.error(f"unknown protocol {name!r}: choose from {', '.join(PROTOCOLS)}")
    if given.teacher and given.model:
        parser.error("--teacher knows its model: leave out --model")
    model, n, repeats = DEFAULT[given.device]
    return Options(
        given.device, given.model or model, given.teacher, given.data, given.n or n, given.eps, given.batch,
        given.package_batch, protocols, given.device == "cuda" and not given.no_tf32, given.repeats or repeats,
        time.monotonic() + given.time_limit, given.again, given.out,
    )  # fmt: skip


def work_of(options: Options, device: torch.device) -> Work:
    """Return the network that was asked for, with its images.

    Raises:
        ArdbenchError: no such model, teacher or data set, or not so many images.
    """
    if options.teacher is None:
        return fresh(options, device)
    teacher = locate(options.teacher)
    net = networks.of_teacher(teacher, options.data, device).requires_grad_(True)
    split = subset_of(load(options.data, device).test, options.n)
    threat = Threat(norm="linf", eps=USUAL_EPS if options.eps is None else options.eps)
    return Work(net, teacher.model, teacher.sha256[:8], split, threat)


def fresh(options: Options, device: torch.device) -> Work:
    """Return a fresh network, which is right about synthetic images, and an eps at which most of them stay."""
    info, source = data.info(DATASET), np.random.default_rng(0)
    net = networks.fresh(options.model, DATASET, False, SEED, "student", device).eval()
    colour = source.random((options.n, info.channels, 1, 1))
    noise = source.random((options.n, info.channels, info.size, info.size))
    rows = torch.arange(options.n, device=device)
    images = torch.from_numpy((255 * (colour + TEXTURE * (noise - colour))).astype(np.uint8)).to(device)
    split = Split(images, torch.zeros(options.n, dtype=torch.int64, device=device), rows, info)
    parts = [slice(begin, begin + options.package_batch) for begin in range(0, options.n, options.package_batch)]
    with measuring(net, device):
        split.labels.copy_(torch.cat([predict(net, split.pixels(part)) for part in parts]))
        near = torch.cat([distances(net, split.pixels(part), split.labels[part]) for part in parts])
    eps = round(255 * near.quantile(FALLS).item(), 2) / 255 if options.eps is None else options.eps
    return Work(net, options.model, "fresh", split, Threat(norm="linf", eps=eps))


def distances(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return margin / (L1 norm of its gradient) of each image x (B, C, H, W) to its nearest other class, (B,)."""
    with torch.enable_grad():
        x = x.requires_grad_()
        logits = net(x)
        margins = logits.gather(1, y[:, None]) - logits  # (B, K)
        slopes = [torch.autograd.grad(m.sum(), x, retain_graph=True)[0].flatten(1).abs().sum(1) for m in margins.T]
    near: Tensor = margins.detach() / torch.stack(slopes, 1)  # (B, K); 0 / 0 at y itself
    return near.nan_to_num(torch.inf).amin(1)


class Clock:
    """Remembers when each attack began."""

    def __init__(self) -> None:
        self._begun = [("clean", time.perf_counter())]

    def begin(self, name: str) -> None:
        """Say that an attack begins, and the one before has ended."""
        self._begun.append((name, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each attack, the last one ending now."""
        pairs = pairwise([*self._begun, ("", time.perf_counter())])
        return {name: end - begun for (name, begun), (_, end) in pairs}


class Heard(logging.Handler):
    """Hears from the package's log which attack it begins."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(logging.DEBUG)
        self.clock = clock

    def emit(self, record: logging.LogRecord) -> None:
        said, _, name = record.getMessage().partition(" ")
        if said == "running":
            self.clock.begin(name)


class Package:
    """The package as a script calls it: everything at once, in its own batches, the parameters asking for gradients."""

    outcome: Outcome

    def __init__(self, work: Work, options: Options) -> None:
        self.work, self.options = work, options
        self.x = work.split.pixels(slice(None))

    def step(self) -> None:
        """Run AutoAttack once."""
        work, logger, clock = self.work, logging.getLogger("auto-attack"), Clock()
        heard, level = Heard(clock), logger.level
        logger.addHandler(heard)
        logger.setLevel(logging.DEBUG)
        try:
            eps, device = work.threat.eps, work.split.labels.device
            attack = AutoAttack(work.net, norm="Linf", eps=eps, version="standard", seed=SEED, device=device)
            x_adv, said = attack.run_standard_evaluation(
                self.x, work.split.labels, batch_size=self.options.package_batch
            )
        finally:
            logger.removeHandler(heard)
            logger.setLevel(level)
        self.outcome = Outcome(said.tolist(), x_adv.cpu(), clock.seconds())


class Watch(Progress):
    """Remembers when each attack of ours began, and from the state on disk what was said by then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.said: list[tuple[str, list[int]]] = []

    def task(self, description: str, total: int, unit: str = "images") -> None:
        for path in self.folder.glob("*.state.json"):  # none before the clean predictions
            attack = description.partition(" ")[0]  # of "apgd-t (2/4)"
            self.clock.begin(attack)
            self.said.append((attack, load_state(path).predictions))

    def took(self, labels: list[int], last: list[int]) -> dict[int, str]:
        """Return the attack that took each point that was right at first; `last` is what was said in the end."""
        found: dict[int, str] = {}
        for (name, before), (_, after) in pairwise([*self.said, ("", last)]):
            rows = zip(labels, before, after, strict=True)
            found |= {row: name for row, (y, b, a) in enumerate(rows) if b == y != a}
        return found


class Ours:
    """One of our protocols, as `ardbench eval` runs it: with its state on disk, and the images that took points."""

    outcome: Outcome

    def __init__(self, work: Work, protocol: str, batch: int) -> None:
        self.work, self.protocol, self.batch = work, protocol, batch

    def step(self) -> None:
        """Run the protocol once."""
        work = self.work
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            watch = Watch(folder)
            verdicts = evaluate(
                work.net, work.split, self.protocol, work.threat, batch=self.batch, seed=SEED, store=folder,
                keep_adversarial=True, progress=watch,
            )  # fmt: skip
            seconds, took = watch.clock.seconds(), watch.took(verdicts.labels, verdicts.predictions)
            x_adv = load_file(folder / f"{self.protocol}.adversarial.safetensors")["x_adv"]
        self.outcome = Outcome(verdicts.predictions, x_adv, seconds, took, sum(verdicts.unconfirmed.values()))


def differences(work: Work, package: Outcome, protocol: str, ours: Outcome) -> list[str]:
    """Return the images about which only one side was fooled: by what, and the network's fp32 margin at that image."""
    found = []
    for row, y in enumerate(work.split.labels.tolist()):
        fooled = [side.said[row] != y for side in (package, ours)]
        if fooled[0] == fooled[1]:
            continue
        side, name = (package, "package") if fooled[0] else (ours, f"{protocol} ({ours.took.get(row, 'clean')})")
        with measuring(work.net, work.split.labels.device):
            logits = finite_logits(work.net, side.x_adv[row : row + 1].to(work.split.labels.device))[0]  # (K,)
        others = logits.clone()
        others[y] = -torch.inf
        found.append(f"image {row}: only by {name}, margin {(logits[y] - others.max()).item():.3g}")
    return found


def prepare(work: Work, tf32: bool, ours: bool) -> None:
    """Set torch as it is where nobody has touched it; our protocols set what they need themselves, but for the memory."""
    devices.keep_freed_memory(ours and work.split.labels.device.type == "cpu")
    devices.allow_tf32(False)
    backends: Any = torch.backends
    backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"  # torch's default; products are in fp32
    work.net.zero_grad(set_to_none=True)


def measure(options: Options, device: torch.device) -> None:
    """Measure the missing rows, and write each as soon as there is a sample of both sides, again with every further one."""
    work = work_of(options, device)
    batch = options.batch or tuned(work, options, device)
    table = open_table(options.out / f"autoattack-{device.type}.csv")
    facts = Row.here(
        device,
        work.model,
        work.weights,
        len(work.split),
        work.threat.eps,
        batch,
        options.package_batch,
        options.tf32,
        "",
    )
    missing = [name for name in options.protocols if options.again or not table.holds(replace(facts, protocol=name))]
    if not missing:
        print(f"every row is in {table.path} already (--again measures anew)")
        return
    package = Package(work, options)
    sides: dict[str, Package | Ours] = {"package": package}
    sides |= {name: Ours(work, name, batch) for name in missing}
    samples: dict[str, list[Seconds]] = {name: [] for name in sides}
    x, y = work.split.pixels(slice(0, batch)), work.split.labels[:batch]
    input_gradient(label_loss, work.net, x, (y,))  # wakes the device up
    for repeat in range(options.repeats):
        for name, side in sides.items():
            if time.monotonic() > options.deadline:
                print("the time limit is over: the same command with more time measures what is missing")
                return
            runner = Runner(partial(prepare, work, options.tf32, isinstance(side, Ours)), side.step)
            taken = seconds_of(runner, 1, device)
            samples[name].append(taken)
            print(f"  round {repeat + 1}/{options.repeats} {name}: {taken.wall:.1f} s", flush=True)
            if isinstance(side, Ours):
                row = replace(facts, protocol=name)
                row.timed(samples[name], samples["package"], side.outcome.seconds, package.outcome.seconds)
                row.judged(
                    work.split.labels.tolist(), side.outcome.said, package.outcome.said, side.outcome.unconfirmed
                )
                row.explained(differences(work, package.outcome, name, side.outcome))
                table.write(row)


def tuned(work: Work, options: Options, device: torch.device) -> int:
    """Return the batch that this network and device want, remembered beside the results."""
    name = f"{work.model}, {hardware_name(device)}, {torch.get_num_threads()} threads"
    return remembered(options.out / "autoattack-batches.json", name, work.net, work.split.pixels(slice(0, 1)))


def main() -> None:
    """Measure what was asked for, and show the page."""
    options = parse()
    try:
        measure(options, devices.choose(options.device))
    except ArdbenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    page = options.out / f"autoattack-{options.device}.md"
    print(page.read_text(encoding="utf-8") if page.exists() else "")


def _eps(text: str) -> float:
    above, _, below = text.partition("/")
    try:
        eps = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        eps = 0.0
    if not 0 < eps <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no radius in (0, 1]: give a fraction such as 8/255")
    return eps


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def _batch(text: str) -> int:
    return 0 if text == "auto" else _count(text)


if __name__ == "__main__":
    main()
