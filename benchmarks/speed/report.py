"""The rows that the speed benchmarks write, their CSV and the Markdown table beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from reference_losses import METHODS
from tables import Cells, Measurement, Seconds, Table, faster, markdown, paired, processor_ratio, where

NOTE = """\
Synthetic uint8 images of CIFAR-10's shape, freshly initialised networks, the as-released recipe's attack (PGD-10) and a
step whose loss has all of its terms (IAD from its `begin` on). DARHT has the level recipe, two teachers of one architecture
and the phase with labels and teachers; its coin always says attack. PeerAiD's "teacher" is its peer.
The reference is a plain fp32 NCHW loop in the manner of released scripts (`benchmarks/speed/reference.py`): images through
PIL one by one, the student attacked as it is, every forward that the script makes (`reference_losses.py`, which marks what
was counted in a script and what is inferred; CRDND has no public one). Loss and gradient of both sides are tested to be
equal at equal x'. `backward`: its attack calls `loss.backward()`, as the IAD repository's teachers; `grad`: it calls
`autograd.grad` to the input, as RSLAD's script. Ours is the engine's own loop; "fp32" and "bf16" name the precision of
attack and outer step alike, weights and losses being fp32 in both; "graph" is bf16 with the attack replayed as a CUDA graph
(`cuda_graph`; none where nothing is attacked); "cold" and "warm" are bf16 with the teacher's logits at
x cached: none of a step's views is there, so that it asks the teacher and keeps the answers, or all of them are. Both sides
run in one process, in turn; on the CPU ours has and keeps the memory that an earlier step left, the reference leaves it to
C's library. Seconds are medians, the ratio is the median of paired samples with the
least and largest in brackets; on the CPU also the ratio of processor time, which busy neighbours disturb less. GFLOP/image
is what a step of ours was counted to compute for one image (`ardbench/planning/counting.py`), TFLOP/s that times images/s,
and "of the device" its share of the rate that the device reached, just before, in large products of the same precision (on
the CPU in 3x3 convolutions where these are faster). Memory is the peak above what the process held before images and
networks were made, on the CPU with a process for each side.
"""


@dataclass
class Row(Measurement):
    """One comparison; everything up to `gradient` is its key."""

    model: str
    teacher: str
    batch: int
    method: str
    variant: str
    tf32: bool
    gradient: str
    seconds: float = 0.0
    images_per_second: float = 0.0
    reference_seconds: float = 0.0
    reference_images_per_second: float = 0.0
    ratio: float = 0.0
    ratio_min: float = 0.0
    ratio_max: float = 0.0
    processor_ratio: float | None = None
    peak_mb: float = 0.0
    reference_peak_mb: float = 0.0
    repeats: int = 0
    steps: int = 0
    date: str = ""
    gflop_per_image: float | None = None
    tflops: float | None = None
    utilisation: float | None = None

    def measured(
        self, ours: list[Seconds], reference: list[Seconds], peak: float, reference_peak: float, steps: int
    ) -> None:
        """Fill in what was measured, sample by sample; peaks in MB."""
        self.fill(**paired(ours, reference, "reference_seconds"), steps=steps)
        taken, theirs = (median(sample.wall for sample in side) for side in (ours, reference))
        self.images_per_second, self.reference_images_per_second = (round(self.batch / s, 2) for s in (taken, theirs))
        self.processor_ratio = processor_ratio(ours, reference, self.device)
        self.peak_mb, self.reference_peak_mb = round(peak), round(reference_peak)

    def counted(self, flop: float, rate: float) -> None:
        """Fill in what a measured row makes of the device: FLOP of ours for one image, and the FLOP/s that it could reach."""
        reached = flop * self.batch / self.seconds
        figures = (flop / 1e9, reached / 1e12, reached / rate)
        self.gflop_per_image, self.tflops, self.utilisation = (float(f"{figure:.4g}") for figure in figures)


def open_table(path: Path) -> Table:
    """Return the table in a CSV."""
    return Table.of(Row, "gradient", path, page)


def page(rows: list[Cells]) -> str:
    """Return the Markdown page of the rows."""
    heads = ["method", "student", "teacher", "batch", "ours", "s/step", "images/s"]
    heads += ["GFLOP/image", "TFLOP/s", "of the device", "reference", "s/step", "images/s", "faster by", "peak MB"]
    heads += ["reference MB", "on"]
    lines, order = [], list(METHODS)
    for r in sorted(rows, key=lambda row: order.index(row["method"])):
        cells = [r["method"], r["model"], r["teacher"], r["batch"], r["variant"], _three(r["seconds"])]
        cells += [r["images_per_second"], _three(r["gflop_per_image"]), _three(r["tflops"])]
        cells += [f"{100 * float(r['utilisation']):.0f} %", r["gradient"], _three(r["reference_seconds"])]
        cells += [r["reference_images_per_second"], faster(r), r["peak_mb"], r["reference_peak_mb"], where(r)]
        lines.append(cells)
    return f"# Training speed\n\n{NOTE}\n{markdown(heads, lines)}"


def _three(number: str) -> str:
    return f"{float(number):.3g}"
