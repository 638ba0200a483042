"""The rows that `switches.py` writes, their CSV and the Markdown table beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tables import Cells, Measurement, Seconds, Table, faster, markdown, paired, where

NOTE = """\
Each switch alone, everything else off, against the same step without it; `all` is every switch of the method together but
`compile`, which pays back in long runs alone. The plain step is fp32, contiguous, the network attacked as it is and its
parameters frozen meanwhile; `frozen` is that against an attack which calls `loss.backward()`, as scripts do. `cache_gb` is
RSLAD's with everything kept, the others are PGD-AT's.
**Faster by**: seconds of the plain step over those of the fast one, medians of paired samples that alternate in one process,
with the least and largest; synthetic images of CIFAR-10's shape, PGD-10, a freshly initialised student.
**Error of one step**, from the same weights of a network trained on digits at the same adversarial examples: relative error of
the loss, of the outer step's gradient, of the input gradient; share of pixels at which the sign of the latter is the same.
**Runs**: `resnet8-tiny` on digits with and without the switch, the same seeds on both sides, the last network on all 360 test
images: accuracy without it, and the mean difference that it makes, in points, with Student's 95 % interval over the seeds.
Training is chaotic: rounding alone gives another network, so paired seeds differ as much as other seeds do. What is
equal to the bit in every step was not trained twice.
"""
POINTS = 100


@dataclass
class Row(Measurement):
    """One switch; everything up to `switch` is its key. Differences are of accuracies in [0, 1], with minus without."""

    model: str
    batch: int
    method: str
    seeds: int
    switch: str
    seconds: float = 0.0
    plain_seconds: float = 0.0
    ratio: float = 0.0
    ratio_min: float = 0.0
    ratio_max: float = 0.0
    repeats: int = 0
    steps: int = 0
    loss_error: float = 0.0
    outer_error: float = 0.0
    attack_error: float = 0.0
    attack_signs: float = 0.0
    plain_clean: float | None = None
    clean_difference: float | None = None
    clean_low: float | None = None
    clean_high: float | None = None
    plain_robust: float | None = None
    robust_difference: float | None = None
    robust_low: float | None = None
    robust_high: float | None = None
    date: str = ""

    def timed(self, fast: list[Seconds], plain: list[Seconds], steps: int) -> None:
        """Fill in what the steps took, sample by sample."""
        self.fill(**paired(fast, plain, "plain_seconds"), steps=steps)

    def compared(self, loss: float, outer: float, attack: float, signs: float) -> None:
        """Fill in how far one step lies from the plain one."""
        self.loss_error, self.outer_error, self.attack_error, self.attack_signs = loss, outer, attack, signs

    def ran(self, clean: tuple[float, float, float, float], robust: tuple[float, float, float, float]) -> None:
        """Fill in what whole runs gave, each as (mean without, mean difference, low, high)."""
        self.plain_clean, self.clean_difference, self.clean_low, self.clean_high = clean
        self.plain_robust, self.robust_difference, self.robust_low, self.robust_high = robust


def open_table(path: Path) -> Table:
    """Return the table in a CSV."""
    return Table.of(Row, "switch", path, page)


def page(rows: list[Cells]) -> str:
    """Return the Markdown page of the rows."""
    heads = ["switch", "method", "student, batch", "faster by", "s/step", "loss", "outer gradient", "input gradient"]
    heads += ["equal signs", "seeds", "clean", "clean, difference", "PGD-20", "PGD-20, difference", "on"]
    lines = []
    for r in rows:
        errors = [_error(r[name]) for name in ("loss_error", "outer_error", "attack_error")]
        cells = [
            r["switch"],
            r["method"],
            f"{r['model']}, {r['batch']}",
            faster(r),
            f"{float(r['seconds']):.3g}",
            *errors,
        ]
        cells += [f"{POINTS * float(r['attack_signs']):.2f} %"]
        if r["clean_difference"]:
            cells += [r["seeds"], *_effect(r, "clean"), *_effect(r, "robust")]
        else:
            cells += ["", *["equal to the bit"] * 4]
        lines.append([*cells, where(r)])
    return f"# Switches of the fast path\n\n{NOTE}\n{markdown(heads, lines)}"


def _error(text: str) -> str:
    return "0" if float(text) == 0 else f"{float(text):.1e}"


def _effect(cells: Cells, what: str) -> list[str]:
    """Return the accuracy without a switch, and the difference with it and whether zero lies in its interval."""
    plain, mean, low, high = (
        POINTS * float(cells[name]) for name in (f"plain_{what}", f"{what}_difference", f"{what}_low", f"{what}_high")
    )
    inside = "zero inside" if low <= 0 <= high else "**zero outside**"
    return [f"{plain:.1f} %", f"{mean:+.2f} [{low:+.2f}, {high:+.2f}], {inside}"]
