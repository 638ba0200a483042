"""Arrays of an .npz file that may be larger than memory: what they are, their sha256, and the arrays themselves, mapped.

An array that lies in the file as it is, is mapped there; a compressed one is written out once, beside the file. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from ardbench.errors import ArdbenchError
from ardbench.untrusted import ARRAYS_LIMIT, TEXT_LIMIT, parse_json, read_bytes

if TYPE_CHECKING:
    import numpy as np

BESIDE = ".ardbench"
"""Ends the name of the folder beside a file, in which lies what was found out about it."""
PIECE = 2**22
"""Bytes that are read at a time."""
LOCAL_HEADER = 30
"""Bytes of a zip member's own header before its name."""
Names = dict[str, tuple[str, str]]
"""What arrays of images and of labels are called, by split; "" where nothing is split."""
WHOLE: Names = {"": ("image", "label")}
SPLIT: tuple[Names, ...] = (
    {split: (f"x_{split}", f"y_{split}") for split in ("train", "test", "val")},  # as Keras has them
    {split: (f"{split}_images", f"{split}_labels") for split in ("train", "test", "val")},  # as MedMNIST does
)


@dataclass(frozen=True)
class Member:
    """An array in an .npz file.

    Args:
        entry: of the zip's directory.
        shape, dtype: of the array.
        begin: bytes of the member before the first number.
    """

    entry: ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    begin: int

    @property
    def name(self) -> str:
        """What the array is called."""
        return self.entry.filename.removesuffix(".npy")


@dataclass(frozen=True)
class Contents:
    """What is known of a file's arrays once all of them have been read.

    Args:
        sha256: of their names, types, shapes and numbers.
        lowest, highest: of the labels; None where the file has none.
    """

    sha256: str
    lowest: int | None = None
    highest: int | None = None


