"""Trust checks: whether what was measured may be an attack's failure, judged from verdicts and kept. Torch-free."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ardbench.config import AtLeastOne, NonNegative, Section, Share
from ardbench.errors import ArdbenchError
from ardbench.evaluation.protocols import PROTOCOLS
from ardbench.evaluation.statistics import paired_interval
from ardbench.evaluation.verdicts import Verdicts, load_verdicts
from ardbench.runs import read_json, write_json
from ardbench.untrusted import Line

Level = Literal["ok", "note", "warning", "unchecked"]
FOR_CHECKS = ("pgd20-scaled", "unbounded")
"""Protocols that are measured for the checks alone: they stand in no table."""
ENOUGH = 1000
"""Images for them: of more `reproduce` takes a part, which tells a limit of a point or two as well at a tenth of the time."""
NOT_NORMALISED = (
    "pixels are not normalised as in training (ardbench identify finds by what, --mean and --std of a file say it)"
)
STEM = "trust"
"""The findings lie where the verdicts do, under this name in place of a protocol's."""


@dataclass(frozen=True)
class Finding:
    """What a check says: one sentence with the numbers that decide, or with what to type where it could not be made."""

    check: Line
    level: Level
    reason: Line


class Limit(Section):
    """A limit on the accuracy under one protocol, or on the difference of two; shares of the images."""

    protocols: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    note: Share | None = None
    warning: Share
    confidence: Share | None = None
    """Take the lower end of the paired interval of the difference."""
    meaning: str


class StatisticsLimit(Section):
    """A limit on how far the inputs of a BatchNorm lie from what it remembers, in nats, and the images that it takes."""

    note: NonNegative
    warning: NonNegative
    images: AtLeastOne
    fewest: AtLeastOne


class TeacherLimit(Section):
    """What a teacher is measured under before it teaches, and on how many images: a share of an epoch's cost, in bounds."""

    protocol: str
    share: Share
    least: AtLeastOne
    most: AtLeastOne


class Limits(Section):
    """The file of limits: on accuracies by check, by how much rounding may move logits, on statistics, and on teachers."""

    limits: dict[str, Limit]
    tolerances: dict[str, Share]
    statistics: StatisticsLimit
    teachers: TeacherLimit


LIMITS = Limits.model_validate(
    tomllib.loads((resources.files("ardbench.evaluation") / "trust.toml").read_text(encoding="utf-8"))
)


def judged(measured: Mapping[str, Verdicts]) -> list[Finding]:
    """Return one finding for each limit.

    Args:
        measured: verdicts by protocol, of the same network; two are compared on the images that both are on.
    """
    return [_judged(check, limit, measured) for check, limit in LIMITS.limits.items()]


def above_chance(clean: Verdicts | None, classes: int) -> Finding:
    """Return whether a network knows more about clean images than nothing: 1 / classes lies below its 95 % interval."""
    if clean is None:
        return Finding("clean", "unchecked", "clean not measured: add --protocol clean.")
    low, high = clean.interval
    said = f"clean accuracy is {100 * clean.accuracy:.1f} %, [{100 * low:.1f}, {100 * high:.1f}]"
    chance = f"chance, {100 / classes:.3g} % (n = {clean.n})"
    if low > 1 / classes:
        return Finding("clean", "ok", f"{said}, above {chance}.")
    why = f"labels are shifted or in another order, {NOT_NORMALISED}, or it has not learnt"
    return Finding("clean", "warning", f"{said}, no better than {chance}: {why}.")


