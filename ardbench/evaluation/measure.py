"""`evaluate`: a network, a split, a protocol and a threat in; verdicts per example out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from ardbench import processes
from ardbench.attacks.objectives import label_loss, label_margin, scaled
from ardbench.attacks.pgd import Maximiser
from ardbench.config import Precision, Threat
from ardbench.draws import Draws
from ardbench.errors import ArdbenchError
from ardbench.evaluation import autoattack
from ardbench.evaluation.adversarial import Images
from ardbench.evaluation.batch_size import fitting, halved
from ardbench.evaluation.confirm import check_allowed, measuring, predict
from ardbench.evaluation.protocols import CLASSES_NEEDED, AutoAttack, Pgd, Protocol, asked
from ardbench.evaluation.verdicts import Paused, Verdicts, file_name, load_verdicts
from ardbench.progress import Progress
from ardbench.runs import LOOK

if TYPE_CHECKING:
    from ardbench.data.batches import Split

SUBSET_SEED = 0
"""Every subset of n examples is the same one, whatever is evaluated on it and with which seed."""
OBJECTIVES = {"ce": label_loss, "margin": label_margin}
LOCK = ".lock"
PIECE = 1024
"""Images that are read at a time to be summed."""
PLAIN = Precision(attack="fp32", fold_bn=False, channels_last=False)


@dataclass(frozen=True)
class Surrogate:
    """Another network, on which adversarial examples are crafted.

    Args:
        net: gives logits (B, K) of pixels in [0, 1]; it is as before afterwards.
        name: for people.
        sha256: of its weights; it decides the verdicts.
    """

    net: nn.Module
    name: str
    sha256: str


@dataclass
class Outcome:
    """What a kind of protocol hands back; fields as in `Verdicts`."""

    predictions: list[int]
    taken: dict[str, int]
    batch: int
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    unconfirmed: dict[str, int] = field(default_factory=dict)


def evaluate(
    net: nn.Module,
    split: Split,
    protocol: Protocol | str,
    threat: Threat,
    *,
    batch: int,
    seed: int = 0,
    n: int | None = None,
    store: Path | None = None,
    key: Mapping[str, Any] | None = None,
    twin: tuple[Path, Mapping[str, Any]] | None = None,
    surrogate: Surrogate | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    keep_adversarial: bool = False,
) -> Verdicts:
    """Return the verdicts of a protocol, every success confirmed in fp32, or read them from `store`.

    Every process of `processes.joined` calls it alike and gets the same verdicts; the first writes them.

    Args:
        net: gives logits (B, K) of pixels in [0, 1]; its modes and requires_grad are as before afterwards.
        split: what is measured, on the device of the network.
        threat: ball and eps in pixel units; with eps = 0 nothing is searched. A protocol may have its own.
        batch: examples at a time; it decides the attacks' noise, so what is continued keeps the one it began with. Where it
            does not fit in the device's memory it is halved; the verdicts hold the batch that did, and a note says so.
        n: measure a class-balanced subset, always the same one; None measures everything.
        store: the folder of `<protocol>[-n<N>].json` and, while unfinished, `<protocol>[-n<N>].state.json`.
        key: what else decides the verdicts, in JSON values, such as {"weights": sha256}; a file with another key is
            measured again and replaced.
        twin: store and key of the same network under another name: what was measured there holds here, at 0 seconds.
        surrogate: what a protocol that searches on another network searches on.
        stop: asked between batches.
        keep_adversarial: whether to write `x_adv` (n, C, H, W), fp32, in the order of the verdicts' index: the image that
            took the point, or else the clean one, in `<protocol>[-n<N>].adversarial.safetensors` in `store`, which it
            needs. Verdicts without it are measured again.

    Raises:
        Paused: `stop` said so, or Ctrl-C; with a `store`, AutoAttack continues where it was.
        ArdbenchError: logits are not finite, an attack left ball or box, too few classes, no memory for one image, another
            process measures the same into `store`.
    """
    rules = asked(protocol) if isinstance(protocol, str) else protocol
    rules.check_surrogate(surrogate is not None)
    threat = rules.under(threat)
    rules, less = _among(split.info.num_classes, rules, threat)
    source = surrogate if isinstance(rules, Pgd) and rules.surrogate else None
    listener = progress or Progress()
    chosen = subset_of(split, n)
    outer = {**(key or {})} | ({"surrogate": source.sha256} if source else {})
    full_key = _key(rules, threat, chosen, len(split), seed, outer) if store else {}
    path = store / file_name(rules.name, None if chosen is split else n) if store else None
    if keep_adversarial and path is None:
        raise ValueError("adversarial images are kept in a store, and none was given")
    images = Images(path) if path is not None else None
    kept = images if keep_adversarial else None
    found = processes.once(lambda: _stored(path, full_key, kept, listener) or _of_twin(path, full_key, kept, twin))
    if found is not None:
        return found
    job = Job(net, chosen, rules, threat, batch, seed, listener, stop or _never, source, kept)
    with processes.held(nullcontext() if path is None else _held(path)):
        outcome = job.run(path.with_suffix(".state.json") if path is not None else None, full_key)
        outcome.notes[:0] = less
        verdicts = Verdicts(
            protocol=rules.name,
            version=rules.version,
            threat=threat.model_dump(mode="json"),
            labels=chosen.labels.tolist(),
            index=chosen.index.tolist(),
            total=len(split),
            seed=seed,
            attack=rules.settings(threat),
            environment=_environment(rules, chosen.labels.device),
            key=full_key,
            **vars(outcome),
        )
        if path is not None and images is not None and processes.is_first():
            if keep_adversarial:
                images.finish(chosen.pixels(slice(None)))
            else:
                images.path.unlink(missing_ok=True)
            verdicts.save(path)
            _clear(path)
    return verdicts


def _among(classes: int, rules: Protocol, threat: Threat) -> tuple[Protocol, list[str]]:
    """Return a protocol as it is defined among so many classes, and the note on an ensemble that is less than its name says."""
    if not (isinstance(rules, AutoAttack) and threat.eps and rules.defined(classes) != rules):
        return rules, []
    kept = rules.defined(classes)
    left = " and ".join(
        f"{name} (whose loss needs {CLASSES_NEEDED[name]} classes)" for name in rules.undefined(classes)
    )
    return kept, [f"not the whole ensemble: with {classes} classes without {left}; {', '.join(kept.attacks)} alone."]


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Let nobody else measure what goes into `path`: two would clear each other's state and images away.

    Its lock is removed last of all, so one that nobody holds is what a killed process left.
    """
    lock = FileLock(path.with_suffix(LOCK), timeout=LOOK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ArdbenchError(f"{path} is being measured by another process: wait for it or stop it.") from None
    except OSError as error:
        raise ArdbenchError(f"{path} cannot be written: {error.strerror}.") from None
    try:
        yield
    finally:
        path.with_suffix(LOCK).unlink(missing_ok=True)
        lock.release()


def _clear(path: Path) -> None:
    """Remove what an evaluation needs only while it is unfinished."""
    path.with_suffix(".state.json").unlink(missing_ok=True)
    Images(path).clear()


def _stored(path: Path | None, key: dict[str, Any], kept: Images | None, progress: Progress) -> Verdicts | None:
    """Return the verdicts in a file, if they are those of this key and the images that are wanted lie beside them."""
    if path is None or not path.exists():
        return None
    found = load_verdicts(path)
    if found.key != key:
        progress.note(f"{path.name} was measured on other weights, images or settings and is measured again.")
        return None
    if kept is not None and not kept.path.exists():
        progress.note(f"{path.name} was measured without keeping adversarial images and is measured again.")
        return None
    if path.with_suffix(LOCK).exists():
        with suppress(ArdbenchError), _held(path):
            _clear(path)
    return found


def _of_twin(
    path: Path | None, key: dict[str, Any], kept: Images | None, twin: tuple[Path, Mapping[str, Any]] | None
) -> Verdicts | None:
    """Return, and write, what was measured on the same network under another name; its images are not taken over."""
    if path is None or twin is None or kept is not None or not (other := twin[0] / path.name).exists():
        return None
    found = load_verdicts(other)
    if found.key != key | dict(twin[1]):
        return None
    found = replace(found, key=key, seconds=0.0)
    found.save(path)
    return found


@dataclass
class Job:
    """One measurement; fields as in `evaluate`."""

    net: nn.Module
    split: Split
    protocol: Protocol
    threat: Threat
    batch: int
    seed: int
    progress: Progress
    stop: Callable[[], bool]
    surrogate: Surrogate | None
    images: Images | None

    def run(self, state: Path | None, key: dict[str, Any]) -> Outcome:
        """Measure by the kind of the protocol; at eps = 0 every kind is the clean one."""
        rules = self.protocol
        try:
            with measuring(self.net, self.split.labels.device):
                if isinstance(rules, AutoAttack) and self.threat.eps:
                    done = autoattack.Driver(
                        self.net, self.split, rules, self.threat, self.batch, self.seed, self.progress, self.stop,
                        self.images,
                    ).finish(state, key)  # fmt: skip
                    return Outcome(done.predictions, done.taken, done.batch, done.seconds, done.notes, done.unconfirmed)
                return processes.once(self._in_one_sitting)
        except KeyboardInterrupt:
            raise self._stopped() from None

    def _in_one_sitting(self) -> Outcome:
        """Measure; where the batch does not fit, from the beginning with half of it, as if that had been asked for."""
        begun, asked = time.perf_counter(), min(self.batch, len(self.split))
        while (done := fitting(self._sitting)) is None:
            self.batch = halved(min(self.batch, len(self.split)), self.protocol.name)
        if self.batch < asked:
            note = (
                f"Measured with batch {self.batch}, since {asked} did not fit in memory; the batch decides the noise."
            )
            done.notes.append(note)
            self.progress.note(note)
        done.seconds = time.perf_counter() - begun
        return done

    def _sitting(self) -> Outcome:
        """Measure the clean predictions and, for PGD, attack those points that are classified right."""
        labels = self.split.labels
        if self.images is not None:
            self.images.clear()
        self.progress.task(self.protocol.name, len(labels))
        said = torch.full_like(labels, -1)
        for begin in range(0, len(labels), self.batch):
            self._may_go_on()
            rows = slice(begin, begin + self.batch)
            said[rows] = predict(self.net, self.split.pixels(rows))
        taken = {"clean": int((said != labels).sum())}
        if isinstance(self.protocol, Pgd) and self.threat.eps:
            self._pgd(said, self.protocol)
            taken[self.protocol.name] = int((said != labels).sum()) - taken["clean"]
        self.progress.update(len(labels), robust=(said == labels).float().mean().item())
        notes = [f"crafted on {self.surrogate.name}."] if self.surrogate else []
        return Outcome(said.tolist(), taken, self.batch, notes=notes)

    def _pgd(self, said: Tensor, rules: Pgd) -> None:
        """Attack the points that still stand, restart after restart, and write what fools into `said` (n)."""
        maximiser = Maximiser(self.threat, rules.attack(self.threat), PLAIN, rules.momentum)
        objective = OBJECTIVES[rules.objective]
        if rules.scale != 1:
            objective = scaled(objective, rules.scale)
        searched = self.surrogate.net if self.surrogate else self.net
        labels = self.split.labels
        for restart in range(rules.restarts):
            standing = (said == labels).nonzero().squeeze(1)
            for step, begin in enumerate(range(0, len(standing), self.batch)):
                self._may_go_on()
                rows = standing[begin : begin + self.batch]
                x, y = self.split.pixels(rows), labels[rows]
                draws = Draws(self.seed, restart, step, len(rows))
                x_adv = maximiser(objective, searched, x, (y,), draws=draws, purpose="evaluation")
                check_allowed(self.split.pixels(rows), x_adv, self.threat, rules.name)
                said[rows] = predict(self.net, x_adv)
                if self.images is not None:
                    fooled = said[rows] != y
                    self.images.add(f"{rules.name}-{restart}-{step}", rows[fooled], x_adv[fooled])
                gone = len(labels) - len(standing) + begin + len(rows)
                self.progress.update(gone, robust=(said == labels).float().mean().item())

    def _may_go_on(self) -> None:
        if self.stop():
            raise self._stopped()

    def _stopped(self) -> Paused:
        return Paused(f"Stopped in {self.protocol.name}: nothing of it is kept; the same command begins it again.")


def subset_of(split: Split, n: int | None) -> Split:
    """Return the n examples of a split that are measured; all of them where n is None or their number."""
    return split if n is None or n == len(split) else split.subset(n, SUBSET_SEED)


def _never() -> bool:
    return False


def _key(
    rules: Protocol, threat: Threat, chosen: Split, total: int, seed: int, outer: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything that decides the verdicts, as JSON gives it back: images by their bytes, weights as told."""
    ours = {
        "protocol": rules.name,
        "version": rules.version,
        "settings": rules.settings(threat),
        "threat": threat.model_dump(mode="json"),
        "n": len(chosen),
        "total": total,
        "seed": seed,
        "examples": examples_digest(chosen),
    }
    document: dict[str, Any] = json.loads(json.dumps({**ours, **outer}))
    return document


def examples_digest(chosen: Split) -> str:
    """Return the sha256 of images, labels and positions, by which verdicts name what they were measured on."""
    digest = hashlib.sha256()
    pieces = (chosen.images[begin : begin + PIECE] for begin in range(0, len(chosen), PIECE))
    for tensor in (*pieces, chosen.labels, chosen.index):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _environment(rules: Protocol, device: torch.device) -> dict[str, str]:
    """Return what the measuring was done with."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    package = {"pyautoattack": version("pyautoattack")} if isinstance(rules, AutoAttack) else {}
    return {"device": named, "torch": torch.__version__, **package}
