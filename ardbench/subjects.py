"""What a person names - a run, a file, an export, a network of the zoo, a suite's run, an object - as one thing. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ardbench import data, models, plugins, teachers
from ardbench.campaigns.cells import Cell, of_present_weights, planned
from ardbench.campaigns.suites import suite_names
from ardbench.config import Threat
from ardbench.data import own
from ardbench.errors import ArdbenchError, unknown
from ardbench.evaluation import trust
from ardbench.evaluation.verdicts import Verdicts, load_verdicts
from ardbench.exports import export_in, recorded
from ardbench.models import zoo
from ardbench.models.names import split_source
from ardbench.models.normalisation import Normalisation, normalisation
from ardbench.runs import Run, Teacher, as_file_name, sha256_of
from ardbench.teachers import default_checkpoint, split_checkpoint, split_part

if TYPE_CHECKING:
    import torch
    from torch import nn
    from typing_extensions import TypeIs

FILE = "file"
"""What stands in the column of checkpoints for what has no others."""
USUAL = Threat(norm="linf", eps=8 / 255)
"""The threat of a network of which none is known."""
KNOWN = "--model, --dataset, --part, --mean"


@dataclass(frozen=True)
class Subject:
    """Networks to measure, and where their verdicts lie.

    Args:
        path: where it is, or its name in the zoo, or the class of an object.
        model, dataset: architecture, or the class of an object, and test set.
        threat: unless told otherwise.
        checkpoints: those to measure.
        run: the run that they belong to; None for everything else.
        folder: below which the verdicts lie.
        teacher: of the zoo, whose name `path` is, an exported network, a file, or an object by its name.
        normalise: by what one of our own files says that its inputs are normalised.
        chosen: whether the checkpoints were named, and are not those that usually stand for a run.
        net: an object.
        like: of a run whose student was an object, a network of its class that takes the weights.
    """

    path: Path
    model: str
    dataset: str
    threat: Threat
    checkpoints: tuple[str, ...]
    run: Run | None
    folder: Path
    teacher: Teacher | None = None
    normalise: str = ""
    chosen: bool = True
    net: nn.Module | None = field(default=None, compare=False)
    like: nn.Module | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """How it is called in a sentence."""
        return self.path.name

    @property
    def seen(self) -> str:
        """By what its inputs are normalised, where a file or somebody's words say it, else ""."""
        return self.normalise or (self.teacher.seen if self.teacher else "")

    def sha256(self, checkpoint: str) -> str:
        """Return the sha256 of a checkpoint's weights, as they are now."""
        return sha256_of(self.run.weights(checkpoint)) if self.run else self._teacher.sha256

    @property
    def _teacher(self) -> Teacher:
        assert self.teacher is not None  # whatever is no run
        return self.teacher

    def network(self, checkpoint: str, device: torch.device) -> nn.Module:
        """Return one of the networks in eval mode; an object as it is, where it is."""
        from ardbench.engine import networks

        if self.net is not None:
            return self.net
        if self.run is not None:
            if self.like is not None:
                return networks.filled(self.like, self.run, checkpoint, device)
            return networks.of_run(self.run, checkpoint, device)
        return networks.of_teacher(self._teacher, self.dataset, device)

    def key(self, checkpoint: str) -> dict[str, str]:
        """Return what, besides the protocol, decides the verdicts of a checkpoint."""
        if self.run is not None:
            return {"weights": self.sha256(checkpoint)}
        told = {"normalise": self.normalise} if self.normalise else {}
        told |= plugins.sources([("model", self.model), ("dataset", self.dataset)])
        return {"weights": self._teacher.identity, "model": self.model, "dataset": self.dataset} | told

    def twin(self, checkpoint: str, threat: Threat, seed: int) -> tuple[Path, dict[str, str]] | None:
        """Return store and key of the run's other checkpoint where that is the same network."""
        other = self.run and self.run.twin(checkpoint)
        return (self.store(other, threat, seed), self.key(other)) if other else None

    def store(self, checkpoint: str, threat: Threat, seed: int) -> Path:
        """Return where verdicts lie: in eval/, where tables look, if threat and seed are the run's own."""
        if self.run is not None and threat == self.threat and seed == 0:
            return self.folder / "eval" / checkpoint
        other = f"{threat.norm}-{threat.eps:.6g}" + (f"-s{seed}" if seed else "")
        return self.folder / "eval-other" / other / checkpoint

    def measured(self, checkpoint: str, threat: Threat) -> Iterator[Verdicts]:
        """Yield the verdicts of a checkpoint's present weights under a threat, with seed 0, in the order of names.

        Raises:
            ArdbenchError: a file is damaged, or names classes that the data set has not.
        """
        return self._present(self.store(checkpoint, threat, 0), checkpoint)

    def under_any_threat(self, checkpoint: str) -> Iterator[tuple[Verdicts, Path]]:
        """Yield the same of whatever threats it was measured under, each with its folder; clean images once."""
        told = set[object]()
        for folder in (self.folder / "eval" / checkpoint, *sorted(self.folder.glob(f"eval-other/*/{checkpoint}"))):
            for one in self._present(folder, checkpoint):
                place = (one.protocol, one.n, *(() if one.protocol == "clean" else one.threat.values()))
                if one.seed == 0 and place not in told:
                    told.add(place)
                    yield one, folder

    def _present(self, folder: Path, checkpoint: str) -> Iterator[Verdicts]:
        classes = data.info(self.dataset).num_classes
        for path in sorted(folder.glob("*.json")):
            if path.name.endswith(".state.json") or trust.is_trust(path):
                continue
            verdicts = load_verdicts(path)
            if verdicts.classes > classes:
                raise ArdbenchError(
                    f"{path} holds verdicts on more than {classes} classes; delete it to measure again."
                )
            if self.run is not None:
                present = of_present_weights(self.run, checkpoint, verdicts)
            else:
                present = verdicts.matches(self.key(checkpoint))
            if present and verdicts.protocol not in trust.FOR_CHECKS:
                yield verdicts


