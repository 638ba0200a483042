"""`ardbench eval`: accuracies of a run or of a file under one protocol after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import rich_click as click
from click.exceptions import Exit

from ardbench.cli import STOPPED, options
from ardbench.cli.output import Output, speaking_once, table, typed_again
from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.listeners.log_file import Log
from ardbench.listeners.screen import shown

if TYPE_CHECKING:
    import torch
    from rich.table import Table
    from torch import nn

    from ardbench.cli.sources import Source
    from ardbench.config import Threat
    from ardbench.evaluation.measure import Surrogate
    from ardbench.evaluation.protocols import Protocol

PROTOCOLS = ("clean", "fgsm", "pgd20", "pgd20-trades", "cw20", "aa", "pgd20-scaled", "unbounded")
"""The columns of the full table, and what the trust checks need beside them."""

Row = dict[str, Any]


@click.command("eval")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    metavar="NAME",
    help="What to measure, such as pgd20, aa, aa:apgd-ce,square, or FILE.toml:NAME of your own; may be repeated. "
    f"Without it the full table: {', '.join(PROTOCOLS)}.",
)
@click.option(
    "--surrogate",
    metavar="SOURCE",
    help="The network on which transfer crafts its images: RUN, RUN@CHECKPOINT, an exported folder, FILE:ARCH, "
    "FILE:ARCH+mean=NUMBERS+std=NUMBERS or zoo:NAME.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    type=click.Choice(["last", "best", "averaged"]),
    multiple=True,
    help="Which checkpoint of a run, may be repeated; without it the selected one and the last.",
)
@click.option(
    "--n",
    type=click.IntRange(min=1),
    help="Measure a class-balanced subset of so many test images, always the same one.",
)
@click.option(
    "--eps", type=options.Radius(), metavar="EPS", help="The radius of the attacks in pixel units, such as 8/255."
)
@click.option(
    "--norm",
    type=click.Choice(["linf", "l2"]),
    help="The norm of the attacks; as with --eps, the run's own if not given.",
)
@click.option(
    "--batch",
    type=options.Batch(),
    default=500,
    show_default=True,
    help="Images at a time; it decides the noise of the attacks. auto: tried out once for this network and device, "
    "and remembered below --runs.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The seed of the attacks.")
@click.option(
    "--fast",
    is_flag=True,
    help="Run AutoAttack's attacks in bf16, every success confirmed in fp32; measured as aa-fast, beside aa.",
)
@click.option(
    "--keep-adversarial",
    is_flag=True,
    help="Keep the image that took each point, or else the clean one, in PROTOCOL.adversarial.safetensors.",
)
@click.option("--model", metavar="NAME", help="For a file: the architecture whose weights it holds.")
@click.option("--dataset", metavar="NAME", help="For a file: the data set to measure on.")
@click.option(
    "--part",
    default="",
    metavar="PART",
    help="For a file that holds several networks: which of them, such as ema or student.",
)
@options.mean
@options.std
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="For a file: where its verdicts are kept; without it a folder under --runs named after file and weights.",
)
@options.running
def evaluate(source: Path, **words: Any) -> None:
    """Measure accuracies with their 95 % intervals.

    SOURCE is a run directory, an exported folder, a file of weights with --model and --dataset (pixels in [0, 1] go in;
    where its code normalises them, --mean and --std say by what, and `ardbench identify` finds out), or zoo:NAME.
    Verdicts are kept beside the run, and what is kept already is not measured again. At another --eps, --norm or --seed
    than the run's own they are kept in eval-other/, out of the tables. Trust checks follow: signs that an attack has failed.

    AutoAttack is shared by several processes with `torchrun --nproc-per-node N -m -- ardbench eval ...`.
    """
    with speaking_once():
        _evaluate(Wanted(source=source, **words))


def _evaluate(wanted: Wanted) -> None:
    where, log = wanted.located(), Log.to(wanted.log_file)
    threat = threat_of(where.threat, wanted.norm, wanted.eps)
    output = Output(wanted.as_json)
    results: list[Row] = []
    trusted: list[Row] = []
    finished = _measure(where, wanted, threat, results, trusted, output, log)
    log.write("finished" if finished else "stopped", where.path.name)
    output.line(_heading(where, threat))
    for row in results:
        if len(row["taken"]) > 2:
            taken = ", ".join(f"{attack} {points}" for attack, points in row["taken"].items())
            output.line(f"{row['protocol']}, {row['checkpoint']}: points taken by {taken}.")
    for text in dict.fromkeys(f"{row['protocol']}: {note}" for row in results for note in row["notes"]):
        output.line(text)
    if trusted:
        doubtful = [row for row in trusted if row["verdict"] != "ok"]
        output.line(f"Trust checks: {len(trusted) - len(doubtful)} of {len(trusted)} ok{', but' if doubtful else '.'}")
        if doubtful:
            output.show(table(list(trusted[0]), [list(row.values()) for row in doubtful]))
    output.show(_table(results))  # last, where the eye is
    facts = {"source": str(wanted.source), "model": where.model, "dataset": where.dataset, "threat": vars(threat)}
    output.document({**facts, "finished": finished, "results": results, "trust": trusted})
    if not finished:
        output.line(f"To go on, type the same command again: {typed_again()}")
        raise Exit(STOPPED)


@dataclass(frozen=True)
class Wanted:
    """What was typed; the fields are the options."""

    source: Path
    protocols: tuple[str, ...]
    surrogate: str | None
    checkpoints: tuple[str, ...]
    n: int | None
    eps: float | None
    norm: Literal["linf", "l2"] | None
    batch: int | Literal["auto"]
    seed: int
    fast: bool
    keep_adversarial: bool
    model: str | None
    dataset: str | None
    part: str
    mean: str | None
    std: str | None
    out: Path | None
    device: str
    data_root: Path | None
    runs: Path
    deadline: float | None
    quiet: bool
    log_file: Path | None
    as_json: bool

    def located(self) -> Source:
        """Return the run or the file, after everything that can be refused before torch is loaded."""
        from ardbench import data
        from ardbench.cli.sources import of_export, of_file, of_run
        from ardbench.exports import export_in
        from ardbench.models.normalisation import normalisation
        from ardbench.teachers import locate

        self.rules()
        seen = normalisation(self.mean, self.std)
        if self.surrogate is not None:
            locate(self.surrogate)
        exported = self.source.is_dir() and export_in(self.source)
        if self.source.is_dir() and not exported:
            if self.model or self.dataset or self.out or self.part or seen:
                raise ArdbenchError(
                    f"{self.source} is a run and knows its model and data set: leave out --model, --dataset, --part, --mean, "
                    "--std and --out."
                )
            found = of_run(self.source, self.checkpoints)
        elif self.checkpoints:
            raise ArdbenchError(
                f"{self.source} is no run directory: --checkpoint chooses among the checkpoints of a run."
            )
        elif exported:
            if self.model or self.dataset or self.part or seen:
                raise ArdbenchError(
                    f"{self.source} is an exported network and knows its model and data set: leave out --model, --dataset, "
                    "--part, --mean and --std."
                )
            found = of_export(self.source, self.runs, self.out)
        else:
            found = of_file(self.source, self.model, self.dataset, self.part, seen, self.runs, self.out)
        images = data.info(found.dataset).test_images
        if self.n is not None and self.n > images:
            raise ArdbenchError(
                f"--n {self.n} is more than the {images} test images of {found.dataset}: give at most {images}."
            )
        return found

    def rules(self) -> list[Protocol]:
        """Return the protocols that were asked for; --fast and --surrogate fit at least one, and what needs them has them."""
        from ardbench.evaluation.protocols import AutoAttack, Pgd, asked, fast_form

        rules = [asked(name) for name in self.protocols or PROTOCOLS]
        for one in rules:
            one.check_surrogate(self.surrogate is not None)
        if self.surrogate is not None and not any(isinstance(one, Pgd) and one.surrogate for one in rules):
            raise ArdbenchError("--surrogate is for protocols that are crafted on it: add --protocol transfer.")
        if self.fast and not any(isinstance(one, AutoAttack) for one in rules):
            names = ", ".join(one.name for one in rules)
            raise ArdbenchError(f"--fast is for AutoAttack, and {names} is none: leave it out.")
        return [fast_form(one) if self.fast and isinstance(one, AutoAttack) else one for one in rules]


def threat_of(own: Threat, norm: Literal["linf", "l2"] | None, eps: float | None) -> Threat:
    """Return the threat to measure under: the source's own, unless --norm and --eps say otherwise."""
    from ardbench.config import Threat

    norm = norm or own.norm
    if eps is None and norm != own.norm:
        raise ArdbenchError(f"--norm {norm} needs --eps with it: a radius of one norm means nothing in another.")
    eps = own.eps if eps is None else eps
    if norm == "linf" and eps > 1:
        raise ArdbenchError(
            f"--eps {eps:g} is larger than any pixel, which lie in [0, 1]: give a fraction such as {eps:g}/255."
        )
    return Threat(norm=norm, eps=eps)


