"""Per-example verdicts of one evaluation, and their file. Torch-free, so that tables are made without a framework."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain, compress, pairwise, product
from operator import eq
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from ardbench.config import AtLeastOne, Count, Threat
from ardbench.errors import ArdbenchError
from ardbench.evaluation.statistics import wilson
from ardbench.runs import read_json, write_json
from ardbench.untrusted import TEXT_LIMIT, Line, read_bytes
from ardbench.written import Finite


class Paused(Exception):
    """An evaluation was asked to stop before its end: one sentence on what is kept and how to go on."""


def _threat(told: dict[str, Any]) -> dict[str, Any]:
    if not told.keys() >= {"norm", "eps"}:
        raise ValueError("threat must say norm and eps")
    return Threat.model_validate(told).model_dump(mode="json")


MOST = 10**6
"""Positions that ranges of them may stand for; the largest split of ardbench has 100,000."""


def _classes(told: object) -> object:
    """Return classes that are written as one string of digits as a list."""
    return list(map(int, told)) if isinstance(told, str) and re.fullmatch("[0-9]+", told) else told


def _positions(told: object) -> object:
    """Return positions that are written as `3,5-7` as a list."""
    if not isinstance(told, str) or not re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*", told):
        return told
    parts = [part.partition("-") for part in told.split(",")]
    ranges = [range(int(first), int(last or first) + 1) for first, _, last in parts]
    return list(chain.from_iterable(ranges)) if sum(map(len, ranges)) <= MOST else told


def _written(index: Sequence[int]) -> str:
    """Return positions in the form that `_positions` reads."""
    breaks = [at for at in range(1, len(index)) if index[at] != index[at - 1] + 1]
    ends = [(index[first], index[last - 1]) for first, last in pairwise([0, *breaks, len(index)])]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


Class = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Classes = Annotated[list[Class], BeforeValidator(_classes)]
Positions = Annotated[list[Count], BeforeValidator(_positions)]


@dataclass
class Verdicts:
    """What a network said about every example under one protocol; every accuracy is derived from this.

    Args:
        protocol, version: what was measured.
        threat: {"norm", "eps"}, eps in pixel units.
        labels: (n) true classes.
        predictions: (n) classes under attack; that of the clean image where it is wrong already.
        index: (n) positions in the data set's own test (or training) set.
        seconds: of measuring, over all sittings.
        batch, seed: they decide the noise of the attacks.
        total: examples in the split of which these n were chosen.
        taken: points taken by each attack in turn, "clean" first.
        unconfirmed: points that an attack claimed in bf16 and fp32 did not confirm, by attack; they were attacked again.
        notes: what a reader of the number has to know, one sentence each.
        attack: how was searched, the step size as it was used.
        environment: device, torch, pyautoattack.
        key: everything that decides the verdicts; a file with another key is measured again.
    """

    protocol: Line
    version: AtLeastOne
    threat: Annotated[dict[str, Any], AfterValidator(_threat)]
    labels: Classes
    predictions: Classes
    index: Positions
    seconds: Finite
    batch: Count
    seed: Count
    total: Count
    taken: dict[Line, Count] = field(default_factory=dict)
    unconfirmed: dict[Line, Count] = field(default_factory=dict)
    notes: list[Line] = field(default_factory=list)
    attack: dict[str, Any] = field(default_factory=dict)
    environment: dict[Line, Line] = field(default_factory=dict)
    key: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.predictions) == len(self.index) > 0:
            raise ValueError("labels, predictions and index must be equally long and not empty")

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.labels)

    @property
    def images(self) -> tuple[list[int], list[int]]:
        """Which examples these are: positions and classes. What was measured on the same ones has the same."""
        return self.index, self.labels

    @cached_property
    def robust(self) -> list[bool]:
        """Whether each example is classified right under the protocol."""
        return list(map(eq, self.labels, self.predictions))

    @cached_property
    def classes(self) -> int:
        """The number of classes that the data set has at least."""
        return 1 + max(max(self.labels), max(self.predictions))

    @property
    def accuracy(self) -> float:
        """The share of robust examples, in [0, 1]."""
        return sum(self.robust) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        return wilson(sum(self.robust), self.n)

    @property
    def by_class(self) -> dict[int, tuple[int, int]]:
        """For each class among these examples, in order: how many are robust, and how many there are."""
        there, robust = Counter(self.labels), Counter(compress(self.labels, self.robust))
        return {label: (robust[label], there[label]) for label in sorted(there)}

    @property
    def confusion(self) -> Counter[tuple[int, int]]:
        """How many examples have each pair of (true class, class under attack)."""
        return Counter(zip(self.labels, self.predictions, strict=True))

    @property
    def class_balanced(self) -> bool:
        """Whether the classes among these examples differ in number by at most one."""
        counts = Counter(self.labels).values()
        return max(counts) - min(counts) <= 1

    def among(self, images: Set[int]) -> Verdicts | None:
        """Return the verdicts on those of its examples whose positions these are, in their order; None where there are none.

        Who took which point is not known of a part.
        """
        rows = zip(self.index, self.labels, self.predictions, strict=True)
        kept = sorted(row for row in rows if row[0] in images)
        if not kept:
            return None
        index, labels, predictions = map(list, zip(*kept, strict=True))
        return replace(self, index=index, labels=labels, predictions=predictions, taken={}, unconfirmed={})

    def document(self) -> dict[str, Any]:
        """Return the verdicts as they are written; n and class_balanced are for readers, derived anew on loading.

        An index is written as `3,5-7`, and up to ten classes as a string of digits: a file of 10,000 images then takes
        20 KB, a tenth of what lists take.
        """
        facts = asdict(self)
        lists = {name: facts.pop(name) for name in ("index", "labels", "predictions")}
        lists["index"] = _written(self.index)
        if self.classes <= 10:
            lists |= {name: "".join(map(str, lists[name])) for name in ("labels", "predictions")}
        return {**facts, "n": self.n, "class_balanced": self.class_balanced, **lists}

    def save(self, path: Path) -> None:
        """Write the verdicts atomically."""
        write_json(path, self.document())

    def matches(self, key: Mapping[str, Any]) -> bool:
        """Return whether these verdicts were measured under everything that `key` says, such as {"weights": sha256}."""
        return all(name in self.key and self.key[name] == value for name, value in key.items())


_FILE: TypeAdapter[Verdicts] = TypeAdapter(Verdicts)


def load_verdicts(path: Path) -> Verdicts:
    """Return the verdicts in a file.

    Raises:
        ArdbenchError: the file is missing, damaged or something else.
    """
    with suppress(OSError, ValidationError):
        return _FILE.validate_json(read_bytes(path, TEXT_LIMIT))  # reads and checks at once
    try:
        return _FILE.validate_python(read_json(path))  # says what is wrong
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:100] or "the whole"
        raise ArdbenchError(
            f"{path} holds no verdicts of ardbench ({where}: {first['msg']}); delete it to measure again."
        ) from None


def file_name(protocol: str, n: int | None = None) -> str:
    """Return the name of a protocol's file: `<protocol>[-n<N>].json`, with n where a subset is measured.

    A custom list such as `aa:apgd-ce,square` becomes `aa-apgd-ce+square.json`: colons hurt rsync, archives and Windows.
    """
    stem = protocol.replace(":", "-").replace(",", "+")
    return f"{stem}.json" if n is None else f"{stem}-n{n}.json"


def shared(one: Verdicts, other: Verdicts) -> tuple[Verdicts, Verdicts] | None:
    """Return both on the images of the one that has fewer; None where the other lacks one of these."""
    if one.images == other.images:
        return one, other
    fewest = set(min(one, other, key=lambda verdicts: verdicts.n).index)
    first, second = one.among(fewest), other.among(fewest)
    return (first, second) if first and second and first.images == second.images else None


def paired(ones: Iterable[Verdicts], others: Iterable[Verdicts]) -> list[tuple[Verdicts, Verdicts]]:
    """Return one of each on the same images, under the same threat if under any, once for each number of images.

    Those that were measured on the same images come before those that are cut to them.
    """
    found = dict[int, tuple[Verdicts, Verdicts]]()
    for one, other in sorted(product(ones, others), key=lambda pair: abs(pair[0].n - pair[1].n)):
        alike = one.threat == other.threat or "clean" in (one.protocol, other.protocol)
        if alike and (pair := shared(one, other)):
            found.setdefault(pair[0].n, pair)
    return list(found.values())


def worst_case(several: Sequence[Verdicts]) -> list[bool]:
    """Return, per example, whether it is robust under every one of these evaluations.

    Raises:
        ArdbenchError: they were measured on different examples.
    """
    first = several[0]
    for other in several[1:]:
        if other.images != first.images:
            raise ArdbenchError(
                f"{first.protocol} and {other.protocol} were measured on different images: give both the same --n."
            )
    return [all(flags) for flags in zip(*(verdicts.robust for verdicts in several), strict=True)]
