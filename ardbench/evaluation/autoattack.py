"""AutoAttack: the authors' attacks (`pyautoattack`), driven by us with the state on disk after every batch.

Source: F. Croce and M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from ardbench import processes
from ardbench.attacks.form import FastForm, computes_bf16
from ardbench.config import AtLeastOne, Count, Precision, Threat
from ardbench.errors import ArdbenchError
from ardbench.evaluation.adversarial import Images
from ardbench.evaluation.batch_size import fitting, halved
from ardbench.evaluation.confirm import check_allowed, finite_logits, logits_of, predict
from ardbench.evaluation.cost import of_attack
from ardbench.evaluation.ensemble import Listener, add, configured, perturb, refuse_few_classes
from ardbench.evaluation.protocols import AutoAttack
from ardbench.evaluation.verdicts import Paused
from ardbench.progress import Progress
from ardbench.runs import read_json, write_json
from ardbench.untrusted import Line
from ardbench.written import Finite

if TYPE_CHECKING:
    from ardbench.data.batches import Split


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
        again: rows that it claimed in bf16, and still has to attack in fp32.
        unconfirmed: how many such rows each attack has had; empty unless the protocol is fast.
        asked: the batch it began with, where `batch` has been halved since because it did not fit in memory; else 0.
    """

    key: dict[str, Any]
    batch: AtLeastOne
    predictions: list[Count]
    taken: dict[str, Count]
    current: Count = 0
    pending: list[Count] = field(default_factory=list)
    position: Count = 0
    again: list[Count] = field(default_factory=list)
    unconfirmed: dict[str, Count] = field(default_factory=dict)
    notes: list[Line] = field(default_factory=list)
    seconds: Finite = 0.0
    asked: Count = 0

    def halve(self, images: int, what: str) -> str:
        """Halve the batch, of which so many images did not fit, for all that is still to be done; return the note on it."""
        before, self.asked = min(self.batch, images), self.asked or self.batch
        self.batch = halved(before, what)
        note = f"From {what} on with batch {self.batch}, since {before} did not fit in memory; the batch decides the noise."
        add(self.notes, note)
        return note


_FILE: TypeAdapter[State] = TypeAdapter(State)


def load_state(path: Path) -> State:
    """Return the state in a file, or refuse the file by name."""
    try:
        state = _FILE.validate_python(read_json(path))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])[:100]
        raise ArdbenchError(f"{path} holds no state of an evaluation ({where}); delete it to begin again.") from None
    rows = len(state.predictions)
    known = "clean" in state.taken and {*state.pending, *state.again} <= set(range(rows))
    if not known or rows != state.key.get("n", rows):
        raise ArdbenchError(f"{path} holds no state of an evaluation (rows); delete it to begin again.")
    return state


@dataclass(frozen=True)
class Form:
    """A form of the network, and the package's attacks on it; `fast` is bf16."""

    logits: Callable[[Tensor], Tensor]
    attacks: Any
    fast: bool


@dataclass(frozen=True)
class Fooled:
    """What an attack made of a batch: the confirmed prediction of each row, and rows whose fooling was not confirmed."""

    rows: list[int]
    said: list[int]
    unconfirmed: list[int]
    notes: list[str]


