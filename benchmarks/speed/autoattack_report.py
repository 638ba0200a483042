"""The rows that the speed benchmark of AutoAttack writes, their CSV and the Markdown page beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tables import Cells, Measurement, Seconds, Table, faster, markdown, paired, processor_ratio, where

NOTE = """\
AutoAttack standard under L-inf, in one process, in turn, on the same network and images. "Package" is `pyautoattack` as a
paper's script calls it: `AutoAttack(net, ...).run_standard_evaluation(x, y)`, the network in eval mode, its parameters left
asking for gradients, in the package's own batches, torch as it comes (on CUDA: TF32 in convolutions, unless a row says
otherwise). `aa` and `aa-fast` are ours as `ardbench eval` runs them: state on disk after each batch, every success
confirmed in fp32 without TF32, ball and box checked, `aa-fast` attacking a bf16 form of the network.
What costs are the points that stay: they see all four attacks to the end. So a trained network without robustness would
measure next to nothing. Without `--teacher` the network is fresh, its own predictions are the labels of synthetic images
(one colour and a little noise each), and eps is where the first-order distance from another class (margin over the L1 norm
of its gradient) of a quarter of the images lies, so that about three quarters stay; "robust" says how many did.
Seconds are medians; the ratio is the median of paired runs, with the least and largest in brackets where there were more
than one; on the CPU also that of processor time, which busy neighbours disturb less. Another batch is another noise, so that
verdicts near the boundary differ: below, each such image with the side and attack that alone took it, and the margin of
the fp32 logits (that of the label minus the largest other one) at its adversarial image, negative where it is fooled, positive
where only the package's own arithmetic was, as TF32 may be. "Again" counts claims in bf16 that
fp32 did not confirm: these points were attacked again in fp32.
"""

ATTACKS = ("clean", "apgd-ce", "apgd-t", "fab-t", "square")


@dataclass
class Row(Measurement):
    """One of our protocols against the package; everything up to `protocol` is its key."""

    model: str
    weights: str
    n: int
    eps: float
    batch: int
    package_batch: int
    tf32: bool
    protocol: str
    seconds: float = 0.0
    package_seconds: float = 0.0
    ratio: float = 0.0
    ratio_min: float = 0.0
    ratio_max: float = 0.0
    processor_ratio: float | None = None
    robust: int = 0
    package_robust: int = 0
    differing: int = 0
    unconfirmed: int = 0
    attacks: str = ""
    package_attacks: str = ""
    differences: str = ""
    repeats: int = 0
    date: str = ""

    def timed(
        self,
        ours: list[Seconds],
        package: list[Seconds],
        attacks: Mapping[str, float],
        package_attacks: Mapping[str, float],
    ) -> None:
        """Fill in the seconds of whole runs, sample by sample, and those of each attack in the last of them."""
        self.fill(**paired(ours, package, "package_seconds", 3))
        self.processor_ratio = processor_ratio(ours, package, self.device)
        self.attacks, self.package_attacks = (
            " ".join(f"{name}={seconds:.2f}" for name, seconds in side.items()) for side in (attacks, package_attacks)
        )

    def judged(self, labels: list[int], ours: list[int], package: list[int], unconfirmed: int) -> None:
        """Fill in how many of the points stood, from what each side said about them."""
        self.robust, self.package_robust = (sum(map(int.__eq__, labels, side)) for side in (ours, package))
        self.unconfirmed = unconfirmed

    def explained(self, differences: list[str]) -> None:
        """Fill in the images about which the verdicts differ, a sentence for each."""
        self.differing, self.differences = len(differences), "; ".join(differences)


def open_table(path: Path) -> Table:
    """Return the table in a CSV."""
    return Table.of(Row, "protocol", path, page)


def page(rows: list[Cells]) -> str:
    """Return the Markdown page of the rows."""
    heads = ["protocol", "network", "n", "eps", "batch", "package's", "s", "package s", "faster by"]
    heads += ["robust", "package's", "differing", "again", "on"]
    lines, shares, told = [], [], []
    for r in rows:
        network = r["model"] if r["weights"] == "fresh" else f"{r['model']} ({r['weights']})"
        cells = [r["protocol"], network, r["n"], f"{255 * float(r['eps']):.4g}/255", r["batch"], r["package_batch"]]
        cells += [*(f"{float(r[side]):.4g}" for side in ("seconds", "package_seconds")), faster(r)]
        cells += [r["robust"], r["package_robust"], r["differing"], r["unconfirmed"], where(r)]
        lines.append(cells)
        ours, package = (dict(part.split("=") for part in r[name].split()) for name in ("attacks", "package_attacks"))
        shares.append(
            [f"{r['protocol']}, {network}, n {r['n']}", *(f"{ours[a]} / {package.get(a, '-')}" for a in ATTACKS)]
        )
        told += [f"- {r['protocol']}, {network}: {line}" for line in r["differences"].split("; ") if line]
    parts = [
        "# AutoAttack's speed\n",
        NOTE,
        markdown(heads, lines),
        "## Seconds of each attack, ours / the package's\n",
    ]
    parts += [markdown(["row", *ATTACKS], shares), "## Differing verdicts\n"]
    return "\n".join([*parts, *(told or ["None."])]) + "\n"
