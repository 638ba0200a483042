"""The images of a data set as uint8, and the augmented batches of an epoch that are gathered from them on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ardbench import processes
from ardbench.data import DatasetInfo, check_augment, check_batch
from ardbench.data.ahead import Ahead, Parts
from ardbench.data.epoch import Epoch, Mix
from ardbench.data.images import Elsewhere
from ardbench.data.places import Place
from ardbench.data.stratify import stratified
from ardbench.data.views import draw_views, shown
from ardbench.draws import Draws, generator
from ardbench.errors import ArdbenchError


@dataclass(frozen=True, eq=False)
class Batch:
    """Some training examples, each with the view under which it is seen: this process's rows b of the global batch's B.

    Args:
        x: (b, C, H, W) pixels in [0, 1].
        y: (b,) labels, int64.
        index: (b,) positions in the data set's own training set, int64; those of extra images come after its last.
        view: (b, 3) offsets dy and dx of the crop in [0, 2 pad], and flip in {0, 1}, int64; (pad, pad, 0) is the image. Of
            resized crops (b, 5): top, left, height, width and flip.
        draws: the random numbers of this step.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    view: Tensor
    draws: Draws

    def everybodys(self, part: Tensor) -> Tensor:
        """Return the global batch's (B, ...) of what each process has for its own rows, (b, ...); gradients flow to all."""
        if processes.size() == 1:
            return part
        begin, end = self.draws.first, self.draws.first + len(part)
        before, after = (part.new_zeros(rows, *part.shape[1:]) for rows in (begin, self.draws.rows - end))
        return processes.total(torch.cat([before, part, after]))

    def own(self, whole: Tensor) -> Tensor:
        """Return this process's rows (b, ...) of something that the global batch has, (B, ...)."""
        return whole[self.draws.first : self.draws.first + len(self.y)]

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the global batch of what each process has for its own rows, (b,)."""
        return self.everybodys(values).mean()

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("x", "y", "index", "view")}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Split:
    """Part of a data set, on one device.

    Args:
        images: (N, C, H, W) uint8, contiguous, or what gives them by rows from elsewhere.
        labels: (N,) int64.
        index: (N,) positions in the data set's own training or test set, int64.
        info: the facts of the data set.
    """

    images: Tensor | Elsewhere
    labels: Tensor
    index: Tensor
    info: DatasetInfo

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, rows: Tensor | slice) -> Tensor:
        """Return the images of some rows as pixels (b, C, H, W) in [0, 1]."""
        return as_pixels(self.images[rows])

    def take(self, rows: list[int]) -> Split:
        """Return the split of these rows, in their order."""
        chosen = torch.tensor(rows, dtype=torch.int64, device=self.labels.device)
        images = self.images[chosen] if isinstance(self.images, Tensor) else self.images.take(chosen.cpu())
        return Split(images, self.labels[chosen], self.index[chosen], self.info)

    def subset(self, n: int, seed: int) -> Split:
        """Return n examples, the classes in proportion, in the split's order; larger n contain smaller ones."""
        if not 1 <= n <= len(self):
            raise ArdbenchError(
                f"{n} images cannot be chosen from {len(self)} of {self.info.name}: give 1 to {len(self)}."
            )
        return self.take(sorted(self.order("subset", seed)[:n]))

    def order(self, *key: object) -> list[int]:
        """Return all rows in a fixed order whose every prefix holds the classes in proportion."""
        return stratified(self.labels.tolist(), self.index.tolist(), self.info.name, *key)


