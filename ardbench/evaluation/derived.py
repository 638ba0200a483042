"""Numbers that verdicts give without another evaluation, each a column of its own where it is asked for. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ardbench.errors import ArdbenchError, unknown
from ardbench.evaluation.extended import extended
from ardbench.evaluation.statistics import LIMITS, paired_interval
from ardbench.evaluation.verdicts import Verdicts, paired

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    Floats = NDArray[float64]

WORST = "worst"
"""The column of a worst case: robust against every attack that was measured on the same images."""
WEIGHTED = "weighted"
"""The column of (clean + aa) / 2, both measured on the same images."""
ESTIMATED = "aa-estimated"
"""The column of an accuracy on all images, of which a part alone was attacked so."""
Number = tuple[float, float, float]
"""Value, low and high, as fractions."""
Counts = Mapping[int, tuple[int, int]]
"""By class how many images were right, of how many."""


@dataclass(frozen=True)
class Column:
    """A number that is made of the verdicts on one checkpoint under one protocol.

    Args:
        number: from the verdicts, and from those beside them on the same images; None carries those of a part to all images.
        needs: what has to be measured, in words; {of} is the protocol.
        note: what a reader has to know.
        beside: from checkpoint and protocol to those of the verdicts beside; None where there is no such number at all.
        usual: the protocol where none is named: nsd is nsd:aa.
    """

    number: Callable[[Verdicts, Verdicts], Number] | None
    needs: str
    note: str
    beside: Callable[[str, str], tuple[str, str] | None] = lambda checkpoint, of: (checkpoint, of)
    usual: str = "aa"


def worst_class(counts: Counts) -> Number:
    """Return the accuracy of the class with the lowest."""
    return _by_class(counts, lambda shares: shares.min(axis=-1))


def nsd(counts: Counts) -> Number:
    """Return the standard deviation of the accuracies of all classes (the mean of squares, not less one) over their mean.

    0 where every class is as accurate, and where none is ever right.

    Source: Zhao et al., "Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation", NeurIPS 2024.
    """

    def of(shares: Floats) -> Floats:
        mean = shares.mean(axis=-1)
        found: Floats = shares.std(axis=-1) / (mean + (mean == 0))  # the deviation is 0 where the mean is
        return found

    return _by_class(counts, of)


def nrr(clean: Sequence[bool], robust: Sequence[bool]) -> Number:
    """Return the harmonic mean 2 c r / (c + r) of two accuracies on the same images, drawn again with both answers."""
    import numpy as np

    n, pairs = len(clean), list(zip(clean, robust, strict=True))
    kinds = ((True, True), (True, False), (False, True), (False, False))
    shares = np.array([[pairs.count(kind) / n for kind in kinds]])

    def of(drawn: Floats) -> Floats:
        c, r = drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2]
        found: Floats = 2 * c * r / (c + r + (c + r == 0))
        return found

    draws = np.random.default_rng(LIMITS.bootstrap.seed).multinomial(n, shares[0], size=LIMITS.bootstrap.draws)
    return float(of(shares)[0]), *_middle(of(draws / n))


def excess(one: Sequence[bool], other: Sequence[bool]) -> Number:
    """Return an accuracy minus another, on the same images, with Newcombe's paired interval."""
    return (sum(one) - sum(other)) / len(one), *paired_interval(one, other)


