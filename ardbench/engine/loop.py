"""The one training loop: epochs of batches, resumable at any batch, never saving what is not finite."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, update_bn

from ardbench import config, processes
from ardbench.config import Recipe, epoch_at
from ardbench.data.batches import Batch, Splits, TrainBatches
from ardbench.draws import seed_operations
from ardbench.engine.averaging import Trailing
from ardbench.engine.checkpoints import all_finite, load_state, load_weights, save_state, save_weights
from ardbench.engine.contract import Contract
from ardbench.engine.device import peak_memory
from ardbench.engine.diagnostics import Diagnostics
from ardbench.engine.distribution import average_statistics, check_shares, reduce
from ardbench.engine.ledger import Ledger
from ardbench.engine.networks import of_run
from ardbench.engine.schedules import factor
from ardbench.engine.teacher_cache import TeacherCache
from ardbench.engine.weight_perturbation import Backward
from ardbench.errors import ArdbenchError
from ardbench.evaluation.measure import evaluate
from ardbench.evaluation.protocols import protocol
from ardbench.evaluation.verdicts import Paused
from ardbench.methods.base import Method
from ardbench.progress import Progress
from ardbench.runs import Run, write_atomic
from ardbench.starts import STATE, parent_of

ADAM_BETA2 = 0.999
"""torch's own default (Kingma and Ba, ICLR 2015)."""
LOOK_EVERY = 50
"""Steps between two looks at numbers that lie on an accelerator; on the CPU every step is looked at."""


@dataclass
class Position:
    """Where a run stands: the next step to make, the best validation so far, and what it has cost."""

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0
    images: int = 0


