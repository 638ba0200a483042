"""What was measured of runs, as their files tell it, and how threats and protocols are written. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ardbench import data
from ardbench.campaigns.cells import of_present_weights
from ardbench.errors import ArdbenchError
from ardbench.evaluation import trust
from ardbench.evaluation.protocols import PROTOCOLS
from ardbench.evaluation.verdicts import Verdicts, load_verdicts
from ardbench.runs import Run, is_checkpoint, remembered

Points = list[tuple[float, float, float, float]]
"""(eps, accuracy, low, high)."""


def training_seconds(run: Run) -> float:
    """Return the seconds that a run has trained, finished or not."""
    done = run.done
    return float(done.get("seconds", 0.0)) if done else float(sum(row.get("seconds", 0.0) for row in run.metrics))


def evaluations(run: Run) -> Iterator[tuple[str, Path, Verdicts]]:
    """Yield (checkpoint, file, verdicts) of every finished evaluation, in the order of names."""
    for path in _verdict_files(run, "eval/*/*.json"):
        yield path.parent.name, path, verdicts_of(run, path)


def verdicts_of(run: Run, path: Path) -> Verdicts:
    """Return the verdicts in one of a run's files.

    Raises:
        ArdbenchError: the file is damaged, or names classes that the run's data set has not.
    """
    verdicts, classes = _known_verdicts(path), data.info(run.recipe.data.name).num_classes
    if verdicts.classes > classes:
        raise ArdbenchError(f"{path} holds verdicts on more than {classes} classes; delete it to measure again.")
    return verdicts


def _verdict_files(run: Run, pattern: str) -> Iterator[Path]:
    """Yield the files of finished evaluations of checkpoints that a run can have, in the order of names."""
    for path in sorted(run.path.glob(pattern)):
        known = is_checkpoint(path.parent.name)
        if known and not path.name.endswith(".state.json") and not trust.is_trust(path):
            yield path


_known_verdicts = remembered(load_verdicts)


def sweeps(runs: Sequence[Run]) -> dict[tuple[str, str], dict[str, Points]]:
    """Return accuracy against eps by (protocol, norm) and then by checkpoint, where two or more eps were measured.

    All points of a line are of the same images: those measured at the most eps, of equals the most images. Evaluations in
    eval-other count as well; the clean accuracy of these images stands at eps = 0.
    """
    found: dict[tuple[str, str], dict[str, Points]] = {}
    for run in runs:
        lines: dict[tuple[str, str, str], dict[tuple[int, ...], dict[float, Verdicts]]] = {}
        for checkpoint, verdicts in _at_any_eps(run):
            protocol, norm, eps = verdicts.protocol, verdicts.threat["norm"], verdicts.threat["eps"]
            place = ("clean", "", checkpoint) if protocol == "clean" else (protocol, norm, checkpoint)
            at = lines.setdefault(place, {}).setdefault(tuple(verdicts.index), {})
            at[0.0 if protocol == "clean" else eps] = verdicts
        for (protocol, norm, checkpoint), several in lines.items():
            index, at = max(several.items(), key=lambda one: (len(one[1]), len(one[0])))
            if len(at) > 1:
                clean = lines.get(("clean", "", checkpoint), {}).get(index, {})
                points = [(eps, one.accuracy, *one.interval) for eps, one in sorted((clean | at).items())]
                found.setdefault((protocol, norm), {})[f"{run.path.name}, {checkpoint}, n = {len(index)}"] = points
    return found


def _at_any_eps(run: Run) -> Iterator[tuple[str, Verdicts]]:
    """Yield (checkpoint, verdicts) of the present weights at the run's own threat and at others, with the attacks' seed 0."""
    for path in (*_verdict_files(run, "eval/*/*.json"), *_verdict_files(run, "eval-other/*/*/*.json")):
        verdicts = verdicts_of(run, path)
        present = of_present_weights(run, path.parent.name, verdicts)
        if present and verdicts.seed == 0 and verdicts.protocol not in trust.FOR_CHECKS:
            yield path.parent.name, verdicts


def threat_name(norm: str, eps: float) -> str:
    """Return a threat for people, such as "linf, eps 8/255"."""
    return f"{norm}, eps {written_eps(eps)}"


def written_eps(eps: float) -> str:
    """Return a radius or a step size as a fraction of 255 where it is one and no short decimal: 8/255, 0.2, 0.031."""
    steps = round(eps * 255)
    short = float(f"{eps:.3f}") == eps
    return f"{eps:g}" if short or abs(eps - steps / 255) > 1e-9 else f"{steps}/255"


def protocol_order(names: Iterable[str]) -> list[str]:
    """Return protocols in the order of the registry, unknown ones after them by name."""
    registry = list(PROTOCOLS)
    return sorted(set(names), key=lambda name: (registry.index(name) if name in registry else len(registry), name))
