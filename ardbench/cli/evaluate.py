"""`ardbench eval`: accuracies of runs, files, exports and networks of the zoo under one protocol after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import rich_click as click
from click.exceptions import Exit

from ardbench.cli import DISAGREED, STOPPED, costs, options
from ardbench.cli.output import Output, speaking_once, typed_again
from ardbench.listeners import say
from ardbench.listeners.drawn import table
from ardbench.listeners.log_file import Log
from ardbench.listeners.screen import shown
from ardbench.verbs import FULL_TABLE

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from ardbench.progress import Progress
    from ardbench.subjects import Subject
    from ardbench.verbs.measuring import Evaluation, Measurement


@click.command("eval")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.evaluation
@options.of_file
@options.dry_run
@options.running
def evaluate(sources: tuple[Path, ...], **words: Any) -> None:
    """Measure accuracies with their 95 % intervals.

    SOURCE is a run directory, RUN@CHECKPOINT, an exported folder, a file of weights with --model and --dataset or FILE:ARCH
    (pixels in [0, 1] go in; where its code normalises them, --mean and --std say by what, and `ardbench identify` finds
    out), zoo:NAME, or SUITE:NAME for a run of a suite with its finished seeds; several are measured one after the other.
    Verdicts are kept beside the run, and what is kept already is not measured again. At another --eps, --norm or --seed
    than the run's own they are kept in eval-other/, out of the tables. Trust checks follow: signs that an attack has failed.

    AutoAttack is shared by several processes with `torchrun --nproc-per-node N -m -- ardbench eval ...`.
    """
    with speaking_once():
        _evaluate(sources, **words)


def _evaluate(
    sources: tuple[Path, ...], protocols: tuple[str, ...], surrogate: str | None, checkpoints: tuple[str, ...], n: int | None,
    eps: float | None, norm: Literal["linf", "l2"] | None, batch: int | Literal["auto"], seed: int, again: bool,
    fast: bool, keep_adversarial: bool, model: str | None, dataset: str | None, part: str, mean: str | None, std: str | None,
    out: Path | None, dry_run: bool, device: str, data_root: Path | None, runs: Path, deadline: float | None, quiet: bool,
    log_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    from ardbench.subjects import Words
    from ardbench.verbs.evaluating import ask, gathered, prepared
    from ardbench.verbs.measuring import measured
    from ardbench.verbs.repeating import repeats

    question = ask(protocols or FULL_TABLE, n, eps, norm, batch, seed, fast, keep_adversarial, surrogate, runs)
    told = Words(checkpoints, model, dataset, part, mean, std, out, runs)
    several = [question, replace(question, seed=seed + 1)] if again else [question]
    subjects, left = gathered(sources, told)
    jobs = [prepared(subject, asked, runs) for subject in subjects for asked in several]
    for text in left:
        say(text)
    output, log = Output(as_json), Log.to(log_file)
    if dry_run:
        return costs.show_evaluation(jobs, device, output)

    @contextlib.contextmanager
    def listening(subject: Subject) -> Iterator[Progress]:
        with output.working(), shown(quiet) as screen, log.of(subject.name, screen) as progress:
            yield progress

    def heard(subject: Subject, row: Measurement) -> None:
        log.write("measured", subject.name, **row.document())

    def named(device: torch.device) -> None:
        from ardbench.engine.device import describe
        from ardbench.verbs.costing import warn_of_hours

        say(f"Device: {describe(device)}")
        warn_of_hours(jobs, device)

    found = []
    for one in measured(jobs, device, data_root, deadline, listening, heard, named):
        log.write("finished" if one.finished else "stopped", one.subject.name)
        _show(one, output)
        found.append(one)
    twice = [one for pair in zip(found[::2], found[1::2], strict=False) for one in repeats(*pair)] if again else []
    for repeat in twice:
        output.line(repeat.sentence)
    documents, beside = [one.document() for one in found], {"again": [one.document() for one in twice]} if again else {}
    output.document(
        documents[0] if len(jobs) == 1 else {"finished": found[-1].finished, "subjects": documents} | beside
    )
    if not found[-1].finished:
        output.line(f"To go on, type the same command again: {typed_again()}")
        raise Exit(STOPPED)
    if not all(repeat.agrees for repeat in twice):
        raise Exit(DISAGREED)


def _show(found: Evaluation, output: Output) -> None:
    """Print what was measured of a subject: who took the points, notes, trust checks, and its table."""
    output.line(_heading(found))
    for one in found.measured:
        if len(one.verdicts.taken) > 2:
            taken = ", ".join(f"{attack} {points}" for attack, points in one.verdicts.taken.items())
            output.line(f"{one.protocol}, {one.checkpoint}: points taken by {taken}.")
    for text in dict.fromkeys(f"{one.protocol}: {note}" for one in found.measured for note in one.verdicts.notes):
        output.line(text)
    if trusted := found.trust:
        sound, doubts = sum(row["verdict"] == "ok" for row in trusted), found.doubts
        output.line(f"Trust checks: {sound} of {len(trusted)} ok{', but' if doubts else '.'}")
        if doubts:
            output.show(table(list(trusted[0]), [list(row.values()) for row in doubts]))
    output.show(_table(found))  # last, where the eye is


def _heading(found: Evaluation) -> str:
    from ardbench.reports.evaluations import threat_name

    subject = found.subject
    by = f", inputs normalised by{subject.seen.replace('+', ' ')}" if subject.seen else ""
    under = threat_name(found.threat.norm, found.threat.eps) + (f", seed {found.seed}" if found.seed else "")
    return f"{subject.path}: {subject.model} on {subject.dataset}, {under}{by}"


def _table(found: Evaluation) -> Table:
    """Return the table for people; a subset says so in its column of n."""
    rows = [
        (
            row["checkpoint"],
            row["protocol"],
            f"{100 * row['accuracy']:.2f}",
            f"[{100 * row['low']:.2f}, {100 * row['high']:.2f}]",
            row["n"] if row["n"] == row["total"] else f"{row['n']} of {row['total']}",
            "stored" if row["stored"] else f"{row['seconds']:.1f}",
        )
        for row in (one.numbers() for one in found.measured)
    ]
    columns = ["checkpoint", "protocol", "accuracy %", "95 % interval", "n", "seconds"]
    return table(columns, rows, ["accuracy %", "95 % interval", "n", "seconds"])