class Loop:
    """The training of one run, in one process or, as `processes` has joined them, in several that do the same.

    Args:
        run: its directory; the caller holds the lock. The first process writes it.
        method: on its device.
        splits: the data, on the same device.
        stop: asked after every batch and while an epoch is measured; True in any process saves and ends the loop.
    """

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        method: Method[Any],
        splits: Splits,
        stop: Callable[[], bool],
        progress: Progress,
    ) -> None:
        self.run, self.recipe, self.method, self.splits = run, recipe, method, splits
        self.asked, self.stop, self.progress = stop, partial(processes.anybody, stop), progress
        self.trained = False  # a batch, since it was made
        self.device = splits.train.labels.device
        self.batches = TrainBatches(
            splits.train,
            recipe.data.augment,
            recipe.data.batch,
            recipe.data.drop_last,
            recipe.seed,
            layout=torch.channels_last if recipe.precision.channels_last else torch.contiguous_format,
            compiled=recipe.precision.compile,
            rank=processes.rank(),
            world=processes.size(),
            extra=splits.extra,
            label=self._label,
            area=recipe.data.crop_area,
        )
        check_shares(self.batches)
        self.contract = Contract(method)
        self.trainables = self.contract.trainables()
        self.learning = {name: recipe.learning(name) for name in self.trainables}
        self.optimizers = {name: _optimizer(net, self.learning[name][0]) for name, net in self.trainables.items()}
        self.backward = Backward(method, recipe, self.contract.step)
        self.averaged = _average(method.student, recipe)
        if self.averaged is not None and recipe.average.kind == "ema":
            method.average = self.averaged.module
        method.epoch_steps = len(self.batches)
        self.cache: TeacherCache | None = None
        if method.teachers and recipe.precision.cache_gb:
            words = (self.batches, method.teachers, method.classes, recipe.precision, run, progress)
            self.cache = TeacherCache(*words)
            method.remembered = self.cache.logits
        self.diagnostics = Diagnostics(method, self.device) if recipe.diagnostics else None
        self.at, self.ledger, self.rows = Position(), Ledger(), list[dict[str, Any]]()

    def fit(self) -> bool:
        """Train from where the run stands; return whether it is finished (False: stopped and saved)."""
        self._resume()
        try:
            return self._train()
        finally:
            if self.cache is not None:
                self.cache.save()

    def _train(self) -> bool:
        while not self._over():
            try:
                whole = self._epoch(self.at.epoch) and self._close(self.at.epoch)
            except Paused:  # all batches are made, and `_resume` begins with measuring
                whole = False
            if not whole:
                self._save()
                return False
            if not self._over() and self.stop():
                return False
        self._finish()
        return True

    def _over(self) -> bool:
        """Return whether the last epoch is done, or no better one has come for as long as the recipe waits."""
        return self.at.epoch >= self.recipe.schedule.epochs or self.recipe.selection.exhausted(self.rows)

    def _epoch(self, epoch: int) -> bool:
        """Train the rest of one epoch; return False if it was stopped before its end."""
        if self.at.step == 0:  # not when resuming inside the epoch: the state was saved after it had begun
            self.contract.begin_epoch(epoch)
        for net in self.trainables.values():
            net.train()
        total, own = self.batches.epoch.images, self.batches.epoch.own
        self.progress.task(f"epoch {epoch + 1}/{self.recipe.schedule.epochs}", total)
        if self.at.step:
            self.progress.update(min(self.at.step * own, total), **self.ledger.means())
        began, before = time.perf_counter(), self.at.seconds
        for index in range(self.at.step, len(self.batches)):
            batch = self.batches.batch(epoch, index)
            self._step(batch, epoch, index)
            self.trained = True
            self.at.step, self.at.images = index + 1, self.at.images + batch.draws.rows
            last = index + 1 == len(self.batches)
            if self.device.type == "cpu" or last or index % LOOK_EVERY == LOOK_EVERY - 1:
                self.ledger.check(epoch)
                self.progress.update(min(self.at.step * own, total), **self.ledger.means())
            self.at.seconds = before + time.perf_counter() - began
            if self.stop() and not last:
                return False
        return True

    def _step(self, batch: Batch, epoch: int, index: int) -> None:
        seed_operations(self.device, self.recipe.seed, "operations", epoch, index)
        share = len(batch.y) / batch.draws.rows
        with self.backward(batch, epoch, share) as step:
            self.ledger.add(reduce(step, share, self.trainables.values()), index, batch.draws.rows)
            for name in self.optimizers:
                self._learn(name, epoch, index)
        if not self.recipe.sync_bn:
            average_statistics(share, self.trainables.values())
        average = self.recipe.average
        if self.averaged is not None and average.kind == "ema" and self._averages(epoch):
            self.averaged.update_parameters(self.method.student)

    def _learn(self, name: str, epoch: int, index: int) -> None:
        """Let a trainable's optimizer make its step, if it has begun, and forget the gradients."""
        optimizer, (wanted, rates, begin) = self.optimizers[name], self.learning[name]
        epochs, steps = self.recipe.schedule.epochs, len(self.batches)
        if epoch >= epoch_at(begin, epochs):
            if wanted.clip is not None:
                nn.utils.clip_grad_norm_(self.trainables[name].parameters(), wanted.clip)
            for group in optimizer.param_groups:
                group["lr"] = wanted.lr * factor(rates, epochs, epoch * steps + index, steps)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _close(self, epoch: int) -> bool:
        """End an epoch: measure, keep the best, average, write the row and the state; return True.

        Raises:
            Paused: asked to stop while it was measured; everything is as before.
        """
        if not all_finite(list(self.trainables.values())):
            raise ArdbenchError(
                f"A weight is not finite after epoch {epoch + 1}: the last good checkpoint is kept; lower optimizer.lr."
            )
        rate = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        row: dict[str, Any] = {"epoch": epoch, **self.ledger.means(), **self._measured(epoch), "learning_rate": rate}
        if self.averaged is not None and self.recipe.average.kind == "swa" and self._averages(epoch):
            self.averaged.update_parameters(self.method.student)
        row |= self._cost()
        if self.recipe.keep_every and (epoch + 1) % self.recipe.keep_every == 0:
            self._export(f"epoch-{epoch + 1}", self.method.deployed(self.method.student))
        if self.diagnostics is not None:
            row["diagnostics"] = self.diagnostics.close()
        self.rows.append(row)
        self.at.epoch, self.at.step, self.ledger = epoch + 1, 0, Ledger()
        self._write_rows()
        self._save()
        self.progress.row(row)
        return True

    def _write_rows(self) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        processes.once(lambda: write_atomic(self.run.path / "metrics.jsonl", text.encode()))

    def _measured(self, epoch: int) -> dict[str, float]:
        """Measure the deployed network where the recipe says, and keep it if it is the best so far.

        After the last epoch it is measured in any case: where there are no validation images, on the test images, which
        then choose nothing. A call that has trained nothing yet does not stop here, so that each comes further.
        """
        selection, recipe = self.recipe.selection, self.recipe
        final = epoch + 1 == recipe.schedule.epochs
        split = self.splits.test if selection.by == "best-test" else self.splits.validation
        due = epoch >= epoch_at(selection.start, recipe.schedule.epochs) and (epoch + 1) % selection.every == 0
        if final and split is None:
            split = self.splits.test
        if split is None or not (due or final):
            return {}
        net = self.contract.deployed(self.method.student)
        threat = selection.threat or recipe.evaluation
        words = {"batch": max(recipe.data.batch, 500), "stop": self.asked if self.trained else None}
        measured = {
            name: evaluate(net, split, protocol(name), threat, **words)  # type: ignore[arg-type]
            for name in ("clean", selection.protocol)
        }
        for note in (note for verdicts in measured.values() for note in verdicts.notes):
            self.progress.note(note)
        where = "test" if split is self.splits.test else "val"
        row = {f"{where}_clean": measured["clean"].accuracy, f"{where}_robust": measured[selection.protocol].accuracy}
        score = selection.scored(row)
        if selection.by != "last" and score is not None and score > self.at.best:
            self.at.best, self.at.best_epoch = score, epoch
            self._export("best", net)
        return row

    def _cost(self) -> dict[str, float]:
        earlier = sum(row["seconds"] for row in self.rows)
        seconds = self.at.seconds - earlier
        images = self.at.images - sum(row["images"] for row in self.rows)
        cost = {"seconds": seconds, "images": images, "images_per_second": images / seconds}
        return cost | {"peak_memory": peak_memory(self.device)}

    def _finish(self) -> None:
        """Write the weights of the last epoch and of the average."""
        self._export("last", self.contract.deployed(self.method.student))
        if self.averaged is not None:
            epochs = self.recipe.schedule.epochs
            clean = (self.batches.batch(epochs, index).x for index in range(len(self.batches)))
            update_bn(clean, self.averaged)
            average_statistics(1 / processes.size(), [self.averaged])
            self._export("averaged", self.contract.deployed(self.averaged.module))

    @torch.no_grad()
    def _label(self, images: Tensor) -> Tensor:
        """Return the classes (n,) that the first teacher sees in images (n, C, H, W)."""
        return self.method.teachers[0](images).argmax(dim=1)

    def _averages(self, epoch: int) -> bool:
        return epoch >= epoch_at(self.recipe.average.start, self.recipe.schedule.epochs)

    def _export(self, checkpoint: str, net: nn.Module) -> None:
        facts = {
            "model": self.recipe.student,
            "dataset": self.recipe.data.name,
            "normalise": str(self.recipe.data.normalise).lower(),
            "run": self.run.path.name,
            "checkpoint": checkpoint,
        }
        processes.once(lambda: save_weights(self.run.weights(checkpoint), net, facts))

    def _save(self) -> None:
        """Write everything that the next step depends on."""
        if not all_finite(list(self.trainables.values())):
            raise ArdbenchError("A weight is not finite: the last good checkpoint is kept; lower optimizer.lr.")
        state = {
            "at": vars(self.at),
            "nets": {name: net.state_dict() for name, net in self.trainables.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "method": self.contract.state(),
            "modules": [module.state() for module in self.method.modules],
            "ledger": self.ledger.state(),
            "diagnostics": None if self.diagnostics is None else self.diagnostics.counts,
        }
        processes.once(lambda: save_state(self.run.path / STATE, state))

    def _resume(self) -> None:
        """Take up the state that was saved, or that of the run which this one extends."""
        path, start = self.run.path / STATE, self.recipe.start
        before = None
        if not path.exists() and start is not None and start.kind == "extend":
            before = parent_of(start)
            path = before.path / STATE
        if not path.exists():
            return
        state = load_state(path)
        try:
            self.at = Position(**state["at"])
            for name, net in self.trainables.items():
                net.load_state_dict(state["nets"][name])
                self.optimizers[name].load_state_dict(state["optimizers"][name])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
            self.method.load_state(state["method"])
            for module, kept in zip(self.method.modules, state.get("modules", []), strict=True):
                module.load_state(kept)
            self.ledger.load_state(state["ledger"], self.device)
            if self.diagnostics is not None and state.get("diagnostics") is not None:
                self.diagnostics.counts = state["diagnostics"].to(self.device)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ArdbenchError(f"{path} does not fit this run ({error}): delete it to train again.") from None
        if before is not None:
            self._go_on_from(before)
            return
        if self.at.best_epoch >= 0:
            load_weights(self.run.weights("best"))  # refuses a damaged one now, not after days of training
        self.rows = [row for row in self.run.metrics if row["epoch"] < self.at.epoch]
        where = f"batch {self.at.step + 1}" if self.at.step < len(self.batches) else "where it is measured"
        self.progress.note(f"Resuming at epoch {self.at.epoch + 1}, {where}.")

    def _go_on_from(self, before: Run) -> None:
        """Take over the epochs of a finished run, whose state has been loaded, and its best network."""
        self.rows = before.metrics
        self._write_rows()
        if self.at.best_epoch >= 0:
            self._export("best", of_run(before, "best", self.device))
        self.progress.note(
            f"Going on from {before.path} at epoch {self.at.epoch + 1} of {self.recipe.schedule.epochs}: rates, phases and "
            "milestones are from here on those of a run of so many."
        )


def _optimizer(net: nn.Module, wanted: config.Optimizer) -> Optimizer:
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    shared = {"lr": wanted.lr, "weight_decay": wanted.weight_decay, "fused": True}
    if wanted.kind == "adamw":
        return AdamW(learning, betas=(wanted.momentum, ADAM_BETA2), **shared)  # type: ignore[arg-type]
    return SGD(learning, momentum=wanted.momentum, nesterov=wanted.nesterov, **shared)  # type: ignore[arg-type]


def _average(student: nn.Module, recipe: Recipe) -> AveragedModel | None:
    if recipe.average.kind == "none":
        return None
    decay = recipe.average.decay
    return AveragedModel(student) if decay is None else Trailing(student, decay)
