"""`ardbench.evaluate`: accuracies of whatever is a subject under one protocol after the other. Torch-free until it measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ardbench import data
from ardbench.config import Threat
from ardbench.engine.stopping import after, late
from ardbench.errors import ArdbenchError
from ardbench.evaluation.protocols import AutoAttack, Pgd, asked, fast_form
from ardbench.exports import export_in
from ardbench.listeners import say
from ardbench.models.names import OBJECT
from ardbench.runs import Run
from ardbench.subjects import Subject, Words, find, is_file, is_named, is_object, of_object, teaching
from ardbench.teachers import locate
from ardbench.verbs import FULL_TABLE, texts
from ardbench.verbs.measuring import Evaluation, Measuring, Norm, Question, measured

if TYPE_CHECKING:
    from torch import nn

    from ardbench.progress import Progress


BESIDE = ("files", "teacher-logits")
"""What lies in a folder of runs and is none."""


@data.heeds_data_root
def evaluate(
    subject: str | Path | Run | Subject | nn.Module,
    dataset: str | None = None,
    *,
    model: str | nn.Module | None = None,
    protocols: str | Sequence[str] = FULL_TABLE,
    checkpoints: str | Sequence[str] = (),
    n: int | None = None,
    eps: float | None = None,
    norm: Norm | None = None,
    batch: int | Literal["auto"] = 500,
    seed: int = 0,
    fast: bool = False,
    keep_adversarial: bool = False,
    surrogate: str | Path | Run | nn.Module | None = None,
    part: str = "",
    mean: str | None = None,
    std: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    data_root: str | Path | None = None,
    runs: str | Path = "runs",
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Return the accuracies of a network on test images; what was measured before is read and not measured again.

    Args:
        subject: a run, RUN@CHECKPOINT, an exported folder, a file of weights, FILE:ARCH, zoo:NAME, SUITE:NAME of one seed, or
            a network: pixels (b, C, H, W) in [0, 1] go in, logits (b, K) come out. It is named by its class and the sha256 of
            its weights, and is afterwards as before.
        dataset: of a file or a network; the others know theirs.
        model, part, mean, std: of a file, as `ardbench eval` takes them. Of a run whose student was a network object, model is
            one of the same class, of which a copy takes the run's weights.
        protocols: one or several names, lists such as aa:apgd-ce,square, or FILE.toml:NAME.
        checkpoints: of a run; () is the selected one and the last.
        n: images of a class-balanced subset, always the same; None is all.
        eps, norm: in pixel units, such as 8/255; None is the subject's own threat, or else 8/255 in l-infinity.
        batch: images at a time, which decides the noise of the attacks; "auto" tries out what the device can.
        seed: of the attacks.
        fast: AutoAttack's attacks in bf16, each success confirmed in fp32.
        keep_adversarial: keep the images that took the points, beside the verdicts.
        surrogate: the network on which the protocol `transfer` crafts its images.
        out: where the verdicts of what is no run are kept; None is a folder under runs/files named by its weights.
        device: "auto", "cuda" or "cpu"; a network object stays where it is.
        data_root, runs, progress: as in `ardbench.train`.
        time_limit: seconds after which it stops and returns what it has (`finished` is False).

    Raises:
        ArdbenchError: one sentence on what can be mended.
        KeyboardInterrupt: what was finished is kept; the same call goes on.
    """
    deadline = after(time_limit)
    question = ask(protocols, n, eps, norm, batch, seed, fast, keep_adversarial, surrogate, Path(runs))
    name, like = (None, model) if is_object(model) else (model, None)
    place = None if out is None else Path(out)
    told = Words(texts(checkpoints), name, dataset, part, mean, std, place, Path(runs), like=like)
    job = prepared(the_one(subject, told), question, told.runs)
    from ardbench.listeners.screen import heard_by

    root = None if data_root is None else Path(data_root)
    found = next(measured([job], device, root, deadline, lambda _: heard_by(progress)))
    if not found.finished and not late(deadline):
        raise KeyboardInterrupt("What was finished is kept: the same call goes on.")
    return found


def the_one(what: str | Path | Run | Subject | nn.Module, told: Words) -> Subject:
    """Return a single subject by what names it, or refuse several seeds."""
    several = subjects_of(what, told)
    if len(several) > 1:
        names = ", ".join(str(one.path) for one in several)
        raise ArdbenchError(f"{what} has {len(several)} seeds, and one network is wanted: name one of {names}.")
    return several[0]


def subjects_of(what: str | Path | Run | Subject | nn.Module, told: Words) -> list[Subject]:
    """Return the subjects that are named: as `ardbench.subjects.find`, or an object."""
    if isinstance(what, Subject):
        return [what]
    return [of_object(what, told)] if is_object(what) else find(what, told, say)


