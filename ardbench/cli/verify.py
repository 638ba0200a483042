"""`ardbench verify`: whether runs and exports are what they say, one sentence each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError
from ardbench.listeners import say

if TYPE_CHECKING:
    from ardbench.data.batches import Split
    from ardbench.evidence import Labels


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--again",
    type=click.IntRange(min=1),
    metavar="N",
    help="Measure clean and pgd20 on N test images once more, where verdicts of them are kept and the data set is here.",
)
@options.device
@options.data_root
@options.as_json
def verify(paths: tuple[Path, ...], again: int | None, device: str, data_root: Path | None, as_json: bool) -> None:
    """Check that runs and exported networks are what they say.

    PATH is a run directory, a folder of them, or an exported folder. Of a run: its name is the hash of its recipe and
    teachers, its weights and those of teachers beside it have their checksums, there is a row for every epoch, and every
    verdict, counted again, belongs to these weights. Where the data set is here, labels and images are held against it
    and kept adversarial images are classified again in fp32. A checksum does not tell an honest file from a forged one;
    --again does for what it measures.

    Exit code 1: something does not agree.
    """
    output, bench = Output(as_json), _Bench(again, device, data_root)
    rows = []
    for path in (subject for given in paths for subject in _subjects(given)):
        try:
            rows.append({"path": str(path), "state": "verified", **bench.check(path)})
        except (ArdbenchError, OSError) as error:
            rows.append({"path": str(path), "state": "failed", "sentence": f"{path}: not verified. {error}"})
        output.line(rows[-1]["sentence"])
    output.document({"subjects": rows})
    states = Counter(row["state"] for row in rows)
    if len(rows) > 1:
        unfinished = f", {states['unfinished']} not finished" if states["unfinished"] else ""
        output.line(f"{states['verified']} of {len(rows)} verified{unfinished}.")
    if states["failed"]:
        raise Exit(1)


def _subjects(path: Path) -> list[Path]:
    """Return the run or export that a path is, or the runs in it."""
    from ardbench.runs import all_runs

    found = [path] if (path / "config.json").is_file() else [run.path for run in all_runs(path)]
    if not found:
        raise ArdbenchError(f"{path} holds nothing to verify: give a run directory, a folder of them, or an export.")
    return found


@dataclass
class _Bench:
    """What all subjects are held against: the options, the data sets that are here, and the labels told so far."""

    again: int | None
    device: str
    data_root: Path | None
    splits: dict[str, Split | str] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)

    def check(self, path: Path) -> dict[str, Any]:
        """Return what agrees, or raise the first thing that does not."""
        from ardbench.runs import read_json

        if "format" in read_json(path / "config.json"):
            from ardbench.engine.replay import check_export

            check_export(path)
            return {"sentence": f"{path}: verified. The weights are those that config.json describes, and load."}
        return self._run(path)

    def _run(self, path: Path) -> dict[str, Any]:
        from ardbench.evidence import check
        from ardbench.runs import Run

        run = Run(path)
        counts = check(run, self.labels)
        facts = {name: getattr(counts, name) for name in ("weights", "teachers", "verdicts", "images")}
        if not counts.finished:
            epochs = f"{len(run.metrics)} of {run.recipe.schedule.epochs} epochs; what there is of it is whole"
            return facts | {"state": "unfinished", "sentence": f"{path}: not finished, {epochs}."}
        words = [f"{_count(counts.weights, 'checkpoint')} whole"]
        if counts.taught_by:
            words.append(f"{counts.teachers} of {_count(counts.taught_by, 'teacher')} at hand and the same")
        words += self._against_data(run, counts.verdicts, counts.images)
        return facts | {"sentence": f"{path}: verified. {'; '.join(words)}."}

    def _against_data(self, run: Any, verdicts: int, images: int) -> list[str]:
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
