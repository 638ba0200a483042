"""Files that somebody else may have written: how much of them is read, and how their words are shown. Torch-free."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import from_json

from ardbench.errors import ArdbenchError, printable

TEXT_LIMIT = 32 * 2**20
"""Bytes of a JSON, JSON-lines or CSV file; verdicts on 73,257 images take 4 MiB."""
TOML_LIMIT = 256 * 2**10
"""Bytes of a recipe, a suite or a file of protocols; the longest of ours takes 4 KiB."""
DOTTED_LIMIT = 32
"""Parts of a dotted key in TOML: its reader takes time with their square."""
WEIGHTS_LIMIT = 16 * 2**30
"""Bytes of a checkpoint or of a trainer's state; the largest network of ardbench takes 1 GiB."""
ARCHIVE_LIMIT = 2**30
"""Bytes of a published archive or of a file in one; Tiny-ImageNet, the largest, takes a quarter of it."""
MEMBER_LIMIT = 64 * 2**20
"""Bytes that one member of an archive, or one file of an unpacked one, may take."""
PARAMETERS_LIMIT = 2**32
"""Weights of a network that a name stands for: 16 GiB in fp32."""
OPTION_LIMIT = 8192
"""Whole number in the name of a library's network."""
ARRAYS_LIMIT = 2**40
"""Bytes of an array in a file of extra images, which is never held in memory; 20 million of CIFAR's size take 2**36."""
UNPACKED_LIMIT = 2 * 2**30
"""Bytes that the members of an archive may take together when unpacked; Tiny-ImageNet takes a quarter of it."""

_PART = r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s.=,#\[\]{}"']+)"""
_DOTTED = re.compile(rf"(?:\.\s*{_PART}\s*){{{DOTTED_LIMIT}}}")


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes.

    Raises:
        OSError: it is absent or cannot be read.
        ArdbenchError: it is larger, or a pipe or a device, which might never end.
    """
    check_size(path, limit)
    return path.read_bytes()


def check_size(path: Path, limit: int) -> None:
    """Refuse a file of more than `limit` bytes, and what is no file; raises as `read_bytes` does."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
        raise ArdbenchError(f"{path} is a pipe or a device: put a file in its place.")
    if stat.S_ISREG(facts.st_mode) and facts.st_size > limit:
        raise ArdbenchError(
            f"{path} has {facts.st_size} bytes, more than the {limit} that are read of such a file: give the right one."
        )


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises:
        OSError: it is absent or cannot be read.
        ValueError: it is no TOML (tomllib.TOMLDecodeError) or no UTF-8.
        RecursionError: it is nested without end.
        ArdbenchError: it is too large.
    """
    text = read_bytes(path, TOML_LIMIT).decode("utf-8-sig")
    if _DOTTED.search(text):
        raise ValueError(f"a key has more than {DOTTED_LIMIT} parts")
    return tomllib.loads(text)


def parse_json(text: bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: it is none, or is nested more than 200 deep.
    """
    return from_json(text)


Line = Annotated[str, AfterValidator(printable)]
"""Words for people from a file: one line, without control characters."""
