"""What `ardbench eval` measures: a run's checkpoints, a network of the zoo, or one in somebody else's file. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ardbench.errors import ArdbenchError, unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ardbench.config import Threat
    from ardbench.models.normalisation import Normalisation
    from ardbench.runs import Run, Teacher

FILE = "file"
"""What stands in the column of checkpoints for a file."""


@dataclass(frozen=True)
class Source:
    """Networks to measure, and where their verdicts lie.

    Args:
        path: as it was typed.
        model, dataset: architecture and test set.
        threat: unless --eps and --norm say otherwise.
        checkpoints: those to measure.
        run: the run that they belong to; None for a file.
        folder: below which the verdicts of a file lie.
        teacher: of the zoo, whose name `path` is, an exported network, or a file.
        normalise: by what one of our own files says that its inputs are normalised.
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

    def network(self, checkpoint: str, device: torch.device) -> nn.Module:
        """Return one of the networks in eval mode."""
        from ardbench.engine import networks

        if self.run is not None:
            return networks.of_run(self.run, checkpoint, device)
        assert self.teacher is not None
        return networks.of_teacher(self.teacher, self.dataset, device)

    def key(self, checkpoint: str) -> dict[str, str]:
        """Return what, besides the protocol, decides the verdicts of a checkpoint."""
        from ardbench.runs import sha256_of

        if self.run is not None:
            return {"weights": sha256_of(self.run.weights(checkpoint))}
        assert self.teacher is not None
        told = {"normalise": self.normalise} if self.normalise else {}
        return {"weights": self.teacher.identity, "model": self.model, "dataset": self.dataset} | told

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


def of_run(path: Path, checkpoints: tuple[str, ...]) -> Source:
    """Return a finished run as a source; its selected and its last checkpoint unless others are named."""
    from ardbench import models
    from ardbench.runs import Run
    from ardbench.teachers import default_checkpoint

    run = Run.open(path)
    recipe = run.recipe
    if run.done is None:
        raise ArdbenchError(f"{path} is not finished: type its train or distill command again to finish it first.")
    if recipe.student not in models.MODELS:
        raise unknown("model", recipe.student, models.MODELS)
    wanted = checkpoints or tuple(dict.fromkeys((default_checkpoint(recipe), "last")))
    absent = next((name for name in wanted if name not in run.checkpoints), None)
    if absent is not None:
        raise run.without(absent)
    return Source(path, recipe.student, recipe.data.name, recipe.evaluation, wanted, run, path)


def of_file(
    path: Path,
    model: str | None,
    dataset: str | None,
    part: str,
    seen: Normalisation | None,
    runs: Path,
    out: Path | None,
) -> Source:
    """Return a file of weights, or a part of it, as a source, under 8/255 in l-infinity unless the options say otherwise."""
    from ardbench import data, models, teachers
    from ardbench.exports import recorded
    from ardbench.models import zoo

    if str(path).startswith(zoo.PREFIX):
        if model or dataset or part or seen:
            raise ArdbenchError(
                f"{path} knows its model and data set: leave out --model, --dataset, --part, --mean and --std."
            )
        return of_zoo(str(path), runs, out)
    file, named = teachers.split_part(str(path))
    path, part = (file, part or named) if file.is_file() else (path, part)
    for mark, option in (("@", "--checkpoint"), (":", "--model")):
        before, _, after = str(path).rpartition(mark)
        if before and Path(before).exists() and not path.exists():
            raise ArdbenchError(f"There is no run directory or file {path}: type {before} {option} {after} instead.")
    if not path.is_file():
        raise ArdbenchError(
            f"There is no run directory or file {path}: give a folder under runs/, or a .pt or .safetensors file."
        )
    if model is None or dataset is None:
        raise ArdbenchError(f"{path} is a file: say what is in it, such as --model resnet18 --dataset cifar10.")
    if model not in models.MODELS:
        raise unknown("model", model, models.MODELS)
    info = data.info(dataset)
    if seen:
        seen.of(info)  # refuses numbers for another number of channels
    teacher = teachers.of_file(path, model, part, seen)
    named = "".join(f"-{re.sub(r'[^0-9A-Za-z_.]', '_', text)[:40]}" for text in (part, teacher.seen[1:]) if text)
    kept = out or runs / "files" / f"{path.stem}-{teacher.sha256[:8]}{named}-{model}-{dataset}"
    own = str(recorded(path)[1] or "")
    return Source(path, model, dataset, _usual_threat(), (FILE,), None, kept, teacher, own)


def of_export(path: Path, runs: Path, out: Path | None) -> Source:
    """Return an exported folder as a source, under the threat that its recipe is measured under."""
    from ardbench.exports import export_in
    from ardbench.teachers import locate

    export, teacher = export_in(path), locate(str(path))
    assert export is not None  # the caller has seen it
    folder = out or runs / "files" / f"{path.resolve().name}-{teacher.sha256[:8]}"
    threat = export.threat or _usual_threat()
    return Source(path, export.architecture, export.dataset, threat, (FILE,), None, folder, teacher)


def of_zoo(name: str, runs: Path, out: Path | None = None) -> Source:
    """Return a network of the zoo as a source, under the threat that it was trained for, or else the one of files."""
    from ardbench.models import zoo
    from ardbench.teachers import locate

    entry, teacher = zoo.entry(name), locate(name)
    folder = out or runs / "files" / f"{entry.name}-{teacher.sha256[:8]}"
    threat = entry.threat or _usual_threat()
    return Source(Path(name), entry.model, entry.dataset, threat, (FILE,), None, folder, teacher)


def _usual_threat() -> Threat:
    from ardbench.config import Threat

    return Threat(norm="linf", eps=8 / 255)
