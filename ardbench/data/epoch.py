"""What an epoch is made of, counted: original images, each once, and the extra ones that are mixed in. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from ardbench.config import Data


@dataclass(frozen=True)
class Mix:
    """A global batch: so many original images, and so many extra ones that lie evenly among them."""

    own: int
    extra: int = 0

    @property
    def rows(self) -> int:
        """Of the whole batch."""
        return self.own + self.extra

    def before(self, row: int) -> tuple[int, int]:
        """Return how many original and how many extra images lie before a row."""
        extra = row * self.extra // self.rows
        return row - extra, extra


@dataclass(frozen=True)
class Epoch:
    """Every original image once, in batches of one size, of which extra images make up a share.

    Args:
        images: original ones.
        batch: images of a full batch, extra ones included.
        drop_last: leave out the last incomplete batch.
        share: of extra images in each batch.
    """

    images: int
    batch: int
    drop_last: bool = False
    share: float = 0.0

    @classmethod
    def of(cls, section: Data, images: int) -> Epoch:
        """Return an epoch of so many original images as a recipe's [data] has it."""
        return cls(images, section.batch, section.drop_last, section.extra_share or 0.0)

    @property
    def own(self) -> int:
        """Original images of a full batch."""
        return self.batch - round(self.share * self.batch)

    def __len__(self) -> int:
        full, rest = divmod(self.images, self.own)
        return full + (rest > 0 and not self.drop_last)

    def mix(self, step: int) -> Mix:
        """Return what the batch of a step is made of; the last one may be smaller, and has the same share."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of an epoch of {len(self)}")
        own = min(self.own, self.images - step * self.own)
        return Mix(own, round(own * (self.batch - self.own) / self.own))

    @property
    def shown(self) -> int:
        """All images of the epoch's batches, extra ones included."""
        return (len(self) - 1) * self.mix(0).rows + self.mix(len(self) - 1).rows if len(self) else 0