def _measure(
    source: Source, wanted: Wanted, threat: Threat, results: list[Row], trusted: list[Row], output: Output, log: Log
) -> bool:
    """Append a result per checkpoint and protocol and what the trust checks say; return whether all were measured.

    False: stopped, and the checks of that checkpoint are not made.
    """
    from ardbench import processes
    from ardbench.data.load import load
    from ardbench.engine.device import choose, describe
    from ardbench.engine.stopping import stopping
    from ardbench.evaluation.measure import evaluate as measure
    from ardbench.evaluation.network_checks import examine
    from ardbench.evaluation.verdicts import Paused, file_name
    from ardbench.models.network import key_of, notes_of

    device = choose(wanted.device)
    with (
        processes.joined(),
        output.working(),
        stopping(wanted.deadline) as stop,
        shown(wanted.quiet) as screen,
        log.of(source.path.name, screen) as progress,
    ):
        say(f"Device: {describe(device)}")
        split = processes.first(lambda: load(source.dataset, device, wanted.data_root, progress=progress)).test
        n = None if wanted.n == len(split) else wanted.n
        surrogate = _surrogate(wanted.surrogate, source.dataset, device)
        for checkpoint in source.checkpoints:
            net = source.network(checkpoint, device)
            key = source.key(checkpoint) | key_of(net)
            for note in notes_of(net):
                progress.note(note)
            store = source.store(checkpoint, threat, wanted.seed)
            twin = source.twin(checkpoint, threat, wanted.seed)
            batch = _batch(source, wanted, device, net, split.pixels(slice(0, 1)))
            for rules in wanted.rules():
                file = store / file_name(rules.name, n)
                before = _written(file)
                try:
                    verdicts = measure(
                        net, split, rules, threat, batch=batch, seed=wanted.seed, n=n, store=store, key=key,
                        twin=twin, surrogate=surrogate, progress=progress, stop=stop,
                        keep_adversarial=wanted.keep_adversarial,
                    )  # fmt: skip
                except Paused as paused:
                    say(str(paused))
                    return False
                stored = before is not None and before == _written(file)
                results.append(_row(checkpoint, rules.name, verdicts, stored))
                log.write("measured", source.path.name, **results[-1])
            findings = processes.once(partial(examine, net, split, store, n, key))
            trusted += [
                {"verdict": one.level, "check": one.check, "checkpoint": checkpoint, "reason": one.reason}
                for one in findings
            ]
    return True