DERIVED = {
    "worst-class": Column(
        lambda one, _: worst_class(one.by_class),
        "{of}",
        "the accuracy under {of} of the class with the lowest; images are drawn again within their class. Chance makes the "
        "worst of several look worse, and drawing again does so once more.",
    ),
    "nsd": Column(
        lambda one, _: nsd(one.by_class),
        "{of}",
        "standard deviation / mean of the accuracies of all classes under {of}, in %, 0 where all are alike; images are "
        "drawn again within their class. Chance makes it larger, and drawing again does so once more.",
    ),
    "nrr": Column(
        lambda one, clean: nrr(clean.robust, one.robust),
        "clean and {of}",
        "the harmonic mean 2 c r / (c + r) of clean accuracy and that under {of}, on the same images.",
        lambda checkpoint, of: (checkpoint, "clean"),
    ),
    "overfitting": Column(
        lambda best, last: excess(best.robust, last.robust),
        "{of} of best and last",
        "the robust overfitting gap, the accuracy of best minus that of last of the same run under {of}, in points, on the "
        "same images, with Newcombe's paired interval.",
        lambda checkpoint, of: ("last", of) if checkpoint == "best" else None,
    ),
    ESTIMATED: Column(
        None,
        "{of}, and another attack on more images,",
        "the accuracy under {of} on all images, estimated: what stands there under weaker attacks, less what {of} takes beyond "
        "them on its part of the images.",
    ),
    "minus-aa": Column(
        lambda one, aa: excess(one.robust, aa.robust),
        "{of} and aa",
        "the accuracy under {of} minus that under aa, in points, on the same images, with Newcombe's paired interval: how far "
        "{of} alone flatters.",
        lambda checkpoint, of: (checkpoint, "aa") if of != "aa" else None,
        usual="pgd20",
    ),
}
"""By the name of a column, which may say of what: nsd, nsd:pgd20, worst-class:clean."""
BOOTSTRAP = ("worst-class", "nsd", "nrr")
"""Those whose interval is a percentile bootstrap."""


def is_asked_for(name: str) -> bool:
    """Return whether a column of numbers is one of `DERIVED`, of whatever protocol."""
    return name.partition(":")[0] in DERIVED


def is_derived(name: str) -> bool:
    """Return whether a column of numbers is made of others, and no protocol."""
    return name in (WORST, WEIGHTED) or is_asked_for(name)


def parsed(column: str) -> tuple[str, str]:
    """Return name and protocol of a derived column.

    Raises:
        ArdbenchError: there is no such column.
    """
    name, _, of = column.partition(":")
    if name not in DERIVED:
        raise unknown("derived column", name, DERIVED)
    return name, of or DERIVED[name].usual


def check_measured(columns: Iterable[str], measured: Collection[tuple[str, str]]) -> None:
    """Refuse derived columns of which there can be no number.

    Args:
        columns: by name.
        measured: (checkpoint, protocol) of what is measured.

    Raises:
        ArdbenchError: with what to measure besides.
    """
    for column in columns:
        name, of = parsed(column)
        if not any(one == of and DERIVED[name].beside(at, of) in measured for at, one in measured):
            raise ArdbenchError(
                f"Column {column!r} needs {DERIVED[name].needs.format(of=of)} to be measured on the same images, which no run "
                "has or plans: measure that besides, or leave the column out."
            )


def numbers(column: str, measured: Sequence[tuple[str, Verdicts]]) -> Iterator[tuple[str, Verdicts, Number]]:
    """Yield (checkpoint, the verdicts that it is of, number) of a derived column, wherever what it needs was measured.

    Where one of two was measured on more images than the other, the number is of those that both are on.

    Args:
        measured: (checkpoint, verdicts) of one run, on its present weights.
    """
    name, of = parsed(column)
    number = DERIVED[name].number
    for checkpoint in dict.fromkeys(checkpoint for checkpoint, _ in measured):
        place = DERIVED[name].beside(checkpoint, of)
        ones = [one for at, one in measured if (at, one.protocol) == (checkpoint, of)]
        if number is None:
            attacks = [one for at, one in measured if at == checkpoint and one.protocol != of]
            for found in filter(None, (extended(one, attacks) for one in ones)):
                yield checkpoint, found.whole, found.number
        else:
            others = [other for at, other in measured if (at, other.protocol) == place]
            for one, other in paired(ones, others):
                yield checkpoint, one, number(one, other)


def _by_class(counts: Counts, of: Callable[[Floats], Floats]) -> Number:
    """Return a number over the accuracies of classes, with the images of each class drawn again among themselves."""
    import numpy as np

    right, n = np.array([counts[label] for label in sorted(counts)]).T  # (K,), (K,)
    drawn = np.random.default_rng(LIMITS.bootstrap.seed).binomial(n, right / n, size=(LIMITS.bootstrap.draws, len(n)))
    return float(of(right / n)), *_middle(of(drawn / n))


def _middle(drawn: Floats) -> tuple[float, float]:
    """Return the ends of the middle 95 % of what was drawn: the percentile bootstrap of Efron and Tibshirani, 1993."""
    import numpy as np

    low, high = np.quantile(drawn, [LIMITS.significant / 2, 1 - LIMITS.significant / 2])
    return float(low), float(high)
