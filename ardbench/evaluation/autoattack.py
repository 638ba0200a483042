"""AutoAttack: the authors' attacks (`pyautoattack`), driven by us with the state on disk after every batch.

Source: F. Croce and M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from ardbench.config import Threat
from ardbench.errors import ArdbenchError
from ardbench.evaluation.confirm import check_allowed, finite_logits, logits_of, predict
from ardbench.evaluation.protocols import AutoAttack
from ardbench.evaluation.verdicts import Paused
from ardbench.progress import Progress
from ardbench.runs import read_json, write_json

if TYPE_CHECKING:
    from ardbench.data.batches import Split

CLASSES_NEEDED = {"apgd-t": 4, "apgd-dlr": 3}
"""The DLR losses compare with the third (targeted: fourth) largest logit."""
NORMS = {"linf": "Linf", "l2": "L2"}


@dataclass
class State:
    """Where a run stands: all that a continuation needs, and no state of a random number generator.

    Args:
        key: everything that decides the verdicts.
        batch: examples at a time; it decides the attacks' noise.
        predictions: (n) classes, so far.
        current: position of the attack being run in the protocol's list.
        pending: the rows that were robust when that attack began, in order.
        position: how many of them it has dealt with.
        taken: points taken by each attack so far, "clean" first.
    """

    key: dict[str, Any]
    batch: int
    predictions: list[int]
    taken: dict[str, int]
    current: int = 0
    pending: list[int] = field(default_factory=list)
    position: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


_FILE: TypeAdapter[State] = TypeAdapter(State)


def load_state(path: Path) -> State:
    """Return the state in a file, or refuse the file by name."""
    try:
        return _FILE.validate_python(read_json(path))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ArdbenchError(f"{path} holds no state of an evaluation ({where}); delete it to begin again.") from None


@dataclass
class Driver:
    """One evaluation under AutoAttack; fields as in `measure.evaluate`, in whose context it runs."""

    net: nn.Module
    split: Split
    protocol: AutoAttack
    threat: Threat
    batch: int
    seed: int
    progress: Progress
    stop: Callable[[], bool]

    def __post_init__(self) -> None:
        self._done, self._robust, self._forwards, self._told = 0, 0.0, 0, inf

    def finish(self, path: Path | None, key: dict[str, Any]) -> State:
        """Begin or continue, run every attack on what stands, and return the last state; the global RNG is forked.

        Args:
            path: the state's file; None keeps nothing.
            key: a state with another key is begun anew.

        Raises:
            Paused: asked to stop, or Ctrl-C; at most the present batch is lost.
        """
        labels: list[int] = self.split.labels.tolist()
        device = self.split.labels.device
        classes = finite_logits(self.net, self.split.pixels(slice(0, 1))).shape[1]
        _refuse_few_classes(self.protocol, classes)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            try:
                state = self._found(path, key) or self._begin(path, key, labels)
                attacks = self._configured(state, classes)
                while state.current < len(self.protocol.attacks):
                    self._attack(attacks, state, path, labels)
                    state.current, state.pending, state.position = state.current + 1, [], 0
            except KeyboardInterrupt:
                raise self._paused(path) from None
        return state

    def _found(self, path: Path | None, key: dict[str, Any]) -> State | None:
        """Return the state on disk, if it is this evaluation's."""
        if path is None or not path.exists():
            return None
        state = load_state(path)
        if state.key != key:
            self.progress.note(f"{path.name} belongs to other weights, images or settings and is begun anew.")
            return None
        if state.batch != self.batch:
            note = f"Continued with batch {state.batch}, not {self.batch}: the batch it began with decides the noise."
            _add(state.notes, note)
            self.progress.note(note)
        return state

    def _begin(self, path: Path | None, key: dict[str, Any], labels: list[int]) -> State:
        """Return the state after the clean predictions, with the package's own warnings about the network."""
        begun = time.perf_counter()
        torch.manual_seed(self.seed)
        said: list[int] = []
        self.progress.task("clean", len(labels))
        for begin in range(0, len(labels), self.batch):
            self._may_go_on(path)
            said += predict(self.net, self.split.pixels(slice(begin, begin + self.batch))).tolist()
            self.progress.update(len(said))
        state = State(key, self.batch, said, {"clean": len(labels) - len(_standing(said, labels))})
        self._warn(state)
        state.seconds = time.perf_counter() - begun
        self._save(state, path)
        return state

    def _warn(self, state: State) -> None:
        """Run the package's checks that need no tracing, and note what they say."""
        from pyautoattack import checks

        logger = _Notes(state)
        x, y = self.split.pixels(slice(0, self.batch)), self.split.labels[: self.batch]
        if self.protocol.configured != "rand":
            checks.check_randomized(self._logits, x, y, logger=logger)
        checks.check_range_output(self._logits, x, logger=logger)

    def _configured(self, state: State, classes: int) -> Any:
        """Return the package's attack objects, configured as the protocol says, for a network of so many classes."""
        from pyautoattack import AutoAttack as Package

        aa = Package(
            self._logits,
            norm=NORMS[self.threat.norm],
            eps=self.threat.eps,
            seed=self.seed,
            version=self.protocol.configured,
            device=self.split.labels.device,
        )
        for name, attack in (("apgd-t", aa.apgd_targeted), ("fab-t", aa.fab)):
            if attack.n_target_classes > classes - 1:
                if name in self.protocol.attacks:
                    usual = attack.n_target_classes
                    _add(state.notes, f"{name} targets {classes - 1} classes instead of {usual}: there are no more.")
                attack.n_target_classes = classes - 1
        return aa

    def _attack(self, aa: Any, state: State, path: Path | None, labels: list[int]) -> None:
        """Run the present attack on the points that stood when it began, batch by batch, saving after each."""
        name = self.protocol.attacks[state.current]
        if not state.position:
            state.pending = _standing(state.predictions, labels)
            state.taken[name] = 0
        aa.apgd.logger = aa.apgd_targeted.logger = _Notes(state, name)
        self.progress.task(name, len(state.pending))
        self._forwards = 0
        self._tell(state, labels)
        while state.position < len(state.pending):
            self._may_go_on(path)
            begun = time.perf_counter()
            rows = state.pending[state.position : state.position + state.batch]
            for row, said in zip(rows, self._fooled(aa, name, rows), strict=True):
                state.taken[name] += said != labels[row]
                state.predictions[row] = said
            state.position += len(rows)
            if name == "square" and state.position == len(state.pending):
                self._check_square(state)
            state.seconds += time.perf_counter() - begun
            self._save(state, path)
            self._tell(state, labels)

    def _fooled(self, aa: Any, name: str, rows: list[int]) -> list[int]:
        """Return the confirmed predictions of some rows under one attack."""
        chosen = torch.tensor(rows, device=self.split.labels.device)
        y = self.split.labels[chosen]
        torch.manual_seed(self.seed)  # every attack seeds itself; this is for networks that draw before it does
        x_adv = perturb(aa, name, self.split.pixels(chosen).contiguous(), y)
        check_allowed(self.split.pixels(chosen), x_adv, self.threat, name)
        said: list[int] = predict(self.net, x_adv).tolist()
        return said

    def _check_square(self, state: State) -> None:
        """Note what the package says where Square, which needs no gradients, took points that gradients had not."""
        from pyautoattack import checks

        left, shares = len(state.predictions), {}
        for name, points in state.taken.items():
            left -= points
            shares[name] = left / len(state.predictions)
        checks.check_square_sr(shares, logger=_Notes(state))

    def _logits(self, x: Tensor) -> Tensor:
        """Return the logits that the attacks see, and tell once a second that one batch of 5,000 forwards is alive."""
        self._forwards += 1
        if time.monotonic() > self._told + 1:
            self._told = time.monotonic()
            self.progress.update(self._done, robust=self._robust, forwards=self._forwards)
        return logits_of(self.net, x)

    def _tell(self, state: State, labels: list[int]) -> None:
        self._done, self._robust = state.position, len(_standing(state.predictions, labels)) / len(labels)
        self._told = time.monotonic()
        self.progress.update(self._done, robust=self._robust, forwards=self._forwards)

    def _save(self, state: State, path: Path | None) -> None:
        if path is not None:
            write_json(path, vars(state))

    def _may_go_on(self, path: Path | None) -> None:
        if self.stop():
            raise self._paused(path)

    def _paused(self, path: Path | None) -> Paused:
        kept = "nothing of it is kept" if path is None or not path.exists() else f"{path} is kept"
        again = "begins it again" if path is None or not path.exists() else "continues there"
        return Paused(f"Stopped in {self.protocol.name}: {kept}; the same command {again}.")