def _surrogate(source: str | None, dataset: str, device: torch.device) -> Surrogate | None:
    """Return the network that --surrogate names, if it does."""
    from ardbench.engine import networks
    from ardbench.evaluation.measure import Surrogate
    from ardbench.models.network import key_of
    from ardbench.teachers import locate

    if source is None:
        return None
    teacher = locate(source)
    known = (
        teacher.identity if teacher.identity.startswith(teacher.sha256) else teacher.sha256
    )  # part and size count too
    net = networks.of_teacher(teacher, dataset, device)
    return Surrogate(net, Path(source).name, " ".join([known, *key_of(net).values()]))


def _batch(source: Source, wanted: Wanted, device: torch.device, net: nn.Module, image: torch.Tensor) -> int:
    """Return the batch that was typed, or the one that this network and device want."""
    if wanted.batch != "auto":
        return wanted.batch
    from ardbench import processes
    from ardbench.engine.device import describe
    from ardbench.evaluation.batch_size import remembered

    file, name = wanted.runs / "batches.json", f"{source.model} on {source.dataset}, {describe(device)}"
    batch = processes.once(lambda: remembered(file, name, net, image))
    say(f"Batch: {batch} ({file})")
    return batch


def _written(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None


def _row(checkpoint: str, protocol: str, verdicts: Any, stored: bool) -> Row:
    low, high = verdicts.interval
    return {
        "checkpoint": checkpoint,
        "protocol": protocol,
        "version": verdicts.version,
        "accuracy": verdicts.accuracy,
        "low": low,
        "high": high,
        "n": verdicts.n,
        "total": verdicts.total,
        "seconds": verdicts.seconds,
        "stored": stored,
        "taken": verdicts.taken,
        "unconfirmed": verdicts.unconfirmed,
        "notes": verdicts.notes,
    }


def _heading(source: Source, threat: Threat) -> str:
    from ardbench.reports.results import threat_name

    seen = source.normalise or (source.teacher.seen if source.teacher else "")
    by = f", inputs normalised by{seen.replace('+', ' ')}" if seen else ""
    return f"{source.path}: {source.model} on {source.dataset}, {threat_name(threat.norm, threat.eps)}{by}"


def _table(results: list[Row]) -> Table:
    """Return the table for people; a subset says so in its interval's column."""
    rows = [
        (
            row["checkpoint"],
            row["protocol"],
            f"{100 * row['accuracy']:.2f}",
            f"[{100 * row['low']:.2f}, {100 * row['high']:.2f}]",
            row["n"] if row["n"] == row["total"] else f"{row['n']} of {row['total']}",
            "stored" if row["stored"] else f"{row['seconds']:.1f}",
        )
        for row in results
    ]
    columns = ["checkpoint", "protocol", "accuracy %", "95 % interval", "n", "seconds"]
    return table(columns, rows, ["accuracy %", "95 % interval", "n", "seconds"])