@dataclass
class Driver:
    """One evaluation under AutoAttack; fields as in `measure.evaluate`, in whose context it runs.

    With several processes the batches of each attack are dealt to them; they all know the state, and the first writes it.
    """

    net: nn.Module
    split: Split
    protocol: AutoAttack
    threat: Threat
    batch: int
    seed: int
    progress: Progress
    stop: Callable[[], bool]
    images: Images | None = None

    def __post_init__(self) -> None:
        self._done, self._robust, self._forwards, self._told = 0, 0.0, 0, inf
        self._rows, self._spent = 0, 0  # of the batches at hand: images, and forwards as in `cost.forwards`
        self._price, self._backwards = 1, 1  # of the attack: such forwards to expect, and backwards to a forward

    def finish(self, path: Path | None, key: dict[str, Any]) -> State:
        """Begin or continue, run every attack on what stands, and return the last state; the global RNG is forked.

        Args:
            path: the state's file; None keeps nothing.
            key: a state with another key is begun anew.

        Raises:
            Paused: asked to stop, or Ctrl-C; at most the batches being attacked are lost.
        """
        labels: list[int] = self.split.labels.tolist()
        device = self.split.labels.device
        classes = finite_logits(self.net, self.split.pixels(slice(0, 1))).shape[1]
        refuse_few_classes(self.protocol, classes)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            try:
                state = processes.once(lambda: self._found(path, key) or self._begin(path, key, labels))
                plain = self._form(self.net, state, classes, fast=False)
                form = plain
                if self.protocol.fast:
                    form = self._form(FastForm(self.net, computes_bf16(device), Precision()), state, classes, fast=True)
                while state.current < len(self.protocol.attacks):
                    self._attack(form, plain, state, path, labels)
                    state.current, state.pending, state.position = state.current + 1, [], 0
            except KeyboardInterrupt:
                raise self._paused(path) from None
        if self.protocol.fast:
            add(state.notes, _about_fast(state, device))
        return state

    def _found(self, path: Path | None, key: dict[str, Any]) -> State | None:
        """Return the state on disk, if it is this evaluation's."""
        if path is None or not path.exists():
            return None
        state = load_state(path)
        if state.key != key:
            self.progress.note(f"{path.name} belongs to other weights, images or settings and is begun anew.")
            return None
        if self.images is not None and self.images.count() < sum(state.taken.values()) - state.taken["clean"]:
            self.progress.note(f"{path.name} was begun without keeping adversarial images and is begun anew.")
            return None
        if self.batch != (state.asked or state.batch):
            note = f"Continued with batch {state.batch}, not {self.batch}: the batch it began with decides the noise."
            add(state.notes, note)
            self.progress.note(note)
        return state

    def _begin(self, path: Path | None, key: dict[str, Any], labels: list[int]) -> State:
        """Return the state after the clean predictions, with the package's own warnings about the network."""
        begun = time.perf_counter()
        if self.images is not None:
            self.images.clear()
        state = State(key, self.batch, [], {})
        while fitting(partial(self._look, state, path, labels)) is None:
            self.progress.note(state.halve(len(labels), "the clean images"))
        state.seconds = time.perf_counter() - begun
        self._save(state, path)
        return state

    def _look(self, state: State, path: Path | None, labels: list[int]) -> State:
        """Enter the clean predictions and what the package says of the network."""
        torch.manual_seed(self.seed)
        said: list[int] = []
        self.progress.task("clean", len(labels))
        for begin in range(0, len(labels), state.batch):
            if self.stop():
                raise self._paused(path)
            said += predict(self.net, self.split.pixels(slice(begin, begin + state.batch))).tolist()
            self.progress.update(len(said))
        state.predictions, state.taken = said, {"clean": len(labels) - len(_standing(said, labels))}
        self._warn(state)
        return state

    def _warn(self, state: State) -> None:
        """Run the package's checks that need no tracing, and note what they say."""
        from pyautoattack import checks

        logger, logits = Listener(state.notes), self._heard(self.net)
        x, y = self.split.pixels(slice(0, state.batch)), self.split.labels[: state.batch]
        if self.protocol.configured != "rand":
            checks.check_randomized(logits, x, y, logger=logger)
        checks.check_range_output(logits, x, logger=logger)

    def _form(self, net: Callable[[Tensor], Tensor], state: State, classes: int, fast: bool) -> Form:
        logits, device = self._heard(net), self.split.labels.device
        attacks = configured(logits, self.protocol, self.threat, self.seed, device, classes, state.notes)
        return Form(logits, attacks, fast)

    def _attack(self, form: Form, plain: Form, state: State, path: Path | None, labels: list[int]) -> None:
        """Run the present attack on the points that stood when it began, batch by batch, saving after each.

        What a fast form lets it claim and fp32 does not confirm is attacked again afterwards, in fp32.
        """
        name = self.protocol.attacks[state.current]
        if not state.position:
            state.pending = _standing(state.predictions, labels)
            state.taken[name] = 0
        self.progress.task(f"{name} ({state.current + 1}/{len(self.protocol.attacks)})", len(state.pending))
        classes = self.split.info.num_classes
        self._forwards, self._price = 0, of_attack(name, self.protocol, classes)
        self._backwards = classes if name == "fab" else 1
        self._tell(state, labels)
        while rows := state.pending[state.position :] or state.again:
            if processes.anybody(self.stop):
                raise self._paused(path)
            begun = time.perf_counter()
            first = state.position < len(state.pending)
            size = state.batch
            batches = [rows[at : at + size] for at in range(0, len(rows), size)][: processes.size()]
            self._rows, self._spent = sum(map(len, batches)) if first else 0, 0
            fool = partial(self._fooled, form if first else plain, name, not first)
            fooled = fitting(partial(processes.share, batches, fool))
            if fooled is None:
                where = f"point {state.position + 1} of {name}" if first else f"what {name} attacks again in fp32"
                self.progress.note(state.halve(len(rows), where))
                self._forget(name, not first, batches)
            for done in fooled or ():
                _enter(state, name, done, first, labels)
            if name == "square" and state.position == len(state.pending) and not state.again:
                self._check_square(state)
            state.seconds += time.perf_counter() - begun
            self._save(state, path)
            self._tell(state, labels)

    def _fooled(self, form: Form, name: str, again: bool, rows: list[int]) -> Fooled:
        """Return what one attack on a form of the network makes of some rows, confirmed on the network itself."""
        notes: list[str] = []
        form.attacks.apgd.logger = form.attacks.apgd_targeted.logger = Listener(notes, name)
        chosen = torch.tensor(rows, device=self.split.labels.device)
        y = self.split.labels[chosen]
        torch.manual_seed(self.seed)  # every attack seeds itself; this is for networks that draw before it does
        x_adv = perturb(form.attacks, name, self.split.pixels(chosen).contiguous(), y)
        x = self.split.pixels(chosen)
        check_allowed(x, x_adv, self.threat, name)
        said = predict(self.net, x_adv)  # (b,)
        unconfirmed: list[int] = []
        if form.fast:
            # an attack hands back x itself where it found nothing, also where the form is wrong about x already
            claimed = (form.logits(x_adv).argmax(dim=1) != y) | (x_adv != x).flatten(1).any(dim=1)
            unconfirmed = chosen[claimed & (said == y)].tolist()
        if self.images is not None:
            self.images.add(_part(name, again, rows), chosen[said != y], x_adv[said != y])
        return Fooled(rows, said.tolist(), unconfirmed, notes)

    def _forget(self, name: str, again: bool, batches: Sequence[list[int]]) -> None:
        """Keep no images of batches that are attacked anew in another size."""
        if self.images is not None and processes.is_first():
            for rows in batches:
                self.images.forget(_part(name, again, rows))

    def _check_square(self, state: State) -> None:
        """Note what the package says where Square, which needs no gradients, took points that gradients had not."""
        from pyautoattack import checks

        left, shares = len(state.predictions), {}
        for name, points in state.taken.items():
            left -= points
            shares[name] = left / len(state.predictions)
        checks.check_square_sr(shares, logger=Listener(state.notes))

    def _heard(self, net: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a network's fp32 logits, and tell once a second how far one batch of 5,000 forwards is.

        Of its images so many count as done as the share of forwards that were made, but for the last, whatever was expected.
        """

        def logits(x: Tensor) -> Tensor:
            self._forwards += 1
            self._spent += 1 + self._backwards * (x.requires_grad and torch.is_grad_enabled())
            if time.monotonic() > self._told + 1:
                self._told = time.monotonic()
                within = min(self._rows * self._spent // self._price, max(self._rows - 1, 0))
                self.progress.update(self._done + within, robust=self._robust, forwards=self._forwards)
            return logits_of(net, x)

        return logits

    def _tell(self, state: State, labels: list[int]) -> None:
        self._done, self._robust = state.position, len(_standing(state.predictions, labels)) / len(labels)
        self._told = time.monotonic()
        self.progress.update(self._done, robust=self._robust, forwards=self._forwards)

    def _save(self, state: State, path: Path | None) -> None:
        if path is not None and processes.is_first():
            write_json(path, vars(state))

    def _paused(self, path: Path | None) -> Paused:
        kept = "nothing of it is kept" if path is None or not path.exists() else f"{path} is kept"
        again = "begins it again" if path is None or not path.exists() else "continues there"
        return Paused(f"Stopped in {self.protocol.name}: {kept}; the same command {again}.")


def _part(name: str, again: bool, rows: Sequence[int]) -> str:
    """Return the name under which a batch's images are kept."""
    return f"{name}-{'again-' if again else ''}{rows[0]}"


def _enter(state: State, name: str, done: Fooled, first: bool, labels: Sequence[int]) -> None:
    """Enter what an attack made of a batch, in its first pass or again in fp32."""
    for row, said in zip(done.rows, done.said, strict=True):
        state.taken[name] += said != labels[row]
        state.predictions[row] = said
    if first:
        state.position += len(done.rows)
        state.again += done.unconfirmed
    else:
        state.again = state.again[len(done.rows) :]
    if done.unconfirmed:
        state.unconfirmed[name] = state.unconfirmed.get(name, 0) + len(done.unconfirmed)
    for note in done.notes:
        add(state.notes, note)


def _about_fast(state: State, device: torch.device) -> str:
    """Return what the reader of a fast number has to know."""
    counts = ", ".join(f"{count} of {name}" for name, count in state.unconfirmed.items()) or "none"
    form = "in bf16" if computes_bf16(device) else "with BatchNorms folded, in fp32 for want of bf16 instructions"
    return (
        f"attacked {form}, every success confirmed in fp32. Unconfirmed at first, and attacked again in fp32: {counts}."
    )


def _standing(predictions: Sequence[int], labels: Sequence[int]) -> list[int]:
    return [row for row, (said, label) in enumerate(zip(predictions, labels, strict=True)) if said == label]