def measured_in(store: Path, key: Mapping[str, Any], index: Sequence[int]) -> dict[str, Verdicts]:
    """Return the verdicts in a folder by protocol, on these images and no others, of `key` and protocol as they are.

    Where several files tell of a protocol, the one that tells of the most of these images.

    Raises:
        ArdbenchError: a file is damaged.
    """
    images, found = set(index), dict[str, Verdicts]()
    for path in sorted(store.glob("*.json")):
        if not path.name.endswith(".state.json") and not is_trust(path):
            verdicts = load_verdicts(path)
            rules = PROTOCOLS.get(verdicts.protocol)
            current = rules is None or rules.version == verdicts.version
            there = verdicts.among(images) if current and verdicts.matches(key) else None
            if there and there.n > (found[there.protocol].n if there.protocol in found else 0):
                found[there.protocol] = there
    return found


def is_trust(path: Path) -> bool:
    """Return whether a file holds findings and no verdicts."""
    return path.name.startswith((f"{STEM}.", f"{STEM}-"))


def judged_in(store: Path) -> list[int | None]:
    """Return on how many images (None: all) there are findings in a folder."""
    named = [re.fullmatch(rf"{STEM}(?:-n([0-9]+))?", path.stem) for path in sorted(store.glob("*.json"))]
    return [int(found[1]) if found[1] else None for found in named if found]


def save(path: Path, findings: Sequence[Finding], weights: str) -> None:
    """Write findings atomically, with the sha256 of the weights that they are about."""
    write_json(path, {"weights": weights, "findings": [asdict(finding) for finding in findings]})


def load(path: Path) -> tuple[list[Finding], str]:
    """Return the findings in a file, and the sha256 of the weights that they are about.

    Raises:
        ArdbenchError: the file is damaged or something else.
    """
    document = read_json(path)
    try:
        return _FILE.validate_python(document.get("findings")), str(document.get("weights"))
    except ValidationError:
        raise ArdbenchError(f"{path} holds no trust checks of ardbench; delete it to make them again.") from None


_FILE = TypeAdapter(list[Finding])


def _judged(check: str, limit: Limit, measured: Mapping[str, Verdicts]) -> Finding:
    absent = [name for name in limit.protocols if name not in measured]
    if absent:
        words = " ".join(f"--protocol {name}" for name in absent)
        return Finding(check, "unchecked", f"{' and '.join(absent)} not measured: add {words}.")
    several = _shared([measured[name] for name in limit.protocols])
    if not several:
        return Finding(
            check, "unchecked", f"{' and '.join(limit.protocols)} have no image in common: give both one --n."
        )
    if not all(verdicts.threat["eps"] for verdicts in several):
        return Finding(check, "unchecked", "nothing is searched at eps 0: evaluate under a larger one.")
    value, said = _value(limit, several)
    level: Level = "ok"
    if value > limit.warning:
        level = "warning"
    elif limit.note is not None and value >= limit.note:
        level = "note"
    allowed = limit.warning if limit.note is None or level == "warning" else limit.note
    beyond = {"ok": "within", "note": "not under", "warning": "over"}[level]
    meaning = "" if level == "ok" else f": {limit.meaning}"
    return Finding(check, level, f"{said}, {beyond} {100 * allowed:g} (n = {several[0].n}){meaning}.")


def _shared(several: Sequence[Verdicts]) -> list[Verdicts]:
    """Return verdicts on the images that all of them are on; none where there are no such images."""
    images = set.intersection(*(set(verdicts.index) for verdicts in several))
    return [there for verdicts in several if (there := verdicts.among(images))]


def _value(limit: Limit, several: Sequence[Verdicts]) -> tuple[float, str]:
    """Return what is held against the limit, as a share, and how it is told, in points."""
    right, names = [sum(verdicts.robust) for verdicts in several], limit.protocols
    n = several[0].n
    if len(several) == 1:
        return right[0] / n, f"{names[0]} leaves {100 * right[0] / n:.1f} % robust"
    value = (right[0] - right[1]) / n
    said = f"{names[0]} minus {names[1]} is {100 * value:.1f} points"
    if limit.confidence is None:
        return value, said
    low, _ = paired_interval(several[0].robust, several[1].robust, limit.confidence)
    return low, f"{said}, at least {100 * low:.1f} by the paired {100 * limit.confidence:g} % interval"
