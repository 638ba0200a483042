"""Extra training images, such as generated ones: the file that a recipe names, held against the data set. Torch-free."""

from __future__ import annotations

from pathlib import Path

from ardbench.config import Data
from ardbench.data import DatasetInfo
from ardbench.data.npz import Npz
from ardbench.errors import ArdbenchError

PREFIX = "npz:"


def file_name(source: str) -> str:
    """Return the name of the file that `data.extra` names, wherever it lies."""
    return Path(source.removeprefix(PREFIX)).name


def path_of(section: Data) -> Path:
    """Return the file that `data.extra` names.

    Raises:
        ArdbenchError: it names none.
    """
    assert section.extra is not None
    name = section.extra.removeprefix(PREFIX)
    if name == section.extra or not name:
        raise ArdbenchError(f"data.extra = {section.extra!r} names no file of images: write 'npz:FILE'.")
    return Path(name).expanduser()


def opened(section: Data, info: DatasetInfo) -> Npz:
    """Return the file of `data.extra`, which is read whole when it is new.

    Raises:
        ArdbenchError: it is no such file, does not fit the data set, or holds other arrays than the recipe says.
    """
    file = Npz(path_of(section))
    size = (*file.image.shape[1:3], *(file.image.shape[3:] or (1,)))
    wanted = (info.size, info.size, info.channels)
    if size != wanted:
        raise ArdbenchError(
            f"The images of {file.path} are {_by(size)} (height, width, channels), and those of {info.name} {_by(wanted)}: "
            "give extra images of that size."
        )
    found = file.contents
    if found.lowest is not None and found.highest is not None:
        outside = next((label for label in (found.lowest, found.highest) if not 0 <= label < info.num_classes), None)
        if outside is not None:
            raise ArdbenchError(
                f"{file.path} has the label {outside}, and those of {info.name} are 0 to {info.num_classes - 1}: mend them, or "
                "leave `label` out for the teacher's."
            )
    if section.extra_sha256 not in (None, found.sha256):
        raise ArdbenchError(
            f"{file.path} holds other arrays than the run is of (sha256 {found.sha256[:16]}..., not "
            f"{section.extra_sha256[:16]}...): give the file that data.extra_sha256 names, or leave that out for another run."
        )
    return file


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