@dataclass(frozen=True)
class Words:
    """What is told beside a name.

    Args:
        checkpoints: of a run; () stands for the selected one and the last.
        model, dataset, part, mean, std: of a file.
        out: where the verdicts of what is no run lie; None is a folder below `runs`.
        runs: the folder of runs.
        weights: whether those of a run have to be at hand.
        measured: of a suite's run the seeds on which nothing is missing, where there are any, and not all that are finished.
        like: of a run whose student was an object, a network of its class.
        plans: of suites, by their name, once they were read.
    """

    checkpoints: tuple[str, ...] = ()
    model: str | None = None
    dataset: str | None = None
    part: str = ""
    mean: str | None = None
    std: str | None = None
    out: Path | None = None
    runs: Path = Path("runs")
    weights: bool = True
    measured: bool = False
    like: nn.Module | None = None
    plans: dict[str, list[Cell]] = field(default_factory=dict, compare=False)

    def plan(self, suite: str) -> list[Cell]:
        """Return the plan of a suite."""
        if suite not in self.plans:
            self.plans[suite] = planned(suite, self.runs)[1]
        return self.plans[suite]

    def taken(self, cells: Sequence[Cell]) -> tuple[list[Cell], str]:
        """Return which cells of a suite stand for what is there of it, and what all of them are."""
        finished = [cell for cell in cells if cell.state in ("done", "stale")]
        measured = [cell for cell in finished if not cell.missing]
        return (measured, "measured") if self.measured and measured else (finished, "finished")

    @property
    def seen(self) -> Normalisation | None:
        """The normalisation that was typed."""
        return normalisation(self.mean, self.std)

    def refuse(self, what: str, out: bool = False) -> None:
        """Refuse words for a file beside something that knows them itself; `out` where it has its own place as well."""
        if self.model or self.dataset or self.part or self.seen or (out and self.out):
            end = ", --std and --out" if out else " and --std"
            raise ArdbenchError(f"{what} knows its model and data set: leave out {KNOWN}{end}.")


def find(
    what: str | Path | Run, words: Words = Words(), say: Callable[[str], None] = lambda text: None
) -> list[Subject]:
    """Return what a name stands for: one subject, or of SUITE:NAME one for each seed that is finished.

    Args:
        what: RUN, RUN@CHECKPOINT, an exported folder, FILE, FILE:ARCH, FILE#PART:ARCH, FILE:ARCH+mean=NUMBERS+std=NUMBERS,
            zoo:NAME, or SUITE:NAME.
        words: told beside it.
        say: hears in a sentence which seeds of SUITE:NAME there are, where some are missing.

    Raises:
        ArdbenchError: there is nothing of that name, it is not finished, or the words do not fit it.
    """
    text = str(what.path) if isinstance(what, Run) else str(what)
    if text.startswith(zoo.PREFIX):
        _no_checkpoint(text, words)
        words.refuse(text)
        return [of_zoo(text, words.runs, words.out)]
    name, checkpoint = split_checkpoint(text)
    if Path(name).is_dir() and not export_in(Path(name)):
        words.refuse(f"{text} is a run and", out=True)
        if checkpoint and words.checkpoints:
            raise ArdbenchError(f"{text} names its checkpoint: leave out --checkpoint, or type {name}.")
        return [of_run(Path(name), (checkpoint,) if checkpoint else words.checkpoints, words.weights, words.like)]
    if text.startswith(teachers.ROBUSTBENCH):
        raise ArdbenchError(f"{text} teaches and is transferred: to measure it, give its downloaded file as FILE:ARCH.")
    if named := suite_runs(text, words):
        words.refuse(f"{text} is a suite's run and", out=True)
        taken, how = words.taken(named)
        if not taken:
            raise _nothing(text, text.rpartition(":")[0], words.runs)
        if len(taken) < len(named):
            seeds = " and ".join(str(cell.recipe.seed) for cell in taken)
            say(f"Of the {len(named)} seeds of {text} those that are {how}: {seeds}.")
        return [of_run(cell.run.path, words.checkpoints, words.weights, words.like) for cell in taken]
    _no_checkpoint(text, words)
    if Path(text).is_dir():
        words.refuse(f"{text} is an exported network and")
        return [of_export(Path(text), words.runs, words.out)]
    return [of_file(text, words)]


