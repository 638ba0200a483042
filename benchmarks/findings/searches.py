"""Measure what the searches of different methods find on the same network: by labels, by its own answers, by a teacher's.

    python benchmarks/findings/searches.py results/cifar10-small/runs/pgd-at-* --teacher zoo:robust-resnet20-cifar10

Each run's last network is searched as in its training (threat, steps, start, the same draws), in fp32 and in bf16, for the x'
that PGD-AT, TRADES and RSLAD train on; all are then judged by the network itself in fp32. The table is printed, and written to
--out as searches.md and searches.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from ardbench.attacks.objectives import divergence, label_loss, own_logits
from ardbench.attacks.pgd import Maximiser
from ardbench.config import Precision
from ardbench.data.load import load
from ardbench.draws import Draws
from ardbench.engine import networks
from ardbench.errors import ArdbenchError
from ardbench.losses import cross_entropy, kl
from ardbench.runs import Run, write_atomic
from ardbench.teachers import locate

SEARCHES = {"labels": "CE(S(x'), y)", "itself": "KL(S(x) || S(x'))", "teacher": "KL(T(x) || S(x'))"}
"""What is maximised, by who says where to go: as in PGD-AT, in TRADES, and in RSLAD."""
BATCH = 100


@dataclass(frozen=True)
class Row:
    """What one search finds: accuracy and means of the three objectives at its x'."""

    run: str
    search: str
    precision: str
    n: int
    accuracy: float
    labels: float
    itself: float
    teacher: float


def rows_of(run: Run, teacher: str, n: int, device: torch.device) -> Iterator[Row]:
    """Yield what each search finds on a run's last network, on the first n test images."""
    recipe = run.recipe
    if recipe.attack is None:
        raise ArdbenchError(f"{run.path} was trained without a search: give runs that have an [attack].")
    net, split = networks.of_run(run, "last", device), load(recipe.data.name, device).test
    n = min(n, len(split))
    taught = networks.of_teacher(locate(teacher), recipe.data.name, device)
    for search in SEARCHES:
        for precision in ("fp32", "bf16"):
            maximise = Maximiser(recipe.threat, recipe.attack, Precision.model_validate({"attack": precision}))
            found = []
            for first in range(0, n, BATCH):
                rows = slice(first, min(first + BATCH, n))
                here = partial(maximise, draws=Draws(0, 0, first, rows.stop - first))
                found.append(judged(search, here, net, taught, split.pixels(rows), split.labels[rows]))
            yield Row(run.path.name, search, precision, n, *torch.cat(found, 1).mean(1).tolist())


@torch.no_grad()
def judged(search: str, maximise: partial[Tensor], net: nn.Module, taught: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return (4, B): whether x' is classified right, and the three objectives there, in fp32."""
    own, theirs = net(x), taught(x)
    with torch.enable_grad():
        x_adv = {
            "labels": lambda: maximise(label_loss, net, x, (y,)),
            "itself": lambda: maximise(divergence, net, x, target=own_logits),
            "teacher": lambda: maximise(divergence, net, x, (theirs,)),
        }[search]()
    said = net(x_adv)
    return torch.stack([(said.argmax(1) == y).float(), cross_entropy(said, y), kl(said, own), kl(said, theirs)])


def page(rows: Sequence[Row], teacher: str) -> str:
    """Return the table in Markdown, below what it is."""
    head = [
        "run",
        "search",
        "precision",
        "accuracy at x' in %",
        *(name.replace("||", "\\|\\|") for name in SEARCHES.values()),
    ]
    lines = [
        (row.run, row.search, row.precision, f"{100 * row.accuracy:.1f}",
         f"{row.labels:.4f}", f"{row.itself:.4f}", f"{row.teacher:.4f}")
        for row in rows
    ]  # fmt: skip
    table = "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))
    return f"""# What searches find

x' is searched on a trained network S by labels (as in PGD-AT), by its own answer at x (TRADES) or by that of a teacher T,
{teacher} (RSLAD), with the threat, steps and start of its training, on the first {rows[0].n} test images, and
judged by S in fp32. bf16 is the attack form of `precision.attack`.

{table}
"""


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, and write where --out says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--teacher", required=True, help="as ardbench distill takes it")
    parser.add_argument("--n", type=int, default=1000, help="test images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="a folder for searches.md and searches.csv")
    told = parser.parse_args(words)
    device = torch.device(told.device)
    try:
        rows = [row for path in told.runs for row in rows_of(Run.open(path), told.teacher, told.n, device)]
    except ArdbenchError as error:
        parser.error(str(error))
    text = page(rows, told.teacher)
    print(text)
    if told.out:
        told.out.mkdir(parents=True, exist_ok=True)
        write_atomic(told.out / "searches.md", text.encode())
        write_atomic(told.out / "searches.csv", pd.DataFrame(rows).to_csv(index=False).encode())


if __name__ == "__main__":
    main()
