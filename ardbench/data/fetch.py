"""Files that others publish: downloaded whole or not at all, and checked by md5."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

from ardbench.errors import ArdbenchError
from ardbench.untrusted import ARCHIVE_LIMIT, check_size, read_bytes

TIMEOUT = 30
"""Seconds without an answer after which a host counts as unreachable."""


@dataclass(frozen=True)
class Published:
    """A file as its authors publish it."""

    url: str
    name: str
    md5: str


def md5_of(path: Path) -> str:
    """Return the md5 of a file, which tells a torn file from a whole one and is no protection against forgery."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_md5(path: Path, md5: str) -> None:
    """Refuse a file whose content is another than the published one."""
    with _readable(path):
        check_size(path, ARCHIVE_LIMIT)
        found = md5_of(path)
    _compare(path, found, md5)


def read_checked(path: Path, md5: str) -> bytes:
    """Return the content of a published file; another one is refused."""
    with _readable(path):
        content = read_bytes(path, ARCHIVE_LIMIT)
    _compare(path, hashlib.md5(content, usedforsecurity=False).hexdigest(), md5)
    return content


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArdbenchError(f"{path} cannot be read ({error.strerror}): mend it or move it away.") from None


def _compare(path: Path, found: str, md5: str) -> None:
    if found != md5:
        raise ArdbenchError(
            f"{path} is torn or another file (md5 {found}, {md5} is needed): move it away to have it fetched again, "
            "or give --data-root a folder with the right one."
        )


def check_root(root: Path) -> None:
    """Refuse a data root that is no folder."""
    if root.exists() and not root.is_dir():
        raise ArdbenchError(f"The data root {root} is a file: give --data-root the folder that holds the data set.")


def absent(name: str, root: Path, needed: str) -> ArdbenchError:
    """Return the refusal of a data set that is not there when nothing may be downloaded."""
    return ArdbenchError(
        f"{name} is not in {root} ({needed} is missing): give --data-root the folder that holds it, "
        f"or type `ardbench data {name}` to fetch it."
    )


def fetch(name: str, root: Path, published: Published) -> Path:
    """Download a file of the data set `name` into `root` under its published name; a torn one is never left there.

    Raises:
        ArdbenchError: the host cannot be reached, sends something else, or the folder cannot be written.
    """
    from torchvision.datasets.utils import download_url

    host = urlparse(published.url).netloc
    with scratch(root) as folder, _timeout(TIMEOUT):
        try:
            download_url(published.url, folder, published.name, published.md5)
        except RuntimeError:
            raise ArdbenchError(
                f"{host} sent another file than {published.name} with md5 {published.md5}: try again, or fetch it by "
                "other means and give its folder with --data-root."
            ) from None
        except (URLError, HTTPException, TimeoutError, ConnectionError, socket.gaierror) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise ArdbenchError(
                f"{name} is not in {root} and cannot be downloaded from {host} ({reason}): fetch {published.url} on a "
                "machine with a network and give its folder with --data-root."
            ) from None
        except OSError as error:
            raise _unwritable(root, error) from None
        return move(folder / published.name, root / published.name)


def move(source: Path, target: Path) -> Path:
    """Move a finished file to its name in one step, on one file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    return target


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """Give a folder inside `root` for unfinished files, gone at the end, and `root` with it if it was made for nothing."""
    new = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=root, prefix=".unfinished-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _unwritable(root, error) from None
    try:
        with folder as path:
            yield Path(path)
    finally:
        if new:
            with suppress(OSError):  # not empty
                root.rmdir()


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unwritable(root: Path, error: OSError) -> ArdbenchError:
    return ArdbenchError(
        f"Nothing can be written into the data root {root} ({error.strerror or error}): give --data-root a folder with "
        "write permission and room, or one that holds the data set already."
    )