def spread(text: str, words: Words, say: Callable[[str], None]) -> list[str]:
    """Return SUITE:NAME for every run of a suite of which a seed is measured, where a text is a suite, or else the text alone.

    Args:
        say: hears which runs these are, where some are missing.

    Raises:
        ArdbenchError: there is none.
    """
    if not _is_suite(text) or Path(text).is_dir():
        return [text]
    cells = words.plan(text)
    taken, how = words.taken(
        [cell for cell in cells if any(cell.run.path.glob("eval/*/*.json"))]
    )  # teachers may go unmeasured
    if not taken:
        raise _nothing(text, text, words.runs)
    every, names = ({cell.name: None for cell in some} for some in (cells, taken))
    if len(names) < len(every):
        say(f"Of the {len(every)} runs of {text} those that are {how}: {', '.join(names)}.")
    return [f"{text}:{name}" for name in names]


def _nothing(text: str, suite: str, runs: Path) -> ArdbenchError:
    return ArdbenchError(
        f"No run of {text} is finished below {runs}: type ardbench reproduce {suite} --runs {runs} first, or say with --runs "
        "where it lies."
    )


def suite_runs(text: str, words: Words) -> list[Cell]:
    """Return the planned runs that SUITE:NAME stands for, one a seed, or none where a text has another form.

    Raises:
        ArdbenchError: no such suite, or none of its runs has the name.
    """
    suite, name = split_source(text)
    file = models.known(name.partition("+")[0].partition("@")[0]) or split_part(suite)[0].is_file()
    if not suite or Path(text).exists() or (file and not _is_suite(suite)):
        return []
    cells = words.plan(suite)
    named = [cell for cell in cells if cell.name == name]
    if not named:
        raise unknown(f"run of suite {suite}:", name, [cell.name for cell in cells])
    return named


def _is_suite(name: str) -> bool:
    return name in suite_names() or name.endswith(".toml")


def _no_checkpoint(text: str, words: Words) -> None:
    if words.checkpoints:
        raise ArdbenchError(f"{text} is no run directory: --checkpoint chooses among the checkpoints of a run.")


def of_run(path: Path, checkpoints: tuple[str, ...], weights: bool = True, like: nn.Module | None = None) -> Subject:
    """Return a finished run, its weights at hand unless told otherwise; its selected and its last checkpoint by default."""
    run = Run.open(path)
    recipe = run.recipe
    if run.done is None:
        raise ArdbenchError(f"{path} is not finished: type its train or distill command again to finish it first.")
    if weights:
        plugins.check(recipe.outside, str(path), run.environment.get("outside", {}))
    if weights and like is None:
        models.check_known(recipe.student)
        own.check(recipe.data.name, recipe.data.sha256)
    if "all" in checkpoints:
        checkpoints = tuple(run.checkpoints)
    wanted = tuple(dict.fromkeys(checkpoints)) or tuple(dict.fromkeys((default_checkpoint(recipe), "last")))
    absent = next((name for name in wanted if weights and name not in run.checkpoints), None)
    if absent is not None:
        raise run.without(absent)
    kind, threat = recipe.student, recipe.evaluation
    return Subject(path, kind, recipe.data.name, threat, wanted, run, path, chosen=bool(checkpoints), like=like)


