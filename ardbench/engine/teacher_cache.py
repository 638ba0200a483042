"""Teachers' logits at augmented clean images: a teacher is asked about a view once, and not again in a later epoch.

A crop of an image padded by p and a flip have 2 (2p + 1)^2 views: 162 with p = 4. Logits are equal to rounding to those of
asking again. Teachers are asked each time about extra images and resized crops, of which there are too many to come back often,
and about images that are decoded for each batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ardbench.config import Precision
from ardbench.data.batches import Batch, TrainBatches
from ardbench.data.images import FileImages
from ardbench.data.views import count_views, number_views
from ardbench.errors import ArdbenchError
from ardbench.progress import Progress
from ardbench.runs import Run, write_atomic
from ardbench.untrusted import WEIGHTS_LIMIT, check_size

if TYPE_CHECKING:
    from ardbench.attacks.objectives import Net

FOLDER = "teacher-logits"
"""Beside the runs, of files that all of them share."""

ROWS = 48
"""Teachers are asked in multiples of it. Products take rows in blocks of 6, 12, 16, 24 or 48, by the processor, and may round
those of a last, smaller block otherwise: a resumed run, which asks about a view at another place, would be another run."""


@dataclass
class Store:
    """What is known of one teacher.

    Args:
        logits: (images x views, K) fp32, undefined where nothing is known.
        known: (images x views,).
        ready: the epoch and the steps of it whose views are all known.
        added: whether something has come in that no file has.
    """

    logits: Tensor
    known: Tensor
    ready: tuple[int, range] = (-1, range(0))
    added: bool = False


class TeacherCache:
    """The teachers' logits at the views that a run trains on, looked up by image and view.

    Args:
        batches: of the run; images and views are asked about as it shows them.
        teachers: in their fast form, on the device of the images.
        classes: K.
        precision: `cache_gb` bounds all teachers together: one whose logits do not fit is asked each time, with a notice.
        run: with `cache_disk`, files lie beside it.
        progress: is told of a teacher that does not fit.
    """

    ahead = 16
    """Steps whose unknown views are asked about together: views of two or more steps fill batches, and it is as often that
    the device is waited for."""

    def __init__(
        self,
        batches: TrainBatches,
        teachers: Sequence[Net],
        classes: int,
        precision: Precision,
        run: Run,
        progress: Progress,
    ) -> None:
        self.batches, self.teachers, self.classes, self.precision = batches, teachers, classes, precision
        self.run, self.progress = run, progress
        self.device, info = batches.split.labels.device, batches.split.info
        self.views = count_views(batches.augment, info.pad) or 0
        self.places = info.train_images * self.views
        self._stores: dict[int, Store | None] = {}

    def logits(self, batch: Batch, teacher: int) -> Tensor:
        """Return a teacher's logits (B, K) at the clean view of a batch, without gradient."""
        # no view comes back, or to look ahead would be to decode each image twice
        if not self.views or isinstance(self.batches.split.images, FileImages):
            return self._asked(teacher, batch.x)
        store, step = self._store(teacher), batch.draws.step
        if store is None:
            with torch.no_grad():
                return self.teachers[teacher](batch.x)
        epoch, steps = store.ready
        if epoch != batch.draws.epoch or step not in steps:
            self._fill(teacher, store, batch.draws.epoch, range(step, min(step + self.ahead, len(self.batches))))
        if self.batches.extra is None:
            return store.logits[self._place(batch.index, batch.view)]
        own, extra = self.batches.parts(step)
        logits = torch.empty(len(batch.y), self.classes, device=self.device)
        logits[own] = store.logits[self._place(batch.index[own], batch.view[own])]
        logits[extra] = self._asked(teacher, batch.x[extra])
        return logits

    @torch.no_grad()
    def _asked(self, teacher: int, x: Tensor) -> Tensor:
        """Return a teacher's logits (n, K) at images (n, C, H, W), which round as those do that are kept."""
        padded = torch.cat([x, x[-1:].expand(-len(x) % ROWS, *x.shape[1:])])
        return self.teachers[teacher](padded)[: len(x)].float()

    def fill(self, epoch: int, steps: range) -> None:
        """Ask every teacher about those views of these steps that are not known yet."""
        for teacher in range(len(self.teachers)):
            store = self._store(teacher)
            if store is not None:
                self._fill(teacher, store, epoch, steps)

    def forget(self) -> None:
        """Know nothing again."""
        self._stores.clear()

    @torch.no_grad()
    def _fill(self, teacher: int, store: Store, epoch: int, steps: range) -> None:
        """Ask in batches of one size, the last padded: so each view rounds as it would at another place of another batch."""
        rows, view = map(torch.cat, zip(*(self.batches.seen(epoch, step) for step in steps), strict=True))
        place = self._place(self.batches.split.index[rows], view)
        unknown = (~store.known[place]).nonzero().squeeze(1)
        size = math.ceil(self.batches.size / ROWS) * ROWS
        for begin in range(0, len(unknown), size):
            chosen = unknown[begin : begin + size]
            padded = torch.cat([chosen, chosen[-1:].expand(size - len(chosen))])
            answers = self.teachers[teacher](self.batches.pixels(rows[padded], view[padded]))
            store.logits[place[chosen]] = answers[: len(chosen)]
            store.known[place[chosen]] = True
            store.added = True
        store.ready = epoch, steps

    def _place(self, index: Tensor, view: Tensor) -> Tensor:
        return index * self.views + number_views(view, self.batches.augment, self.batches.split.info.pad)

    def _store(self, teacher: int) -> Store | None:
        """Return what is known of a teacher; None where it does not fit."""
        if teacher not in self._stores:
            self._stores[teacher] = self._begin(teacher)
        return self._stores[teacher]

    def _begin(self, teacher: int) -> Store | None:
        size = self.places * (4 * self.classes + 1)
        others = sum(store is not None for store in self._stores.values())
        if size * (others + 1) > self.precision.cache_gb * 1e9:
            self.progress.note(
                f"The logits of teacher {teacher + 1} are not kept: {self.places:,} views of training images take "
                f"{size / 1e9:.1f} GB, and precision.cache_gb is {self.precision.cache_gb:g}."
            )
            return None
        store = Store(
            torch.empty(self.places, self.classes, device=self.device),
            torch.zeros(self.places, dtype=torch.bool, device=self.device),
        )
        if self.precision.cache_disk:
            self._take(store, self._file(teacher))
        return store

    # On disk ----------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Add what has come in to the files, if they are wanted; what other runs have added meanwhile stays."""
        for teacher, store in self._stores.items():
            if store is None or not store.added or not self.precision.cache_disk:
                continue
            path = self._file(teacher)
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                self._take(store, path)
                place = store.known.nonzero().squeeze(1)
                tensors = {"place": place.to(torch.int32).cpu(), "logits": store.logits[place].cpu()}
                write_atomic(path, save_safetensors(tensors, {"of": self._name(teacher)}))
            store.added = False

    def _name(self, teacher: int) -> str:
        """Return everything that decides the logits."""
        of, split, precision = self.run.teachers[teacher], self.batches.split, self.precision
        form = (precision.outer, precision.tf32, precision.fold_bn, precision.channels_last, precision.compile)
        return " ".join(
            map(str, (of.identity, of.sha256, of.model, split.info.name, self.batches.augment, self.device.type, *form))
        )

    def _file(self, teacher: int) -> Path:
        name = sha256(self._name(teacher).encode()).hexdigest()[:16]
        return self.run.path.parent / FOLDER / f"{name}.safetensors"

    def _take(self, store: Store, path: Path) -> None:
        """Take in what a file knows and the store does not.

        Raises:
            ArdbenchError: the file is damaged.
        """
        if not path.exists():
            return
        try:
            check_size(path, WEIGHTS_LIMIT)
            with safe_open(path, "pt") as file:
                place, logits = file.get_tensor("place").long(), file.get_tensor("logits")
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise ArdbenchError(
                f"{path} is damaged ({str(error)[:300]}): delete it, and teachers are asked again."
            ) from None
        fits = logits.dtype == torch.float32 and place.ndim == 1 and logits.shape == (len(place), self.classes)
        if not fits or (len(place) and not 0 <= int(place.min()) <= int(place.max()) < self.places):
            raise ArdbenchError(f"{path} holds no logits of these views: delete it, and teachers are asked again.")
        place, logits = place.to(self.device), logits.to(self.device)
        new = ~store.known[place]
        store.logits[place[new]] = logits[new]
        store.known[place[new]] = True
