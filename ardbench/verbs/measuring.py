"""What is measured of a subject, the measuring, and what came out. Torch-free until it measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ardbench.config import Threat
from ardbench.errors import ArdbenchError
from ardbench.evaluation.protocols import Protocol
from ardbench.evaluation.trust import Finding
from ardbench.evaluation.verdicts import Verdicts, file_name
from ardbench.subjects import Subject
from ardbench.teachers import locate, of_object

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from torch import nn

    from ardbench.evaluation.measure import Surrogate
    from ardbench.progress import Progress

Norm = Literal["linf", "l2"]
Listening = Callable[[Subject], AbstractContextManager["Progress"]]


@dataclass(frozen=True)
class Question:
    """What is to be measured of every subject; fields as in `ardbench.evaluate`."""

    rules: tuple[Protocol, ...]
    n: int | None
    eps: float | None
    norm: Norm | None
    batch: int | Literal["auto"]
    seed: int
    keep_adversarial: bool
    surrogate: str | nn.Module | None


def measured(
    jobs: Sequence[Measuring],
    device: str,
    data_root: Path | None,
    deadline: float | None,
    listening: Listening,
    heard: Callable[[Subject, Measurement], None] = lambda *_: None,
    named: Callable[[torch.device], None] = lambda _: None,
) -> Iterator[Evaluation]:
    """Yield what comes out for one subject after the other; the first that is not finished is the last.

    Every process of torchrun calls it alike and gets the same.

    Args:
        listening: gives the listener for each subject's work.
        heard: is told each number when it is there.
        named: is told the device, once each process has its own.
    """
    from ardbench import processes
    from ardbench.engine.device import choose
    from ardbench.engine.stopping import stopping
    from ardbench.models.objects import device_of

    with processes.joined(), stopping(deadline) as stop:
        for place, job in enumerate(jobs):
            net = job.subject.net
            where = device_of(net) if net is not None and device == "auto" else choose(device)
            if net is not None and device_of(net).type != where.type:
                raise ArdbenchError(f"The network lies on {device_of(net)}, not on {where}: move it there first.")
            if place == 0:
                named(where)
            with listening(job.subject) as progress:
                found = job.work(where, data_root, stop, progress, partial(heard, job.subject))
            yield found
            if not found.finished:
                return


@dataclass(frozen=True)
class Measuring:
    """One subject and what is to be measured of it.

    Args:
        threat: under which.
        runs: the folder of runs, below which batches are remembered.
    """

    subject: Subject
    question: Question
    threat: Threat
    runs: Path

    def work(
        self,
        device: torch.device,
        data_root: Path | None,
        stop: Callable[[], bool],
        progress: Progress,
        heard: Callable[[Measurement], None],
    ) -> Evaluation:
        """Measure what is missing, and judge it; a checkpoint at which it was stopped is not judged."""
        from ardbench import processes
        from ardbench.data.load import load
        from ardbench.evaluation.network_checks import examine
        from ardbench.evaluation.verdicts import Paused
        from ardbench.listeners import say
        from ardbench.models.network import key_of, notes_of
        from ardbench.models.objects import check_answers

        subject, rows, findings = self.subject, list[Measurement](), list[tuple[str, Finding]]()
        split = processes.first(lambda: load(subject.dataset, device, data_root, progress=progress)).test
        surrogate = self._surrogate(device)
        for checkpoint in subject.checkpoints:
            net = subject.network(checkpoint, device)
            key = subject.key(checkpoint) | key_of(net)
            if subject.net is not None:
                check_answers(net, split.pixels(slice(0, 2)), split.info.num_classes)
            for note in notes_of(net):
                progress.note(note)
            batch = self._batch(device, net, split.pixels(slice(0, 1)))
            for rules in self.question.rules:
                try:
                    row = self._row(checkpoint, rules, net, split, batch, key, surrogate, progress, stop)
                except Paused as paused:
                    say(str(paused))
                    return Evaluation(subject, self.threat, tuple(rows), tuple(findings), finished=False)
                rows.append(row)
                heard(row)
            store = subject.store(checkpoint, self.threat, self.question.seed)
            judged = processes.once(partial(examine, net, split, store, self.question.n, key))
            findings += [(checkpoint, one) for one in judged]
        return Evaluation(subject, self.threat, tuple(rows), tuple(findings), finished=True)

    def _row(
        self, checkpoint: str, rules: Protocol, net: nn.Module, split: Any, batch: int, key: dict[str, str],
        surrogate: Surrogate | None, progress: Progress, stop: Callable[[], bool],
    ) -> Measurement:  # fmt: skip
        """Return one number, measured or read."""
        from ardbench.evaluation.measure import evaluate as measure

        asked = self.question
        store = self.subject.store(checkpoint, self.threat, asked.seed)
        file = store / file_name(rules.name, asked.n)
        before = file.stat().st_mtime_ns if file.exists() else None
        verdicts = measure(
            net, split, rules, self.threat, batch=batch, seed=asked.seed, n=asked.n, store=store, key=key,
            twin=self.subject.twin(checkpoint, self.threat, asked.seed), surrogate=surrogate, progress=progress, stop=stop,
            keep_adversarial=asked.keep_adversarial,
        )  # fmt: skip
        return Measurement(checkpoint, rules.name, verdicts, before is not None and before == file.stat().st_mtime_ns)

    def _surrogate(self, device: torch.device) -> Surrogate | None:
        """Return the network that transfer attacks are crafted on, if one was named."""
        from ardbench.engine import networks
        from ardbench.evaluation.measure import Surrogate
        from ardbench.models.network import key_of

        source = self.question.surrogate
        if source is None:
            return None
        teacher = locate(source) if isinstance(source, str) else of_object(source)
        given = {} if isinstance(source, str) else {teacher.identity: source}
        net = networks.of_teacher(teacher, self.subject.dataset, device, given)
        ours = not isinstance(source, str) or teacher.identity.startswith(teacher.sha256)  # part and size count too
        known = teacher.identity if ours else teacher.sha256
        return Surrogate(net, Path(teacher.source).name, " ".join([known, *key_of(net).values()]))

    def _batch(self, device: torch.device, net: nn.Module, image: torch.Tensor) -> int:
        """Return the batch that was typed, or the one that this network and device want."""
        if self.question.batch != "auto":
            return self.question.batch
        from ardbench import processes
        from ardbench.engine.device import describe
        from ardbench.evaluation.batch_size import remembered
        from ardbench.listeners import say

        file, subject = self.runs / "batches.json", self.subject
        name = f"{subject.model} on {subject.dataset}, {describe(device)}"
        batch = processes.once(lambda: remembered(file, name, net, image))
        say(f"Batch: {batch} ({file})")
        return batch


@dataclass(frozen=True)
class Measurement:
    """One accuracy: of a checkpoint under a protocol; `stored` where it was read and not measured now."""

    checkpoint: str
    protocol: str
    verdicts: Verdicts
    stored: bool

    def numbers(self) -> dict[str, Any]:
        """Return a row of a table: accuracy and its 95 % interval as fractions, n of total images, seconds."""
        one, (low, high) = self.verdicts, self.verdicts.interval
        return {
            "checkpoint": self.checkpoint, "protocol": self.protocol, "version": one.version, "accuracy": one.accuracy,
            "low": low, "high": high, "n": one.n, "total": one.total, "seconds": one.seconds, "stored": self.stored,
        }  # fmt: skip

    def document(self) -> dict[str, Any]:
        """Return all of it but the verdicts, as JSON holds it."""
        one = self.verdicts
        return self.numbers() | {"taken": one.taken, "unconfirmed": one.unconfirmed, "notes": one.notes}


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a subject.

    Args:
        threat: under which.
        measured: one for each checkpoint and protocol.
        findings: of the trust checks, each with its checkpoint.
        finished: whether all that was asked for is there.
    """

    subject: Subject
    threat: Threat
    measured: tuple[Measurement, ...]
    findings: tuple[tuple[str, Finding], ...]
    finished: bool

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each checkpoint and protocol: accuracy with its 95 % interval (fractions), n, seconds, whether stored."""
        import pandas as pd

        return pd.DataFrame([one.numbers() for one in self.measured])

    @cached_property
    def robust(self) -> dict[str, np.ndarray]:
        """Whether each image is classified right, (n,) bool, by protocol, at the first checkpoint that was measured."""
        import numpy as np

        first = self.measured[0].checkpoint if self.measured else ""
        return {one.protocol: np.array(one.verdicts.robust) for one in self.measured if one.checkpoint == first}

    @property
    def seed(self) -> int:
        """The seed of the attacks."""
        return self.measured[0].verdicts.seed if self.measured else 0

    @property
    def trust(self) -> list[dict[str, str]]:
        """What the trust checks say, in rows."""
        return [
            {"verdict": one.level, "check": one.check, "checkpoint": checkpoint, "reason": one.reason}
            for checkpoint, one in self.findings
        ]

    @property
    def doubts(self) -> list[dict[str, str]]:
        """Those that are not ok, each reason once with all of its checkpoints."""
        found: dict[tuple[str, str, str], list[str]] = {}
        for row in self.trust:
            if row["verdict"] != "ok":
                found.setdefault((row["verdict"], row["check"], row["reason"]), []).append(row["checkpoint"])
        return [
            {"verdict": verdict, "check": check, "checkpoint": ", ".join(names), "reason": reason}
            for (verdict, check, reason), names in found.items()
        ]

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        subject = self.subject
        about = {"source": str(subject.path), "model": subject.model, "dataset": subject.dataset}
        results = [one.document() for one in self.measured]
        return about | {"threat": vars(self.threat), "finished": self.finished, "results": results, "trust": self.trust}