def of_file(text: str, words: Words) -> Subject:
    """Return a file of weights, or a part of it, under 8/255 in l-infinity unless told otherwise."""
    (path, part), model, seen = split_part(text), words.model, words.seen
    if not path.is_file() or ":" in part:
        place, named = split_source(text)
        path, part = split_part(place or text)
        if not path.is_file():
            raise ArdbenchError(
                f"There is no run directory or file {text}: give a folder under runs/, or a .pt or .safetensors file."
            )
        if model or seen:
            raise ArdbenchError(f"{text} names its model: leave out --model, --mean and --std, or type {place}.")
        model, seen = teachers.split_model(text, named)
    part = words.part or part
    if model is None or words.dataset is None:
        if model:
            raise ArdbenchError(f"{text} has no data set: say on which to measure it, such as --dataset cifar10.")
        beside = "" if words.dataset else " --dataset cifar10"
        raise ArdbenchError(f"{path} is a file: say what is in it, such as {path}:resnet18{beside}.")
    models.check_known(model.partition("@")[0])
    info = data.info(words.dataset)
    if seen:
        seen.of(info)  # refuses numbers for another number of channels
    teacher = teachers.of_file(path, model, part, seen)
    told = "".join(f"-{re.sub(r'[^0-9A-Za-z_.]', '_', text)[:40]}" for text in (part, teacher.seen[1:]) if text)
    kept = (
        words.out or words.runs / "files" / f"{path.stem}-{teacher.sha256[:8]}{told}-{as_file_name(model)}-{info.name}"
    )
    own = str(recorded(path)[1] or "")
    return Subject(path, model, info.name, USUAL, (FILE,), None, kept, teacher, own)


def of_export(path: Path, runs: Path, out: Path | None) -> Subject:
    """Return an exported folder, under the threat that its recipe is measured under."""
    export, teacher = export_in(path), teachers.locate(str(path))
    assert export is not None  # the caller has seen it
    folder = out or runs / "files" / f"{path.resolve().name}-{teacher.sha256[:8]}"
    return Subject(path, export.architecture, export.dataset, export.threat or USUAL, (FILE,), None, folder, teacher)


def of_zoo(name: str, runs: Path, out: Path | None = None) -> Subject:
    """Return a network of the zoo, under the threat that it was trained for, or else the one of files."""
    entry, teacher = zoo.entry(name), teachers.locate(name)
    folder = out or runs / "files" / f"{entry.name}-{teacher.sha256[:8]}"
    return Subject(Path(name), entry.model, entry.dataset, entry.threat or USUAL, (FILE,), None, folder, teacher)


def is_object(what: object) -> TypeIs[nn.Module]:
    """Return whether something is a network, without loading torch to look."""
    return hasattr(what, "named_modules")


def is_file(what: object) -> bool:
    """Return whether a name is FILE, FILE#PART or FILE:ARCH."""
    text = str(what)
    place = split_source(text)[0]
    return Path(text).is_file() or (bool(place) and split_part(place)[0].is_file() and not _is_suite(place))


def is_named(what: object) -> bool:
    """Return whether a name is of a file, of an exported folder or of the zoo: a network that is no run."""
    text = str(what)
    return (
        (is_file(what) and not text.endswith((".csv", ".toml")))
        or text.startswith(zoo.PREFIX)
        or bool(export_in(Path(text)))
    )


def of_object(net: nn.Module, words: Words) -> Subject:
    """Return a network object that takes pixels in [0, 1], named by its class and the sha256 of its weights."""
    if words.dataset is None:
        raise ArdbenchError('A network object is measured on a data set: name one, such as dataset="cifar10".')
    info, teacher = data.info(words.dataset), teachers.of_object(net)
    kind = teacher.model.rpartition(".")[2]
    folder = words.out or words.runs / "files" / f"{kind}-{teacher.identity[:8]}-{info.name}"
    return Subject(Path(kind), teacher.model, info.name, USUAL, (FILE,), None, folder, teacher, net=net)


def teaching(what: str | Path | Run | nn.Module, runs: Path) -> str | nn.Module:
    """Return what teaches as it is typed after --teacher, or a network as it is.

    Raises:
        ArdbenchError: it is none of these, or a suite's run of several seeds.
    """
    if isinstance(what, str | Path | Run):
        return expanded(str(what.path if isinstance(what, Run) else what), runs)
    if not is_object(what):
        raise ArdbenchError(f"{what!r} teaches nothing: give a run, a source such as FILE:ARCH, or a network.")
    return what


def expanded(source: str, runs: Path) -> str:
    """Return a source of a teacher, [ROLE=]SUITE:NAME replaced by the directory of its run.

    Raises:
        ArdbenchError: it stands for several seeds.
    """
    role, equals, place = source.rpartition("=")
    if not _is_suite(place.rpartition(":")[0]):
        return source
    found = suite_runs(place, Words(runs=runs))
    if len(found) > 1:
        names = ", ".join(str(cell.run.path) for cell in found)
        raise ArdbenchError(f"{place} has {len(found)} seeds, and one network is wanted: name one of {names}.")
    return f"{role}{equals}{found[0].run.path}"
