"""`ardbench.verify`: whether runs, exports and reports are what they say. Torch-free until a network is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ardbench.data import heeds_data_root
from ardbench.errors import ArdbenchError
from ardbench.evidence import check
from ardbench.listeners import say
from ardbench.runs import Run, all_runs, read_json

if TYPE_CHECKING:
    from ardbench.data.batches import Split
    from ardbench.evidence import Labels

State = Literal["verified", "unfinished", "failed"]
PAGES = (".html", ".md", ".tex")
"""Forms of a report that are made of its CSV."""


@dataclass(frozen=True)
class Verified:
    """What became of one run, export or report.

    Args:
        state: whether everything agrees; of a run that is not finished there is only what there is.
        sentence: what was held against what, or the first thing that does not agree.
        facts: the counts behind it.
    """

    path: Path
    state: State
    sentence: str
    facts: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        return {"path": str(self.path), "state": self.state, **self.facts, "sentence": self.sentence}


@heeds_data_root
def verify(
    *paths: str | Path,
    again: int | None = None,
    device: str = "auto",
    data_root: str | Path | None = None,
    runs: str | Path = "runs",
) -> list[Verified]:
    """Return whether runs, exports and reports are what they say, in order; nothing is written.

    Args:
        paths: run directories, folders of them, exported folders, or CSVs that `report` wrote.
        again: measure clean and pgd20 on so many test images of each run once more, where verdicts of them are kept.
        device: for what a network is asked.
        data_root: where data sets lie; what is not there is not held against.
        runs: the folder in which the runs lie that a report names.

    Raises:
        ArdbenchError: there is nothing to verify at one of the paths.
    """
    return list(verified(paths, again, device, data_root, runs))


def verified(
    paths: Sequence[str | Path], again: int | None, device: str, data_root: str | Path | None, runs: str | Path
) -> Iterator[Verified]:
    """Yield what `verify` returns, each when it is there."""
    bench = _Bench(again, device, None if data_root is None else Path(data_root), Path(runs))
    for path in [subject for given in paths for subject in _subjects(Path(given))]:
        try:
            yield bench.held(path)
        except (ArdbenchError, OSError) as error:
            yield Verified(path, "failed", f"{path}: not verified. {error}")


def _subjects(path: Path) -> list[Path]:
    """Return the run, export or report that a path is, or the runs in it."""
    if path.suffix in PAGES and path.is_file():
        beside = path.with_suffix(".csv")
        named = str(beside) if beside.is_file() else f"which report --out {path.parent} writes"
        raise ArdbenchError(f"{path} was made of the report's CSV: verify that, {named}.")
    one = (path / "config.json").is_file() or (path.suffix == ".csv" and path.is_file())
    found = [path] if one else [run.path for run in all_runs(path)]
    if not found:
        raise ArdbenchError(
            f"{path} holds nothing to verify: give a run directory, a folder of them, an export, or the CSV of a report."
        )
    return found


@dataclass
class _Bench:
    """What all subjects are held against: the words, the data sets that are here, and the labels told so far."""

    again: int | None
    device: str
    data_root: Path | None
    runs: Path
    splits: dict[str, Split | str] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)

    def held(self, path: Path) -> Verified:
        """Return what agrees, or raise the first thing that does not."""
        if path.suffix == ".csv":
            return self._report(path)
        if "format" not in read_json(path / "config.json"):
            return self._run(path)
        from ardbench.engine.replay import check_export

        check_export(path)
        return Verified(
            path, "verified", f"{path}: verified. The weights are those that config.json describes, and load."
        )

    def _report(self, path: Path) -> Verified:
        from ardbench.reports.recount import recount

        found = recount(path, self.runs)
        words = [
            f"{_count(found.numbers, 'number')} counted again from the verdicts of {_count(found.networks, 'network')}"
        ]
        if found.published:
            words.append(f"{_count(found.published, 'published number')} as benchmarks/published.csv has them")
        if found.absent:
            words.append(
                f"{_count(found.absent, 'number')} not held against anything, since their verdicts are not here"
            )
        state: State = "verified" if found.numbers else "unfinished"
        begin = "verified" if found.numbers else "nothing to hold it against"
        return Verified(path, state, f"{path}: {begin}. {'; '.join(words)}.", vars(found))

    def _run(self, path: Path) -> Verified:
        run = Run(path)
        counts = check(run, self.labels)
        facts = {name: getattr(counts, name) for name in ("weights", "teachers", "verdicts", "images")}
        if not counts.finished:
            epochs = f"{len(run.metrics)} of {run.recipe.schedule.epochs} epochs; what there is of it is whole"
            return Verified(path, "unfinished", f"{path}: not finished, {epochs}.", facts)
        words = [f"{_count(counts.weights, 'checkpoint')} whole"]
        if counts.taught_by:
            words.append(f"{counts.teachers} of {_count(counts.taught_by, 'teacher')} at hand and the same")
        words += self._against_data(run, counts.verdicts, counts.images)
        return Verified(path, "verified", f"{path}: verified. {'; '.join(words)}.", facts)

    def _against_data(self, run: Run, verdicts: int, images: int) -> list[str]:
        """Return what the data set says of a run's verdicts, in words."""
        if not verdicts:
            return ["nothing measured"]
        counted = f"{_count(verdicts, 'file')} of verdicts counted again, on up to {_count(images, 'image')}"
        split = self._split(run.recipe.data.name)
        if isinstance(split, str):
            return [f"{counted}, held against each other alone, since there are no data ({split.rstrip('.')})"]
        from ardbench.engine.replay import Replay

        replay = Replay(run, split)
        replay.data()
        words = [f"{counted}, and held against {split.info.name}"]
        if kept := replay.images():
            words.append(f"{_count(kept, 'file')} of adversarial images classified again in fp32")
        if self.again is not None:
            words.append(
                f"measured again: {', '.join(replay.again(min(self.again, len(split)))) or 'nothing to compare'}"
            )
        return words

    def _split(self, dataset: str) -> Split | str:
        """Return the test set, or why it is not here."""
        from ardbench.data.load import load
        from ardbench.engine.device import choose, describe

        if dataset not in self.splits:
            device = choose(self.device)
            say(f"Device: {describe(device)}")
            try:
                self.splits[dataset] = load(dataset, device, self.data_root, download=False).test
            except ArdbenchError as error:
                self.splits[dataset] = str(error)
        return self.splits[dataset]


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
