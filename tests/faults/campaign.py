"""What the campaign stands on: the commands that real processes run, how they are struck, and what must be equal afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from ardbench.engine.checkpoints import load_state
from ardbench.runs import Run, sha256_of

HERE = Path(__file__).parent
COUNTS: Counter[str] = Counter()
"""What happened, for the summary at the end."""
TIMED = {"seconds", "images_per_second", "peak_memory"}
TIMEOUT = 240
"""Seconds after which a process is taken to hang."""

TRAIN = [
    "train", "pgd-at-digits", "--epochs", "8", "--set", "data.train_images=160", "--set", "data.validation=30",
    "--set", "data.batch=32", "--set", "attack.steps=2", "--set", "selection.protocol=fgsm", "--set", "selection.every=1",
    "--device", "cpu",
]  # fmt: skip
EVALUATION = ["--checkpoint", "last", "--n", "40", "--batch", "8", "--keep-adversarial", "--device", "cpu"]
PROTOCOLS = {"pgd": "pgd50-10", "aa": "aa:apgd-ce,apgd-t"}
"""What is measured, by the name of its phase."""


def full(number: int, *, short: int) -> pytest.MarkDecorator:
    """Parametrise a test by how often it strikes: few times among the usual tests, often where slow ones are asked for."""
    slow = pytest.param(number, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])
    return pytest.mark.parametrize("times", [short, slow])


def training(runs: Path) -> list[str]:
    """Return the words that train the campaign's run below `runs`."""
    return [*TRAIN, "--runs", str(runs)]


def evaluation(phase: str) -> Callable[[Path], list[str]]:
    """Return what gives the words that measure the run below a folder under one of `PROTOCOLS`."""
    return lambda runs: ["eval", str(run_in(runs)), "--protocol", PROTOCOLS[phase], *EVALUATION]


def run_in(runs: Path) -> Path:
    """Return the one run below a folder."""
    (run,) = runs.glob("pgd-at-digits-*")
    return run


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its exit code, what it printed, and how long it worked once it had loaded everything."""

    code: int
    out: str
    err: str
    worked: float

    def refused(self) -> str:
        """Return the one sentence with which it refused."""
        last = self.err.splitlines()[-1]
        assert self.code == 2 and last.startswith("Error: ") and "Traceback" not in self.err, self
        return last


def started(*words: str, program: tuple[str, ...] = ("-m", "ardbench"), **how: Any) -> subprocess.Popen[str]:
    """Start a command line in a process of its own, on one thread."""
    root = str(HERE.parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    return subprocess.Popen(
        [sys.executable, *program, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def typed(*words: str, **how: Any) -> Ended:
    """Run a command line in a process of its own until it ends."""
    return ended(at_work(started(*words, **how)))


def at_work(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Wait until a process has loaded everything and begins to work."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Device: "):
            break
    return process


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for the end of a process that is at work."""
    begun = time.monotonic()
    out, err = process.communicate(timeout=TIMEOUT)
    return Ended(process.returncode, out, err, time.monotonic() - begun)


def struck(number: int, span: float, dice: random.Random, *words: str) -> Ended:
    """Send a signal to a command line at a random moment within its first `span` seconds of work; it may end before."""
    process = at_work(started(*words))
    try:
        process.wait(dice.uniform(0, span))
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    return ended(process)


def killed(span: float, dice: random.Random, *words: str) -> bool:
    """Kill a command line at a random moment; return False if it had finished before."""
    done = struck(signal.SIGKILL, span, dice, *words)
    assert done.code in (-signal.SIGKILL, 0), done
    return done.code != 0


def killed_saving(dice: random.Random, most: int, *words: str) -> bool:
    """Kill a command line at one of its next `most` atomic writes; return False if it finished with fewer."""
    program = (str(HERE / "dying.py"), str(dice.randint(1, most)), dice.choice(("torn", "before", "after")))
    done = typed(*words, program=program)
    assert done.code in (-signal.SIGKILL, 0), done
    return done.code != 0


def besieged(
    folder: Path,
    phase: str,
    prepare: Callable[[Path], object],
    words: Callable[[Path], list[str]],
    strike: Callable[..., bool],
    times: int,
) -> Iterator[Path]:
    """Strike a command as often as asked, typing it again after each death; yield each place where it came to its end.

    Args:
        folder: in which the places are made, one after the other.
        phase: under which the deaths are counted.
        prepare: makes a place.
        words: what is typed, by place.
        strike: takes the words; False where the process finished before it was struck.
        times: how many deaths.
    """
    left = times
    for place in (folder / str(number) for number in count()):
        prepare(place)
        while left and strike(*words(place)):
            left -= 1
            COUNTS[f"killed: {phase}"] += 1
            assert not any(Run(path.parent).held for path in place.glob("*/lock"))
        if not left:
            done = typed(*words(place))
            assert done.code == 0, done
        yield place
        if not left:
            return


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
        facts: of that run.
        measured: by phase, those of the run after its evaluation under that protocol.
        seconds: how long each phase worked.
    """

    runs: Path
    facts: dict[str, Any]
    measured: dict[str, dict[str, Any]]
    seconds: dict[str, float]

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