def perturb(aa: Any, name: str, x: Tensor, y: Tensor) -> Tensor:
    """Return what one attack of the package makes of x (B, C, H, W), contiguous, with labels y (B,).

    The switches are those of the package's `run_standard_evaluation`; nothing else is carried from batch to batch.
    """
    if name in ("apgd-ce", "apgd-dlr"):
        aa.apgd.loss = name.removeprefix("apgd-")
        attack = aa.apgd
    elif name in ("fab", "fab-t"):
        aa.fab.targeted = name == "fab-t"
        if aa.fab.targeted:
            aa.fab.n_restarts = 1
        attack = aa.fab
    else:
        attack = {"apgd-t": aa.apgd_targeted, "square": aa.square}[name]
    x_adv: Tensor = attack.perturb(x, y)
    return x_adv


def _refuse_few_classes(protocol: AutoAttack, classes: int) -> None:
    """Refuse attacks whose loss needs more classes than there are, and say which list does not."""
    short = [name for name in protocol.attacks if CLASSES_NEEDED.get(name, 2) > classes]
    if short:
        raise ArdbenchError(
            f"{short[0]} in protocol {protocol.name} needs at least {CLASSES_NEEDED.get(short[0], 2)} classes, and the "
            f"network has {classes}: evaluate aa:apgd-ce,fab-t,square instead."
        )


def _standing(predictions: Sequence[int], labels: Sequence[int]) -> list[int]:
    return [row for row, (said, label) in enumerate(zip(predictions, labels, strict=True)) if said == label]


def _add(notes: list[str], note: str) -> None:
    if note not in notes:
        notes.append(note)


class _Notes:
    """Stands where the package expects a logger: each warning becomes a note, once, without its count of points."""

    def __init__(self, state: State, attack: str = "") -> None:
        self.notes, self.attack = state.notes, attack

    def warning(self, text: str) -> None:
        """Note what the package says, in one line that a table can quote."""
        if "zero gradient" in text:
            text = f"points with zero gradient in {self.attack}, gradient-based attacks may be unreliable."
        text = re.sub(r"\s*See flags_doc\.md for details\.", "", text).replace('version="rand"', "aa-rand")
        _add(self.notes, f"AutoAttack: {text.replace('; ', ', ')}")
