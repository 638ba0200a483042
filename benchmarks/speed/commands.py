"""Measure whole commands as processes: the first help, a report on many runs, and going on with a run that was stopped.

    python benchmarks/speed/commands.py

The runs of the report are synthetic: directories as finished digits runs have them, with verdicts drawn at random. The run
to go on with was stopped after its first batch, and each sample makes one more. Rows go to results/speed/commands.csv, with a
page beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

import torch
from tables import Cells, Table, markdown, today

from ardbench import data
from ardbench.cli import STOPPED
from ardbench.engine import networks
from ardbench.engine.checkpoints import save_weights
from ardbench.engine.device import hardware_name
from ardbench.engine.train import environment
from ardbench.evaluation import trust
from ardbench.evaluation.protocols import protocol
from ardbench.evaluation.verdicts import Verdicts, file_name
from ardbench.recipes import resolve
from ardbench.runs import Run, Teacher, sha256_of, write_atomic, write_json
from ardbench.teachers import of_run

CPU = torch.device("cpu")
METHODS = ("pgd-at", "trades", "mart", "rslad", "ard", "iad-i", "adaad", "crdnd")
"""Those of the runs in turn; the fourth and later have the first run as their teacher."""
TAUGHT = METHODS[3:]
PROTOCOLS = ("clean", "fgsm", "pgd20", "pgd20-trades", "cw20", "aa", *trust.FOR_CHECKS)
TARGETS = {"help": 0.3, "report": 3.0, "resume": 5.0}
"""Seconds; those of resume come on top of loading torch."""
HEADS = {
    "help": "`ardbench --help`",
    "report": "`ardbench report`, all runs",
    "resume": "`ardbench distill` goes on, less `import torch`",
}


@dataclass(frozen=True)
class Row:
    """What a command took; the first four fields are its key."""

    name: str
    torch_version: str
    command: str
    runs: int
    seconds: float
    least: float
    most: float
    target: float
    repeats: int
    date: str


def synthetic_runs(root: Path, count: int, dataset: str = "digits") -> list[Run]:
    """Write finished runs with verdicts, and return them; those with a teacher learnt from the first."""
    chance, weights, made_here = Random(0), root.parent / "weights.safetensors", environment(CPU)
    runs: list[Run] = []
    teachers: tuple[Teacher, ...] = ()
    for seed in range(count):
        method = METHODS[seed % len(METHODS)]
        recipe = resolve(f"{method}-{'digits' if dataset == 'digits' else f'{dataset}-level'}", seed=seed)
        taught_by = teachers if method in TAUGHT else ()
        run = Run.place(root, recipe, taught_by)
        run.create(recipe, taught_by, made_here)
        if not runs:
            net = networks.fresh(recipe.student, dataset, recipe.data.normalise, 0, "student", CPU)
            facts = {"model": recipe.student, "dataset": dataset, "normalise": "false"}
            save_weights(weights, net, facts)
            digest = sha256_of(weights)
        for checkpoint in ("last", "best"):
            os.link(weights, run.weights(checkpoint))
        row = {
            "loss": 1.0,
            "val_clean": 0.9,
            "val_robust": 0.5,
            "seconds": 1.0,
            "images": 1000,
            "images_per_second": 1000.0,
        }
        rows = [{"epoch": epoch} | row for epoch in range(recipe.schedule.epochs)]
        write_atomic(run.path / "metrics.jsonl", "".join(f"{json.dumps(one)}\n" for one in rows).encode())
        _evaluate(run, dataset, digest, chance)
        done = {"epochs": len(rows), "seconds": float(len(rows)), "images": 1000 * len(rows), "device": "cpu"}
        write_json(run.path / "done", done | {"best_epoch": 1, "weights": {"last": digest, "best": digest}})
        runs.append(run)
        teachers = teachers or (of_run(run, "robust"),)
    return runs


def _evaluate(run: Run, dataset: str, digest: str, chance: Random) -> None:
    """Write verdicts on the whole test set that are right as often as chance wants, and what the trust checks say of them."""
    info, threat, store = data.info(dataset), run.recipe.evaluation, run.path / "eval" / "last"
    n, measured = info.test_images, {}
    labels = [i % info.num_classes for i in range(n)]
    for place, name in enumerate(PROTOCOLS):
        rules = protocol(name)
        share = 0.9 / (1 + place / 4)
        said = [label if chance.random() < share else chance.randrange(info.num_classes) for label in labels]
        under = rules.under(threat).model_dump(mode="json")
        measured[name] = Verdicts(
            name, rules.version, under, labels, said, list(range(n)), seconds=1.0, batch=500, seed=0, total=n,
            attack=rules.settings(threat), environment={"device": "cpu"}, key={"weights": digest},
        )  # fmt: skip
        measured[name].save(store / file_name(name))
    trust.save(store / file_name(trust.STEM), trust.judged(measured), digest)


def seconds_of(words: Sequence[str], folder: Path, ends: int = 0) -> float:
    """Return the seconds of a process that begins in a folder, whatever it prints; it has to end with this exit code."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - began
    if done.returncode != ends:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return taken


def samples_of(runs: Sequence[Run], folder: Path) -> dict[str, Callable[[], float]]:
    """Return what takes a sample of each command, in seconds."""
    report = ["-m", "ardbench", "report", "--runs", str(runs[0].path.parent)]
    resume = ["-m", "ardbench", "distill", "rslad", "--dataset", "digits", "--teacher", str(runs[0].path)]
    resume += ["--runs", str(folder / "stopped"), "--device", "cpu", "--time-limit", "0.001s"]
    seconds_of(resume, folder, STOPPED)
    return {
        "help": lambda: seconds_of(["-m", "ardbench", "--help"], folder),
        "report": lambda: seconds_of(report, folder),
        "resume": lambda: seconds_of(resume, folder, STOPPED) - seconds_of(["-c", "import torch"], folder),
    }


def open_table(path: Path) -> Table:
    """Return the table in a CSV."""
    return Table.of(Row, "runs", path, page)


def page(rows: list[Cells]) -> str:
    """Return the Markdown page of the rows."""
    heads = ["command", "runs", "seconds", "target", "of", "on"]
    lines = []
    for row in rows:
        seconds = f"{float(row['seconds']):.2f} [{float(row['least']):.2f}, {float(row['most']):.2f}]"
        where = f"{row['name']}, torch {row['torch_version']}, {row['date']}"
        cells = [HEADS[row["command"]], row["runs"], seconds, f"under {float(row['target']):g}"]
        lines.append([*cells, f"{row['repeats']} calls", where])
    about = (
        "Whole processes, wall clock: median [least, most]. The runs of the report are synthetic, of 360 test images."
    )
    return f"# How long commands take\n\n{about}\n\n{markdown(heads, lines)}"


def main(arguments: list[str] | None = None) -> None:
    """Measure every command and print the page."""
    parser = argparse.ArgumentParser(description="Measure whole commands as processes.")
    parser.add_argument("--runs", type=int, default=500, help="of the report")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "speed")
    given = parser.parse_args(arguments)
    table, name = open_table(given.out / "commands.csv"), hardware_name(CPU)
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        for command, sample in samples_of(synthetic_runs(folder / "runs", given.runs), folder).items():
            taken = [sample() for _ in range(given.repeats)]
            seconds, least, most = (round(of(taken), 3) for of in (median, min, max))
            runs = given.runs if command == "report" else 0
            words = (name, torch.__version__, command, runs, seconds, least, most, TARGETS[command])
            table.write(Row(*words, given.repeats, today()))
    print(table.path.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
