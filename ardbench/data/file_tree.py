"""The files of an unpacked folder or of a zip archive, read by name and never unpacked to disk."""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ardbench.errors import ArdbenchError
from ardbench.untrusted import ARCHIVE_LIMIT, MEMBER_LIMIT, UNPACKED_LIMIT, check_size, read_bytes

TORN = (OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What reading a member of a damaged archive raises."""


@dataclass(frozen=True, eq=False)
class FileTree:
    """Files by their names below the data set's own folder.

    Args:
        source: where they lie.
        identity: changes whenever their content does, as far as can be told without reading all of it.
        names: of every file, with forward slashes.
        read_bytes: reads one of them.
    """

    source: Path
    identity: str
    names: frozenset[str]
    read_bytes: Callable[[str], bytes]

    def read(self, name: str) -> bytes:
        """Return the content of a file that is in `names`.

        Raises:
            ArdbenchError: it is absent or cannot be read.
        """
        if name not in self.names:
            raise ArdbenchError(f"{self.source} is not complete: {name} is missing; copy or unpack the data set again.")
        try:
            return self.read_bytes(name)
        except TORN as error:
            raise ArdbenchError(
                f"{name} in {self.source} cannot be read ({str(error)[:200]}): copy or unpack the data set again."
            ) from None

    def below(self, folder: str) -> FileTree:
        """Return the files below a folder."""
        names = frozenset(name.removeprefix(f"{folder}/") for name in self.names if name.startswith(f"{folder}/"))
        return FileTree(self.source / folder, self.identity, names, lambda name: self.read_bytes(f"{folder}/{name}"))

    def lines(self, name: str) -> list[str]:
        """Return the lines of a text file that are not empty."""
        try:
            return [line for line in self.read(name).decode("utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError:
            raise ArdbenchError(f"{name} in {self.source} is not text: copy or unpack the data set again.") from None


def of_folder(folder: Path) -> FileTree:
    """Return the files of a folder; its identity is made of their names, sizes and times."""
    names, digest = [], hashlib.sha256()
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(parent, file)
            try:
                facts = path.lstat()
            except OSError as error:
                raise ArdbenchError(
                    f"{path} cannot be read ({error.strerror}): mend it, or unpack the data set again."
                ) from None
            if not stat.S_ISREG(facts.st_mode):
                raise ArdbenchError(f"{path} is a link or a device: put the file itself in its place.")
            name = path.relative_to(folder).as_posix()
            names.append(name)
            digest.update(f"{name}|{facts.st_size}|{facts.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return FileTree(folder, digest.hexdigest(), frozenset(names), lambda name: read_bytes(folder / name, MEMBER_LIMIT))


def of_zip(path: Path, top: str, identity: str) -> FileTree:
    """Return the files below the folder `top` of a zip archive.

    Raises:
        ArdbenchError: the archive is torn, or holds links, names that lead out of it, or too many bytes.
    """
    try:
        check_size(path, ARCHIVE_LIMIT)
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ArdbenchError(
            f"{path} is torn or no zip archive ({error}): move it away to have it fetched again."
        ) from None
    members = archive.infolist()
    for member in members:
        _check_member(path, member)
    total = sum(member.file_size for member in members)
    if total > UNPACKED_LIMIT:
        raise ArdbenchError(
            f"{path} would unpack to {total} bytes, more than the {UNPACKED_LIMIT} allowed: it is not the published "
            "archive; move it away to have it fetched again."
        )
    files = [member.filename for member in members if not member.is_dir()]
    names = frozenset(name.removeprefix(f"{top}/") for name in files if name.startswith(f"{top}/"))
    archives = {os.getpid(): archive}  # a process forked from this one would move the file's position for both

    def read(name: str) -> bytes:
        if os.getpid() not in archives:
            archives[os.getpid()] = zipfile.ZipFile(path)
        return archives[os.getpid()].read(f"{top}/{name}")

    return FileTree(path, identity, names, read)


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a member that no honest archive holds; zipfile itself reads no more bytes than the member declares."""
    name = PurePosixPath(member.orig_filename)
    mode = member.external_attr >> 16
    wrong = ""
    if name.is_absolute() or ".." in name.parts or "\\" in member.orig_filename or ":" in member.orig_filename:
        wrong = "leads out of the archive"
    elif "\0" in member.orig_filename:
        wrong = "has a broken name"
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        wrong = "is a link or a device"
    elif member.flag_bits & 0x1:
        wrong = "is encrypted"
    elif member.file_size > MEMBER_LIMIT:
        wrong = f"would unpack to {member.file_size} bytes, more than the {MEMBER_LIMIT} allowed for one file"
    if wrong:
        raise ArdbenchError(
            f"{path} is refused because its member {member.orig_filename[:200]!r} {wrong}: move it away to have the published "
            "archive fetched."
        )
