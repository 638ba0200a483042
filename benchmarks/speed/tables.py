"""What every speed benchmark shares: paired samples, and rows in a CSV with a Markdown page beside it."""

from __future__ import annotations

import csv
import datetime
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, Self, TypeVar

import torch

from ardbench.engine.device import hardware_name
from ardbench.runs import write_atomic

Cells = Mapping[str, str]
"""A row as the CSV has it: every value as text, "" for none."""
Job = TypeVar("Job")


@dataclass(frozen=True)
class Seconds:
    """What one step took, on the wall and of all processors together."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Runner:
    """One side of a comparison: `prepare` sets the process up as this side's users have it, `step` does the work once."""

    prepare: Callable[[], None]
    step: Callable[[], None]


def seconds_of(runner: Runner, steps: int, device: torch.device) -> Seconds:
    """Return the seconds of one step, the mean of `steps` in a row."""
    runner.prepare()
    wait_for(device)
    began, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        runner.step()
    wait_for(device)
    return Seconds((time.perf_counter() - began) / steps, (time.process_time() - busy) / steps)


def alternate(
    runners: Mapping[str, Runner], repeats: int, steps: int, device: torch.device
) -> dict[str, list[Seconds]]:
    """Return `repeats` samples of every side, taken in turn; a first round warms up and is thrown away."""
    samples: dict[str, list[Seconds]] = {name: [] for name in runners}
    for repeat in range(repeats + 1):
        for name, runner in runners.items():
            taken = seconds_of(runner, steps, device)
            print(f"  round {repeat}/{repeats} {name}: {taken.wall:.3f} s ({taken.processor:.3f} s of processor)")
            samples[name] += [taken] if repeat else []
        sys.stdout.flush()
    return samples


def paced(works: Sequence[tuple[Job, float]], limit: float | None) -> Iterator[Job]:
    """Yield what is to be measured, and say after each how long the rest will take; begin nothing after `limit` seconds.

    Args:
        works: each with its work in any unit, the same for all.
    """
    began, done, total = time.monotonic(), 0.0, sum(work for _, work in works)
    for place, (job, work) in enumerate(works):
        if limit is not None and time.monotonic() - began >= limit:
            print(f"--time-limit is over: {len(works) - place} of {len(works)} are left to the next call")
            return
        yield job
        done += work
        left = (time.monotonic() - began) * (total - done) / done
        print(f"{place + 1} of {len(works)} done, about {left / 60:.1f} min left", flush=True)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Measurement:
    """What every row begins with: where it was measured. A subclass adds its key, and then what was found."""

    device: str
    name: str
    torch_version: str
    threads: int

    @classmethod
    def here(cls, device: torch.device, *facts: Any, **named: Any) -> Self:
        """Return a row of this machine; what is not given is still to be measured."""
        return cls(device.type, hardware_name(device), torch.__version__, torch.get_num_threads(), *facts, **named)

    def fill(self, **found: Any) -> None:
        """Fill in what was found, and the day."""
        for name, value in (found | {"date": today()}).items():
            if name not in vars(self):
                raise TypeError(f"{type(self).__name__} has no column {name!r}")
            setattr(self, name, value)


def today() -> str:
    """Return the day as a row has it."""
    return datetime.date.today().isoformat()


def paired(ours: Sequence[Seconds], theirs: Sequence[Seconds], other: str, digits: int = 5) -> dict[str, float]:
    """Return what samples of two sides that were taken in turn give a row.

    Args:
        other: the column of the other side's seconds.
    """
    ratios = [slow.wall / fast.wall for slow, fast in zip(theirs, ours, strict=True)]
    found = {"ratio": median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    seconds = {
        name: round(median(one.wall for one in side), digits) for name, side in (("seconds", ours), (other, theirs))
    }
    return seconds | {name: round(ratio, 3) for name, ratio in found.items()} | {"repeats": len(ratios)}


def processor_ratio(ours: Sequence[Seconds], theirs: Sequence[Seconds], device: str) -> float | None:
    """Return the median ratio of processor time, which nobody counts on a GPU."""
    pairs = zip(theirs, ours, strict=True)
    return round(median(slow.processor / fast.processor for slow, fast in pairs), 3) if device == "cpu" else None


@dataclass(frozen=True)
class Table:
    """Measured rows, kept in a CSV, each in the place of the one with its key.

    Args:
        path: of the CSV; the page lies beside it as .md.
        key: the columns that make two rows the same measurement.
        page: makes the Markdown of all rows.
    """

    path: Path
    key: tuple[str, ...]
    page: Callable[[list[Cells]], str]

    @classmethod
    def of(cls, row: type[Any], last: str, path: Path, page: Callable[[list[Cells]], str]) -> Self:
        """Return the table of a dataclass of rows, whose key is its columns up to `last`."""
        names = [field.name for field in fields(row)]
        return cls(path, tuple(names[: names.index(last) + 1]), page)

    def rows(self) -> list[Cells]:
        """Return the rows of the CSV, none where there is no file."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def holds(self, row: Any) -> bool:
        """Return whether a row, a dataclass, has been measured."""
        return self._key(_cells(row)) in map(self._key, self.rows())

    def write(self, row: Any) -> None:
        """Add a row, a dataclass, and make the page anew."""
        cells = _cells(row)
        rows = [old for old in self.rows() if self._key(old) != self._key(cells)] + [cells]
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(cells), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path, buffer.getvalue().encode())
        write_atomic(self.path.with_suffix(".md"), self.page(rows).encode())

    def _key(self, cells: Cells) -> tuple[str, ...]:
        return tuple(cells.get(name, "") for name in self.key)


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in rows]) + "\n"


def faster(cells: Cells) -> str:
    """Return how many times faster a row's own side was, with the range over its samples."""
    ratio = f"{float(cells['ratio']):.2f}x"
    if cells["repeats"] != "1":
        ratio += f" [{float(cells['ratio_min']):.2f}, {float(cells['ratio_max']):.2f}]"
    processor = cells.get("processor_ratio")
    return ratio + (f", processor {float(processor):.2f}x" if processor else "")


def where(cells: Cells) -> str:
    """Return on what, with what and when a row was measured, in words."""
    tf32 = ", TF32" if cells.get("tf32") == "True" else ""
    return f"{cells['name']}, {cells['threads']} threads, torch {cells['torch_version']}{tf32}, {cells['date']}"


def _cells(row: Any) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in asdict(row).items()}
