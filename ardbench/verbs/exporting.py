"""A network as a folder that others can load: weights, config.json and a card. Torch-free until it writes."""

from __future__ import annotations

from pathlib import Path

from ardbench.errors import ArdbenchError
from ardbench.exports import CONFIG, WEIGHTS, export_in
from ardbench.reports.card import card, card_of_file, trust_findings
from ardbench.runs import write_atomic
from ardbench.subjects import FILE, Subject, Words
from ardbench.verbs.evaluating import the_one

CARD = "README.md"


def export(source: str | Path, out: Path, told: Words) -> list[Path]:
    """Write a subject's network into a folder, and return the files.

    Args:
        source: a run, RUN@CHECKPOINT, SUITE:NAME of one seed, FILE, FILE:ARCH, or zoo:NAME.
        out: new, empty, or an earlier export of the same network.
        told: beside the source.

    Raises:
        ArdbenchError: it is an export already, its weights are damaged, or the folder holds something else.
    """
    if Path(source).is_dir() and export_in(Path(source)):
        raise ArdbenchError(f"{source} is an exported network already: copy the folder.")
    subject = the_one(source, told)
    text = _of_file(subject, out) if subject.run is None else _of_run(subject, out)
    write_atomic(out / CARD, text.encode())
    return [out / name for name in (WEIGHTS, CONFIG, CARD)]


def _of_run(subject: Subject, out: Path) -> str:
    """Write all but the card of a run's checkpoint, and return the card."""
    from ardbench.engine import exported

    assert subject.run is not None
    run, chosen = subject.run, subject.checkpoints[0]
    text = card(
        run, chosen, exported.describe(run, chosen)
    )  # first: what it reads may be damaged, and nothing is written
    exported.export(run, chosen, out)
    return text


def _of_file(subject: Subject, out: Path) -> str:
    """Write all but the card of a file's network, and return the card."""
    import torch

    from ardbench.engine import exported

    found = list(subject.measured(FILE, subject.threat))
    findings = list(trust_findings(subject.store(FILE, subject.threat, 0)))
    net, model = subject.network(FILE, torch.device("cpu")), subject.model.partition("@")[0]
    config = exported.export_other(net, model, subject.dataset, subject.name, subject.sha256(FILE), out)
    return card_of_file(config, found, findings)