def gathered(sources: Sequence[str | Path], told: Words) -> tuple[list[Subject], list[str]]:
    """Return the subjects of several names, such as runs/* gives, and a sentence on each run that is left out.

    Words for a file hold for the files among them, --checkpoint for the runs; a file of which no data set is said is measured
    on that of the first of the others.
    What ardbench keeps beside runs is passed over, and so is a run that is not finished or whose student is an object of
    Python, unless it is named alone.

    Raises:
        ArdbenchError: one of the names is of no subject, or none is left.
    """
    if len(sources) == 1:
        return subjects_of(sources[0], told), []
    if told.out:
        raise ArdbenchError(f"--out {told.out} is one folder for the verdicts of one file: name a single one with it.")
    named, left = list[Path](), list[str]()
    for source in map(Path, sources):
        if source.name in BESIDE or (source.suffix == ".json" and source.is_file()):
            continue
        run = Run.open(source) if (source / "config.json").is_file() and not export_in(source) else None
        if run is not None and run.done is None:
            left.append(f"{source} is not finished and is left out.")
        elif run is not None and run.recipe.student.startswith(OBJECT):
            left.append(f"{source} is of a network object, which has no name here, and is left out.")
        else:
            named.append(source)
    if not named:
        raise ArdbenchError("None of these is a finished run or another network: name one.")
    known = {source: subjects_of(source, _shared(source, named, told)) for source in named if not is_file(source)}
    dataset = told.dataset or next((one.dataset for several in known.values() for one in several), None)
    found = [
        one
        for source in named
        for one in known.get(source) or subjects_of(source, replace(_shared(source, named, told), dataset=dataset))
    ]
    return found, left


def _shared(source: Path, sources: Sequence[Path], told: Words) -> Words:
    """Return of the words those that one of several takes: words that none takes are refused by the first."""
    if any(map(is_file, sources)) and not is_file(source):
        told = replace(told, model=None, dataset=None, part="", mean=None, std=None)
    if is_named(source) and not all(map(is_named, sources)):
        told = replace(told, checkpoints=())
    return told


def ask(
    protocols: str | Sequence[str],
    n: int | None = None,
    eps: float | None = None,
    norm: Norm | None = None,
    batch: int | Literal["auto"] = 500,
    seed: int = 0,
    fast: bool = False,
    keep_adversarial: bool = False,
    surrogate: str | Path | Run | nn.Module | None = None,
    runs: Path = Path("runs"),
) -> Question:
    """Return what is to be measured, after all that can be refused without a subject.

    Raises:
        ArdbenchError: an unknown protocol, a surrogate or `fast` that fits none, or a number out of its range.
    """
    source = None if surrogate is None else teaching(surrogate, runs)
    check_range("n", n, 1)
    check_range("batch", None if batch == "auto" else batch, 1)
    check_range("seed", seed, 0)
    check_range("eps", eps, 0, whole=False)
    if norm not in (None, "linf", "l2"):
        raise ArdbenchError(f"norm = {norm!r} is none of linf, l2: give one of them.")
    rules = [asked(str(name)) for name in texts(protocols)]
    for one in rules:
        one.check_surrogate(source is not None)
    if source is not None and not any(isinstance(one, Pgd) and one.surrogate for one in rules):
        raise ArdbenchError("--surrogate is for protocols that are crafted on it: add --protocol transfer.")
    if fast and not any(isinstance(one, AutoAttack) for one in rules):
        names = ", ".join(one.name for one in rules)
        raise ArdbenchError(f"--fast is for AutoAttack, and {names} is none: leave it out.")
    if isinstance(source, str):
        locate(source)
    rules = [fast_form(one) if fast and isinstance(one, AutoAttack) else one for one in rules]
    return Question(tuple(rules), n, eps, norm, batch, seed, keep_adversarial, source)


def check_range(name: str, value: float | None, least: int, whole: bool = True) -> None:
    """Refuse what is no number, or one below the least that it may be."""
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if value is not None and not (right and least <= value < float("inf")):
        kind = "whole number" if whole else "number"
        raise ArdbenchError(f"{name} = {value!r} is no {kind} of at least {least}: give one.")


def threat_of(own: Threat, norm: Norm | None, eps: float | None) -> Threat:
    """Return the threat to measure under: the subject's own, unless norm and eps say otherwise."""
    norm = norm or own.norm
    if eps is None and norm != own.norm:
        raise ArdbenchError(f"--norm {norm} needs --eps with it: a radius of one norm means nothing in another.")
    eps = own.eps if eps is None else eps
    if norm == "linf" and eps > 1:
        raise ArdbenchError(
            f"--eps {eps:g} is larger than any pixel, which lie in [0, 1]: give a fraction such as {eps:g}/255."
        )
    return Threat(norm=norm, eps=eps)


def prepared(subject: Subject, question: Question, runs: Path) -> Measuring:
    """Return what is to be done for one subject, after all that can be refused before torch is loaded."""
    images, n = data.info(subject.dataset).test_images, question.n
    if n is not None and n > images:
        raise ArdbenchError(
            f"--n {n} is more than the {images} test images of {subject.dataset}: give at most {images}."
        )
    threat = threat_of(subject.threat, question.norm, question.eps)
    return Measuring(subject, replace(question, n=None if n == images else n), threat, runs)
