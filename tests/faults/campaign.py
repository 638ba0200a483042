"""What the campaign stands on: the commands that real processes run, how they are struck, and what must be equal afterwards."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from click.testing import Result
from forks import Forked

from ardbench.cli import STOPPED
from ardbench.engine.checkpoints import load_state
from ardbench.runs import Run, sha256_of

DYING = Path(__file__).with_name("dying.py")
COUNTS: Counter[str] = Counter()
"""What happened, for the summary at the end."""
TIMED = {"seconds", "images_per_second", "peak_memory"}

TRAIN = [
    "train", "pgd-at-digits", "--epochs", "20", "--set", "data.train_images=160", "--set", "data.validation=30",
    "--set", "data.batch=32", "--set", "attack.steps=2", "--set", "selection.protocol=fgsm", "--set", "selection.every=1",
    "--device", "cpu",
]  # fmt: skip
"""What trains the campaign's run; --runs follows."""
PGD, AA = "pgd20", "aa:apgd-ce"
EVALUATE = [
    "--protocol", PGD, "--protocol", AA, "--checkpoint", "last", "--n", "24", "--batch", "4", "--keep-adversarial",
    "--device", "cpu",
]  # fmt: skip
"""What measures it, after eval and its directory."""


def full(number: int, *, short: int) -> pytest.MarkDecorator:
    """Parametrise a test by how often it strikes: few times among the usual tests, often where slow ones are asked for."""
    slow = pytest.param(number, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])
    return pytest.mark.parametrize("times", [short, slow])


def training(runs: Path) -> list[str]:
    """Return the words that train the campaign's run below `runs`."""
    return [*TRAIN, "--runs", str(runs)]


def evaluation(runs: Path) -> list[str]:
    """Return the words that measure the run below a folder."""
    return ["eval", str(run_in(runs)), *EVALUATE]


def run_in(runs: Path) -> Path:
    """Return the one run below a folder."""
    (run,) = runs.glob("pgd-at-digits-*")
    return run


class Ended(NamedTuple):
    """A process that has ended: its exit code and what it printed since it was at work."""

    code: int | None
    said: str


def refused(done: Result) -> str:
    """Return the one sentence with which a command line refused."""
    last = done.stderr.splitlines()[-1]
    assert done.exit_code == 2 and last.startswith("Error: ") and "Traceback" not in done.stderr, done
    return last


def typed(*words: str) -> Ended:
    """Run a command line in a process of its own until it ends."""
    return ended(at_work(Forked(*words)))


def at_work(process: Forked) -> Forked:
    """Wait until a process has loaded everything and begins to work."""
    for line in process.lines:
        if line.startswith("Device: "):
            break
    return process


def ended(process: Forked) -> Ended:
    """Wait for the end of a process that is at work."""
    with process.lines:
        said = process.lines.read()
    process.wait()
    return Ended(process.code, said)


class Blow(NamedTuple):
    """A way to end a process before its time."""

    name: str
    strike: Callable[..., bool]
    """Takes the words of a command line; False where the process had finished before."""


def signalled(number: int, span: float, dice: random.Random, *words: str) -> bool:
    """Send a signal to a command line at a random moment within its first `span` seconds of work.

    Where it had nothing left to do but to exit, SIGTERM ends it as any program: that counts as finished, too.
    """
    process = at_work(Forked(*words))
    process.wait(dice.uniform(0, span))
    if process.code is None:
        process.send(number)
    done = ended(process)
    struck = -signal.SIGKILL if number == signal.SIGKILL else STOPPED
    assert done.code in (0, struck, -number), done
    return done.code == struck


def killed_saving(most: int, dice: random.Random, *words: str) -> bool:
    """Kill a command line at one of its next `most` atomic writes."""
    done = typed(str(DYING), str(dice.randint(1, most)), dice.choice(("torn", "before", "after")), *words)
    assert done.code in (0, -signal.SIGKILL), done
    return done.code != 0


def blows(times: int, span: float, writes: int, seed: int) -> list[Blow]:
    """Return so many blows in a random order: of 5, two kills while working, two while saving, and a SIGTERM.

    Args:
        span: seconds of work within which a signal comes.
        writes: the most writes that a process makes before it is killed.
    """
    dice = random.Random(seed)
    ways = [
        Blow("killed", partial(signalled, signal.SIGKILL, span, dice)),
        Blow("killed while it saved", partial(killed_saving, writes, dice)),
        Blow("stopped by SIGTERM", partial(signalled, signal.SIGTERM, span, dice)),
    ]
    made = [ways[(0, 1, 2, 0, 1)[number % 5]] for number in range(times)]
    dice.shuffle(made)
    return made


def besieged(
    folder: Path,
    prepare: Callable[[Path], object],
    words: Callable[[Path], list[str]],
    phase: Callable[[Path], str],
    planned: list[Blow],
) -> Iterator[Path]:
    """Strike a command, move its run to another folder, type the command again, and so on; yield each place where it ended.

    Args:
        folder: in which the places are made, one after the other.
        prepare: makes a place.
        words: what is typed, by place.
        phase: where the process was when it was struck, by place.
        planned: the blows, all of which will have been dealt.
    """
    names = map(str, count())
    prepare(place := folder / next(names))
    while planned:
        if not planned[-1].strike(*words(place)):
            yield place
            prepare(place := folder / next(names))
            continue
        COUNTS[f"{phase(place)}: {planned.pop().name}"] += 1
        assert not any(Run(lock.parent).held for lock in place.glob("*/lock"))
        place = place.rename(folder / next(names))
        COUNTS["moved while unfinished"] += 1
    done = typed(*words(place))
    assert done.code == 0, done
    yield place


def facts(run: Path) -> dict[str, Any]:
    """Return everything in a run that must not depend on what happened to it, by file: no file more, none less."""
    return {str(path.relative_to(run)): None if path.is_dir() else content(path) for path in sorted(run.rglob("*"))}


def content(path: Path) -> object:
    """Return what a file says, but for times; files that differ from run to run say nothing."""
    if path.name in ("env.json", "lock"):
        return None
    if path.suffix == ".json" or path.name == "done":
        return _untimed(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_untimed(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".state":
        return _plain(load_state(path))
    return sha256_of(path)


def _untimed(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in TIMED}


def _plain(value: object) -> object:
    """Return a state with bytes in the place of tensors."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in _untimed(value).items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Undisturbed:
    """What real processes made while nothing happened to them.

    Args:
        runs: the folder in which the run lies as it was trained.
        trained, measured: the facts of that run, and of one that was evaluated as well.
        training, evaluating: seconds of work.
    """

    runs: Path
    trained: dict[str, Any]
    measured: dict[str, Any]
    training: float
    evaluating: float

    def copy(self, place: Path) -> Path:
        """Copy the trained run to below `place`."""
        return Path(shutil.copytree(run_in(self.runs), place / run_in(self.runs).name))


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[Path]:
    """Mount a file system at a folder, or skip where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
