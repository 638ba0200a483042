"""`ardbench.reproduce` and `ardbench.sweep`: what a suite's tables need, and the tables. Torch-free until it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ardbench.campaigns.cells import Cell, carried, planned
from ardbench.campaigns.suites import Suite
from ardbench.campaigns.varied import chosen, sweep_suite
from ardbench.data import heeds_data_root
from ardbench.engine.stopping import after, late
from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.listeners.log_file import Log
from ardbench.listeners.tracking import Tracking
from ardbench.recipes import parsed
from ardbench.recipes.toml import written
from ardbench.runs import Run, check_makeable, write_atomic
from ardbench.subjects import is_object, teaching
from ardbench.verbs import SWEPT, copying, texts
from ardbench.verbs.engines import Engine
from ardbench.verbs.training import FAST, several

if TYPE_CHECKING:
    import pandas as pd

    from ardbench.campaigns.graph import Outcome
    from ardbench.progress import Progress
    from ardbench.reports import Table
    from ardbench.reports.reference import Comparison, Reference
    from ardbench.reports.transfer import Matrix


@dataclass(frozen=True)
class Made:
    """What a suite's runs gave.

    Args:
        frame: the tidy results, as of `ardbench.results`.
        swept: the table with varied values as columns, where anything varies.
        whole: whether the other tables have anything to tell.
        paths: files that were written.
        comparison: with results/SUITE.csv, if that is there.
    """

    frame: pd.DataFrame
    swept: Table | None
    whole: bool
    paths: tuple[Path, ...]
    comparison: Comparison | None


@dataclass
class Campaign:
    """A suite that is to be reproduced, in parts: `work`, then `made`, then `transfer`.

    Args:
        name: of the suite, or its file.
        runs, out: the folder of its runs, and that of its tables.
        engine: where its runs work.
        suite, cells: as they stand.
        keep: where finished runs are left, and whether `unfinished` ones are.
        reference: that its numbers are held against, read before `out` may be written.
        outcome: how the work ended.
        predicted: how long it was predicted to take and took, in words.
    """

    name: str
    runs: Path
    out: Path
    engine: Engine
    suite: Suite
    cells: Sequence[Cell]
    keep: Path | None
    unfinished: bool
    reference: Reference | None
    outcome: Outcome | None = field(default=None, init=False)
    predicted: str = field(default="", init=False)

    def work(self, quiet: bool, log: Log, tracking: Tracking) -> Outcome:
        """Train and measure what is missing, teachers first; what is refused or fails stands in the outcome."""
        tracking.draw([cell.run for cell in self.cells if cell.state == "done"])
        words = (self.suite.name, self.cells, self.runs, quiet, log, tracking)
        self.outcome, self.predicted = self.engine.execute(*words)
        self.suite, self.cells = planned(self.name, self.runs)
        if self.keep is not None:
            copying.leave(self.cells, self.keep, self.unfinished)
        return self.outcome

    def made(self) -> Made:
        """Write the tables; of runs that vary one with the varied values as columns."""
        from ardbench.reports import collect_suite, write
        from ardbench.reports.rendering import markdown, marked
        from ardbench.reports.sweep import sweep_table

        suite, frame = self.suite, collect_suite(self.cells, derived=self.suite.derived)
        paths = write(frame, self.out, suite.name, [cell.run for cell in self.cells])
        varied = {run.name: chosen(run) for run in suite.runs if run.vary}
        swept = sweep_table(frame, self.cells, varied) if varied else None
        if swept is not None:
            path = self.out / f"{suite.name}.sweep.md"
            write_atomic(path, f"# {marked(suite.name)}\n\n{markdown([swept])}".encode())
            paths.append(path)
        comparison = self.reference.hold(frame) if self.reference is not None else None
        return Made(frame, swept, len(varied) < len(suite.runs), tuple(paths), comparison)

    def transfer(self, listening: Callable[[str], AbstractContextManager[Progress]]) -> Matrix | None:
        """Measure the suite's teachers against each other, if it wants that and every run is finished."""
        from ardbench.reports.transfer import Matrix
        from ardbench.verbs.transferring import answered, ask, teachers_of

        asked, outcome, where = self.suite.transfer, self.outcome, self.engine
        if asked is None or outcome is None or outcome.stopped or outcome.failed:
            return None
        question = ask(teachers_of(self.suite, self.cells), asked.size, n=asked.n)
        device = "auto" if where.engine == "ray" else where.device  # the nodes may have other devices
        return Matrix(question, answered(question, self.runs, device, where.data_root, listening), asked.size)

    @property
    def refused(self) -> list[str]:
        """What runs that were refused said, one sentence each."""
        failed = self.outcome.failed if self.outcome else {}
        cells = self.cells
        return [f"{cells[i].name} (seed {cells[i].recipe.seed}) was refused: {said}" for i, said in failed.items()]

    def check(self) -> None:
        """Say what was refused.

        Raises:
            ArdbenchError: anything was.
        """
        for sentence in self.refused:
            say(sentence)
        if self.refused:
            count = f"{len(self.refused)} of {len(self.cells)} runs"
            raise ArdbenchError(f"{count} were refused: mend what they say and type the same command again.")


