"""`ardbench list teachers`: the zoo, and its recorded accuracies measured again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.models import zoo

if TYPE_CHECKING:
    import torch

    from ardbench.data.batches import Split
    from ardbench.models.zoo import Entry, Measured
    from ardbench.progress import Progress

COLUMNS = ("clean", "pgd20", "aa")


def rows() -> list[dict[str, Any]]:
    """Return one row per network of the zoo."""
    from ardbench.reports.evaluations import threat_name

    found = []
    for entry in zoo.ENTRIES.values():
        recorded = {one.protocol: _in_words(one, one.correct) for one in entry.measured}
        found.append(
            {
                "name": entry.name,
                "model": entry.model,
                "dataset": entry.dataset,
                "trained for": threat_name(entry.threat.norm, entry.threat.eps) if entry.threat else "clean images",
                "file": "here" if entry.path.is_file() else "absent",
                **{name: recorded.get(name) for name in COLUMNS},
                "by": entry.by,
            }
        )
    return found


def verify(device_name: str, data_root: Path | None) -> dict[str, str]:
    """Measure again what is recorded, and return for each network "yes", or why it was left out.

    Raises:
        ArdbenchError: a measurement is not what is recorded, with every one that is not.
        Paused: it was stopped.
    """
    from ardbench.data.load import load
    from ardbench.engine.device import choose, describe
    from ardbench.listeners.screen import shown

    device = choose(device_name)
    say(f"Device: {describe(device)}")
    said, faults = {}, list[str]()
    with shown(quiet=False) as progress:
        for name, entry in zoo.ENTRIES.items():
            if not entry.measured or not entry.path.is_file():
                said[name] = "its file is absent" if entry.measured else "nothing is recorded"
                continue
            try:
                split = load(entry.dataset, device, data_root, download=False).test
            except ArdbenchError as error:
                said[name] = f"no data: {error}"
                continue
            faults += _again(entry, split, device, progress)
            said[name] = "yes"
    if faults:
        raise ArdbenchError(f"The zoo is not what is recorded: {'; '.join(faults)}.")
    return said


def _again(entry: Entry, split: Split, device: torch.device, progress: Progress) -> list[str]:
    """Return what differs from the record, one clause for each protocol."""
    from ardbench.evaluation.measure import evaluate
    from ardbench.subjects import FILE, of_zoo

    source, faults = of_zoo(zoo.PREFIX + entry.name, Path()), []
    net = source.network(FILE, device)
    for one in entry.measured:
        now = evaluate(net, split, one.protocol, source.threat, batch=500, n=one.n, progress=progress)
        correct = sum(now.robust)
        if now.version != one.version or abs(correct - one.correct) > one.within:
            faults.append(
                f"{entry.name} under {one.protocol} is recorded with {_in_words(one, one.correct)} by version "
                f"{one.version} and has {_in_words(one, correct)} by version {now.version}"
            )
    return faults


def _in_words(one: Measured, correct: int) -> str:
    return f"{100 * correct / one.n:.2f} % of {one.n}"
