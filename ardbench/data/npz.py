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
    """The arrays `image` (M, H, W, C) or (M, H, W) uint8 and, where there is one, `label` (M,) of whole numbers.

    Raises:
        ArdbenchError: wherever the file is not that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._readable(), ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if "image" not in entries:
                raise self._refused(
                    f"it has no array `image`, only {', '.join(sorted(entries)[:5])[:200] or 'nothing'}"
                )
            found = {name: self._member(archive, entries[name]) for name in ("image", "label") if name in entries}
        self.image, self.label = found["image"], found.get("label")
        if self.image.dtype != "uint8" or len(self.image.shape) not in (3, 4) or not self.image.shape[0]:
            raise self._refused(f"`image` is {_told(self.image)}, and uint8 of (N, H, W, C) is needed")
        if self.label is not None and (self.label.dtype.kind not in "iu" or self.label.shape != self.image.shape[:1]):
            raise self._refused(f"`label` is {_told(self.label)}, and {len(self)} whole numbers are needed")

    def __len__(self) -> int:
        return self.image.shape[0]

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
        for name, member in (("image", self.image), ("label", self.label)):
            if member is None:
                continue
            digest.update(f"{name} {member.dtype.str} {member.shape}\n".encode())
            for piece in self._pieces(member):
                digest.update(piece)
                if name == "label":
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
        path = self.folder / f"{member.entry.filename.removesuffix('.npy')}-{self.contents.sha256[:16]}.raw"
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
        return ArdbenchError(
            f"{self.path} is no .npz file of images: {why}; give one with `image` (N, H, W, C) uint8 and `label` (N,)."
        )


def _told(member: Member) -> str:
    return f"{member.dtype} of {member.shape}"
