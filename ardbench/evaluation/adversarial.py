"""The images that took points, kept on disk batch by batch until they are put together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ardbench.errors import ArdbenchError
from ardbench.runs import write_atomic
from ardbench.untrusted import WEIGHTS_LIMIT, read_bytes


class Images:
    """The adversarial images of one evaluation, beside its verdicts.

    While it lasts they lie in `<stem>.adversarial/`, a file for each batch that took a point, written before the state
    that counts those points: what a kill leaves behind is written again under the same name.

    Args:
        verdicts: the file of the verdicts.
    """

    def __init__(self, verdicts: Path) -> None:
        self.path = verdicts.with_suffix(".adversarial.safetensors")
        self.folder = verdicts.with_suffix(".adversarial")

    def add(self, batch: str, rows: Tensor, x_adv: Tensor) -> None:
        """Keep the images x_adv (b, C, H, W) that took the points `rows` (b); `batch` names no other batch."""
        if len(rows):
            kept = {"rows": rows.cpu(), "x_adv": x_adv.float().cpu().contiguous()}
            write_atomic(self.folder / f"{batch}.safetensors", save(kept))

    def forget(self, batch: str) -> None:
        """Keep nothing of a batch that is attacked anew in another size."""
        (self.folder / f"{batch}.safetensors").unlink(missing_ok=True)

    def count(self) -> int:
        """Return how many images are kept so far."""
        return sum(len(part["rows"]) for part in self._parts())

    def finish(self, clean: Tensor) -> None:
        """Write them all in one file: `x_adv` (n, C, H, W), the image that took the point, or else the one in `clean`."""
        x_adv = clean.to("cpu", torch.float32, copy=True)
        for part in self._parts():
            try:
                x_adv[part["rows"]] = part["x_adv"]
            except (IndexError, RuntimeError):
                raise ArdbenchError(
                    f"{self.folder} holds other images than these; delete it to measure again."
                ) from None
        write_atomic(self.path, save({"x_adv": x_adv}))

    def clear(self) -> None:
        """Remove what an unfinished evaluation has kept."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _parts(self) -> Iterator[dict[str, Tensor]]:
        return (read_images(path, "rows") for path in sorted(self.folder.glob("*.safetensors")))


def read_images(path: Path, *names: str) -> dict[str, Tensor]:
    """Return the tensors in a file of images: `x_adv` (n, C, H, W) fp32, and those called `names` (n) int64.

    Raises:
        ArdbenchError: the file is damaged or something else.
    """
    try:
        kept = load(read_bytes(path, WEIGHTS_LIMIT))
        wanted = [kept["x_adv"].dtype == torch.float32, kept["x_adv"].ndim == 4]
        wanted += [kept[name].dtype == torch.int64 and kept[name].shape == kept["x_adv"].shape[:1] for name in names]
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ArdbenchError(
            f"{path} holds no adversarial images ({str(error)[:300]}); delete it to measure again."
        ) from None
    if not all(wanted):
        raise ArdbenchError(f"{path} holds no adversarial images; delete it to measure again.")
    return kept
