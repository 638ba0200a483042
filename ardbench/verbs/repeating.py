"""`eval --again`: whether an attack with another seed gives the accuracies that another gave. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ardbench.evaluation.statistics import LIMITS, mcnemar
from ardbench.evaluation.verdicts import Verdicts
from ardbench.verbs.measuring import Evaluation


@dataclass(frozen=True)
class Repeat:
    """One accuracy that was measured with two seeds of the attacks.

    Args:
        then, now: verdicts on the same images.
    """

    checkpoint: str
    then: Verdicts
    now: Verdicts

    @cached_property
    def moved(self) -> tuple[int, int]:
        """Images that only the second attack fooled, and that only the first did."""
        pairs = list(zip(self.then.robust, self.now.robust, strict=True))
        return sum(was and not held for was, held in pairs), sum(held and not was for was, held in pairs)

    @property
    def agrees(self) -> bool:
        """Whether the two are as strong as each other by McNemar's exact test."""
        return bool(mcnemar(*self.moved) >= LIMITS.significant)

    @property
    def both(self) -> float:
        """The accuracy against the two together."""
        return sum(was and held for was, held in zip(self.then.robust, self.now.robust, strict=True)) / self.then.n

    @property
    def sentence(self) -> str:
        """What a second look gave, for people."""
        one, other, (lost, won) = self.then, self.now, self.moved
        told = (
            f"{one.protocol}, {self.checkpoint}: {100 * one.accuracy:.2f} % with seed {one.seed} and "
            f"{100 * other.accuracy:.2f} % with seed {other.seed}"
        )
        if not lost + won:
            return f"{told}: the same images."
        apart = f"{lost + won} of {one.n} images differ, p = {mcnemar(lost, won):.2g}"
        word = (
            "they agree" if self.agrees else "they do not agree, so neither seed alone tells how robust the network is"
        )
        return f"{told}: {word} ({apart}); {100 * self.both:.2f} % withstand both."

    def document(self) -> dict[str, Any]:
        """Return all of it but the verdicts, as JSON holds it."""
        about = {"checkpoint": self.checkpoint, "protocol": self.then.protocol, "n": self.then.n}
        accuracies = {"then": self.then.accuracy, "now": self.now.accuracy, "both": self.both}
        return about | accuracies | {"moved": self.moved, "agrees": self.agrees}


def repeats(first: Evaluation, second: Evaluation) -> Iterator[Repeat]:
    """Yield each accuracy of an evaluation beside that of another seed."""
    again = {(one.checkpoint, one.protocol): one.verdicts for one in second.measured}
    for one in first.measured:
        if (place := (one.checkpoint, one.protocol)) in again:
            yield Repeat(one.checkpoint, one.verdicts, again[place])