class Npz:
    """Arrays of images (M, H, W, C) or (M, H, W) uint8 and, where there are some, of labels (M,) or (M, 1) of whole numbers.

    Args:
        path: of the file.
        split: whether the arrays may be several, by split, with one layout of `SPLIT`.

    Raises:
        ArdbenchError: wherever the file is not that.
    """

    def __init__(self, path: Path, split: bool = False) -> None:
        self.path = path
        self._layouts = (WHOLE, *SPLIT) if split else (WHOLE,)
        with self._readable(), ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            names = next((one for one in self._layouts if next(iter(one.values()))[0] in entries), None)
            if names is None:
                raise self._refused(
                    f"it has no array `image`, only {', '.join(sorted(entries)[:5])[:200] or 'nothing'}"
                )
            found = {
                name: self._member(archive, entries[name])
                for pair in names.values()
                for name in pair
                if name in entries
            }
        self.parts = {key: (found[image], found.get(label)) for key, (image, label) in names.items() if image in found}
        """Images and labels by split."""
        for image, label in self.parts.values():
            self._check(image, label)

    def _check(self, image: Member, label: Member | None) -> None:
        if image.dtype != "uint8" or len(image.shape) not in (3, 4) or not image.shape[0]:
            raise self._refused(f"`{image.name}` is {_told(image)}, and uint8 of (N, H, W, C) is needed")
        count = image.shape[0]
        if label is not None and (label.dtype.kind not in "iu" or label.shape not in ((count,), (count, 1))):
            raise self._refused(f"`{label.name}` is {_told(label)}, and {count} whole numbers are needed")

    @property
    def image(self) -> Member:
        """The images of a file that is not split."""
        return self.parts[""][0]

    @property
    def label(self) -> Member | None:
        """The labels of a file that is not split."""
        return self.parts[""][1]

    @property
    def folder(self) -> Path:
        """Where lies what was found out about the file."""
        return self.path.with_name(self.path.name + BESIDE)

    @cached_property
    def contents(self) -> Contents:
        """What all of it says; remembered beside the file, for as long as its size and time stay."""
        facts = self.path.stat()
        version = {"size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
        kept = self.folder / "contents.json"
        with suppress(OSError, ValueError, TypeError, ArdbenchError):
            said = parse_json(read_bytes(kept, TEXT_LIMIT))
            if said["version"] == version:
                return Contents(**said["contents"])
        found = self._read()
        with suppress(OSError):  # nothing can be kept there: it is read again each time
            self.folder.mkdir(exist_ok=True)
            partial = kept.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps({"version": version, "contents": vars(found)}), encoding="utf-8")
            os.replace(partial, kept)
        return found

    def array(self, member: Member) -> np.ndarray:
        """Return an array, mapped into memory: changes of it go nowhere."""
        import numpy as np

        path, offset = self.path, self._offset(member)
        if offset is None:
            path, offset = self._decoded(member), 0
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)  # else the disk reads forty images for each that is wanted
        return np.ndarray(member.shape, member.dtype, mapped, offset)

    # Reading ----------------------------------------------------------------------------------------------------------

    def _member(self, archive: ZipFile, entry: ZipInfo) -> Member:
        from numpy.lib import format as npy

        with archive.open(entry) as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(file)
            begin = file.tell()
        name = entry.filename.removesuffix(".npy")
        if dtype.hasobject:
            raise self._refused(f"`{name}` holds pickled objects, which could run anything")
        if fortran and len(shape) > 1:
            raise self._refused(f"`{name}` is in Fortran order: save numpy.ascontiguousarray of it")
        size = math.prod(shape) * dtype.itemsize
        if size > ARRAYS_LIMIT:
            raise self._refused(
                f"`{name}` takes {size} bytes, more than the {ARRAYS_LIMIT} that are read of such a file"
            )
        if begin + size != entry.file_size:
            raise self._refused(f"`{name}` is cut off or has more bytes than its shape says")
        return Member(entry, tuple(shape), dtype, begin)

    def _pieces(self, member: Member) -> Iterator[bytes]:
        """Yield the bytes of an array, in whole numbers; the zip's own checksum is held against them."""
        with self._readable(), ZipFile(self.path) as archive, archive.open(member.entry) as file:
            file.read(member.begin)
            while piece := file.read(PIECE):
                yield piece

    def _read(self) -> Contents:
        import numpy as np

        digest, found = hashlib.sha256(), list[int]()
        labels = [label for _, label in self.parts.values()]
        for member in filter(None, chain.from_iterable(self.parts.values())):
            digest.update(f"{member.name} {member.dtype.str} {member.shape}\n".encode())
            for piece in self._pieces(member):
                digest.update(piece)
                if member in labels:
                    numbers = np.frombuffer(piece, member.dtype)
                    found += [int(numbers.min()), int(numbers.max())]
        return Contents(digest.hexdigest(), min(found, default=None), max(found, default=None))

    def _offset(self, member: Member) -> int | None:
        """Return where an array begins in the file; None where it is compressed."""
        if member.entry.compress_type != ZIP_STORED:
            return None
        with self.path.open("rb") as file:
            file.seek(member.entry.header_offset)
            header = file.read(LOCAL_HEADER)
        names = sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        return member.entry.header_offset + LOCAL_HEADER + names + member.begin

    def _decoded(self, member: Member) -> Path:
        """Return the file of an array that is compressed in this one, written whole or not at all."""
        path = self.folder / f"{member.name}-{self.contents.sha256[:16]}.raw"
        size = math.prod(member.shape) * member.dtype.itemsize
        if path.is_file() and path.stat().st_size == size:
            return path
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self.folder.mkdir(exist_ok=True)
            if (free := shutil.disk_usage(self.folder).free) < size:
                raise OSError(f"{size} bytes are needed there, and {free} are free")
            with partial.open("wb") as file:
                for piece in self._pieces(member):
                    file.write(piece)
            os.replace(partial, path)
        except OSError as error:
            raise ArdbenchError(
                f"{self.path} is compressed and cannot be decoded into {self.folder} ({error.strerror or error}): make room "
                "there, or save it with numpy.savez, which does not compress."
            ) from None
        finally:
            partial.unlink(missing_ok=True)
        return path

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise ArdbenchError(f"There is no file {self.path}: give the path of an .npz file.") from None
        except (OSError, BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
            raise self._refused(f"it cannot be read ({str(getattr(error, 'strerror', None) or error)[:200]})") from None

    def _refused(self, why: str) -> ArdbenchError:
        split = "".join(f", or with {', '.join(chain.from_iterable(names.values()))}" for names in self._layouts[1:])
        return ArdbenchError(
            f"{self.path} is no .npz file of images: {why}; give one with `image` (N, H, W, C) uint8 and `label` (N,){split}."
        )


def _told(member: Member) -> str:
    return f"{member.dtype} of {member.shape}"