@dataclass(frozen=True, eq=False)
class Extra:
    """Images that make up a share of each training batch.

    Args:
        images: M of the data set's size.
        labels: (M,) on the host; None where the teacher labels them.
        share: of a batch.
    """

    images: Elsewhere
    labels: np.ndarray | None
    share: float


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set as a run uses it; `validation` comes out of the training set, and `test` is never touched."""

    train: Split
    validation: Split | None
    test: Split
    place: Place | None = None
    """Where the images lie; None where nobody has decided it."""
    extra: Extra | None = None


class TrainBatches:
    """The batches of every epoch, each a function of (seed, epoch, step).

    An epoch shows each image of the split once. Extra images are drawn with replacement, as many for each batch as it
    takes, and lie evenly in it, so that each process has its share of them.

    Args:
        split: what is trained on.
        augment: one of `AUGMENTS`.
        batch: examples in the global batch, extra ones included.
        drop_last: leave out the last incomplete batch.
        seed: the run's.
        layout: of the pixels in memory.
        compiled: whether code is generated for the augmentation.
        rank, world: of the processes that share every global batch, this one and how many.
        extra: what is mixed in.
        label: gives the labels (n,) of extra images (n, C, H, W) in [0, 1] that have none.
        area: the least share of an image's area that a resized crop shows.
    """

    def __init__(
        self,
        split: Split,
        augment: str,
        batch: int,
        drop_last: bool,
        seed: int,
        *,
        layout: torch.memory_format = torch.contiguous_format,
        compiled: bool = False,
        rank: int = 0,
        world: int = 1,
        extra: Extra | None = None,
        label: Callable[[Tensor], Tensor] | None = None,
        area: float = 0.08,
    ) -> None:
        check_augment(split.info, augment)
        self.epoch = Epoch(len(split), batch, drop_last, extra.share if extra else 0.0)
        check_batch(self.epoch)
        self.split, self.augment, self.size, self.seed = split, augment, batch, seed
        self.layout, self.rank, self.world = layout, rank, world
        self.extra, self.label, self.area = extra, label, area
        self._augmented = torch.compile(shown, dynamic=False) if compiled else shown
        self._epoch, self._permutation = -1, split.labels
        self._ahead = None if isinstance(split.images, Tensor) else Ahead(split.images, self._plan)
        self._extra_ahead = None if extra is None else Ahead(extra.images, self._plan_of_extra)

    def __len__(self) -> int:
        return len(self.epoch)

    def batch(self, epoch: int, step: int) -> Batch:
        """Return this process's rows of one global batch; nothing waits for the device."""
        mix, (rows, view) = self.epoch.mix(step), self.seen(epoch, step)
        labels, index = self.split.labels[rows], self.split.index[rows]
        draws = Draws(self.seed, epoch, step, mix.rows, self._bounds(mix)[0])
        if self._extra_ahead is not None:
            return self._mixed(rows, labels, index, draws)
        x = self.pixels(rows, view) if self._ahead is None else self._shown(self._ahead.at(epoch, step)[0], view)
        return Batch(x, labels, index, view, draws)

    def _mixed(self, rows: Tensor, labels: Tensor, index: Tensor, draws: Draws) -> Batch:
        """Return a batch of these rows (n,) of the split and of the step's extra images."""
        assert self._extra_ahead is not None
        at = draws.epoch, draws.step
        images = self.split.images[rows] if self._ahead is None else self._ahead.at(*at)[0]
        extra, places, *given = self._extra_ahead.at(*at)
        labels = torch.cat([labels, given[0] if given else self._labels(extra)])
        index = torch.cat([index, self.split.info.train_images + places])
        order, view = torch.cat(self.parts(draws.step)).argsort(), self._view(*at)
        x = self._shown(torch.cat([images, extra]), view, order)
        return Batch(x, labels[order], index[order], view, draws)

    def parts(self, step: int) -> tuple[Tensor, Tensor]:
        """Return where in this process's batch of a step the original images lie, and where the extra ones, each in order."""
        mix, device = self.epoch.mix(step), self.split.labels.device
        first, end = self._bounds(mix)
        own, extra = (
            torch.arange(*span, device=device) for span in zip(mix.before(first), mix.before(end), strict=True)
        )
        # the first rows before which so many lie
        return own * mix.rows // mix.own - first, ((extra + 1) * mix.rows - 1) // max(mix.extra, 1) - first

    def seen(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return which rows (n,) of the split this process sees in one step, and their views (n, 3 or 5)."""
        view = self._view(epoch, step)
        return self._rows(self._order(epoch), step), view[self.parts(step)[0]] if self.extra else view

    def pixels(self, rows: Tensor, view: Tensor) -> Tensor:
        """Return rows (b,) of the split, each under its view (b, 3 or 5), as pixels (b, C, H, W) in [0, 1]."""
        images = self.split.images
        return self._shown(images, view, rows) if isinstance(images, Tensor) else self._shown(images[rows], view)

    def _shown(self, images: Tensor, view: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return rows (b,) of images, or all b of them, each under its view (b, 3 or 5), as pixels (b, C, H, W)."""
        rows = torch.arange(len(view), device=view.device) if rows is None else rows
        x = as_pixels(self._augmented(images, rows, view, self.split.info.pad))
        return x.contiguous(memory_format=self.layout)

    def _labels(self, images: Tensor) -> Tensor:
        assert self.label is not None, "recipes.resolve refuses images without labels where nobody gives them"
        return self.label(as_pixels(images).contiguous(memory_format=self.layout))

    def _bounds(self, mix: Mix) -> tuple[int, int]:
        """Return which rows of a global batch are this process's: from the one, before the other."""
        return mix.rows * self.rank // self.world, mix.rows * (self.rank + 1) // self.world

    def _rows(self, order: Tensor, step: int) -> Tensor:
        """Return which rows (n,) of the split this process sees in one step of an epoch of this order (N,)."""
        mix, begin = self.epoch.mix(step), step * self.epoch.own
        first, end = (mix.before(row)[0] for row in self._bounds(mix))
        return order[begin + first : begin + end]

    def _plan(self, epoch: int) -> list[Parts]:
        """Return the rows (n,) that this process sees in each step of an epoch, on the host; the device is waited for."""
        order = self._order(epoch).cpu()
        return [(self._rows(order, step),) for step in range(len(self))]

    def _plan_of_extra(self, epoch: int) -> list[Parts]:
        """Return which extra images this process sees in each step of an epoch, with their labels where they have some."""
        return [self._drawn(epoch, step) for step in range(len(self))]

    def _drawn(self, epoch: int, step: int) -> Parts:
        assert self.extra is not None
        mix, labels = self.epoch.mix(step), self.extra.labels
        source = generator(torch.device("cpu"), self.seed, "extra", epoch, step)
        rows = torch.randint(len(self.extra.images), (mix.extra,), generator=source)
        first, end = (mix.before(row)[1] for row in self._bounds(mix))
        rows = rows[first:end]
        return (rows,) if labels is None else (rows, torch.from_numpy(labels[rows.numpy()].astype(np.int64)))

    def _order(self, epoch: int) -> Tensor:
        """Return the permutation (N,) of an epoch."""
        if epoch != self._epoch:
            device = self.split.labels.device
            source = generator(device, self.seed, "permutation", epoch)
            self._permutation = torch.randperm(len(self.split), generator=source, device=device)
            self._epoch = epoch
        return self._permutation

    def _view(self, epoch: int, step: int) -> Tensor:
        """Return the views (b, 3 or 5) of this process's rows of a global batch."""
        mix, device = self.epoch.mix(step), self.split.labels.device
        source = generator(device, self.seed, "view", epoch, step)
        view = draw_views(self.augment, self.area, mix.rows, self.split.info, source, device)
        first, end = self._bounds(mix)
        return view[first:end]


def as_pixels(images: Tensor) -> Tensor:
    """Return images in [0, 255] as fp32 pixels in [0, 1], the same to the bit on every device."""
    # CUDA multiplies by the reciprocal of a number from the host, which rounds otherwise than dividing does.
    return images.float() / torch.full((), 255.0, device=images.device)