def campaign(
    suite: str,
    engine: Engine,
    runs: Path,
    out: Path | None,
    beside: Sequence[Path],
    keep: Path | None,
    unfinished: bool,
) -> Campaign:
    """Return a suite that is ready to work, after everything that can be refused before torch is loaded.

    Args:
        suite: a name of `ardbench list suites`, or a TOML file.
        out: of the tables; None is tables/ below `runs`.
        beside: folders from which runs are taken that are further there.
        keep: a folder in which finished runs are left as they can be committed, with `unfinished` the others as well.
    """
    copying.check_folders(beside, keep, unfinished)
    found, cells = planned(suite, runs)
    for text in carried(found, cells):
        say(text)
    if out is not None:
        check_makeable("--out", out)
    if out is None or any(cell.state != "done" for cell in cells):
        check_makeable("--runs", runs)
    reference = _reference(found.name)
    if beside:
        copying.take(cells, runs, beside)
        found, cells = planned(suite, runs)
    if keep is not None:
        copying.leave(cells, keep, unfinished)  # of a call that was killed
    return Campaign(suite, runs, out or runs / "tables", engine, found, cells, keep, unfinished, reference)


@contextlib.contextmanager
def sweep_file(
    recipe: str,
    over: Sequence[str],
    runs: Path,
    *,
    teachers: Sequence[str] = (),
    dataset: str | None = None,
    student: str | None = None,
    epochs: int | None = None,
    fast: bool = False,
    sets: Sequence[str] = (),
    protocols: Sequence[str] = SWEPT,
    checkpoints: Sequence[str] = (),
    n: int | None = None,
) -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of the suite that a sweep is; the file lies beside its runs as soon as there are any.

    Args:
        over: "key=value,value" or "key=0..2", with every choice of one of each.
        teachers, dataset, student, epochs, fast, sets, protocols, checkpoints, n: as in `sweep`.
    """
    given = dict(map(parsed, (*(FAST if fast else ()), *sets))) | ({"schedule.epochs": epochs} if epochs else {})
    measured = {"protocols": list(protocols), "checkpoints": list(checkpoints), "n": n}
    name, text = sweep_suite(recipe, over, teachers, dataset=dataset, student=student, given=given, measured=measured)
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.toml"
        write_atomic(file, text.encode())
        _, cells = planned(str(file), runs)
        try:
            yield name, file
        finally:
            if any(cell.run.path.is_dir() for cell in cells):  # what is refused leaves nothing
                write_atomic(runs / file.name, text.encode())


@dataclass(frozen=True)
class Reproduced:
    """What a suite's runs gave.

    Args:
        table: the tidy results, as of `ardbench.results`.
        swept: the varied values with what was measured, as a DataFrame of texts; None where nothing varies.
        paths: files of the tables.
        agreement: how many numbers agree with results/SUITE.csv, in a sentence; "" where that is not there.
        finished: whether everything was trained and measured (False: out of time).
    """

    table: pd.DataFrame
    swept: pd.DataFrame | None
    paths: tuple[Path, ...]
    agreement: str
    finished: bool


@heeds_data_root
def reproduce(
    suite: str | Path,
    *,
    runs: str | Path = "runs",
    out: str | Path | None = None,
    beside: Sequence[str | Path] = (),
    keep: str | Path | None = None,
    unfinished: bool = False,
    device: str = "auto",
    data_root: str | Path | None = None,
    time_limit: float | None = None,
    quiet: bool = False,
    tensorboard: str | Path | None = None,
    wandb: str | None = None,
    mlflow: str | None = None,
    **engine: Any,
) -> Reproduced:
    """Train and measure what is missing of a suite, teachers first, write its tables, and return them.

    Args:
        suite: a name of `ardbench list suites`, or a TOML file.
        runs, device, data_root, tensorboard, wandb, mlflow: as in `ardbench.train`.
        out: of the tables; None is tables/ below `runs`.
        beside: folders from which runs are taken that are further there, such as committed ones.
        keep: a folder in which finished runs are left as they can be committed, with `unfinished` the others as well.
        time_limit: seconds after which it saves and returns what it has.
        quiet: show no progress.
        engine: jobs (how many runs at once), and for a cluster engine="ray", address, gpus_per_run, cpus_per_run, retries.

    Raises:
        ArdbenchError: one sentence on what can be mended; runs that do not learn from a refused one have gone on.
        KeyboardInterrupt: after everything was saved; the same call goes on.
    """
    deadline = after(time_limit)
    root = None if data_root is None else Path(data_root)
    where = Engine(**engine, device=device, data_root=root, deadline=deadline)
    tracking = Tracking.to(tensorboard, wandb, mlflow)
    tables, kept = (None if folder is None else Path(folder) for folder in (out, keep))
    work = campaign(str(suite), where, Path(runs), tables, [Path(one) for one in beside], kept, unfinished)
    outcome, made = work.work(quiet, Log.to(None), tracking), work.made()
    work.check()
    if outcome.stopped and not late(deadline):
        raise KeyboardInterrupt("What was trained is saved: the same call goes on.")
    from ardbench.listeners.screen import shown

    matrix = work.transfer(lambda _: shown(quiet))
    paths = [*made.paths, *(matrix.write(work.out / f"{work.suite.name}-transfer") if matrix else ())]
    agreement = made.comparison.sentence() if made.comparison else ""
    return Reproduced(made.frame, _framed(made.swept), tuple(paths), agreement, not outcome.stopped)


@heeds_data_root
def sweep(
    recipe: str | Path,
    over: Mapping[str, Any] | str | Sequence[str],
    *,
    teachers: str | Path | Run | Sequence[str | Path | Run] = (),
    dataset: str | None = None,
    student: str | None = None,
    epochs: int | None = None,
    fast: bool = False,
    set: str | Sequence[str] | Mapping[str, Any] = (),
    protocols: str | Sequence[str] = SWEPT,
    checkpoints: str | Sequence[str] = (),
    n: int | None = None,
    runs: str | Path = "runs",
    **words: Any,
) -> Reproduced:
    """Train a recipe with several values of a few keys, measure each run, and return the table with these values as columns.

    Args:
        recipe, teachers, dataset, student, epochs, fast, set: as in `ardbench.train` and `ardbench.distill`.
        over: values by key, such as {"optimizer.lr": [0.05, 0.1], "seed": range(3)}, with every choice of one of each; or
            texts as after `--over`.
        protocols, checkpoints, n: what is measured of each run; checkpoints () is the selected one.
        runs, words: as in `ardbench.reproduce`.

    Raises:
        ArdbenchError, KeyboardInterrupt: as `reproduce`.
    """
    taught = [teaching(one, Path(runs)) for one in several(teachers)]
    named = [one for one in taught if isinstance(one, str)]
    if len(named) < len(taught) or is_object(student):
        raise ArdbenchError("A sweep is a file that names its networks: give runs or sources, and no network object.")
    words = words | {"runs": runs}
    with sweep_file(
        str(recipe), _varied(over), Path(runs), teachers=named, dataset=dataset, student=student, epochs=epochs, fast=fast,
        sets=_changed(set), protocols=texts(protocols), checkpoints=texts(checkpoints), n=n,
    ) as (_, file):  # fmt: skip
        return reproduce(str(file), **words)


def _changed(sets: str | Sequence[str] | Mapping[str, Any]) -> Sequence[str]:
    """Return changes as they are typed after --set."""
    return [f"{key}={written(value)}" for key, value in sets.items()] if isinstance(sets, Mapping) else texts(sets)


def _varied(over: str | Sequence[str] | Mapping[str, Any]) -> Sequence[str]:
    """Return what varies as it is typed after --over."""
    if not isinstance(over, Mapping):
        return texts(over)
    found = []
    for key, values in over.items():
        one = isinstance(values, str | int | float)  # 0.1, or a text such as "0..2", which is typed already
        found.append(f"{key}={values if one else ','.join(map(written, values))}")
    return found


def _reference(suite: str) -> Reference | None:
    """Return the results that the suite's are held against, if they are there and can be read."""
    from ardbench.reports.reference import Reference

    try:
        return Reference.of(suite)
    except ArdbenchError as error:
        say(f"No comparison: {error}")
        return None


def _framed(table: Table | None) -> pd.DataFrame | None:
    """Return a table for people as a frame of its texts."""
    import pandas as pd

    if table is None:
        return None
    lines = [[f"{cell.text} {cell.detail}{cell.mark}".strip() for cell in row.entries] for row in table.rows]
    return pd.DataFrame(lines, columns=list(table.header))
